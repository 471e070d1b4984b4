"""Arrow columns as arrays: which types are numbers, which are factors, and how each becomes one.

Functions of Arrow are called by name: `pyarrow.compute`, which wraps and documents each of them, takes 0.02 s
to import, and is needed for filters and casts alone.
"""

from __future__ import annotations

import decimal
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow._compute import call_function

from streamlr.errors import StreamlrError
from streamlr.kernels.levels import recode
from streamlr.kernels.tile import KIND_OF_TYPE

# The stored type that holds every value of a type which is not stored itself; uint64 rounds as R would.
WIDENED = {
    "uint8": "int16",
    "uint16": "int32",
    "uint32": "int64",
    "uint64": "float64",
    "float16": "float32",
}

# Outcomes within so small a range are coded by their distance from the least.
FEW_VALUES = 4

Level = str | bool | int | float


def is_number(kind: pa.DataType) -> bool:
    """Integers, floats of every width, and decimals."""
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind))


def is_text(kind: pa.DataType) -> bool:
    """Any of Arrow's string types."""
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def is_factor(kind: pa.DataType) -> bool:
    """Text, booleans, and dictionaries of text, booleans or numbers: factors unless told otherwise."""
    if pa.types.is_dictionary(kind):
        return is_factor(kind.value_type) or is_number(kind.value_type)
    return is_text(kind) or bool(pa.types.is_boolean(kind))


def why_unusable(kind: pa.DataType) -> str | None:
    """Why a column of this type can be no term, or None where it can."""
    if is_number(kind) or is_factor(kind):
        return None
    if pa.types.is_null(kind):
        return "all null"
    if pa.types.is_temporal(kind):
        return f"date or time ({kind})"
    if pa.types.is_nested(kind):
        return f"nested type ({kind})"
    return f"type {kind}"


def stored_width(kind: pa.DataType) -> int:
    """Bytes of a value of a numeric column as it is read."""
    if pa.types.is_boolean(kind):
        return 1
    return kind.bit_width // 8 if pa.types.is_integer(kind) or pa.types.is_floating(kind) else 8


def numbers(array: pa.Array, column: str) -> NDArray[Any]:
    """The values of a column as a NumPy array of its own width; null becomes NaN.

    Text is read as numbers, booleans as 0 and 1. Raises `StreamlrError` for text that is no number.
    """
    array = _numeric(array, column)
    values = plain(array)
    if (missing := nulls(array)) is not None:
        values = values.astype(np.float64 if values.dtype.kind in "iu" else values.dtype)
        values[missing] = np.nan
    return values


def stored_numbers(
    array: pa.Array, column: str, *, complete: bool = False
) -> tuple[NDArray[Any], NDArray[np.bool_] | None]:
    """A column as kernels read it, (n,) of one of `STORED_TYPES`, and which rows are missing (None: no row).

    Nothing is copied unless the type has to change; what stands in a missing row is arbitrary. `complete`:
    none is known to be missing. Raises as `numbers` does.
    """
    array = _numeric(array, column)
    values = plain(array)
    if values.dtype not in KIND_OF_TYPE:
        values = values.astype(WIDENED[values.dtype.name])
    missing = nulls(array)
    if values.dtype.kind == "f" and not complete and has_nan(values):
        nan = np.isnan(values)
        missing = nan if missing is None else missing | nan
    return values, missing


def nulls(array: pa.Array) -> NDArray[np.bool_] | None:
    """(n,) where there is no value; None: nowhere."""
    return plain(call_function("is_null", [array])) if array.null_count else None


def has_nan(values: NDArray[Any]) -> bool:
    """Whether any value is NaN: the least one is, then, which costs a fifth of looking at each."""
    return bool(values.size) and bool(np.isnan(values.min()))


def _numeric(array: pa.Array, column: str) -> pa.Array:
    """The column with a type of plain numbers."""
    kind = array.type
    if pa.types.is_floating(kind) or pa.types.is_integer(kind):
        return array
    if pa.types.is_dictionary(kind):
        return _numeric(array.dictionary_decode(), column)
    if pa.types.is_boolean(kind):
        return array.cast(pa.uint8())
    try:
        return array.cast(pa.float64())
    except pa.ArrowException as error:
        raise StreamlrError(f"column '{column}' ({kind}) cannot be read as numbers: {error}") from error


@cache
def _numpy_type(kind: pa.DataType) -> np.dtype[Any]:
    return np.dtype(kind.to_pandas_dtype())


def plain(array: pa.Array) -> NDArray[Any]:
    """The values of an array of numbers or booleans, whatever stands under nulls; no copy but for booleans.

    `to_numpy` would do, but imports pandas, which takes as long as a small fit.
    """
    buffer = array.buffers()[1]
    dtype = _numpy_type(array.type)
    if buffer is None or len(array) == 0:
        return np.empty(0, dtype=dtype)
    if pa.types.is_boolean(array.type):
        # A million in 0.04 ms; Arrow's cast to bytes takes 0.35.
        byte, bit = divmod(array.offset, 8)
        packed = np.frombuffer(buffer, dtype=np.uint8, offset=byte)
        return np.unpackbits(packed, count=bit + len(array), bitorder="little")[bit:].view(np.bool_)
    return np.frombuffer(buffer, dtype=dtype, count=len(array), offset=array.offset * dtype.itemsize)


