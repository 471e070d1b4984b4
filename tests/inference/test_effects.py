"""Average marginal effects against stored references, a twin in NumPy, and the promises of the pass.

References come from `scripts/make_effects_references.py`: differences of statsmodels' predictions, which
`get_margeff` of statsmodels and the marginaleffects package have confirmed.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import combinations
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pytest
from scipy.special import expit

import streamlr
from streamlr.design.design import Design
from streamlr.errors import StreamlrError
from streamlr.inference import marginal_effects
from streamlr.inference.marginal_effects import NUMBERS, Effect, Effects, effects

REFERENCE = Path(__file__).parent.parent / "reference"
CASES: dict[str, dict[str, Any]] = {
    path.stem: json.loads(path.read_text()) for path in sorted((REFERENCE / "effects").glob("*.json"))
}

# The references are differences in 19 digits of predictions by coefficients that are at the maximum to
# rounding; what separates them from derivatives is 1e-10 at most.
TOLERANCE = 1e-9
FLIGHTS = ("dep_delay", "carrier", "distance", "month", "origin", "weekend")


def read_case(case: Mapping[str, Any]) -> pa.Table:
    types = {name: pa.type_for_alias(alias) for name, alias in case["columns"].items()}
    return pyarrow.csv.read_csv(
        REFERENCE / "data" / case["data"],
        convert_options=pyarrow.csv.ConvertOptions(
            column_types=types, include_columns=list(types), null_values=[""], strings_can_be_null=True
        ),
    )


@pytest.mark.parametrize("name", CASES)
def test_reference(name, parquet):
    case = CASES[name]
    path = parquet(read_case(case), rows_per_group=37)
    model = streamlr.fit(path, tol=1e-11, **case["fit"])
    found = effects(model, path, **case["effects"])
    ours = {(row.term, row.contrast): row for row in found.effects}
    theirs = {(row["term"], row["contrast"]): row for row in case["rows"]}
    assert ours.keys() == theirs.keys()
    assert found.rows_used == case["rows_used"]
    for key, row in theirs.items():
        assert ours[key].estimate == pytest.approx(row["estimate"], rel=TOLERANCE, abs=0), key
        assert ours[key].std_error == pytest.approx(row["std_error"], rel=TOLERANCE, abs=0), key


def column(table: pa.Table, name: str, values: Any) -> pa.Table:
    """The table with other values in a column, or with one more."""
    array = values if isinstance(values, pa.Array | pa.ChunkedArray) else pa.array(values)
    if name not in table.column_names:
        return table.append_column(name, array)
    return table.set_column(table.column_names.index(name), name, array)


@dataclass(frozen=True)
class Twin:
    """Effects by brute force: the design is read off predictions, which are linear in each coefficient on the
    scale of the logit, and everything else is differences of averages in plain NumPy."""

    model: streamlr.Model
    rows: pa.Table  # those used
    weight: np.ndarray

    def linear(self, table: pa.Table) -> tuple[np.ndarray, np.ndarray]:
        """The design (n, k) in the basis and the offsets (n,)."""

        def logit(coef: np.ndarray) -> np.ndarray:
            p = replace(self.model, conditioned_coef=coef).predict(table)
            return np.log(p) - np.log1p(-p)

        coef = self.model.conditioned_coef
        at = logit(coef)
        X = np.column_stack([logit(coef + unit) - at for unit in np.eye(coef.size)])
        return X, at - X @ coef

    def slope(self, name: str) -> tuple[float, float]:
        values = self.rows[name].to_numpy().astype(np.float64)
        h = 1e-3 * max(values.std(), 0.1 * abs(values.mean()))
        return self._effect(
            [
                (factor / (12 * h), self.linear(column(self.rows, name, values + times * h)))
                for times, factor in ((1, 8.0), (-1, -8.0), (2, -1.0), (-2, 1.0))
            ]
        )

    def contrast(self, name: str, level: Any, reference: Any) -> tuple[float, float]:
        type_ = self.rows.schema.field(name).type
        return self._effect(
            [
                (sign, self.linear(column(self.rows, name, pa.array([value] * len(self.rows), type_))))
                for sign, value in ((1.0, level), (-1.0, reference))
            ]
        )

    def _effect(self, parts: list[tuple[float, tuple[np.ndarray, np.ndarray]]]) -> tuple[float, float]:
        share = self.weight / self.weight.sum()

        def average(coef: np.ndarray) -> float:
            return float(sum(times * (share @ expit(X @ coef + offset)) for times, (X, offset) in parts))

        coef, covariance = self.model.conditioned_coef, self.model.reported_covariance
        steps = 1e-3 * np.sqrt(np.diag(covariance))
        jacobian = np.array(
            [
                (
                    8 * (average(coef + unit) - average(coef - unit))
                    - (average(coef + 2 * unit) - average(coef - 2 * unit))
                )
                / (12 * step)
                for step, unit in zip(steps, np.diag(steps), strict=True)
            ]
        )
        return average(coef), float(np.sqrt(jacobian @ covariance @ jacobian))


def by_key(found: Effects) -> dict[tuple[str, str], Effect]:
    return {(effect.term, effect.contrast): effect for effect in found.effects}


def agree(found: Effects, twin: Twin, *, levels: Mapping[str, Any] = MappingProxyType({})) -> None:
    """Every effect of a table is the twin's; `levels`: values of levels that are not written as they are."""
    assert len(found) > 0
    for (term, contrast), effect in by_key(found).items():
        if contrast == "dy/dx":
            expected = twin.slope(term)
        else:
            level, reference = (levels.get(word, word) for word in contrast.split(" - "))
            expected = twin.contrast(term, level, reference)
        # 1e-7: differences of differences in double precision leave nine digits of the twin's errors.
        assert (effect.estimate, effect.std_error) == pytest.approx(expected, rel=1e-7, abs=0), term


