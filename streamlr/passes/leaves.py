"""What a pass hands out: leaves, each the rows of one sum, numbered as they stand in the data.

Most leaves are a part. Small parts share a leaf where the tables of the sums are large, so that merging two
of them never costs more than filling one. A giant part, a row group that cannot be entered in the middle, is
cut into ranges, one batch each: whichever worker is free decodes the next range and works on it while another
decodes the one behind. Borders depend on the data and the design alone, never on how many workers there are.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import pyarrow as pa

from streamlr.sources.base import Part

Result = TypeVar("Result", covariant=True)

# A row adds to the sums in the time in which this many cells are merged.
CELLS_A_ROW = 8
# However large the tables are, the rows of a pass are cut into this many leaves.
MOST_SHARED = 8


class Task(Protocol[Result]):
    """What a pass does: `columns`, `coded` and `batch_rows` are what it reads, a call works on one leaf."""

    @property
    def columns(self) -> Sequence[str]:
        """Names of the columns, in the order of the batches."""

    @property
    def coded(self) -> Sequence[str]:
        """Those that are best read as dictionary codes."""

    @property
    def batch_rows(self) -> int:
        """Rows of a batch."""

    @property
    def cells(self) -> int:
        """Size of the result, in numbers."""

    def has(self, part: Part) -> bool:
        """Whether it needs no rows of the part, because it has kept them."""

    def __call__(self, parts: Sequence[Part]) -> Result:
        """The result of one leaf."""


@dataclass(frozen=True)
class Range:
    """Rows of a giant part that one leaf works on. Equal ranges of two passes have equal keys."""

    key: tuple[int, int]
    rows: int
    batches: tuple[pa.RecordBatch, ...] = ()

    def read(self, columns: Sequence[str], coded: Sequence[str], batch_rows: int) -> Iterator[pa.RecordBatch]:
        """The batches, decoded already."""
        yield from self.batches


@dataclass(frozen=True)
class Leaf:
    """`parts` are worked on one after another; of a giant part, `giant`, they are one range."""

    number: int
    parts: tuple[Part, ...]
    giant: Part | None = None

    @property
    def rows(self) -> int:
        """Number of rows, as far as it is known."""
        return sum(part.rows or 0 for part in self.parts)


def leaves_of(parts: Sequence[Part], task: Task[object]) -> list[Leaf]:
    """The leaves of some parts, in the order of the rows."""
    rows = sum(part.rows or 0 for part in parts)
    least = min(task.cells // CELLS_A_ROW, rows // MOST_SHARED)
    leaves: list[Leaf] = []
    sharing: list[Part] = []

    def close() -> None:
        if sharing:
            leaves.append(Leaf(len(leaves), tuple(sharing)))
            sharing.clear()

    for part in parts:
        if getattr(part, "giant", False) and part.rows is not None:
            close()
            for number, begin in enumerate(range(0, part.rows, task.batch_rows)):
                piece = Range((id(part), number), min(task.batch_rows, part.rows - begin))
                leaves.append(Leaf(len(leaves), (piece,), part))
            continue
        sharing.append(part)
        if part.rows is None or sum(each.rows or 0 for each in sharing) >= least:
            close()
    close()
    return leaves


class Feed:
    """Hands out leaves to workers, each once; thread-safe."""

    def __init__(self, leaves: Sequence[Leaf], task: Task[object], *, parallel: bool) -> None:
        """`parallel`: a giant part may be decoded by several threads at once."""
        self._task = task
        self._parallel = parallel
        self._waiting = deque(leaves)
        self._idle: deque[_Decoder] = deque()
        self._busy = 0
        self._changed = threading.Condition()

    def next(self) -> Leaf | None:
        """A leaf with rows to read, or None when there are no more."""
        with self._changed:
            while True:
                if self._idle:
                    decoder = self._idle.popleft()
                    self._busy += 1
                    break
                if not self._waiting:
                    if not self._busy:
                        return None
                    self._changed.wait()
                    continue
                leaf = self._waiting.popleft()
                if leaf.giant is None:
                    return leaf
                ranges = [leaf]
                while self._waiting and self._waiting[0].giant is leaf.giant:
                    ranges.append(self._waiting.popleft())
                decoder = _Decoder(leaf.giant, ranges, self._task, self._parallel)
                self._busy += 1
                break
        more = False
        try:
            leaf, more = decoder.next()
            return leaf
        finally:
            with self._changed:
                self._busy -= 1
                if more:
                    self._idle.append(decoder)
                self._changed.notify_all()


class _Decoder:
    """A giant part under way. Used by one worker at a time."""

    def __init__(self, part: Part, ranges: list[Leaf], task: Task[object], parallel: bool) -> None:
        self._ranges = deque(ranges)
        self._batches: Iterator[pa.RecordBatch] | None = None
        if not all(task.has(leaf.parts[0]) for leaf in ranges):
            self._batches = part.read(
                task.columns, task.coded, task.batch_rows, **({"parallel": True} if parallel else {})
            )

    def next(self) -> tuple[Leaf, bool]:
        """The next range with its batches, and whether another is behind it."""
        leaf = self._ranges.popleft()
        piece = leaf.parts[0]
        assert isinstance(piece, Range)
        if self._batches is None:  # every range was kept
            return leaf, bool(self._ranges)
        batches: list[pa.RecordBatch] = []
        # A batch may come in pieces where dictionaries end inside it.
        while sum(batch.num_rows for batch in batches) < piece.rows:
            batches.append(next(self._batches))
        filled = Leaf(leaf.number, (Range(piece.key, piece.rows, tuple(batches)),))
        return filled, bool(self._ranges)
