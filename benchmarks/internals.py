"""The one place where benchmarks reach into streamlr: a fit taken apart into the steps that are timed.

When the package's insides move, this file moves with them and `kernels.py` and `passes.py` stay.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from time import perf_counter
from typing import Any
from unittest.mock import patch

import numba
import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

import streamlr
from streamlr.design.design import Design
from streamlr.design.encoding import Tally
from streamlr.design.features import Reader
from streamlr.design.layout import Layout
from streamlr.design.spec import resolve_spec
from streamlr.events import silent
from streamlr.kernels.block import add_block
from streamlr.kernels.gram import add_gram
from streamlr.kernels.joint import NOT_JOINED
from streamlr.kernels.logistic import row_losses
from streamlr.kernels.tails import add_fourth_powers
from streamlr.kernels.tile import (
    Block,
    add_factor_predictor,
    add_linear_predictor,
    fill_and_predict,
    fill_tile,
    start_eta,
)
from streamlr.passes.cache import BlockCache
from streamlr.passes.run import Workers
from streamlr.passes.session import Session
from streamlr.passes.sums import Sums, scratch_for
from streamlr.passes.tasks import SumsTask, blocks_of
from streamlr.profiling import features_to_profile, profile_and_freeze
from streamlr.sampling import parts_to_condition_on, sample_of
from streamlr.sources.column_chunks import ChunkReader, chunks_of, stored_columns
from streamlr.sources.open import open_source
from streamlr.start import conditioned_basis, null_model, starts_of

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Fit:
    """A fit just before its first pass over all rows."""

    source: Any
    design: Design
    basis: Any
    coef: Floats  # (k,), none of them zero, since a kernel may skip zeros

    @property
    def parts(self) -> Sequence[Any]:
        return self.source.parts

    @property
    def rows(self) -> int:
        return int(self.source.rows)

    @property
    def columns(self) -> list[str]:
        """The columns that a pass reads."""
        return list(self.design.columns)

    @property
    def coded(self) -> list[str]:
        """Those of them that are read as dictionary codes."""
        return list(self.design.coded_columns)


def begin(data: Any, target: str, features: Sequence[str]) -> Fit:
    """Everything that a fit does before its first pass: profile, design, conditioning, start."""
    source = open_source(data)
    spec = resolve_spec(
        source.schema,
        origin="the benchmark",
        target=target,
        features=list(features),
        formula=None,
        exclude=(),
        categorical=(),
        numeric=(),
        reference={},
        positive=None,
        where=None,
        missing="drop",
        weights=None,
        weight_type="frequency",
        offset=None,
        trials=None,
    )
    session = Session(source, Workers(1), silent, perf_counter())
    features = features_to_profile(source, spec)
    spec, profile, design = profile_and_freeze(session, spec, features, Reader(), "levels")
    sample = sample_of(source, design, profile)
    basis = conditioned_basis(session, design, parts_to_condition_on(source, sample))
    start = starts_of(session, design, basis, null_model(design, profile), profile, sample).points[0]
    return Fit(source, design, basis, np.where(start == 0.0, 0.01, start))


def decode(fit: Fit) -> None:
    """Read every part as a pass does, and do nothing with it."""
    for part in fit.parts:
        for _ in part.read(fit.columns, fit.coded, fit.design.batch_rows):
            pass


def encode(fit: Fit) -> None:
    """Read every part and make of it the blocks that kernels are fed."""
    for part in fit.parts:
        for _ in blocks_of(fit.design, part, Tally(), None):
            pass


def task(fit: Fit, cache: BlockCache | None = None) -> SumsTask:
    """What a pass does to a part."""
    return SumsTask(fit.design, fit.basis, cache, fit.coef, 0.0, False)


def run_pass(fit: Fit, threads: int, cache: BlockCache | None = None) -> None:
    """A pass over all parts, as a fit runs it."""
    with Workers(threads) as workers:
        workers.run(fit.parts, task(fit, cache), Sums.merge)


def full_cache(fit: Fit) -> BlockCache:
    """A cache that keeps every block, filled by a pass."""
    cache = BlockCache(1 << 60, 1 << 60)
    run_pass(fit, 1, cache)
    return cache


def run_kernels(fit: Fit, cache: BlockCache) -> None:
    """The kernels over blocks in memory, part after part on this thread."""
    task(fit, cache)(fit.parts)


@dataclass(frozen=True)
class Tile:
    """One tile of `count` rows in working memory, and the sums that kernels add to."""

    fit: Fit
    block: Block
    count: int
    dense: int
    sums: Sums
    scratch: Any
    conditioning: Any
    slots: Floats  # coefficients as kernels number them

    @property
    def rows_of_block(self) -> int:
        return int(self.block.success.size)


def tile_of(fit: Fit) -> Tile:
    """The first tile of the first block, filled and conditioned."""
    layout = fit.design.layout
    block = next(iter(blocks_of(fit.design, fit.parts[0], Tally(), None)))
    tile = Tile(
        fit=fit,
        block=block,
        count=min(layout.tile_rows, block.success.size),
        dense=layout.dense,
        sums=Sums(layout, False),
        scratch=scratch_for(layout),
        conditioning=fit.basis.conditioning(),
        slots=layout.to_slots(fit.coef),
    )
    fill(tile, 1)
    return tile


# The loops are compiled, because calling a kernel from Python costs as much as 300 rows of a small one.
# Each runs a kernel `times` times over the same tile.


@numba.njit(nogil=True)
def _gram(times, tile, count, dense, gram):
    for _ in range(times):
        add_gram(tile, count, 0, dense, gram)


@numba.njit(nogil=True)
def _fourth_powers(times, tile, curvature, count, dense, along, fourth):
    for _ in range(times):
        add_fourth_powers(tile, curvature, count, dense, along, fourth)


@numba.njit(nogil=True)
def _fill(times, rows, conditioning, count, tile, scratch):
    for _ in range(times):
        fill_tile(rows, conditioning, 0, count, tile, scratch)


@numba.njit(nogil=True)
def _predict(times, rows, conditioning, coef, count, tile, eta):
    for _ in range(times):
        add_linear_predictor(rows, conditioning, coef, 0, count, tile, eta)


@numba.njit(nogil=True)
def _link(times, eta, success, failure, count, exponent, bits, loss, slope, curvature):
    for _ in range(times):
        row_losses(eta, success, failure, count, exponent, bits, loss, slope, curvature)


@numba.njit(nogil=True)
def _predict_block(rows, conditioning, coef, tile, eta, scratch):
    n = rows.success.size
    length = tile.shape[1]
    for first in range(0, n, length):
        count = min(length, n - first)
        start_eta(rows.offset, 0.0, first, count, eta)
        fill_and_predict(rows, conditioning, coef, first, count, tile, eta, scratch)
        add_factor_predictor(rows, conditioning, coef, first, count, tile, eta)


def predict_blocks(fit: Fit, cache: BlockCache) -> None:
    """The linear predictor of every kept row, which has to be read from memory and conditioned for it."""
    scratch = scratch_for(fit.design.layout)
    conditioning = fit.basis.conditioning()
    coef = fit.design.layout.to_slots(fit.coef)
    for part in fit.parts:
        for block in blocks_of(fit.design, part, Tally(), cache):
            _predict_block(
                kernel_rows(block), conditioning, coef, scratch.tile, scratch.work[0], scratch.work[6]
            )


def gram(tile: Tile, times: int) -> None:
    """gram += tile tile' of all dense columns, the intercept among them, which a pass need not multiply"""
    columns = Layout(tuple(range(tile.dense)), tile.dense, ())
    memory = scratch_for(columns).tile
    memory[: tile.dense] = tile.scratch.tile[: tile.dense]
    _gram(times, memory, tile.count, tile.dense, Sums(columns, False).totals.gram)


