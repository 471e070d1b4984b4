"""The summary of a fit: as text it reads like R's, in a notebook it is an HTML table."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

Row = Mapping[str, Any]

# Terms without an estimate that the table lists; of more the footing says how many there are.
MOST_WITHOUT = 30
# Marks of p-values below a bound, as R's `symnum` sets them.
STARS = ((0.001, "***"), (0.01, "**"), (0.05, "*"), (0.1, "."), (1.0, ""))


class Summary:
    """Prints as text and renders as HTML; made from a result and what a heading needs."""

    def __init__(self, result: Mapping[str, Any], about: Mapping[str, Any], *, stars: bool = False) -> None:
        """`stars`: mark p-values below 0.001, 0.01, 0.05 and 0.1, as R does."""
        self._result = result
        self._about = about
        self._stars = stars

    def __str__(self) -> str:
        tables = [self._cells(), *([self._tests()] if self._about["term_tests"] else [])]
        above, below = map(printable, self._heading()), map(printable, self._footing())
        blocks = [above, *(aligned([heads, *rows]) for heads, rows in tables), below]
        return "\n\n".join("\n".join(lines) for lines in blocks)

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        import html

        tables = html_table(*self._cells()) + (
            html_table(*self._tests()) if self._about["term_tests"] else ""
        )
        above = "<br>".join(html.escape(printable(line)) for line in self._heading())
        below = "<br>".join(html.escape(printable(line)) for line in self._footing())
        return f"<p>{above}</p>{tables}<p>{below}</p>"

    def _heading(self) -> list[str]:
        about, glance = self._about, self._result["glance"]
        what = f"Logistic regression of {about['target']}"
        if about["trials"] is not None:
            what += f" successes in {about['trials']} trials"
        else:
            what += f" (1 = {about['positive']}, 0 = {about['negative']})"
        if "penalty" in self._result:
            what += f" by {self._result['penalty']['method']}"
        lines = [what]
        origin = about["origin"]
        if origin:
            lines.append(origin[0] + (f" and {len(origin) - 1:,} more" if len(origin) > 1 else ""))
        if about["where"] is not None:
            lines.append(f"where {about['where']}")
        rows = f"{glance['rows_read']:,} rows read, {glance['rows_used']:,} used"
        if glance["rows_dropped"]:
            dropped = self._result["dropped"]
            ordered = sorted(dropped.items(), key=lambda item: -item[1])
            by = ", ".join(f"{name} {count:,}" for name, count in ordered[:6])
            more = ", …" if len(ordered) > 6 else ""
            rows += f", {glance['rows_dropped']:,} dropped for missing values ({by}{more})"
        if about["rows_set_aside"]:
            why = "that are separated" if about["separated"] else "with levels that go with one outcome only"
            rows += f", {about['rows_set_aside']:,} set aside {why}"
        lines.append(rows)
        if about["weights"] is not None:
            lines.append(
                f"{about['weight_type']} weights {about['weights']}, {glance['nobs']:,} observations"
            )
        if about["offset"] is not None:
            lines.append(f"offset {about['offset']}")
        return lines

    def _tests(self) -> tuple[list[str], list[list[str]]]:
        """Tests of whole terms: that all coefficients of a factor, or of a spline, are zero."""
        rows = [
            [
                printable(test["term"]),
                fixed(test["statistic"], 2),
                str(test["df"]),
                p_value(test["p_value"]) + self._mark(test["p_value"]),
            ]
            for test in self._about["term_tests"]
        ]
        return ["all coefficients of", "chi-squared", "df", "p"], rows

    def _mark(self, p: float | None) -> str:
        """Stars for a p-value, as wide as the widest."""
        if not self._stars or p is None:
            return ""
        return " " + next(mark for bound, mark in STARS if p < bound or bound == 1.0).ljust(3)

    def _cells(self) -> tuple[list[str], list[list[str]]]:
        percent = f"{100 * self._about['conf_level']:g}%"
        heads = ["", "estimate", "std. error", "z", "p", f"{percent} from", "to", "odds ratio"]
        listed = [row for row in self._result["tidy"] if row["estimate"] is not None]
        without = [row for row in self._result["tidy"] if row["estimate"] is None]
        if len(without) > MOST_WITHOUT:  # the footing counts them
            return heads, [self._row(row) for row in listed]
        return heads, [self._row(row) for row in self._result["tidy"]]

    def _row(self, row: Row) -> list[str]:
        if row["estimate"] is None:
            outcome = self._about["set_aside"].get(row["term"])
            why = "aliased" if outcome is None else f"set aside, always {outcome}"
            if row["term"] in self._about["separated"]:
                why = f"separated, to {infinity(self._about['separated'][row['term']])}"
            return [printable(row["term"]), why, "", "", "", "", "", ""]
        return [
            printable(row["term"]),
            number(row["estimate"]),
            number(row["std_error"]),
            fixed(row["statistic"], 2),
            p_value(row["p_value"]) + self._mark(row["p_value"]),
            number(row["conf_low"]),
            number(row["conf_high"]),
            number(row["odds_ratio"]),
        ]

    def _kind_of_errors(self) -> str:
        kind, about = self._result["glance"]["cov_type"], self._about
        if kind == "nonrobust":
            return "model-based standard errors"
        if kind != "cluster":
            return f"{kind} standard errors"
        by = " and ".join(f"{name} ({count:,} clusters)" for name, count in about["clusters"].items())
        factor = {"none": ", no small-sample factor", "full": ", full small-sample factor"}
        return f"standard errors clustered by {by}{factor.get(about['small_sample'], '')}"

    def _penalised(self) -> list[str]:
        """What there is to say of a penalised likelihood."""
        penalty = self._result.get("penalty")
        if penalty is None:
            return []
        line = f"penalised log-likelihood {penalty['log_likelihood']:.8g}"
        if penalty["null_log_likelihood"] is not None:
            line += f" (null {penalty['null_log_likelihood']:.8g})"
        if penalty["p_value"] is not None:
            line += (
                f"; likelihood ratio {fixed(penalty['statistic'], 2)} on {penalty['df']} degrees of freedom, "
                f"p {p_value(penalty['p_value'])}"
            )
        lines = [line]
        if penalty["flic_shift"] is not None:
            lines.append(
                f"intercept corrected by {number(penalty['flic_shift'])} so that the mean probability is the "
                "share of the outcome (FLIC)"
            )
        return lines

    def _footing(self) -> list[str]:
        glance, about = self._result["glance"], self._about
        lines = []
        if self._stars:
            lines.append("*** p < 0.001, ** < 0.01, * < 0.05, . < 0.1")
        penalty = self._result.get("penalty")
        lines += self._penalised()
        lines += [
            f"{'plain ' if penalty else ''}log-likelihood {glance['log_likelihood']:.8g} "
            f"(null {glance['null_log_likelihood']:.8g}), AIC {glance['aic']:.8g}, BIC {glance['bic']:.8g}, "
            f"McFadden R² {number(glance['pseudo_r2'], 4)}",
            f"deviance {glance['deviance']:.8g} on {degrees(glance['df_resid'])} degrees of freedom "
            f"(null {glance['null_deviance']:.8g}); {self._kind_of_errors()}",
        ]
        if about["profiled"] is not None:
            some = len(about["profiled"]) < sum(row["estimate"] is not None for row in self._result["tidy"])
            of = f" of {listing(about['profiled'])}" if some else ""
            lines.append(f"intervals{of} by the {'penalised ' if penalty else ''}profile likelihood")
        if about["tested"]:
            some = len(about["tested"]) < sum(row["estimate"] is not None for row in self._result["tidy"])
            of = f" of {listing(about['tested'])}" if some else ""
            lines.append(f"z and p{of} by signed roots of the penalised likelihood ratio")
        passes = f"{glance['passes']} pass{'' if glance['passes'] == 1 else 'es'}"
        if glance["converged"]:
            lines.append(
                f"converged in {passes}: within {glance['newton_decrement']:.1e} standard errors "
                f"of the maximum{' of the penalised likelihood' if penalty else ''}"
            )
        else:
            lines.append(f"NOT converged after {passes}: the estimates are not proved to be near the maximum")
        absorbed = about.get("absorbed")
        if absorbed is not None:
            line = f"effects of {absorbed['levels']:,} levels of {absorbed['name']} absorbed"
            if absorbed["l2"]:
                line += f", with a ridge of {absorbed['l2']:g}"
            if absorbed["set_aside"]:
                line += f"; {absorbed['set_aside']:,} more have one outcome only"
            lines.append(line)
        aliased = [term for term in self._result["aliased"] if term not in about["separated"]]
        if aliased:
            lines.append(f"aliased (combinations of earlier terms): {listing(aliased)}")
        if len(about["set_aside"]) > MOST_WITHOUT:
            lines.append(f"set aside, always one outcome: {listing(list(about['set_aside']))}")
        if about["separated"]:
            arrows = [f"{name} → {infinity(sign)}" for name, sign in about["separated"].items()]
            lines.append(
                f"separated: {listing(arrows)}; rows set aside are predicted 0 or 1, and the estimates are "
                "those of the others"
            )
        for name, levels in about["unused_levels"].items():
            lines.append(f"levels of {name} without a used row: {listing(levels)}")
        return lines


def html_table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table for a notebook."""
    import html

    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in heads)
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def infinity(sign: int) -> str:
    """Where a coefficient goes that has no finite estimate."""
    return "+∞" if sign > 0 else "−∞"


