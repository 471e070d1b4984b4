"""Separated outcomes are found and told, however narrow the gap; nearly separated ones are fitted."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import streamlr


def normal(n: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=n)


def directions(finding: dict[str, Any]) -> list[tuple[str, int]]:
    return [(term["term"], term["direction"]) for term in finding["terms"]]


@pytest.mark.parametrize("n", [10, 100, 400, 1_000, 10_000])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_cut_through_one_number(n: int, seed: int) -> None:
    """The gap is a share 1/n of the range, so the coefficient has to go far before every row is right."""
    x = normal(n, seed)
    with pytest.raises(streamlr.SeparationError) as caught:
        streamlr.fit({"y": (x > 0).astype(int), "x": x}, "y ~ x")
    assert caught.value.separation["kind"] == "complete"
    assert ("x", 1) in directions(caught.value.separation)
    assert caught.value.separation["rows_separated"] == n


@pytest.mark.parametrize(
    ("formula", "options"), [("y ~ C(c)*x", {}), ("y ~ x", {"absorb": "c"}), ("y ~ x + z", {})]
)
def test_a_cut_beside_other_terms(formula: str, options: dict[str, Any]) -> None:
    x, z = normal(400, 0), normal(400, 1)
    c = np.arange(400) % 4
    with pytest.raises(streamlr.SeparationError):
        streamlr.fit({"y": (x > 0).astype(int), "x": x, "z": z, "c": c}, formula, **options)


def test_a_cut_inside_of_one_level() -> None:
    x = normal(400, 0)
    c = np.arange(400) % 4
    y = np.where(c == 1, x > 0, normal(400, 3) > 0).astype(int)
    with pytest.raises(streamlr.SeparationError) as caught:
        streamlr.fit({"y": y, "x": x, "c": c}, "y ~ C(c)*x")
    assert caught.value.separation["kind"] == "quasi-complete"
    assert caught.value.separation["rows_separated"] == 100


@pytest.mark.parametrize("seed", range(3))
def test_one_row_on_the_wrong_side_is_no_separation(seed: int) -> None:
    x = normal(400, seed)
    y = (x > 0).astype(int)
    y[np.argmin(np.abs(x - 0.5))] = 0
    model = streamlr.fit({"y": y, "x": x}, "y ~ x", tol=1e-10)
    assert model.converged
    p = model.predict({"x": x})
    assert abs(np.sum(y - p)) < 1e-9
    assert abs(np.sum((y - p) * x)) < 1e-9