TRUTH = {"True": True, "False": False}


def same(found: Effects, other: Effects, rel: float) -> None:
    assert by_key(found).keys() == by_key(other).keys()
    for key, effect in by_key(found).items():
        expected = by_key(other)[key]
        for number in NUMBERS:
            assert getattr(effect, number) == pytest.approx(getattr(expected, number), rel=rel, abs=0), key


@pytest.fixture(scope="module")
def flights(flights_like):
    """600 flights, with weights that are fractions, an offset that has gaps as well, and days as clusters."""
    rng = np.random.default_rng(5)
    n = len(flights_like)
    table = column(flights_like, "w", rng.uniform(0.2, 3.0, n))
    table = column(table, "shift", pa.array(rng.normal(0, 0.3, n), mask=rng.random(n) < 0.02))
    return column(table, "day", rng.integers(0, 40, n))


EVERYTHING = (
    "late ~ dep_delay * carrier + log(distance) + bs(month, df=4) + dep_delay:distance + origin:weekend"
)


@pytest.mark.parametrize(
    "options",
    [
        {"weights": "w", "weight_type": "analytic", "offset": "shift", "cov": "HC1"},
        {"weights": "w", "weight_type": "sampling"},
        {"offset": "shift", "cov": "cluster", "cluster": "day"},
    ],
    ids=["analytic", "sampling", "clusters"],
)
def test_twin_with_weights_offset_gaps_and_interactions(flights, options):
    model = streamlr.fit(flights, EVERYTHING, **options)
    roles = [options[role] for role in ("weights", "offset") if role in options]
    used = flights.select(["late", *FLIGHTS, *roles]).drop_null()
    weight = used["w"].to_numpy() if "w" in roles else np.ones(len(used))
    found = effects(model, flights, contrasts="pairwise")
    assert (found.rows_used, found.passes, found.notes) == (len(used), 1, ())
    assert found.cov_type == model.covariance_type
    assert [effect.term for effect in found.effects] == [
        "dep_delay",
        *["carrier"] * 6,
        "distance",
        "month",
        *["origin"] * 3,
        "weekend",
    ]
    agree(found, Twin(model, used, weight), levels=TRUTH)


def test_robust_errors_where_the_model_has_them(flights):
    plain, robust = (streamlr.fit(flights, "late ~ dep_delay", cov=cov) for cov in (None, "HC3"))
    ours, theirs = effects(plain, flights).effects[0], effects(robust, flights).effects[0]
    assert ours.estimate == theirs.estimate
    assert abs(ours.std_error / theirs.std_error - 1) > 1e-4


