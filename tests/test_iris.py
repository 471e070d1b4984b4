"""Fisher's irises, the example that separates: setosa has no finite estimate, virginica has one.

Setosa and versicolor can be told apart by a line, so the likelihood has no maximum, and software
that prints coefficients for them prints where it stopped. streamlr has to say so, in Python by
`SeparationError` and on the command line by exit 4 without a model file. Versicolor and virginica
overlap, and R's glm has their estimate: tests/reference/iris.json.
"""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

import streamlr
from streamlr.cli import main

REFERENCE = Path(__file__).parent / "reference"
COLUMNS = ["sepal_length", "sepal_width", "petal_length", "petal_width"]


def write_species(folder: Path, *species: str) -> Path:
    """A Parquet file with the 50 rows of each of these species, in row groups of 37."""
    iris = pyarrow.csv.read_csv(REFERENCE / "data" / "iris.csv")
    chosen = iris.filter(pc.is_in(iris["species"], value_set=pa.array(species)))
    path = folder / "iris.parquet"
    pq.write_table(chosen, path, row_group_size=37)
    return path


def test_setosa_and_versicolor_raise(tmp_path: Path) -> None:
    path = write_species(tmp_path, "setosa", "versicolor")

    with pytest.raises(streamlr.SeparationError) as caught:
        streamlr.fit(str(path), target="species", features=COLUMNS)

    finding = caught.value.separation
    assert finding["kind"] == "complete"
    assert (finding["rows_separated"], finding["rows_overlapping"]) == (100, 0)
    assert finding["terms"]
    for term in finding["terms"]:
        assert term["term"] in ["Intercept", *COLUMNS]
        assert term["direction"] in (-1, 1)
    assert isinstance(caught.value, streamlr.StreamlrError)


# Every setosa petal is at most 1.9 cm long and every versicolor petal at least 3.0 cm, so this
# column separates alone and its coefficient runs to +infinity for versicolor.
@pytest.mark.parametrize(("positive", "direction"), [("versicolor", 1), ("setosa", -1)])
def test_direction_of_a_single_separating_column(positive: str, direction: int, tmp_path: Path) -> None:
    path = write_species(tmp_path, "setosa", "versicolor")

    with pytest.raises(streamlr.SeparationError) as caught:
        streamlr.fit(str(path), target="species", features=["petal_length"], positive=positive)

    (term,) = caught.value.separation["terms"]
    assert (term["term"], term["direction"]) == ("petal_length", direction)


def test_command_exits_with_4_and_writes_no_model(tmp_path: Path) -> None:
    path = write_species(tmp_path, "setosa", "versicolor")
    with pytest.raises(streamlr.SeparationError) as caught:
        streamlr.fit(str(path), target="species", features=COLUMNS)

    arguments = ["fit", str(path), "-y", "species", "-x", ",".join(COLUMNS)]
    result = CliRunner().invoke(main, [*arguments, "-o", str(tmp_path / "model.json")])

    assert result.exit_code == 4, result.output
    for term in caught.value.separation["terms"]:
        assert term["term"] in result.output
    assert "Traceback" not in result.output
    assert list(tmp_path.iterdir()) == [path]


def test_versicolor_and_virginica_agree_with_r(tmp_path: Path) -> None:
    path = write_species(tmp_path, "versicolor", "virginica")
    case = json.loads((REFERENCE / "iris.json").read_text())

    model = streamlr.fit(str(path), target="species", features=COLUMNS)

    assert sorted(model.terms) == sorted(case["terms"])
    place = {term: i for i, term in enumerate(model.terms)}
    # 1e-8 of max(|b|, se) is what `--tol` certifies by default; R's numbers are good to 1e-14.
    rows = zip(case["terms"], case["coefficients"], case["std_error"], strict=True)
    for term, coefficient, std_error in rows:
        assert abs(model.params[place[term]] - coefficient) <= 1e-8 * max(abs(coefficient), std_error)
        assert model.bse[place[term]] == pytest.approx(std_error, rel=1e-8, abs=0)
    # Flat at the maximum, so only the rounding of 100 logarithms is left.
    assert model.llf == pytest.approx(case["log_likelihood"], rel=1e-12, abs=0)


def test_command_fits_versicolor_and_virginica(tmp_path: Path) -> None:
    path = write_species(tmp_path, "versicolor", "virginica")
    case = json.loads((REFERENCE / "iris.json").read_text())

    arguments = ["fit", str(path), "-y", "species", "--format", "json"]
    result = CliRunner().invoke(main, [*arguments, "-o", str(tmp_path / "model.json")])

    assert result.exit_code == 0, result.output
    printed = {row["term"]: row["estimate"] for row in json.loads(result.stdout)["tidy"]}
    for term, coefficient, std_error in zip(
        case["terms"], case["coefficients"], case["std_error"], strict=True
    ):
        # As in Python: the certified distance.
        assert abs(printed[term] - coefficient) <= 1e-8 * max(abs(coefficient), std_error)
    assert streamlr.load(str(tmp_path / "model.json")).nobs == 100