def fourth_powers(tile: Tile, times: int) -> None:
    """Fourth powers along as many combinations as there are dense columns, with curvatures of one"""
    along = scratch_for(tile.fit.design.layout, along=np.eye(tile.dense)).along
    fourth = np.zeros(len(along.combinations))
    _fourth_powers(times, tile.scratch.tile, np.ones(tile.count), tile.count, tile.dense, along, fourth)


def fill(tile: Tile, times: int) -> None:
    """tile = conditioned columns of the block"""
    scratch = tile.scratch
    _fill(times, kernel_rows(tile.block), tile.conditioning, tile.count, scratch.tile, scratch.work[6])


def predict(tile: Tile, times: int) -> None:
    """eta += linear predictor. It runs away over many times, which costs nothing."""
    scratch = tile.scratch
    eta = scratch.work[0]
    eta[:] = 0.0
    _predict(times, tile.block.rows, tile.conditioning, tile.slots, tile.count, scratch.tile, eta)


def link(tile: Tile, times: int) -> None:
    """Loss, slope and curvature of every row, at linear predictors from -4 to 4 whose signs and outcomes
    nobody can foresee."""
    work, exponent = tile.scratch.work, tile.scratch.exponent
    rng = np.random.default_rng(1)
    work[0, : tile.count] = rng.permutation(np.linspace(-4.0, 4.0, tile.count))
    work[1, : tile.count] = rng.integers(0, 2, tile.count)
    work[2] = 1.0 - work[1]
    bits = tile.scratch.exponent_bits
    _link(times, work[0], work[1], work[2], tile.count, exponent, bits, work[3], work[4], work[5])


