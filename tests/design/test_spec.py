"""Names and roles: which columns make terms, which is the outcome, and what is refused.

Everything goes through `streamlr.fit`, as a user meets it; each rule is one of those that the
documentation settles (columns by default, target inference, roles).
"""

from __future__ import annotations

import datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import streamlr
from streamlr.errors import StreamlrError
from streamlr.events import Remark

N = 200
RNG = np.random.default_rng(12)
X = RNG.normal(size=N)
Z = RNG.normal(size=N)
G = RNG.choice(["a", "b", "c"], N)
Y = (RNG.random(N) < 1 / (1 + np.exp(-0.5 * X))).astype(np.int64)


def table(target: str = "y", **columns: Any) -> pa.Table:
    return pa.table({target: Y, "x": X, **columns})


def remarks_of(data: Any, **options: Any) -> tuple[streamlr.Model, list[str]]:
    heard: list[str] = []

    def listen(event: Any) -> None:
        if isinstance(event, Remark):
            heard.append(event.text)

    return streamlr.fit(data, on_event=listen, **options), heard


# The outcome


@pytest.mark.parametrize("name", ["y", "target", "label", "outcome", "class"])
def test_the_one_column_of_a_known_name_is_the_target_and_said(name: str) -> None:
    model, remarks = remarks_of(table(name, z=Z))
    assert model.design.target == name
    assert model.terms == ("Intercept", "x", "z")
    assert any(name in remark for remark in remarks)


@pytest.mark.parametrize("name", ["Y", "TARGET", "y_", "labels"])
def test_other_names_are_no_target(name: str) -> None:
    with pytest.raises(StreamlrError, match=f"Candidates: .*{name}"):
        streamlr.fit(table(name))


def test_several_known_names_are_an_error_that_lists_them() -> None:
    with pytest.raises(StreamlrError, match="y, label"):
        streamlr.fit(table(label=Y))
    assert streamlr.fit(table(label=Y), target="y", features=["x"]).design.target == "y"


def test_a_named_target_is_not_remarked_on() -> None:
    _, remarks = remarks_of(table(z=Z), target="y")
    assert remarks == []


def test_candidates_are_columns_that_could_be_an_outcome() -> None:
    data = pa.table({"x": X, "flag": Y == 1, "n": Y, "g": G, "when": np.arange(N).astype("M8[s]")})
    with pytest.raises(StreamlrError) as caught:
        streamlr.fit(data)
    assert "Candidates: flag, n, g." in str(caught.value)


# Columns by default


UNUSABLE: dict[str, Any] = {
    "null": pa.nulls(N),
    "null int": pa.nulls(N, pa.int32()),
    "null text": pa.nulls(N, pa.string()),
    "null truth": pa.nulls(N, pa.bool_()),
    "null dictionary": pa.nulls(N, pa.dictionary(pa.int32(), pa.string())),
    "nan": np.full(N, np.nan),
    "constant int": np.full(N, 7),
    "constant float": np.full(N, 0.1),
    "constant text": ["k"] * N,
    "constant truth": [True] * N,
    "constant beside nulls": pa.array(np.ones(N), mask=np.arange(N) % 2 == 0),
    "text per row": [f"id{i}" for i in range(N)],
    "date": [datetime.date(2020, 1, 1 + i % 5) for i in range(N)],
    "time": [datetime.time(i % 5) for i in range(N)],
    "moment": np.arange(N).astype("M8[ms]"),
    "duration": np.arange(N).astype("m8[s]"),
    "binary": [b"ab"] * N,
    "list": [[1, 2]] * N,
    "struct": [{"a": 1}] * N,
    "map": pa.array([[("k", 1)]] * N, pa.map_(pa.string(), pa.int8())),
    "dictionary of moments": pa.array(np.arange(N).astype("M8[ms]")).dictionary_encode(),
}


@pytest.mark.parametrize("kind", UNUSABLE)
def test_unusable_column_is_left_out_with_its_reason_and_costs_no_row(kind: str) -> None:
    model, remarks = remarks_of(table(v=UNUSABLE[kind]))
    assert model.terms == ("Intercept", "x")
    assert list(model.excluded) == ["v"]
    assert model.excluded["v"]
    assert model.nobs == N
    assert dict(model.dropped) == {}
    assert [remark for remark in remarks if "v" in remark and model.excluded["v"] in remark]
    assert [row["term"] for row in model.tidy().to_pylist()] == ["Intercept", "x"]


@pytest.mark.parametrize("kind", [kind for kind in UNUSABLE if not kind.startswith("constant")])
def test_unusable_column_that_was_named_is_an_error(kind: str) -> None:
    with pytest.raises(StreamlrError, match="'v'"):
        streamlr.fit(table(v=UNUSABLE[kind]), target="y", features=["x", "v"])