@pytest.mark.parametrize(
    ("formula", "options"),
    [
        ("late ~ C(month, levels=[1,2,3,4,5,6,7,8,9,10,11,12]) * dep_delay", {}),
        ("late ~ C(origin, sum) * dep_delay + C(carrier, helmert)", {}),
        ("late ~ 0 + origin + dep_delay:weekend", {}),
        ("late ~ lower(carrier) + I(weekend * distance) + max(month, 6)", {}),
        ("late ~ dep_delay + origin + carrier * distance", {"missing": "indicator"}),
        ("late ~ C(month) + lump(carrier, top=2)", {"missing": "indicator"}),
        (None, {"target": "late", "features": ["weekend", "distance"], "numeric": ["weekend"]}),
        (None, {"target": "late", "features": ["month", "carrier"], "categorical": ["month"]}),
    ],
)
def test_twin_with_codings_and_kinds(flights, formula, options):
    table = flights
    if options.get("missing") == "indicator":
        table = column(table, "dep_delay", flights["dep_delay"].fill_null(1.0))
        gaps = np.arange(len(flights)) % 10 == 3
        table = column(table, "month", pa.array(flights["month"].to_numpy(), pa.int16(), mask=gaps))
    model = streamlr.fit(table, formula, **options)
    used = table.select(list(dict.fromkeys(["late", *model.design.feature_columns])))
    if options.get("missing") != "indicator":
        used = used.drop_null()
    found = effects(model, table)
    assert {effect.term for effect in found.effects} == set(model.design.feature_columns)
    months = {str(month): month for month in range(1, 13)}
    lower = {name.lower(): name for name in ("AA", "B6", "DL", "UA")}
    lower = lower if formula and "lower" in formula else {}
    twin = Twin(model, used, np.ones(len(used)))
    agree(found, twin, levels={**TRUTH, **months, **lower, "missing": None})


def test_a_coding_does_not_matter(flights):
    formulas = [f"late ~ C(origin, {coding}) * dep_delay" for coding in ("treatment", "sum", "helmert")]
    found = [effects(streamlr.fit(flights, formula, tol=1e-11), flights) for formula in formulas]
    same(found[0], found[1], 1e-9)
    same(found[0], found[2], 1e-9)


def test_what_stands_in_for_gaps_counts_as_a_value(flights):
    table = flights.select(["late", "dep_delay", "origin"])
    filled = column(table, "dep_delay", table["dep_delay"].fill_null(-3.0))
    formula = "late ~ dep_delay + I(dep_delay**2) + origin"
    model = streamlr.fit(table, formula, missing="fill=-3", tol=1e-11)
    same(effects(model, table), effects(streamlr.fit(filled, formula, tol=1e-11), filled), 1e-9)
    means = [effects(model, data, at={"dep_delay": "mean"}).at["dep_delay"] for data in (table, filled)]
    assert means == pytest.approx([filled["dep_delay"].to_numpy().mean()] * 2, rel=1e-14, abs=0)


def test_at_values(flights):
    model = streamlr.fit(flights, EVERYTHING)
    used = flights.select(["late", *FLIGHTS]).drop_null()
    at = {"dep_delay": 12.5, "carrier": "UA", "weekend": "True"}
    found = effects(model, flights, at=at)
    assert found.at == {"dep_delay": 12.5, "carrier": "UA", "weekend": True}
    n = len(used)
    held = column(used, "dep_delay", np.full(n, 12.5))
    held = column(column(held, "carrier", ["UA"] * n), "weekend", [True] * n)
    agree(found, Twin(model, held, np.ones(n)), levels=TRUTH)
    assert "in every row dep_delay=12.5, carrier=UA, weekend=True" in str(found)


def test_at_means_of_weighted_rows(flights):
    model = streamlr.fit(flights, EVERYTHING, weights="w", weight_type="analytic")
    used = flights.select(["late", *FLIGHTS, "w"]).drop_null()
    weight = used["w"].to_numpy()
    held = used
    for name in ("dep_delay", "distance", "month"):
        mean = np.average(used[name].to_numpy().astype(float), weights=weight)
        held = column(held, name, np.full(len(used), mean))
    found = effects(model, flights, at="mean")
    assert found.passes == 2
    assert found.at == pytest.approx(
        {name: held[name][0].as_py() for name in ("dep_delay", "distance", "month")}, rel=1e-13, abs=0
    )
    agree(found, Twin(model, held, weight), levels=TRUTH)
    one = effects(model, flights, at={"month": "mean"}, variables=["origin"])
    assert list(one.at) == ["month"]
    assert one.at["month"] == found.at["month"]
    levels = streamlr.fit(flights, "late ~ C(month) + dep_delay + I(weekend + 1)")
    assert effects(levels, flights, at="mean", variables="dep_delay").at.keys() == {"dep_delay"}