def finding_text(finding: Mapping[str, Any]) -> str:
    """Separation in words: what diverges which way, how many rows say so, and what to do."""
    signs = {True: "fixed", False: "either", None: ""}
    rows = [["", "goes to", "direction", "sign"]]
    rows += [
        [
            printable(term["term"]),
            infinity(term["direction"]),
            number(term["value"]),
            signs[term["sign_fixed"]],
        ]
        for term in finding["terms"]
    ]
    separated, overlapping = finding["rows_separated"], finding["rows_overlapping"]
    return "\n".join(
        [
            f"{finding['kind'].capitalize()} separation: no finite maximum-likelihood estimate exists",
            f"{separated:,} rows are predicted perfectly, {overlapping:,} overlap",
            "",
            *aligned(rows),
            "",
            *map(printable, finding["advice"]),
        ]
    )


def aligned(rows: Sequence[Sequence[str]], left: Collection[int] = (0,)) -> list[str]:
    """Cells in columns, those of `left` to the left and the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if place in left else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def printable(name: str) -> str:
    """A name on one line: control characters as their escapes, so that a file cannot write to a terminal."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in name)


def number(value: float | None, digits: int = 5) -> str:
    """A number to some significant digits; nothing for None."""
    return "" if value is None else f"{value:.{digits}g}"


