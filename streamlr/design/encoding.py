"""Batches as blocks, by a frozen design: the same encoding for the fit and for the scoring of new rows.

Variables are read once a batch and multiplied as the terms have them. Rows with a gap, and rows of levels
that are set aside, are left out and counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from streamlr.design.columns import Recoder, has_nan, is_number, numbers
from streamlr.design.cuts import Sides
from streamlr.design.design import Design
from streamlr.design.features import Gaps
from streamlr.design.keys import keys_of
from streamlr.design.terms import (
    ALWAYS_NEGATIVE,
    ALWAYS_POSITIVE,
    MISSING,
    REFERENCE,
    UNKNOWN,
    Coded,
    Factor,
    Meeting,
    Number,
    Part,
)
from streamlr.design.values import Frame
from streamlr.errors import StreamlrError
from streamlr.kernels.tile import KIND_OF_TYPE, Block

# What becomes of a row with a level that the fit has not seen.
Unseen = Literal["null", "reference", "error"]

NOTHING = np.empty(0)
ALL = slice(None)


@dataclass
class Tally:
    """Rows of a pass by what became of them."""

    rows_read: int = 0
    rows_used: int = 0
    rows_set_aside: int = 0
    rows_weighted: int = 0
    weight: float = 0.0
    least_weight: float = np.inf  # least positive weight

    def __post_init__(self) -> None:
        self.missing: Counter[str] = Counter()

    def merge(self, other: Tally) -> Tally:
        """Add another part's counts."""
        self.rows_read += other.rows_read
        self.rows_used += other.rows_used
        self.rows_set_aside += other.rows_set_aside
        self.rows_weighted += other.rows_weighted
        self.weight += other.weight
        self.least_weight = min(self.least_weight, other.least_weight)
        self.missing.update(other.missing)
        return self


@dataclass
class Encoded:
    """The features of a batch: numeric columns and scales, codes, offset, and what is missing by name.

    `odd` and `odd_cells` name the factors, and the meetings of factors, with codes (n,) that are no level and
    no reference.
    """

    numeric: list[NDArray[Any]]
    codes: NDArray[np.int32]
    odd: list[tuple[str, NDArray[np.int32]]]
    odd_cells: list[tuple[Coded, NDArray[np.int32]]]
    levels: Mapping[int, NDArray[np.int32]]  # codes of each factor, by its place
    offset: NDArray[np.float64]
    gaps: Gaps
    ranges: tuple[NDArray[np.float64], NDArray[np.float64]] | None
    odd_values: Mapping[str, pa.Array]  # of the factors in `odd`

    @property
    def all_odd(self) -> list[tuple[str, NDArray[np.int32]]]:
        """Both, by name."""
        return [*self.odd, *((factor.name, codes) for factor, codes in self.odd_cells)]