@pytest.mark.parametrize("kind", ["constant int", "constant float"])
def test_constant_that_was_named_is_aliased(kind: str) -> None:
    model = streamlr.fit(table(v=UNUSABLE[kind]), target="y", features=["x", "v"])
    assert model.terms == ("Intercept", "x")
    assert list(model.aliased) == ["v"]
    assert model.tidy().to_pylist()[-1]["term"] == "v"
    assert model.tidy().to_pylist()[-1]["estimate"] is None


@pytest.mark.parametrize("kind", ["constant text", "constant truth"])
def test_factor_of_one_level_that_was_named_has_no_term(kind: str) -> None:
    model = streamlr.fit(table(v=UNUSABLE[kind]), target="y", features=["x", "v"])
    assert model.terms == ("Intercept", "x")
    assert list(model.aliased) == ["v"]


def test_whole_numbers_that_are_all_distinct_are_used_and_remarked_on() -> None:
    model, remarks = remarks_of(table(row=np.random.default_rng(0).permutation(N)))
    assert model.terms == ("Intercept", "x", "row")
    assert any("'row'" in remark and "--exclude row" in remark for remark in remarks)
    _, remarks = remarks_of(table(row=np.arange(N)), target="y", features=["x", "row"])
    assert remarks == []


def test_floats_that_are_all_distinct_are_not_remarked_on() -> None:
    _, remarks = remarks_of(table(z=Z), target="y")
    assert remarks == []


def test_index_written_by_pandas_is_left_out() -> None:
    model = streamlr.fit(table(__index_level_0__=np.arange(N)), target="y")
    assert set(model.excluded) == {"__index_level_0__"}


def test_nothing_left() -> None:
    with pytest.raises(StreamlrError, match="no feature is left"):
        streamlr.fit({"y": Y, "c": np.ones(N)})
    with pytest.raises(StreamlrError, match="no feature is left"):
        streamlr.fit({"y": Y})
    with pytest.raises(StreamlrError, match="no feature is left"):
        streamlr.fit(table(), exclude=["x"])


def test_order_of_terms_is_that_of_the_columns_or_of_the_list() -> None:
    data = table(g=G, z=Z)
    assert streamlr.fit(data).terms == ("Intercept", "x", "g[T.b]", "g[T.c]", "z")
    named = streamlr.fit(data, target="y", features=["z", "g", "x"])
    assert named.terms == ("Intercept", "z", "g[T.b]", "g[T.c]", "x")


def test_a_feature_named_twice_counts_once() -> None:
    assert streamlr.fit(table(z=Z), target="y", features=["z", "x", "z"]).terms == ("Intercept", "z", "x")


# Roles


def test_columns_with_a_role_are_no_features() -> None:
    data = table(w=np.ones(N), o=Z, t=np.full(N, 3), g=G)
    model = streamlr.fit(data, target="y", weights="w", offset="o", trials="t")
    assert model.terms == ("Intercept", "x", "g[T.b]", "g[T.c]")
    assert model.design.positive is None


@pytest.mark.parametrize("role", ["weights", "offset", "trials"])
def test_role_of_the_target_is_refused(role: str) -> None:
    with pytest.raises(StreamlrError, match=f"'y'.*{role}"):
        streamlr.fit(table(), target="y", **{role: "y"})


@pytest.mark.parametrize("role", ["weights", "offset", "trials"])
def test_role_that_is_also_a_feature_is_refused(role: str) -> None:
    with pytest.raises(StreamlrError, match="'z'"):
        streamlr.fit(table(z=np.ones(N)), target="y", features=["x", "z"], **{role: "z"})


@pytest.mark.parametrize("role", ["weights", "offset", "trials"])
@pytest.mark.parametrize("kind", ["text", "date"])
def test_role_that_holds_no_numbers_is_refused(role: str, kind: str) -> None:
    values = G if kind == "text" else np.arange(N).astype("M8[s]")
    with pytest.raises(StreamlrError, match="'v'"):
        streamlr.fit(table(v=values), target="y", features=["x"], **{role: "v"})


@pytest.mark.parametrize(
    "options",
    [
        {"target": "yy"},
        {"features": ["xx"]},
        {"exclude": ["xx"]},
        {"categorical": ["xx"]},
        {"numeric": ["xx"]},
        {"reference": {"xx": "a"}},
        {"weights": "xx"},
        {"offset": "xx"},
        {"trials": "xx"},
    ],
    ids=lambda options: next(iter(options)),
)
def test_unknown_name_is_named_with_the_number_of_columns(options: dict[str, Any]) -> None:
    with pytest.raises(StreamlrError, match=r"no column '(xx|yy)'.*\(3 columns\).*Did you mean '(x|y)'"):
        streamlr.fit(table(g=G), **{"target": "y", **options})


