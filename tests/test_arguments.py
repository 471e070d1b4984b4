"""What a Python user may hand over, and what is told of what nobody can use: a line that says what to do."""

from __future__ import annotations

from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import streamlr
from streamlr import arguments
from streamlr.errors import StreamlrError

rng = np.random.default_rng(1)
N = 200
DATA = {
    "y": rng.integers(0, 2, N),
    "x": rng.normal(size=N),
    "ab": rng.normal(size=N),
    "g": np.array(["u", "v"])[rng.integers(0, 2, N)],
    "k": rng.integers(0, 3, N),
    "w": rng.integers(1, 4, N),
}


@pytest.fixture(scope="module")
def model() -> streamlr.Model:
    return streamlr.fit(DATA, "y ~ x + g")


@pytest.mark.parametrize(
    ("option", "terms"),
    [
        ({"features": "ab"}, ["Intercept", "ab"]),
        ({"features": ("ab", "x")}, ["Intercept", "ab", "x"]),
        ({"features": pa.array(["x"]).to_pylist()}, ["Intercept", "x"]),
        ({"features": np.array(["ab", "x"])}, ["Intercept", "ab", "x"]),
        ({"features": (name for name in ["x", "ab"])}, ["Intercept", "x", "ab"]),
        ({"features": ["x", "g", "k"], "exclude": "g", "categorical": "k"}, None),
        ({"exclude": "ab"}, ["Intercept", "x", "g[T.v]", "k", "w"]),
        ({"features": ["k"], "categorical": "k"}, ["Intercept", "C(k)[T.1]", "C(k)[T.2]"]),
        ({"features": "k", "categorical": {"k"}, "reference": MappingProxyType({"k": 2})}, None),
    ],
)
def test_one_name_may_stand_alone(option: dict[str, Any], terms: list[str] | None) -> None:
    """A text is one name and not its letters, and names come in anything that can be gone through."""
    if terms is None:
        options = {key: [value] if isinstance(value, str) else value for key, value in option.items()}
        terms = list(streamlr.fit(DATA, target="y", **options).terms)
        assert len(terms) > 1
    assert list(streamlr.fit(DATA, target="y", **option).terms) == terms


def test_numbers_of_numpy_are_numbers() -> None:
    plain = streamlr.fit(DATA, "y ~ x", conf_level=0.9, tol=1e-6, max_passes=20, threads=1)
    theirs = streamlr.fit(
        DATA,
        "y ~ x",
        conf_level=np.float64(0.9),
        tol=np.float32(1e-6),
        max_passes=np.int64(20),
        threads=np.int32(1),
    )
    np.testing.assert_array_equal(plain.conf_int(), theirs.conf_int())


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"target": 5}, "target must be the name of a column, not 5.$"),
        (
            {"target": DATA["y"]},
            "target must be .*not a ndarray: put the values into a column of the data, and",
        ),
        ({"weights": DATA["w"]}, "weights must be the name of a column, not a ndarray: put the values into"),
        ({"offset": [0.5] * N}, "offset must be the name of a column, not a list: put"),
        ({"trials": 3}, "trials must be the name of a column, not 3"),
        ({"absorb": ["k"]}, "absorb must be the name of a column, not a list"),
        ({"features": 3}, "features must be names of columns, as texts, not 3"),
        ({"features": ["x", 3]}, "features must be names of columns, as texts, not a list"),
        ({"features": {"x": 1}}, "features must be names of columns, as texts, not a dict"),
        ({"features": b"x"}, "features must be names of columns, as texts, not a bytes"),
        ({"exclude": 1.5}, "exclude must be names of columns, as texts, not 1.5"),
        ({"categorical": True}, "categorical must be names of columns, as texts, not True"),
        ({"cluster": 7}, "cluster must be names of columns, as texts, not 7"),
        ({"profile": 7}, "profile must be names of columns, as texts, not 7"),
        ({"reference": ["v"]}, r"reference must be a dict by column, such as .*, not \['v'\]"),
        ({"reference": {3: "v"}}, "reference must be a dict by column"),
        ({"where": 3}, "where must be a text, not 3"),
        ({"formula": 3}, "formula must be a text, not 3"),
        ({"formula": ["y ~ x"]}, "formula must be a text, not a list"),
        ({"tol": "1e-8"}, "tol must be a number, not '1e-8'"),
        ({"tol": 0}, "tol must be positive, not 0"),
        ({"tol": float("nan")}, "tol must be positive, not nan"),
        ({"conf_level": "0.95"}, "conf_level must be a number, not '0.95'"),
        ({"conf_level": 95}, "conf_level must lie between 0 and 1, not 95"),
        ({"conf_level": True}, "conf_level must be a number, not True"),
        ({"max_passes": 2.5}, "max_passes must be a whole number, not 2.5"),
        ({"max_passes": 0}, "max_passes must be at least 1, not 0"),
        ({"threads": "2"}, "threads must be a whole number, not '2'"),
        ({"threads": 0}, "threads must be at least 1, not 0"),
        ({"absorb_l2": "1"}, "absorb_l2 must be a number, not '1'"),
    ],
)
def test_a_fit_says_what_it_cannot_use(option: dict[str, Any], message: str) -> None:
    with pytest.raises(StreamlrError, match=message):
        streamlr.fit(DATA, **{"target": None if "formula" in option else "y", **option})


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: m.conf_int("0.9"), "level must be a number, not '0.9'"),
        (lambda m: m.conf_int(0), "level must lie between 0 and 1, not 0"),
        (lambda m: m.wald_test("x", conf_level=2), "conf_level must lie between 0 and 1, not 2"),
        (lambda m: streamlr.effects(m, DATA, variables=3), "variables must be names of columns"),
        (lambda m: streamlr.effects(m, DATA, conf_level="x"), "conf_level must be a number, not 'x'"),
        (lambda m: streamlr.effects(m, DATA, where=3), "where must be a text, not 3"),
        (lambda m: streamlr.effects(m, DATA, threads=0), "threads must be at least 1, not 0"),
        (lambda m: streamlr.screen(m, DATA, 3), "candidates must be names of columns"),
        (lambda m: streamlr.screen(m, DATA, max_levels="9"), "max_levels must be a whole number, not '9'"),
        (lambda m: streamlr.diagnose(m, DATA, groups=2.5), "groups must be a whole number, not 2.5"),
        (lambda m: streamlr.diagnose(m, DATA, top="9"), "top must be a whole number, not '9'"),
        (lambda m: streamlr.diagnose(m, DATA, top=-1), "top must lie between 0 and 100,000, not -1"),
        (lambda m: streamlr.diagnose(m, DATA, keep=4), "keep must be names of columns, as texts, not 4"),
    ],
)
def test_what_is_said_of_a_model_takes_the_same(model: streamlr.Model, call: Any, message: str) -> None:
    with pytest.raises(StreamlrError, match=message):
        call(model)


def test_predictions_keep_one_column(model: streamlr.Model, tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    path = tmp_path / "scores.parquet"
    streamlr.predict(model, DATA, path, keep="ab", threads=1)
    assert pq.read_table(path).column_names[0] == "ab"
    with pytest.raises(StreamlrError, match=r"threads must be a whole number, not 1\.5"):
        streamlr.predict(model, DATA, path, threads=1.5)


def test_none_is_nothing() -> None:
    assert arguments.column("a", None) is None
    assert arguments.columns("a", None) == ()
    assert arguments.by_column("a", None) == {}
    assert arguments.text("a", None) is None