class Encoder:
    """Encodes the batches of one part; it remembers dictionaries, so each part has its own."""

    def __init__(self, design: Design, *, ranges: bool = False, complete: bool = False) -> None:
        """`ranges`: find those of the numeric columns too, while each is in the cache, for a fifth of what it
        costs to read all of them once more. `complete`: the rows were encoded before, and none lacked
        anything, so that numbers are not looked through for NaN, a tenth of what decoding them takes."""
        self._design = design
        self._ranges = ranges
        self._complete = complete
        self._recoders = {
            place: variable.recoder()
            for place, variable in enumerate(design.variables)
            if isinstance(variable, Factor)
        }
        codes = {design.negative: 0, design.positive: 1}
        self._target = Recoder(lambda level: codes.get(level, UNKNOWN), MISSING)
        self._lookups = design.lookups
        self._sides = Sides(design.layout, design.cuts) if design.cuts else None
        # Rows of the codes that are those of a variable as they are, which need no copy.
        self._homes: dict[int, int] = {}
        for row, factor in enumerate(design.factors):
            if self._lookups[factor.meeting].is_plain:
                self._homes.setdefault(factor.meeting.variables[0], row)

    def encode(self, batch: pa.RecordBatch, tally: Tally) -> Block:
        """The used rows of a batch as a block; rows not used are counted in `tally`.

        Raises `StreamlrError` for an outcome or a level that the design has not seen.
        """
        return self.encode_used(batch, tally)[0]

    def encode_used(self, batch: pa.RecordBatch, tally: Tally) -> tuple[Block, Any]:
        """What `encode` returns, and which rows that the filter keeps they are: (rows,) or `ALL`."""
        design = self._design
        frame = design.reader.frame(batch)
        n = frame.rows
        found = self._features(frame)
        missing = found.gaps
        success: NDArray[Any]
        trials = NOTHING
        if design.trials is None:
            success = self._outcome(frame.raw(design.target), missing)
        else:
            success = _role(frame, design.target, missing)
            trials = _role(frame, design.trials, missing)
        weight = NOTHING if design.weights is None else _role(frame, design.weights, missing)
        clusters = np.empty((len(design.clusters), n), dtype=np.int64)
        for row, name in zip(clusters, design.clusters, strict=True):
            row[:], gaps = keys_of(frame.raw(name), name)
            if gaps is not None:
                missing[name] = gaps
        keep = self._used(n, found, tally)
        if design.trials is None and n and success.min() < 0 and (success[keep] < 0).any():
            raise _changed(design.target, frame.raw(design.target), success < 0, keep)
        numeric, codes, offset = found.numeric, found.codes, found.offset
        if keep is not ALL:
            numeric = [column[keep] for column in numeric]
            codes = np.ascontiguousarray(codes[:, keep])
            success = success[keep]
            clusters = clusters[:, keep]
            trials, weight, offset = (
                array[keep] if array.size else array for array in (trials, weight, offset)
            )
        ranges = found.ranges if keep is ALL else None
        block = Block(numeric, codes, success, trials, weight, offset, clusters, ranges)
        if self._sides is not None:
            stay = self._sides.of(block) == 0
            if keep is ALL:
                keep = stay
            else:
                keep = keep.copy()
                keep[keep] = stay
            tally.rows_set_aside += int(np.count_nonzero(~stay))
            block = block.taken(stay)
            weight = block.weight
        used = len(block.success)
        tally.rows_read += n
        tally.rows_used += used
        tally.weight += float(weight.sum()) if weight.size else float(used)
        positive = weight[weight > 0] if weight.size else np.ones(min(used, 1))
        tally.rows_weighted += positive.size if weight.size else used
        tally.least_weight = min(tally.least_weight, float(positive.min(initial=np.inf)))
        return block, keep

    def _used(self, n: int, found: Encoded, tally: Tally) -> Any:
        """Which rows are used, (n,) or `ALL`; the others are counted."""
        odd = found.all_odd
        if not found.gaps and not odd:
            return ALL
        keep = np.ones(n, dtype=np.bool_)
        for name, mask in found.gaps.items():
            count = int(np.count_nonzero(mask))
            if count:
                tally.missing[name] += count
                keep &= ~mask
        for _, codes in odd:
            aside = keep & ((codes == ALWAYS_NEGATIVE) | (codes == ALWAYS_POSITIVE))
            tally.rows_set_aside += int(np.count_nonzero(aside))
            keep &= ~aside
        for name, codes in odd:
            if (codes[keep] == UNKNOWN).any():
                raise _changed(name, found.odd_values.get(name), codes == UNKNOWN, keep)
        return keep

    def encode_features(
        self, batch: pa.RecordBatch, unseen: Unseen = "null"
    ) -> tuple[Block, NDArray[np.bool_], NDArray[np.float64]]:
        """The rows of a batch that can be scored, as a block; which rows they are; and limits.

        Limits, (n,): NaN, or the probability 0 or 1 of a row with a level that had that outcome only, or on
        the side of a cut where that is the limit.
        `unseen`: rows with a level that the fit has not seen get no score ("null"), are scored as the
        reference level ("reference"), or raise `StreamlrError` ("error").
        """
        frame = self._design.reader.frame(batch)
        n = frame.rows
        found = self._features(frame, unseen)
        keep = np.ones(n, dtype=np.bool_)
        for mask in found.gaps.values():
            keep &= ~mask
        for column in found.numeric:
            if column.dtype.kind == "f":
                keep &= np.isfinite(column)
        for _, codes in found.odd:
            keep &= codes != UNKNOWN
        if found.offset.size:
            keep &= np.isfinite(found.offset)
        odd = found.all_odd
        always_negative, always_positive = _any(odd, ALWAYS_NEGATIVE, n), _any(odd, ALWAYS_POSITIVE, n)
        limits = np.full(n, np.nan)
        limits[keep & always_negative & ~always_positive] = 0.0
        limits[keep & always_positive & ~always_negative] = 1.0
        keep &= ~(always_negative | always_positive)
        # A cell that was set aside in one term is unknown to others that it would be in.
        for factor, codes in found.odd_cells:
            keep &= self._are_known(factor, codes, found.levels, keep, unseen)
        codes = found.codes
        if unseen == "reference":
            codes = np.where(codes == UNKNOWN, np.int32(REFERENCE), codes)
        block = Block(
            [column[keep] for column in found.numeric],
            np.ascontiguousarray(codes[:, keep]),
            np.zeros(int(np.count_nonzero(keep)), dtype=np.int8),
            NOTHING,
            NOTHING,
            found.offset[keep] if found.offset.size else NOTHING,
        )
        if self._sides is not None:
            sides = self._sides.of(block)
            scored = np.flatnonzero(keep)
            limits[scored[sides < 0]], limits[scored[sides > 0]] = 0.0, 1.0
            keep[scored[sides != 0]] = False
            block = block.taken(sides == 0)
        return block, keep, limits

    def _features(self, frame: Frame, unseen: Unseen = "null") -> Encoded:
        """The variables of a batch, multiplied as the terms have them."""
        design, gaps = self._design, Gaps()
        rows = np.empty((len(design.factors), frame.rows), dtype=np.int32)
        columns: dict[int, list[NDArray[Any]]] = {}
        lows: dict[tuple[int, int], float] = {}
        highs: dict[tuple[int, int], float] = {}
        levels: dict[int, NDArray[np.int32]] = {}
        odd: list[tuple[str, NDArray[np.int32]]] = []
        odd_values: dict[str, pa.Array] = {}
        for place, variable in enumerate(design.variables):
            if isinstance(variable, Number):
                columns[place] = design.reader.numeric(variable.feature, frame, gaps, complete=self._complete)
                if self._ranges and frame.rows:
                    for number, column in enumerate(columns[place]):
                        lows[place, number], highs[place, number] = column.min(), column.max()
                continue
            home = self._homes.get(place)
            codes = np.empty(frame.rows, dtype=np.int32) if home is None else rows[home]
            levels[place] = codes
            array = design.reader.levels(variable.feature, frame)
            lowest = self._recoders[place].codes(array, out=codes)
            if lowest < REFERENCE:
                odd.append((variable.name, codes))
                odd_values[variable.name] = array
                missing = codes == MISSING
                if missing.any():
                    design.reader.note_gaps(variable.feature, frame, missing, gaps)
                self._settle_unseen(variable, codes, unseen, array)
            if variable.coding != "treatment":
                columns[place] = _contrasts_of(variable, codes)
        numeric = [_product(number.parts, columns) for number in design.numbers]
        coded_as: dict[Meeting, NDArray[np.int32]] = {}
        odd_cells: list[tuple[Coded, NDArray[np.int32]]] = []
        for place, (row, factor) in enumerate(zip(rows, design.factors, strict=True)):
            meeting = factor.meeting
            if meeting not in coded_as:
                coded_as[meeting] = found = self._lookups[meeting].codes(levels)
                if meeting.cells is not None and found.size and found.min() < REFERENCE:
                    odd_cells.append((factor, found))
            if self._homes.get(meeting.variables[0]) != place:
                row[:] = coded_as[meeting]
            if factor.parts:
                numeric.append(_product(factor.parts, columns))
            elif factor.absorbed and design.layout.scaled:
                numeric.append(np.ones(frame.rows, dtype=np.int8))
        offset = NOTHING if design.offset is None else _role(frame, design.offset, gaps)
        ranges = None
        places = [(number.parts[0].variable, number.parts[0].column) for number in design.numbers]
        # Products, scales and the columns of codings are known only when they are made.
        as_read = all(len(number.parts) == 1 for number in design.numbers) and len(numeric) == len(places)
        if as_read and all(at in lows for at in places):
            ranges = np.array([lows[at] for at in places]), np.array([highs[at] for at in places])
        return Encoded(numeric, rows, odd, odd_cells, levels, offset, gaps, ranges, odd_values)

    def _settle_unseen(
        self, factor: Factor, codes: NDArray[np.int32], unseen: Unseen, array: pa.Array
    ) -> None:
        unknown = codes == UNKNOWN
        if unseen == "null" or not unknown.any():
            return
        if unseen == "reference":
            # Absorbed effects have no reference level; with a ridge an unknown one is expected to be zero.
            if factor.reference is not None or self._design.absorb_l2:
                codes[unknown] = REFERENCE
            return
        row = int(np.flatnonzero(unknown)[0])
        count = int(np.count_nonzero(unknown))
        raise StreamlrError(
            f"'{factor.feature.column}' has a level that the model has not seen: {array[row].as_py()!r} "
            f"({count:,} such rows here). Score such rows as missing with --unseen null, or as the reference "
            "level with --unseen reference."
        )

    def _are_known(
        self,
        factor: Coded,
        codes: NDArray[np.int32],
        levels: Mapping[int, NDArray[np.int32]],
        keep: NDArray[np.bool_],
        unseen: Unseen,
    ) -> NDArray[np.bool_]:
        """(n,) which rows have cells that the fit has seen, where that matters; `keep`: those in question.

        Raises `StreamlrError` where levels meet that have not met, and that is an error.
        """
        unknown = codes == UNKNOWN
        if unseen == "error" and (unknown & keep).any():
            row = int(np.flatnonzero(unknown & keep)[0])
            met = []
            for place in factor.meeting.variables:
                variable = self._design.variables[place]
                assert isinstance(variable, Factor)
                met.append(f"{variable.name} {variable.all_levels[levels[place][row] - REFERENCE]!r}")
            raise StreamlrError(
                f"'{factor.name}' meets levels that the model has not seen together: {' with '.join(met)} "
                f"({int(np.count_nonzero(unknown & keep)):,} such rows here). Score such rows as missing "
                "with --unseen null, or without this term with --unseen reference."
            )
        return np.ones_like(unknown) if unseen == "reference" else ~unknown

    def _outcome(self, array: pa.Array, missing: Gaps) -> NDArray[np.int8]:
        """1 where the outcome counts as 1, 0 where it is the other, negative where it is neither."""
        name, positive, negative = self._design.target, self._design.positive, self._design.negative
        if is_number(array.type):  # comparing is four times as fast as coding
            values = numbers(array, name)
            _note_missing(values, name, missing)
            success = (values == positive).view(np.int8)
            known = np.count_nonzero(success) + np.count_nonzero(values == negative)
            if known < len(values):
                success[(values != positive) & (values != negative)] = UNKNOWN
            return success
        codes = np.empty(len(array), dtype=np.int32)
        if self._target.codes(array, out=codes) < REFERENCE:
            missing[name] = codes == MISSING
        return codes.astype(np.int8)