def test_text_that_is_read_as_numbers(flights):
    texts = column(flights, "month", flights["month"].cast(pa.string()))
    roles = {"target": "late", "features": ["month", "origin"], "tol": 1e-11}
    model, plain = streamlr.fit(texts, numeric=["month"], **roles), streamlr.fit(flights, **roles)
    for at in (None, "mean", {"month": 3}, {"month": "mean"}):
        found = effects(model, texts, at=at)
        same(found, effects(plain, flights, at=at), 1e-9)
        assert list(found.at) == ([] if at is None else ["month"])


def test_merged_levels(flights):
    """What is lumped together is set by a value that is among it."""
    padded = column(flights, "carrier", pc.utf8_lpad(flights["carrier"], 4))
    merged = ["(other)" if v in ("AA", "UA") else v for v in flights["carrier"].to_pylist()]
    long = [v if v in (502, 719, 1096) else -1 for v in flights["distance"].to_pylist()]
    plain = column(column(flights, "carrier", pa.array(merged)), "distance", long)
    found = [
        effects(streamlr.fit(table, f"late ~ {terms} + dep_delay", tol=1e-11), table).effects
        for table, terms in (
            (flights, "lump(carrier, top=2) + lump(distance, top=3)"),
            (plain, "carrier + C(distance)"),
            (padded, "strip(carrier)"),
            (flights, "carrier"),
        )
    ]
    assert [effect.contrast for effect in found[0]] == [
        "B6 - (other)",
        "DL - (other)",
        "502 - (other)",
        "719 - (other)",
        "1096 - (other)",
        "dy/dx",
    ]
    for ours, theirs in ((found[0], found[1]), (found[2], found[3])):
        for one, other in zip(ours, theirs, strict=True):
            assert one.estimate == pytest.approx(other.estimate, rel=1e-9, abs=0)
            assert one.std_error == pytest.approx(other.std_error, rel=1e-9, abs=0)


def test_an_offset_can_be_held(flights):
    model = streamlr.fit(flights, "late ~ dep_delay", offset="shift")
    used = flights.select(["late", "dep_delay", "shift"]).drop_null()
    found = effects(model, flights, at={"shift": 1.5})
    agree(found, Twin(model, column(used, "shift", np.full(len(used), 1.5)), np.ones(len(used))))
    assert effects(model, flights, at="mean").at.keys() == {"dep_delay"}
    with pytest.raises(StreamlrError, match="'shift' has no marginal effect: it is the offset"):
        effects(model, flights, variables="shift")


def test_weights_are_repetitions(flights):
    rng = np.random.default_rng(1)
    times = rng.integers(0, 4, len(flights))
    table = column(flights, "times", times)
    repeated = table.take(np.repeat(np.arange(len(table)), times))
    formula = "late ~ dep_delay * origin"
    weighted = effects(streamlr.fit(table, formula, weights="times", tol=1e-11), table)
    plain = effects(streamlr.fit(repeated, formula, tol=1e-11), repeated)
    same(weighted, plain, 1e-9)
    assert weighted.weights == "times"


def test_rows_of_counts_weigh_one(flights):
    """As the average over rows of R's `marginaleffects` does for `cbind(successes, failures)`."""
    rng = np.random.default_rng(3)
    trials = rng.integers(1, 9, len(flights))
    table = column(column(flights, "n", trials), "k", rng.binomial(trials, 0.4))
    model = streamlr.fit(table, "k ~ dep_delay * origin", trials="n")
    used = table.select(["k", "n", "dep_delay", "origin"]).drop_null()
    found = effects(model, table)
    agree(found, Twin(model, used, np.ones(len(used))))
    assert "the probability of success of k" in str(found)


