"""Keys of clusters: a 64-bit integer for every value of a column, the same in every batch and every file.

Scores are added up by cluster as rows come, so a value must be known by itself, without a list of all values
that another pass would have to make. Whole numbers, truth values, dates and times are their own keys; floats
are known by their bits; texts by a hash of 64 bits, in which any two of ten million differ but for a chance
of 3e-6. So are pairs of keys, for clusters that are crossed.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from streamlr.design.columns import coded, entries_of, is_number, is_text, nulls, numbers, plain
from streamlr.kernels.keys import hash_texts

Keys = NDArray[np.int64]

# Multipliers of a mixing of 64 bits after which each bit depends on every other: the thirteenth variant of
# D. Stafford, as in Steele, Lea and Flood 2014, Fast splittable pseudorandom number generators, OOPSLA.
FIRST, SECOND = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


def can_be_keys(kind: pa.DataType) -> bool:
    """Whether a column of this type can tell clusters."""
    if pa.types.is_dictionary(kind):
        return can_be_keys(kind.value_type)
    return is_number(kind) or is_text(kind) or bool(pa.types.is_boolean(kind) or pa.types.is_temporal(kind))


def keys_of(array: pa.Array, column: str) -> tuple[Keys, NDArray[np.bool_] | None]:
    """(n,) keys of the values of a column, and which are missing, null or NaN (None: no row)."""
    kind = array.type
    if is_text(kind) or (pa.types.is_dictionary(kind) and is_text(kind.value_type)):
        codes = coded(array)
        table = np.append(_keys_of_texts(codes.dictionary), 0)
        missing = nulls(codes)
        return table[entries_of(codes, len(table) - 1)], missing
    if pa.types.is_dictionary(kind):
        return keys_of(array.dictionary_decode(), column)
    missing = nulls(array)
    if pa.types.is_temporal(kind):
        width = pa.int32() if kind.bit_width == 32 else pa.int64()
        return plain(array.view(width)).astype(np.int64), missing
    if pa.types.is_integer(kind) or pa.types.is_boolean(kind):
        return plain(array).astype(np.int64), missing
    values = numbers(array, column).astype(np.float64) + 0.0  # minus zero is zero
    nan = np.isnan(values)
    return values.view(np.int64), nan if nan.any() else None


def crossed(one: Keys, other: Keys) -> Keys:
    """(n,) keys of pairs of keys"""
    return _mixed(_mixed(one.view(np.uint64)) + other.view(np.uint64)).view(np.int64)


def _keys_of_texts(texts: pa.Array) -> Keys:
    texts = texts.cast(pa.large_string())
    keys = np.zeros(len(texts), dtype=np.uint64)
    _, ends, data = texts.buffers()
    if len(texts):
        begin = np.frombuffer(ends, dtype=np.int64, count=len(texts) + 1, offset=8 * texts.offset)
        letters = np.empty(0, dtype=np.uint8) if data is None else np.frombuffer(data, dtype=np.uint8)
        with np.errstate(over="ignore"):  # hashes wrap around
            hash_texts(begin, letters, keys)
    return _mixed(keys).view(np.int64)


def _mixed(keys: NDArray[np.uint64]) -> NDArray[np.uint64]:
    keys = (keys ^ (keys >> np.uint64(30))) * FIRST
    keys = (keys ^ (keys >> np.uint64(27))) * SECOND
    return keys ^ (keys >> np.uint64(31))