def arrow_of(values: NDArray[Any], missing: NDArray[np.bool_] | None = None) -> pa.Array:
    """Numbers or booleans (n,) as an Arrow array, null where `missing`.

    `pyarrow.array` would do, but imports pandas.
    """
    if values.dtype == np.bool_:
        kind, buffer = pa.bool_(), _bits(values)
    else:
        kind, buffer = pa.from_numpy_dtype(values.dtype), pa.py_buffer(np.ascontiguousarray(values))
    valid = None if missing is None else _bits(~missing)
    return pa.Array.from_buffers(kind, len(values), [valid, buffer])


def texts_of(values: Sequence[str]) -> pa.Array:
    """Texts as an Arrow array."""
    encoded = [value.encode() for value in values]
    ends = np.cumsum([0, *(len(text) for text in encoded)]).astype(np.int32)
    buffers = [None, pa.py_buffer(ends), pa.py_buffer(b"".join(encoded))]
    return pa.Array.from_buffers(pa.string(), len(encoded), buffers)


def _bits(values: NDArray[np.bool_]) -> pa.Buffer:
    return pa.py_buffer(np.packbits(values, bitorder="little"))


def coded(array: pa.Array) -> pa.DictionaryArray:
    """A column as dictionary codes, whatever its type."""
    kind = array.type
    if pa.types.is_dictionary(kind):
        if not pa.types.is_string_view(kind.value_type):
            return array
        return pa.DictionaryArray.from_arrays(array.indices, array.dictionary.cast(pa.string()))
    if pa.types.is_string_view(kind):  # Arrow cannot hash these yet
        array = array.cast(pa.string())
    return call_function("dictionary_encode", [array])


def coded_outcomes(array: pa.Array) -> pa.DictionaryArray:
    """A target as dictionary codes, where it is small integers without hashing them: a tenth of the time.

    Entries ascend then, and some may stand for no row.
    """
    if pa.types.is_integer(array.type) and len(array) and not array.null_count:
        values = plain(array)
        low, high = values.min(), values.max()
        if int(high) - int(low) < FEW_VALUES:
            codes = (values - low).astype(np.int32)
            entries = low + np.arange(int(high) - int(low) + 1, dtype=values.dtype)
            return pa.DictionaryArray.from_arrays(arrow_of(codes), arrow_of(entries), safe=False)
    return coded(array)


def level_of(value: Any) -> Level | None:
    """A dictionary entry as a level: None for null and NaN, floats for decimals."""
    if value is None:
        return None
    if isinstance(value, decimal.Decimal):
        value = float(value)
    if isinstance(value, float) and value != value:
        return None
    return value


class Recoder:
    """Turns dictionary codes into codes of one's own, remembering the last dictionary it saw.

    Every row group has its own dictionary, and a column that fell back to plain pages a new one each batch,
    so codes are only ever compared through the entries they stand for. Entries that `code_of` has no code
    for are its business; null and NaN get `missing`.
    """

    def __init__(self, code_of: Callable[[Level], int], missing: int) -> None:
        self._code_of = code_of
        self._missing = missing
        self._dictionary: pa.Array | None = None
        self._table = np.empty(0, dtype=np.int32)

    def codes(self, array: pa.Array, out: NDArray[np.int32]) -> int:
        """Write the own code of every row into `out` (n,); returns the least of them and zero."""
        codes = coded(array)
        if self._dictionary is None or not codes.dictionary.equals(self._dictionary):
            levels = (level_of(value) for value in codes.dictionary.to_pylist())
            own = [self._missing if level is None else self._code_of(level) for level in levels]
            # The last entry is where null rows point.
            self._table = np.array([*own, self._missing], dtype=np.int32)
            self._dictionary = codes.dictionary
        least: int = recode(entries_of(codes, len(codes.dictionary)), self._table, out)
        return least


def entries_of(codes: pa.DictionaryArray, of_null: int = 0) -> NDArray[np.int32]:
    """(n,) int32 dictionary entries of all rows, `of_null` where there is none; no copy where none is needed.

    `pyarrow.compute.fill_null` would do, but imports pandas.
    """
    indices = codes.indices
    entries = plain(indices).astype(np.int32, copy=False)
    missing = nulls(indices)
    return entries if missing is None else np.where(missing, np.int32(of_null), entries)


def sorted_levels(levels: Iterable[Level]) -> list[Level]:
    """Numbers as numbers, text by code point, False before True."""
    return sorted(levels)


def find_level(wanted: Any, levels: Iterable[Level]) -> Level | None:
    """The level that a user's word means: equal to it, written like it, or the same number."""
    choices = list(levels)
    for level in choices:
        if type(level) is type(wanted) and level == wanted:
            return level
    for level in choices:
        if str(level) == str(wanted):
            return level
    for level in choices:
        if not isinstance(level, str):
            try:
                if float(wanted) == float(level):
                    return level
            except (TypeError, ValueError):
                return None
    return None
