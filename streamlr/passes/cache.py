"""Encoded blocks kept in memory between passes, as far as a budget for the whole process goes.

What does not fit is decoded again on the next pass. A part is kept whole or not at all and stays once it is
in, since a scan that evicts never hits. Encoded blocks are the same whether kept or not, so the answer is.
"""

from __future__ import annotations

import threading

from streamlr.design.design import Tally
from streamlr.kernels.tile import Block
from streamlr.passes.memory import resident_bytes


class BlockCache:
    """Blocks of parts, by the identity of the part object, while the process stays below `budget` bytes."""

    def __init__(self, budget: int, headroom: int) -> None:
        """`headroom` bytes are left for what threads decode at the same time."""
        self._room = budget - headroom
        self._kept: dict[int, tuple[list[Block], Tally]] = {}
        self._lock = threading.Lock()
        self._full = False

    def get(self, part: int) -> tuple[list[Block], Tally] | None:
        """The blocks of a part, if they were kept."""
        return self._kept.get(part)

    def accepts(self) -> bool:
        """Whether there is still room, so that a worker need not hold on to blocks in vain."""
        if not self._full and resident_bytes() > self._room:
            self._full = True
        return not self._full

    def keep(self, part: int, blocks: list[Block], tally: Tally) -> None:
        """Keep a part if there is still room."""
        with self._lock:
            if self.accepts():
                self._kept[part] = (blocks, tally)
