"""Scoring: probabilities of new rows, in the order of the rows, in bounded memory."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from streamlr.design.basis import Basis
from streamlr.design.columns import why_unusable
from streamlr.design.design import Design
from streamlr.design.encoding import Encoder, Unseen
from streamlr.design.functions import column_kind
from streamlr.errors import StreamlrError, did_you_mean
from streamlr.kernels.block import score_block
from streamlr.passes.sums import scratch_for
from streamlr.sources.base import Part, Source
from streamlr.whole_file import written_whole

Floats = NDArray[np.float64]


def predict_array(
    design: Design, basis: Basis, coef: Floats, source: Source, unseen: Unseen = "null"
) -> Floats:
    """(n,) probabilities of all rows; NaN where a row cannot be scored."""
    check_scorable(design, source)
    pieces = [
        probability
        for part in source.parts
        for _, probability in score_part(design, basis, coef, part, (), unseen)
    ]
    return np.concatenate(pieces) if pieces else np.empty(0)


def predict_file(
    design: Design,
    basis: Basis,
    coef: Floats,
    source: Source,
    path: str,
    *,
    keep: Sequence[str] = (),
    unseen: Unseen = "null",
    threads: int,
    done: Callable[[int], None] | None = None,
) -> tuple[int, int]:
    """Write a Parquet file with the columns `keep` and "probability", one row group a part.

    Returns the number of rows and how many of them could not be scored (null). The file appears under its
    name only when it is whole. Raises `StreamlrError`.
    """
    check_scorable(design, source)
    keep = tuple(dict.fromkeys(keep))
    if any(
        os.path.exists(name) and os.path.realpath(name) == os.path.realpath(path) for name in source.origin
    ):
        raise StreamlrError(f"{path} is one of the files to be scored; write the scores to another.")
    for name in keep:
        if name not in source.schema.names:
            raise StreamlrError(f"no column '{name}' to keep.{did_you_mean(name, source.schema.names)}")
    if "probability" in keep:
        raise StreamlrError(
            "the data have a column 'probability' already; it cannot be kept beside the scores."
        )
    fields = [source.schema.field(name) for name in keep]
    schema = pa.schema([*fields, pa.field("probability", pa.float64())])
    rows = unscored = 0
    with written_whole(path) as temporary, pq.ParquetWriter(temporary, schema) as writer:
        for table in _in_order(design, basis, coef, source, schema, keep, unseen, threads):
            writer.write_table(table)
            rows += table.num_rows
            unscored += table.column("probability").null_count
            if done is not None:
                done(rows)
    return rows, unscored


def _in_order(
    design: Design,
    basis: Basis,
    coef: Floats,
    source: Source,
    schema: pa.Schema,
    keep: Sequence[str],
    unseen: Unseen,
    threads: int,
) -> Iterator[pa.Table]:
    """Scored parts in the order of the rows; threads work at most two parts ahead each."""

    def scored(part: Part) -> pa.Table:
        batches = []
        for batch, probability in score_part(design, basis, coef, part, keep, unseen):
            arrays = [batch.column(name) for name in keep]
            arrays.append(pa.array(probability, mask=np.isnan(probability)))
            columns = [array.cast(field.type) for array, field in zip(arrays, schema, strict=True)]
            batches.append(pa.RecordBatch.from_arrays(columns, schema=schema))
        return pa.Table.from_batches(batches, schema=schema)

    with ThreadPoolExecutor(threads) as pool:
        ahead: list[Future[pa.Table]] = []
        parts = iter(source.parts)
        for part in parts:
            ahead.append(pool.submit(scored, part))
            if len(ahead) >= 2 * threads:
                yield ahead.pop(0).result()
        while ahead:
            yield ahead.pop(0).result()


def score_part(
    design: Design, basis: Basis, coef: Floats, part: Part, keep: Sequence[str], unseen: Unseen
) -> Iterator[tuple[pa.RecordBatch, Floats]]:
    """Batches of a part with the probability of every row; NaN where a row cannot be scored."""
    layout = design.layout
    encoder = Encoder(design)
    scratch = scratch_for(layout)
    conditioning = basis.conditioning()
    slots = layout.to_slots(coef)
    columns = list(dict.fromkeys((*design.feature_columns, *keep)))
    coded = [name for name in design.factor_columns if name not in keep]
    for batch in part.read(columns, coded, design.batch_rows):
        block, scorable, probability = encoder.encode_features(batch, unseen)
        scores, eta = np.empty(block.success.size), np.empty(block.success.size)
        score_block(block.rows, conditioning, slots, scratch, eta, scores)
        probability[scorable] = scores
        yield batch, probability


def check_scorable(design: Design, source: Source, labelled: bool = False) -> None:
    """Raise `StreamlrError` naming every column that is missing, and any of a type that cannot be used.

    `labelled`: the outcome, weights and trials are needed as well.
    """
    names = source.schema.names
    needed = design.columns if labelled else design.feature_columns
    missing = [name for name in needed if name not in names]
    if missing:
        listed = ", ".join(f"'{name}'" for name in missing)
        hint = did_you_mean(missing[0], names) if len(missing) == 1 else ""
        where = source.origin[0] if source.origin else "the data"
        raise StreamlrError(f"{where} lacks {listed}, which the model needs.{hint}")
    for name in design.feature_columns:
        kind = source.schema.field(name).type
        if pa.types.is_null(kind):
            continue
        try:
            column_kind(name, kind)
        except StreamlrError:
            raise StreamlrError(f"column '{name}' cannot be scored: {why_unusable(kind)}.") from None