def test_rows_of_weight_zero_have_no_say(flights):
    """Not even where a slope is infinite in them."""
    distance = flights["distance"].to_numpy().astype(float)
    distance[:7] = 0.0
    weight = np.where(np.arange(len(flights)) < 7, 0, 1)
    table = column(column(flights, "distance", distance), "weight", weight)
    model = streamlr.fit(table, "late ~ sqrt(distance) + origin", weights="weight", tol=1e-11)
    rest = flights.slice(7)
    plain = streamlr.fit(rest, "late ~ sqrt(distance) + origin", tol=1e-11)
    found = effects(model, table)
    same(found, effects(plain, rest), 1e-9)
    assert found.notes == ()
    nothing = column(table, "weight", np.zeros(len(table), dtype=int))
    with pytest.raises(StreamlrError, match=r"no row of positive weight .* \(600 rows read\)"):
        effects(model, nothing)
    with pytest.raises(StreamlrError, match="no row of positive weight is left to take means over"):
        effects(model, nothing, at="mean")
    for wrong in (-1.0, np.inf):
        with pytest.raises(StreamlrError, match="the weight 'weight' is negative or infinite"):
            effects(model, column(table, "weight", np.full(len(table), wrong)))


def test_a_slope_that_does_not_exist_has_no_estimate(flights):
    distance = flights["distance"].to_numpy().astype(float)
    distance[:7] = 0.0
    table = column(flights, "distance", distance)
    model = streamlr.fit(table, "late ~ sqrt(distance) + month")
    found = effects(model, table)
    distance_effect, month = found.effects
    assert distance_effect.estimate is None
    assert distance_effect.std_error is None
    assert found.notes == ("distance has no estimate: in 7 rows it has no prediction or no finite slope",)
    assert month.estimate is not None
    held = effects(model, table, at={"distance": 500})
    assert held.effects[0].estimate is not None


def test_aliased_columns(flights):
    table = column(flights, "twice", pc.multiply(flights["dep_delay"], 2.0))
    table = column(table, "airport", flights["origin"])
    formula = "late ~ dep_delay * origin"
    model = streamlr.fit(table, f"{formula} + twice + airport", tol=1e-11)
    assert list(model.aliased) == ["twice", "airport[T.JFK]", "airport[T.LGA]"]
    found = effects(model, table)
    plain = effects(streamlr.fit(table, formula, tol=1e-11), table)
    for key, effect in by_key(plain).items():
        assert by_key(found)[key].std_error == pytest.approx(effect.std_error, rel=1e-9, abs=0)
        assert by_key(found)[key].estimate == pytest.approx(effect.estimate, rel=1e-9, abs=0)
    for key in (("twice", "dy/dx"), ("airport", "JFK - EWR"), ("airport", "LGA - EWR")):
        assert all(getattr(by_key(found)[key], number) is None for number in NUMBERS)
    assert found.notes == (
        "twice has no estimate: all coefficients that it moves are aliased",
        "level JFK of airport has no estimate: all coefficients that it moves are aliased",
        "level LGA of airport has no estimate: all coefficients that it moves are aliased",
    )


def test_levels_set_aside(flights):
    carrier = ["ZZ" if at < 20 else value for at, value in enumerate(flights["carrier"].to_pylist())]
    late = [0 if at < 20 else value for at, value in enumerate(flights["late"].to_pylist())]
    table = column(column(flights, "carrier", carrier), "late", pa.array(late, pa.int8()))
    model = streamlr.fit(table, "late ~ distance * origin + carrier", tol=1e-11)
    found = effects(model, table, contrasts="pairwise")
    rest = table.slice(20)
    same(
        found,
        effects(
            streamlr.fit(rest, "late ~ distance * origin + carrier", tol=1e-11), rest, contrasts="pairwise"
        ),
        1e-9,
    )
    assert found.notes == ("rows with carrier[T.ZZ] are left out, as the fit had one outcome only in them",)
    with pytest.raises(
        StreamlrError, match="level 'ZZ' of 'carrier' is set aside: the fit had one outcome only"
    ):
        effects(model, table, at={"carrier": "ZZ"})


