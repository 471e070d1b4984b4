"""The README says what the stored results say, and the report says of a run what was measured in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from report import BEGIN, END, groups_of, markdown, put_into, read_results

ROOT = Path(__file__).parents[2]
VERSIONS = "python 3.11.7, streamlr 0.1.0, glum 3.4.1, scikit-learn 1.9.1"


def row(solver: str, turn: int, wall: float, **changes: Any) -> dict[str, str]:
    """One measured process on the higgs problem, as it is read from a CSV file."""
    measured = {
        "run": "2026-01-02",
        "problem": "higgs",
        "solver": solver,
        "turn": turn,
        "wall_seconds": wall,
        "peak_rss_bytes": 5e8,
        "exit_code": 0,
        "fit_seconds": "",
        "error_se": 2e-9,
        "error_std_error": "",
        "machine": "one core",
        "versions": VERSIONS,
    }
    return {name: str(value) for name, value in (measured | changes).items()}


def test_readme_shows_the_stored_results() -> None:
    # When this fails, run `python benchmarks/report.py`.
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    table = markdown(groups_of(read_results(ROOT / "benchmarks" / "results")))
    assert text[text.index(BEGIN) : text.index(END) + len(END)] == table
    assert put_into(text, table) == text


def test_ratios_are_taken_within_a_turn() -> None:
    # The medians of 2, 10, 30 and 4, 40, 45 have the ratio 4; within turns it is 2, 4.5 and 1.33.
    walls = [(2.0, 4.0), (10.0, 45.0), (30.0, 40.0)]
    rows = [
        row(solver, turn, wall)
        for turn, pair in enumerate(walls, start=1)
        for solver, wall in zip(("streamlr_cli", "glum"), pair, strict=True)
    ]
    (group,) = groups_of(rows)
    ours, theirs = group.lines
    assert (ours.title, ours.seconds, ours.ratio) == ("`streamlr fit`", 10.0, 1.0)
    assert (theirs.title, theirs.seconds, theirs.ratio) == ("glum 3.4.1", 40.0, 2.0)
    assert ours.std_errors
    assert not theirs.std_errors


def test_the_latest_run_of_each_variant_is_shown() -> None:
    small, large = "streamlr_cli:memory=512MB", "streamlr_cli:memory=3GB"
    rows = [
        row(small, 1, 9.0, run="2026-01-01"),
        row(small, 1, 5.0, run="2026-01-02"),
        row(large, 1, 4.0, run="2025-12-31"),
        row("glum", 1, 3.0, run="2026-01-01", problem="iris_like"),
    ]
    groups = groups_of(rows)
    shown = [(group.problem, line.title, line.seconds) for group in groups for line in group.lines]
    assert shown == [
        ("higgs", "`streamlr fit --memory 3GB`", 4.0),
        ("higgs", "`streamlr fit --memory 512MB`", 5.0),
        ("iris_like", "glum 3.4.1", 3.0),
    ]


def test_a_program_that_failed_keeps_its_row() -> None:
    rows = [
        row("streamlr_cli", 1, 10.0),
        row("glum", 0, 300.0, exit_code=124, error_se=""),
        row("sklearn", 1, 20.0),
        row("sklearn", 2, 1.0, exit_code=1, error_se=""),
    ]
    table = markdown(groups_of(rows))
    assert "| glum 3.4.1 | stopped after 300 | > 30 x |" in table
    assert "| scikit-learn 1.9.1, newton-cholesky | failed | |" in table


def test_ratios_are_to_streamlr_wherever_it_stood() -> None:
    (group,) = groups_of([row("glum", 1, 3.0), row("streamlr_cli", 1, 2.0)])
    assert [(line.ours, line.ratio) for line in group.lines] == [(True, 1.0), (False, 1.5)]


def test_errors_are_the_largest() -> None:
    rows = [
        row("streamlr_cli", turn, 1.0, error_se=error, error_std_error=error / 2)
        for turn, error in enumerate((1e-9, 4e-9, 2e-9), start=1)
    ]
    assert "| 4e-9 | 2e-9 |" in markdown(groups_of(rows))


def test_a_readme_without_a_place_for_the_table_is_refused() -> None:
    with pytest.raises(ValueError, match="measured: begin"):
        put_into("# streamlr\n", "| a |")