def degrees(value: float) -> str:
    """Degrees of freedom, which a ridge makes fractional."""
    return f"{value:,}" if isinstance(value, int) else f"{value:,.1f}"


def fixed(value: float | None, decimals: int) -> str:
    """A number with fixed decimals, or an exponent where it is huge; nothing for None."""
    if value is None:
        return ""
    return f"{value:.{decimals}f}" if abs(value) < 1e6 else f"{value:.3g}"


def p_value(value: float | None) -> str:
    """A p-value to three digits; one that underflowed is below 1e-300."""
    if value is None:
        return ""
    return "<1e-300" if value < 1e-300 else f"{value:.3g}"


def listing(items: Sequence[str], most: int = 8) -> str:
    """The first few of a list, and how many more there are."""
    shown = ", ".join(items[:most])
    return shown + (f" and {len(items) - most:,} more" if len(items) > most else "")


def explanation_text(found: Mapping[str, Any]) -> str:
    """What `explain` found, as text."""
    rows = "an unknown number of" if found["rows"] is None else f"{found['rows']:,}"
    files = f"{found['files']:,} file{'' if found['files'] == 1 else 's'}"
    lines = [f"{rows} rows in {files}, {found['parts']:,} parts"]
    if found["row_groups_skipped"] is not None:
        skipped = found["row_groups_skipped"]
        lines.append(f"{skipped:,} row group{'' if skipped == 1 else 's'} without such rows will not be read")
    lines.append("")
    heads = ["column", "type", "role", "nulls", "range or levels"]
    table = [heads]
    for column in found["columns"]:
        reach = ""
        if column["levels_at_least"] is not None:
            reach = f"at least {column['levels_at_least']:,} levels"
        elif column["low"] is not None:
            reach = f"{column['low']} to {column['high']}"
        role = column["role"] + (f": {column['reason']}" if column["reason"] else "")
        nulls = "?" if column["nulls"] is None else f"{column['nulls']:,}"
        table.append([printable(column["column"]), column["type"], role, nulls, printable(reach)])
    lines.extend(aligned(table, left=range(len(heads))))
    lines += ["", f"formula: {printable(found['formula'])}"]
    lines.append(
        f"design: at least {found['design_columns_at_least']:,} columns; "
        f"Hessian {found['hessian_bytes'] / 1e6:,.1f} MB; limit {found['memory_limit_bytes'] / 1e6:,.0f} MB"
    )
    if found["seconds_expected"] is not None:
        lines.append(
            f"expect about {found['passes_expected']} passes, {found['seconds_expected']:,.1f} s "
            f"(from {found['rows_looked_at']:,} rows read here)"
        )
    return "\n".join(lines)