def whole_block(tile: Tile, times: int) -> None:
    """All that a pass does to a block in memory."""
    for _ in range(times):
        add_block(
            kernel_rows(tile.block), tile.conditioning, tile.slots, True, tile.sums.totals, tile.scratch
        )


def factor_by_factor(tile: Tile) -> Tile:
    """The same tile for kernels that take no factors together."""
    return replace(tile, scratch=tile.scratch._replace(joining=NOT_JOINED))


def kernel_rows(block: Block) -> Any:
    """A block as kernels are handed it."""
    return block.rows


class CountingPart:
    """A part that notes what is read of it: the columns, and whether all rows were taken."""

    def __init__(self, part: Any, note: Callable[[int, tuple[str, ...], int], None], index: int) -> None:
        self._part = part
        self._note = note
        self._index = index

    @property
    def rows(self) -> int | None:
        return self._part.rows

    def read(self, columns: Sequence[str], coded: Sequence[str], batch_rows: int) -> Iterator[Any]:
        taken = 0
        try:
            for batch in self._part.read(columns, coded, batch_rows):
                taken += batch.num_rows
                yield batch
        finally:
            self._note(self._index, tuple(columns), taken)


class CountingSource:
    """A source whose parts count how often they are read; everything else is the source's own."""

    def __init__(self, source: Any) -> None:
        self._source = source
        self._lock = threading.Lock()
        self.reads: list[Counter[tuple[tuple[str, ...], int]]] = [Counter() for _ in source.parts]
        self.parts = [CountingPart(part, self._note, i) for i, part in enumerate(source.parts)]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._source, name)

    def _note(self, index: int, columns: tuple[str, ...], rows: int) -> None:
        with self._lock:
            self.reads[index][columns, rows] += 1

    def full_reads(self, columns: Sequence[str]) -> list[int]:
        """For each part how often all its rows were read, with all `columns`."""
        return [
            sum(
                count
                for (read, rows), count in reads.items()
                if set(columns) <= set(read) and rows == part.rows
            )
            for part, reads in zip(self.parts, self.reads, strict=True)
        ]

    def values_read(self) -> int:
        """Number of values that were decoded, over all reads."""
        return sum(len(names) * rows * n for reads in self.reads for (names, rows), n in reads.items())


def fit_counted(data: Any, target: str, features: Sequence[str], *, keep: bool, **options: Any) -> Any:
    """A whole `streamlr.fit` over a source that counts; without `keep` no block is kept between passes.

    Returns the model and the source.
    """
    source = CountingSource(open_source(data))
    with ExitStack() as stack:
        stack.enter_context(patch("streamlr.fitting.open_source", lambda data: source))
        if not keep:
            stack.enter_context(patch("streamlr.fitting.BlockCache", lambda *sizes: None))
        model = streamlr.fit(data, target=target, features=list(features), **options)
    return model, source


@dataclass
class KernelReader:
    """Our kernels that read columns of a file, text as codes; `left`: columns that they leave to pyarrow."""

    path: str
    left: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._metadata = pq.read_metadata(self.path)
        self._known = stored_columns(self._metadata, pq.read_schema(self.path))

    def read(self, groups: Sequence[int], columns: Sequence[str]) -> None:
        """Read columns of row groups."""
        for group in groups:
            row_group = self._metadata.row_group(group)
            with ChunkReader(self.path) as reader:
                for name in columns:
                    column = self._known.get(name)
                    chunks = None if column is None else chunks_of(column, [row_group])
                    if chunks is None or reader.read(column, chunks) is None:
                        self.left.add(name)
