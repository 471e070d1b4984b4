"""Threads over leaves, and the one tree that merges what they return.

Leaf numbers alone decide who is merged with whom, so the sums are the same to the last bit for any number of
threads and any order in which they finish.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from typing import Generic, TypeVar

from streamlr.passes.leaves import Feed, Task, leaves_of
from streamlr.sources.base import Part

Result = TypeVar("Result")


class MergeTree(Generic[Result]):
    """A binary tree over `count` leaves; two neighbours merge as soon as both are there."""

    def __init__(self, count: int, merge: Callable[[Result, Result], Result]) -> None:
        self._count = count
        self._merge = merge
        self._waiting: dict[tuple[int, int], Result] = {}
        self._lock = threading.Lock()
        self._root: Result | None = None

    def add(self, leaf: int, value: Result) -> None:
        """Put in the value of a leaf and merge upwards as far as neighbours are there; thread-safe."""
        level, place, size = 0, leaf, self._count
        while size > 1:
            if place == size - 1 and place % 2 == 0:  # no neighbour: it goes up as it is
                level, place, size = level + 1, place // 2, (size + 1) // 2
                continue
            with self._lock:
                neighbour = self._waiting.pop((level, place ^ 1), None)
                if neighbour is None:
                    self._waiting[level, place] = value
                    return
            value = self._merge(value, neighbour) if place % 2 == 0 else self._merge(neighbour, value)
            level, place, size = level + 1, place // 2, (size + 1) // 2
        self._root = value

    def root(self) -> Result:
        """The merged value, once every leaf is in."""
        assert self._root is not None, "a leaf is missing"
        return self._root


class Workers:
    """Threads that live as long as a fit, so that what allocators keep for each is used again on every pass.

    A context manager; `threads` may be lowered between passes. One thread is the caller's own.
    """

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self._pool: ThreadPoolExecutor | None = None

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *error: object) -> None:
        if self._pool is not None:
            self._pool.shutdown()

    def run(
        self,
        parts: Sequence[Part],
        task: Task[Result],
        merge: Callable[[Result, Result], Result],
        done: Callable[[int], None] | None = None,
    ) -> Result:
        """Work on every leaf of the parts and merge the results. `done` is told the rows of each finished.

        An error or an interrupt stops the other threads after the leaf at hand and is raised here.
        """
        leaves = leaves_of(parts, task)
        tree: MergeTree[Result] = MergeTree(len(leaves), merge)
        count = min(self.threads, len(leaves))
        feed = Feed(leaves, task, parallel=self.threads > 1)
        stop = threading.Event()

        def work() -> None:
            while not stop.is_set():
                leaf = feed.next()
                if leaf is None:
                    return
                tree.add(leaf.number, task(leaf.parts))
                if done is not None:
                    done(leaf.rows)

        if count == 1:
            work()
            return tree.root()
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self.threads, thread_name_prefix="streamlr")
        running = [self._pool.submit(work) for _ in range(count)]
        try:
            # Waiting in short turns keeps Ctrl-C responsive on every platform.
            while True:
                finished, others = wait(running, timeout=0.2, return_when=FIRST_EXCEPTION)
                if not others or any(future.exception() for future in finished):
                    break
        finally:
            stop.set()
            wait(running)
        for future in running:
            future.result()
        return tree.root()
