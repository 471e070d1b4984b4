"""Keys of clusters: equal values have equal keys in any batch, different ones different keys."""

from __future__ import annotations

import datetime
import decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from streamlr.design.keys import can_be_keys, crossed, keys_of

DAYS = [datetime.date(2020, 1, 1), datetime.date(1969, 12, 31)]
VALUES: dict[str, list[Any]] = {
    "text": ["a", "b", "", "ab", "é", "a" * 500],
    "int": [0, 1, -1, 2**62],
    "float": [0.0, 0.5, -1.5, 1e300, float("inf")],
    "bool": [True, False],
    "date": DAYS,
    "time": [datetime.datetime(2020, 1, 1, 12), datetime.datetime(1960, 1, 1)],
    "decimal": [decimal.Decimal("1.25"), decimal.Decimal("-3.50")],
}


@pytest.mark.parametrize("kind", VALUES)
@pytest.mark.parametrize("as_dictionary", [False, True])
def test_a_value_has_one_key_with_gaps_beside_it_or_not(kind: str, as_dictionary: bool) -> None:
    values = VALUES[kind]
    whole, with_gaps = pa.array(values), pa.array([None, *values, None])
    if as_dictionary:
        whole, with_gaps = whole.dictionary_encode(), with_gaps.dictionary_encode()
    assert can_be_keys(whole.type)
    keys, missing = keys_of(whole, "c")
    assert missing is None
    assert len(set(keys.tolist())) == len(values)
    again, gaps = keys_of(with_gaps, "c")
    assert gaps is not None
    assert gaps.tolist() == [True, *[False] * len(values), True]
    assert again[1:-1].tolist() == keys.tolist()
    assert keys_of(with_gaps.slice(1, len(values)), "c")[0].tolist() == keys.tolist()


def test_texts_are_the_same_in_every_form() -> None:
    texts = pa.array(["x", "y", "x"])
    want = keys_of(texts, "c")[0].tolist()
    for other in (texts.cast(pa.large_string()), texts.cast(pa.string_view()), texts.dictionary_encode()):
        assert keys_of(other, "c")[0].tolist() == want


def test_nan_is_missing_and_minus_zero_is_zero() -> None:
    keys, missing = keys_of(pa.array([0.0, -0.0, float("nan")]), "c")
    assert keys[0] == keys[1]
    assert missing is not None
    assert missing.tolist() == [False, False, True]


def test_crossed_keys_tell_pairs_apart() -> None:
    one, other = (grid.ravel() for grid in np.meshgrid(np.arange(300), np.arange(300)))
    assert len(np.unique(crossed(one, other))) == 90_000
    assert (crossed(one, other) != crossed(other, one))[one != other].all()


def test_what_cannot_tell_clusters() -> None:
    assert not can_be_keys(pa.list_(pa.int64()))
    assert not can_be_keys(pa.binary())
