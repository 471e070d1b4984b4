"""The merging tree and the threads over it: part numbers alone decide who is merged with whom."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pytest

from streamlr.passes.run import MergeTree, Workers


@dataclass(frozen=True)
class Numbered:
    """A part that is only its number."""

    number: int
    rows: int = 1


@dataclass(frozen=True)
class Simple:
    """A task that is only what it does to the one part of a leaf."""

    act: Callable[[Numbered], str]
    columns: tuple[str, ...] = ()
    coded: tuple[str, ...] = ()
    batch_rows: int = 10
    cells: int = 0

    def has(self, part: Numbered) -> bool:
        return False

    def __call__(self, parts: Sequence[Numbered]) -> str:
        (part,) = parts
        return self.act(part)


def joined(a: str, b: str) -> str:
    """A merge in which order and grouping show."""
    return f"({a}{b})"


def balanced(leaves: list[str]) -> str:
    """The tree by its definition: neighbours pair up, an odd one goes up alone."""
    while len(leaves) > 1:
        pairs = [joined(leaves[i], leaves[i + 1]) for i in range(0, len(leaves) - 1, 2)]
        leaves = pairs + leaves[len(pairs) * 2 :]
    return leaves[0]


@pytest.mark.parametrize("count", range(1, 41))
def test_any_order_of_finishing_gives_the_same_tree(count: int) -> None:
    expected = balanced([str(i) for i in range(count)])
    for seed in range(5):
        order = list(range(count))
        random.Random(seed).shuffle(order)
        tree: MergeTree[str] = MergeTree(count, joined)
        for leaf in order:
            tree.add(leaf, str(leaf))
        assert tree.root() == expected


@pytest.mark.parametrize("threads", [1, 2, 3, 8])
def test_threads_merge_by_part_number(threads: int) -> None:
    parts = [Numbered(i) for i in range(23)]
    done: list[int] = []

    def work(part: Numbered) -> str:
        time.sleep(0.001 * (part.number * 7 % 5))
        return str(part.number)

    with Workers(threads) as workers:
        result = workers.run(parts, Simple(work), joined, done.append)
    assert result == balanced([str(i) for i in range(23)])
    assert done == [1] * 23


def test_an_error_in_a_worker_is_raised_and_stops_the_others() -> None:
    begun = []

    def work(part: Numbered) -> str:
        begun.append(part.number)
        if part.number == 3:
            raise ValueError("part 3 is broken")
        time.sleep(0.002)
        return str(part.number)

    with pytest.raises(ValueError, match="part 3 is broken"), Workers(2) as workers:
        workers.run([Numbered(i) for i in range(1000)], Simple(work), joined)
    assert len(begun) < 500
    assert not [t for t in threading.enumerate() if t.name.startswith("streamlr")]