def _any(odd: Sequence[tuple[str, NDArray[np.int32]]], code: int, n: int) -> NDArray[np.bool_]:
    """(n,) where one of some factors has the code."""
    found = np.zeros(n, dtype=np.bool_)
    for _, codes in odd:
        found |= codes == code
    return found


def _contrasts_of(factor: Factor, codes: NDArray[np.int32]) -> list[NDArray[np.float64]]:
    """The columns of a coding, each (n,); whatever for codes that are no level, whose rows are not used."""
    beyond = np.zeros((REFERENCE - MISSING, factor.contrasts.shape[1]))
    table = np.vstack([factor.contrasts, beyond])  # codes below the reference count from the end
    return list(np.ascontiguousarray(table[codes - REFERENCE].T))


def _product(parts: Sequence[Part], columns: Mapping[int, Sequence[NDArray[Any]]]) -> NDArray[Any]:
    """The product of some columns, each (n,), of a type that kernels read; one alone is not copied."""
    first = columns[parts[0].variable][parts[0].column]
    if len(parts) == 1:
        return first if first.dtype in KIND_OF_TYPE else first.astype(np.float64)
    found = first.astype(np.float64)
    with np.errstate(over="ignore", invalid="ignore"):
        for part in parts[1:]:
            found *= columns[part.variable][part.column]
    return found


def _role(frame: Frame, name: str, missing: Gaps) -> NDArray[np.float64]:
    values = numbers(frame.raw(name), name).astype(np.float64)
    _note_missing(values, name, missing)
    return values


def _note_missing(values: NDArray[Any], name: str, missing: Gaps) -> None:
    if values.dtype.kind == "f" and has_nan(values):
        missing[name] = np.isnan(values)


def _changed(
    name: str, values: pa.Array | None, unknown: NDArray[np.bool_], keep: NDArray[np.bool_] | slice
) -> StreamlrError:
    """What is wrong with rows that are used although a value of them, if it is told, is `unknown` (n,)."""
    used = np.zeros_like(unknown)
    used[keep] = unknown[keep]
    example = "" if values is None else f": {values[int(used.argmax())].as_py()!r}"
    return StreamlrError(
        f"'{name}' has a value that was not there when the model learned its levels{example} "
        f"({np.count_nonzero(used):,} such rows here). The data have changed, or are not those of the fit: "
        "fit again, or leave those rows out with --where."
    )