def test_cells_that_were_never_seen(flights):
    """A level has no average where it would meet a level that it has never met."""
    keep = ~((np.array(flights["origin"]) == "LGA") & (np.array(flights["carrier"].to_pylist()) == "UA"))
    table = flights.filter(pa.array(keep))
    model = streamlr.fit(table, "late ~ origin * carrier + dep_delay")
    found = by_key(effects(model, table))
    assert found["origin", "LGA - EWR"].estimate is None
    assert found["carrier", "UA - AA"].estimate is None
    assert found["origin", "JFK - EWR"].estimate is not None
    assert found["dep_delay", "dy/dx"].estimate is not None
    rows = table.select(["late", "origin", "carrier", "dep_delay"]).drop_null()
    lost = rows["carrier"].to_pylist().count("UA")
    notes = effects(model, table).notes
    assert len(notes) == 2
    assert f"level LGA of origin has no estimate: in {lost} rows there is no prediction at it" in notes[0]
    at = effects(model, table, at={"carrier": "B6"})
    assert by_key(at)["origin", "LGA - EWR"].estimate is not None
    other = streamlr.fit(table, "late ~ origin * carrier + dep_delay", reference={"origin": "LGA"})
    pairs = by_key(effects(other, table, variables=["origin"], contrasts="pairwise"))
    assert [contrast for (_, contrast), effect in pairs.items() if effect.estimate is None] == [
        "EWR - LGA",
        "JFK - LGA",
    ]
    with pytest.raises(StreamlrError, match="no effect has an estimate with carrier=UA, origin=LGA"):
        effects(model, table, at={"carrier": "UA", "origin": "LGA"}, variables=["dep_delay"])


def test_new_data(flights):
    """Effects average over the rows that are given, whichever they are."""
    model = streamlr.fit(flights, "late ~ dep_delay * origin")
    some = flights.filter(pc.greater(flights["month"], 6))
    used = some.select(["late", "dep_delay", "origin"]).drop_null()
    found = effects(model, some)
    agree(found, Twin(model, used, np.ones(len(used))))
    same(effects(model, flights, where="month > 6"), found, 1e-12)
    one_origin = effects(model, flights.filter(pc.equal(flights["origin"], "JFK")))
    assert by_key(one_origin).keys() == by_key(found).keys()
    unknown = column(some, "origin", ["XXX"] * len(some))
    with pytest.raises(StreamlrError, match="'origin' has a value that was not there"):
        effects(model, unknown)
    with pytest.raises(StreamlrError, match="dep_delay"):
        effects(model, some.drop_columns(["dep_delay"]))


def test_the_filter_of_the_fit_applies(flights):
    model = streamlr.fit(
        flights, "late ~ dep_delay + origin", where="month > 6 and carrier != 'AA'", tol=1e-11
    )
    rows = flights.filter(pc.and_(pc.greater(flights["month"], 6), pc.not_equal(flights["carrier"], "AA")))
    plain = streamlr.fit(rows, "late ~ dep_delay + origin", tol=1e-11)
    found = effects(model, flights, at={"dep_delay": 3.0})
    same(found, effects(plain, rows, at={"dep_delay": 3.0}), 1e-9)
    assert found.rows_used == rows["dep_delay"].drop_null().length()


@pytest.mark.parametrize("rows_per_group", [600, 37])
def test_any_number_of_threads_gives_the_same_bits(flights, parquet, monkeypatch, rows_per_group):
    monkeypatch.setattr(Design, "batch_rows", 50)
    path = parquet(flights, rows_per_group=rows_per_group)
    model = streamlr.fit(path, EVERYTHING, weights="w", weight_type="analytic")
    found = [effects(model, path, at="mean", threads=threads) for threads in (1, 2, 5)]
    assert found[0] == found[1] == found[2]


def test_row_groups_and_order_do_not_matter(flights, parquet):
    """To rounding: sums are then added in another order."""
    model = streamlr.fit(flights, EVERYTHING)
    shuffled = flights.take(np.random.default_rng(0).permutation(len(flights)))
    whole = effects(model, parquet(flights))
    same(effects(model, parquet(flights, "small.parquet", rows_per_group=7)), whole, 1e-11)
    same(effects(model, parquet(shuffled, "other.parquet")), whole, 1e-11)


def test_pairs_are_differences_of_those_with_the_reference(flights):
    model = streamlr.fit(flights, EVERYTHING)
    pairs = by_key(effects(model, flights, variables=["carrier"], contrasts="pairwise"))
    plain = by_key(effects(model, flights, variables=["carrier"]))
    assert list(pairs) == [("carrier", f"{b} - {a}") for a, b in combinations(("AA", "B6", "DL", "UA"), 2)]
    assert pairs["carrier", "B6 - AA"] == plain["carrier", "B6 - AA"]
    difference = plain["carrier", "UA - AA"].estimate - plain["carrier", "B6 - AA"].estimate
    assert pairs["carrier", "UA - B6"].estimate == pytest.approx(difference, rel=1e-12, abs=0)


