"""Rows that the design of a fit has no code for are refused with an example and their number."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import streamlr
from streamlr.errors import StreamlrError
from streamlr.inference.marginal_effects import effects

N = 400


@pytest.fixture(scope="module")
def data() -> dict[str, Any]:
    rng = np.random.default_rng(5)
    x = rng.normal(size=N)
    return {
        "y": np.where(rng.random(N) < 1 / (1 + np.exp(-x)), "yes", "no").astype(object),
        "k": (rng.random(N) < 0.4).astype(int),
        "x": x,
        "g": rng.choice(["a", "b", "c"], N).astype(object),
        "h": rng.integers(1, 4, N),
    }


def refusal(model: streamlr.Model, data: dict[str, Any], **changed: Any) -> str:
    with pytest.raises(StreamlrError) as refused:
        effects(model, {**data, **changed})
    return str(refused.value)


def with_values(column: Any, **values: Any) -> Any:
    new = column.copy()
    for place, value in values.items():
        new[int(place[1:])] = value
    return new


@pytest.mark.parametrize(("name", "value"), [("g", "zz"), ("h", 7)])
def test_a_level_is_named_and_its_rows_are_counted(data: dict[str, Any], name: str, value: Any) -> None:
    model = streamlr.fit(data, "y ~ x + C(g) + C(h)")
    text = refusal(model, data, **{name: with_values(data[name], _3=value, _7=value, _300=value)})
    assert f"learned its levels: {value!r} (3 such rows here)" in text
    assert text.startswith(f"'C({name})'")


def test_rows_that_are_not_used_are_no_example(data: dict[str, Any]) -> None:
    model = streamlr.fit(data, "y ~ x + g")
    gone = with_values(data["x"], _3=np.nan)
    text = refusal(model, data, x=gone, g=with_values(data["g"], _3="unused", _9="used"))
    assert "'used' (1 such rows here)" in text
    effects(model, {**data, "x": gone, "g": with_values(data["g"], _3="unused")})


@pytest.mark.parametrize(("formula", "name", "value"), [("y ~ x", "y", "perhaps"), ("k ~ x", "k", 5)])
def test_an_outcome_is_named(data: dict[str, Any], formula: str, name: str, value: Any) -> None:
    model = streamlr.fit(data, formula)
    text = refusal(model, data, **{name: with_values(data[name], _11=value, _12=value)})
    assert f"'{name}' has a value" in text
    assert f"levels: {value!r} (2 such rows here)" in text