def test_target_that_cannot_be_one() -> None:
    for values in (np.arange(N).astype("M8[s]"), [[1]] * N, [b"a"] * N):
        with pytest.raises(StreamlrError, match="'t'"):
            streamlr.fit({"t": pa.array(values), "x": X}, target="t")
    with pytest.raises(StreamlrError, match="all null"):
        streamlr.fit(pa.table({"t": pa.nulls(N), "x": X}), target="t")


def test_target_as_a_feature_is_refused() -> None:
    with pytest.raises(StreamlrError, match="'y'"):
        streamlr.fit(table(), target="y", features=["x", "y"])


# Kinds


def test_categorical_and_numeric() -> None:
    data = table(h=np.arange(N) % 3, s=[str(value) for value in np.arange(N) % 5])
    plain = streamlr.fit(data, target="y")
    assert plain.terms == ("Intercept", "x", "h", *(f"s[T.{i}]" for i in range(1, 5)))
    other = streamlr.fit(data, target="y", categorical=["h"], numeric=["s"])
    assert other.terms == ("Intercept", "x", "C(h)[T.1]", "C(h)[T.2]", "s")
    as_numbers = streamlr.fit({"y": Y, "s": np.arange(N) % 5}, tol=1e-12)
    as_text = streamlr.fit(data, target="y", features=["s"], numeric=["s"], tol=1e-12)
    np.testing.assert_allclose(as_text.params, as_numbers.params, rtol=1e-11)


def test_categorical_text_keeps_its_name() -> None:
    model = streamlr.fit(table(g=G), target="y", categorical=["g"])
    assert model.terms == ("Intercept", "x", "g[T.b]", "g[T.c]")


@pytest.mark.parametrize(
    "options",
    [
        {"categorical": ["g"], "numeric": ["g"]},
        {"numeric": ["g"]},  # text that is no number
        {"reference": {"x": "1"}},
        {"categorical": ["z"], "exclude": ["z"]},
        {"reference": {"z": "1"}, "features": ["x"]},
        {"numeric": ["z"], "features": ["x"]},
    ],
    ids=str,
)
def test_options_that_contradict_the_column(options: dict[str, Any]) -> None:
    (column,) = {name for value in options.values() for name in value} - (
        {"x"} if "features" in options else set()
    )
    with pytest.raises(StreamlrError, match=f"'{column}'"):
        streamlr.fit(table(g=G, z=Z), **{"target": "y", **options})


# Names that are hard to tell apart


NAMES = [
    "",
    " ",
    ",",
    "a=b",
    "a,b",
    "new\nline",
    "tab\t",
    "é",
    "😀",
    "[T.x]",
    "a:b",
    "`q`",
    "C(x)",
    "a.b",
    "0",
    "1",
]


@pytest.mark.parametrize("name", [*NAMES, "~", "nul\0", "__class__", "x" * 5_000])
def test_any_name_is_a_name(name: str) -> None:
    model = streamlr.fit({"y": Y, name: X})
    assert model.terms == ("Intercept", name)
    assert [row["term"] for row in model.tidy().to_pylist()] == ["Intercept", name]
    assert model.predict({name: X}).shape == (N,)
    str(model.summary())


def estimates(model: streamlr.Model) -> list[float]:
    return [row["estimate"] for row in model.tidy().to_pylist()]


def test_a_column_called_intercept_is_not_mixed_up_with_the_intercept() -> None:
    """Either refused or told apart; the estimates must stand with their own terms."""
    plain = streamlr.fit(table(i=Z), tol=1e-12)
    try:
        model = streamlr.fit(table(Intercept=Z), tol=1e-12)
    except StreamlrError as error:
        assert "Intercept" in str(error)
        return
    np.testing.assert_allclose(estimates(model), plain.params, rtol=1e-10)


def test_a_column_called_like_a_level_is_not_mixed_up_with_it() -> None:
    data = {"y": Y, "g": G, "g[T.b]": X}
    plain = streamlr.fit({"y": Y, "g": G, "other": X}, tol=1e-12)
    try:
        model = streamlr.fit(data, tol=1e-12)
    except StreamlrError as error:
        assert "g[T.b]" in str(error)
        return
    np.testing.assert_allclose(estimates(model), plain.params, rtol=1e-10)


def test_a_constant_column_called_intercept_does_not_hide_the_intercept() -> None:
    try:
        model = streamlr.fit(table(Intercept=np.ones(N)))
    except StreamlrError as error:
        assert "Intercept" in str(error)
        return
    assert [row["term"] for row in model.tidy().to_pylist()] == ["Intercept", "x"]
    assert len(model.params) == 2


def test_an_excluded_column_called_like_a_term_does_not_hide_the_term() -> None:
    """The reason why `g[T.b]` is left out must not take the level b of g out of the table."""
    model = streamlr.fit({"y": Y, "x": X, "g": G, "g[T.b]": np.ones(N)})
    assert [row["term"] for row in model.tidy().to_pylist()] == ["Intercept", "x", "g[T.b]", "g[T.c]"]