def test_many_pairs_are_worked_out_in_pieces(flights, monkeypatch):
    model = streamlr.fit(flights, "late ~ C(month)")
    whole = effects(model, flights, contrasts="pairwise")
    monkeypatch.setattr(marginal_effects, "AT_ONCE", 7)
    assert len(whole) == 66
    same(effects(model, flights, contrasts="pairwise"), whole, 1e-12)


def test_a_saved_and_releveled_model(flights, tmp_path):
    model = streamlr.fit(flights, EVERYTHING, cov="HC0")
    model.save(tmp_path / "model.json")
    loaded = streamlr.load(tmp_path / "model.json")
    same(effects(loaded, flights), effects(model, flights), 1e-13)
    other = by_key(effects(model.relevel("carrier", "UA"), flights, contrasts="pairwise"))
    pairs = by_key(effects(model, flights, contrasts="pairwise"))
    assert other["carrier", "AA - UA"].estimate == pytest.approx(
        -pairs["carrier", "UA - AA"].estimate, rel=1e-10, abs=0
    )
    assert other["carrier", "AA - UA"].std_error == pytest.approx(
        pairs["carrier", "UA - AA"].std_error, rel=1e-10, abs=0
    )


def test_columns_without_an_effect(flights):
    day = pa.array([datetime(2024, 1, 1 + int(d) % 28) for d in flights["day"].to_pylist()])
    table = column(flights, "when", day)
    model = streamlr.fit(table, "late ~ dep_delay + cut(distance, breaks=[500, 1200]) + day(when)")
    found = effects(model, table)
    assert [effect.term for effect in found.effects] == ["dep_delay"]
    assert found.notes == (
        "distance has no effect here: cut(distance, breaks=[500, 1200]) changes with it by jumps only, so "
        "the slope is zero",
        "when has no effect here: it is a date or time",
    )
    with pytest.raises(StreamlrError, match="'when' has no marginal effect: it is a date or time"):
        effects(model, table, variables=["dep_delay", "when"])
    with pytest.raises(StreamlrError, match="'when' is a date or time and cannot be held"):
        effects(model, table, at={"when": "2024-01-01"})
    alone = streamlr.fit(table, "late ~ floor(dep_delay)")
    with pytest.raises(StreamlrError, match="no column has a marginal effect: dep_delay has no effect here"):
        effects(alone, table)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"variables": ["dep_dely"]}, "the model has no column 'dep_dely'.*Did you mean 'dep_delay'"),
        ({"at": {"orign": "JFK"}}, "the model has no column 'orign'.*Did you mean 'origin'"),
        ({"at": {"origin": "XXX"}}, "'origin' has no level 'XXX'. Its levels are: EWR, JFK, LGA"),
        ({"at": {"origin": "mean"}}, "'origin' has levels, which have no mean"),
        ({"at": {"dep_delay": "much"}}, "'dep_delay' is a number and cannot be held at 'much'"),
        ({"at": {"dep_delay": float("nan")}}, "'dep_delay' is a number and cannot be held at nan"),
        ({"at": "median"}, "at must be a dict of columns and values, or 'mean', not 'median'"),
        ({"contrasts": "all"}, "contrasts must be 'reference' or 'pairwise', not 'all'"),
        ({"conf_level": 95}, "conf_level must lie between 0 and 1, not 95"),
    ],
)
def test_refusals(flights, options, message):
    model = streamlr.fit(flights, "late ~ dep_delay + origin")
    with pytest.raises(StreamlrError, match=message):
        effects(model, flights, **options)


def test_means_need_a_number(flights):
    model = streamlr.fit(flights, "late ~ origin")
    with pytest.raises(StreamlrError, match="no column is a number"):
        effects(model, flights, at="mean")


def test_absorbed_effects_are_refused(flights):
    model = streamlr.fit(flights, "late ~ dep_delay + origin", absorb="day")
    with pytest.raises(StreamlrError, match="'day' are absorbed"):
        effects(model, flights)


def test_more_gradients_than_memory_holds_are_refused(flights, monkeypatch):
    model = streamlr.fit(flights, "late ~ dep_delay + C(month)")
    assert model.design.layout.slots == 14
    monkeypatch.setattr(marginal_effects, "MOST_GRADIENTS", 13 * 14 - 1)
    with pytest.raises(StreamlrError, match=r"13 slopes and levels .* in 14 coefficients .*variables="):
        effects(model, flights)
    assert len(effects(model, flights, variables=["dep_delay"])) == 1


def test_forms_of_the_table(flights):
    model = streamlr.fit(
        flights, "late ~ dep_delay + weekend", weights="w", weight_type="analytic", cov="HC1"
    )
    found = streamlr.effects(model, flights, conf_level=0.9)
    text = str(found)
    assert text.splitlines()[0] == "Average marginal effects on the probability of late = 1"
    assert f"{found.rows_used:,} rows weighted by w" in text
    assert "standard errors by the delta method, HC1 covariance" in text
    assert "90% from" in text
    assert "<table>" in found._repr_html_()
    assert found.tidy().column_names == ["term", "contrast", *NUMBERS]
    assert found.tidy().to_pylist() == found.result()["effects"]
    delay = found.effects[0]
    assert delay.statistic == delay.estimate / delay.std_error
    assert delay.conf_high == pytest.approx(delay.estimate + 1.6448536269514722 * delay.std_error, rel=1e-12)
    assert delay.conf_low == pytest.approx(delay.estimate - 1.6448536269514722 * delay.std_error, rel=1e-12)
    assert delay.p_value == pytest.approx(math.erfc(abs(delay.statistic) / math.sqrt(2)), rel=1e-10, abs=0)


def separated_by_two_columns() -> dict[str, np.ndarray]:
    """z + [h = q] - 1 separates: rows at 0 have both outcomes, those beyond have one."""
    rng = np.random.default_rng(42)
    z, q, x = rng.integers(0, 2, 500), rng.random(500) < 0.5, rng.normal(size=500)
    y = (rng.random(500) < expit(0.7 * x)).astype(int)
    y = np.where((z == 1) & q, 1, np.where((z == 0) & ~q, 0, y))
    return {"y": y, "z": z.astype(float), "h": np.where(q, "q", "p"), "x": x}


def test_beside_a_separating_direction():
    rows = separated_by_two_columns()
    model = streamlr.fit(rows, "y ~ x + z + h", separation="drop")
    found = effects(model, rows)
    slope, *others = sorted(found.effects, key=lambda effect: effect.term != "x")
    between = rows["z"] + (rows["h"] == "q") == 1
    p = model.predict(rows)[between]
    assert found.rows_used == between.sum() == model.statistics.rows_used
    b = model.params[model.terms.index("x")]
    assert slope.estimate == pytest.approx(b * (p * (1 - p)).mean(), rel=1e-12)
    # A step in z, or the other level of h, takes a row out of the plane, to a probability of 0 or 1.
    assert {effect.term for effect in others} == {"z", "h"}
    assert all(effect.estimate is None for effect in others)
    assert sum("separating direction" in note for note in found.notes) == 3  # z, and both levels of h
    with pytest.raises(StreamlrError, match="no effect has an estimate with z=0 in every row"):
        effects(model, {name: values[rows["z"] == 1] for name, values in rows.items()}, at={"z": 0})


@pytest.mark.parametrize("kind", [True, "flic"])
def test_of_a_penalised_fit(kind):
    rng = np.random.default_rng(8)
    rows = {"x": rng.normal(size=80), "b": rng.random(80) < 0.3}
    rows["y"] = (rng.random(80) < expit(rows["x"] - 1)).astype(int)
    model = streamlr.fit(rows, "y ~ x + b", firth=kind)
    found = {effect.term: effect for effect in effects(model, rows).effects}
    X = np.column_stack([np.ones(80), rows["x"], rows["b"]])
    p = expit(X @ model.params)
    b, pq = model.params[1], p * (1 - p)
    gradient = (X * (pq * (1 - 2 * p))[:, None] * b).mean(axis=0) + np.array([0, pq.mean(), 0])
    assert found["x"].estimate == pytest.approx((pq * b).mean(), rel=1e-12)
    variance = gradient @ model.cov_params() @ gradient
    assert found["x"].std_error == pytest.approx(math.sqrt(variance), rel=1e-10)
    at = [expit(X @ model.params + (level - X[:, 2]) * model.params[2]) for level in (0, 1)]
    assert found["b"].estimate == pytest.approx((at[1] - at[0]).mean(), rel=1e-10)
