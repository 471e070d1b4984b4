"""A fitted model, frozen: coefficients, covariance, design, statistics and trace, and no rows.

It keeps the conditioned basis beside the user's units: at mean 1e9 raw coefficients cancel when predicting,
conditioned ones do not.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from streamlr import arguments
from streamlr.design.basis import Basis
from streamlr.design.design import Design, terms_with_limits
from streamlr.design.encoding import Unseen
from streamlr.design.terms import Factor
from streamlr.inference import fit_statistics
from streamlr.linear_algebra import Inverse

if TYPE_CHECKING:
    from streamlr.inference.collinearity import InflationFactors
    from streamlr.inference.firth import Firth
    from streamlr.inference.hypotheses import TermTests, WaldTest

Floats = NDArray[np.float64]

# With more coefficients a summary does not form their covariance for the sake of tests of whole terms.
MOST_TESTED = 1_000
ESTIMATES = ("estimate", "std_error", "statistic", "p_value", "conf_low", "conf_high", "odds_ratio")


@dataclass(frozen=True)
class Statistics:
    """Numbers of a fit beside the coefficients; `nobs` is as INTERFACE's kinds of weights define it."""

    nobs: float
    log_likelihood: float
    null_log_likelihood: float
    deviance: float
    null_deviance: float
    converged: bool
    passes: int
    newton_decrement: float | None
    rows_read: int
    rows_used: int
    rows_dropped: int
    rows_set_aside: int
    seconds: float
    peak_rss_bytes: int
    absorbed_parameters: float = (
        0.0  # effects estimated and not reported, or what they amount to with a ridge
    )


@dataclass(frozen=True, eq=False, repr=False)
class Model:
    """A fitted logistic regression.

    Arrays are in the order of `terms`, the k terms with an estimate: `params`, `bse`, `zvalues`, `pvalues`,
    each (k,). Aliased terms and levels set aside stand only in `tidy()`, without numbers. Absorbed effects
    are none of these terms: they stand in `absorbed_effects`.
    """

    design: Design
    basis: Basis
    conditioned_coef: Floats  # (k,) in the basis
    inverse_information: Floats | Inverse  # (k, k) in the basis
    params: Floats
    bse: Floats
    statistics: Statistics
    conf_level: float
    dropped: Mapping[str, int]
    excluded: Mapping[str, str]
    aliased: Sequence[str]
    separation: Mapping[str, Any] | None
    trace: Sequence[Mapping[str, Any]]
    provenance: Mapping[str, Any]
    # (levels,) in the basis, NaN for a level without an estimate; None without an absorbed factor.
    conditioned_effects: Floats | None = None
    # What standard errors come from: the inverse information, or a sandwich (k, k) in the basis.
    covariance_type: str = "nonrobust"
    robust_covariance: Floats | None = None
    clusters: Mapping[str, int] = field(default_factory=dict)  # number of clusters by column
    small_sample: str = "clusters"
    # (k, 2) bounds by the profile likelihood, NaN for terms that were not profiled; at one level.
    profile_bounds: Floats | None = None
    profile_level: float | None = None
    # Of a fit by Firth's penalised likelihood; profile bounds are then by that likelihood.
    firth: Firth | None = None

    def __repr__(self) -> str:
        state = "converged" if self.converged else "NOT converged"
        return (
            f"<streamlr.Model of {self.design.target}: {len(self.params):,} terms, "
            f"{self.statistics.rows_used:,} rows, {state}>"
        )

    @cached_property
    def terms(self) -> tuple[str, ...]:
        """(k,) names of the terms with an estimate."""
        names = self.design.column_names
        own = self.basis.active[: self.design.layout.own_columns]
        return tuple(names[column] for column in np.flatnonzero(own))

    @property
    def conditioned_covariance(self) -> Floats:
        """(k, k) inverse of the information in the basis, whatever standard errors come from."""
        inverse = self.inverse_information
        return inverse.matrix if isinstance(inverse, Inverse) else inverse

    @property
    def reported_covariance(self) -> Floats:
        """(k, k) covariance of the coefficients in the basis that standard errors come from."""
        return self.conditioned_covariance if self.robust_covariance is None else self.robust_covariance

    @property
    def zvalues(self) -> Floats:
        """(k,) estimates over standard errors; where a penalised likelihood was profiled, signed roots of the
        likelihood-ratio statistics."""
        with np.errstate(divide="ignore", invalid="ignore"):  # few clusters can leave an error of zero
            wald = self.params / self.bse
        roots = None if self.firth is None else self.firth.roots
        return wald if roots is None else np.where(np.isnan(roots), wald, roots)

    @property
    def pvalues(self) -> Floats:
        """(k,) two-sided p-values of `zvalues`."""
        return fit_statistics.two_sided_p(self.zvalues)

    @cached_property
    def absorbed_effects(self) -> Floats | None:
        """(levels,) effects of the absorbed factor in the order of `design.absorbed.levels`, NaN for a level
        without an estimate; None without such a factor. What few rows say of a level is as uncertain."""
        if self.conditioned_effects is None:
            return None
        return self.basis.to_raw(self.coef_of_basis)[self.design.layout.own_columns :]

    @property
    def llf(self) -> float:
        """Log-likelihood, binomial coefficients included."""
        return self.statistics.log_likelihood

    @property
    def llnull(self) -> float:
        """Log-likelihood of the model with an intercept, the same offset and weights."""
        return self.statistics.null_log_likelihood

    @property
    def aic(self) -> float:
        """Akaike's criterion."""
        return fit_statistics.aic(self.llf, self.parameters)

    @property
    def parameters(self) -> float:
        """Number of parameters, absorbed effects included."""
        return _whole(len(self.params) + self.statistics.absorbed_parameters)

    @property
    def bic(self) -> float:
        """Schwarz's criterion."""
        return fit_statistics.bic(self.llf, self.parameters, self.nobs)

    @property
    def prsquared(self) -> float | None:
        """McFadden's pseudo R-squared."""
        return fit_statistics.mcfadden_r2(self.llf, self.llnull)

    @property
    def nobs(self) -> float:
        """Observations: the sum of frequency weights, else rows of positive weight."""
        return self.statistics.nobs

    @property
    def converged(self) -> bool:
        """Whether the distance to the maximum was proved to be within the tolerance."""
        return self.statistics.converged

    def conf_int(self, level: float | None = None) -> Floats:
        """(k, 2) intervals; `level` defaults to the one of the fit.

        Wald's, and by the profile likelihood for terms that were profiled, at the level that they were
        profiled for; NaN for an end of those that was not found. Raises `StreamlrError` for another level.
        """
        wanted = self.conf_level if level is None else arguments.probability("level", level)
        found = fit_statistics.wald_intervals(self.params, self.bse, wanted)
        if self.profile_bounds is None or wanted != self.profile_level:
            return found
        not_profiled = np.isnan(self.profile_bounds).all(axis=1, keepdims=True)
        return np.where(not_profiled, found, self.profile_bounds)

    def cov_params(self, *, robust: bool = True) -> Floats:
        """(k, k) covariance of `params`, of the type that `bse` has; without `robust` the inverse of the
        information, whatever the type."""
        columns = self.design.layout.own_columns
        active = np.flatnonzero(self.basis.active[:columns])
        whole = np.zeros((columns, columns))
        whole[np.ix_(active, active)] = self.reported_covariance if robust else self.conditioned_covariance
        return self.basis.covariance_to_raw(whole)[np.ix_(active, active)]

    def tidy_rows(self) -> list[dict[str, Any]]:
        """A dict a term with broom's names, terms without an estimate included."""
        z, p, intervals = self.zvalues, self.pvalues, self.conf_int()
        odds = fit_statistics.odds_ratios(self.params)
        rows = []
        for name, i in self._terms_with_places():
            numbers: list[Any] = [None] * len(ESTIMATES)
            if i is not None:
                numbers = [self.params[i], self.bse[i], z[i], p[i], *intervals[i], odds[i]]
            row: dict[str, Any] = {"term": name}
            row.update((key, _number(value)) for key, value in zip(ESTIMATES, numbers, strict=True))
            rows.append(row)
        return rows

    def tidy(self) -> Any:
        """The coefficient table as a `pyarrow.Table` with broom's column names."""
        import pyarrow as pa

        rows = self.tidy_rows()
        schema = pa.schema([("term", pa.string()), *((key, pa.float64()) for key in ESTIMATES)])
        return pa.Table.from_pylist(rows, schema=schema)

    def glance(self) -> dict[str, Any]:
        """Statistics of the whole fit, by INTERFACE's names."""
        s = self.statistics
        k = self.parameters
        return {
            "nobs": _whole(s.nobs),
            "df_model": max(k - 1, 0),
            "df_resid": _whole(s.nobs - k),
            "log_likelihood": s.log_likelihood,
            "null_log_likelihood": s.null_log_likelihood,
            "deviance": s.deviance,
            "null_deviance": s.null_deviance,
            "aic": self.aic,
            "bic": self.bic,
            "pseudo_r2": self.prsquared,
            "converged": s.converged,
            "passes": s.passes,
            "newton_decrement": s.newton_decrement,
            "rows_read": s.rows_read,
            "rows_used": s.rows_used,
            "rows_dropped": s.rows_dropped,
            "cov_type": self.covariance_type,
            "seconds": s.seconds,
            "peak_rss_bytes": s.peak_rss_bytes,
        }

    def result(self) -> dict[str, Any]:
        """Everything that `--format json` prints."""
        return {
            **({} if self.firth is None else {"penalty": self.firth.as_dict()}),
            "tidy": self.tidy_rows(),
            "glance": self.glance(),
            "dropped": dict(self.dropped),
            "excluded": dict(self.excluded),
            "aliased": list(self.aliased),
            "separation": None if self.separation is None else dict(self.separation),
            "trace": [dict(row) for row in self.trace],
        }

    def summary(self, *, stars: bool = False) -> Any:
        """A table that prints as text and renders as HTML in a notebook; `stars`: mark small p-values."""
        from streamlr.report.text import Summary

        return Summary(self.result(), self.about(), stars=stars)

    def about(self) -> dict[str, Any]:
        """What a heading needs: outcome, kinds of weights, where the rows came from, levels unused."""
        design = self.design
        return {
            "target": design.target,
            "positive": None if design.positive is None else str(design.positive),
            "negative": None if design.negative is None else str(design.negative),
            "weights": design.weights,
            "weight_type": design.weight_type,
            "offset": design.offset,
            "trials": design.trials,
            "conf_level": self.conf_level,
            "clusters": dict(self.clusters),
            "small_sample": self.small_sample,
            "profiled": self._profiled(),
            "tested": self._tested(),
            "term_tests": self._overall_tests(),
            "rows_set_aside": self.statistics.rows_set_aside,
            "unused_levels": {f.name: [str(v) for v in f.unused] for f in design.categories if f.unused},
            "reference": {f.name: str(f.reference) for f in design.categories if design.has_reference(f)},
            "set_aside": dict(terms_with_limits(design)),
            "separated": self._separated(),
            "absorbed": None if design.absorbed is None else self._about_absorbed(design.absorbed),
            "where": self.provenance.get("where"),
            "origin": list(self.provenance.get("origin", ())),
            "tolerance": self.provenance.get("tolerance"),
        }

    def _separated(self) -> dict[str, int]:
        """Terms of the directions that rows were set aside for, with the sign in which each diverges."""
        limits = terms_with_limits(self.design)
        terms = () if self.separation is None else self.separation["terms"]
        return {term["term"]: term["direction"] for term in terms if term["term"] not in limits}

    def predict(self, data: Any, *, unseen: Unseen = "null") -> Floats:
        """Probability of every row of `data`, (n,); NaN where a row cannot be scored.

        `data`: anything that `fit` reads. `unseen`: rows with a level that the fit has not seen get NaN
        ("null"), are scored as the reference level ("reference"), or raise ("error"). Raises `StreamlrError`
        for missing columns.
        """
        from streamlr.prediction import predict_array
        from streamlr.sources.open import open_source

        return predict_array(self.design, self.basis, self.coef_of_basis, open_source(data), unseen)

    @cached_property
    def coef_of_basis(self) -> Floats:
        """(columns,) coefficients in the basis, zero for columns without an estimate, NaN for absorbed levels
        without one."""
        own = self.design.layout.own_columns
        whole = np.zeros(self.design.layout.columns)
        whole[:own][self.basis.active[:own]] = self.conditioned_coef
        if self.conditioned_effects is not None:
            whole[own:] = self.conditioned_effects
        return whole

    def _overall_tests(self) -> list[dict[str, Any]]:
        """Tests of the terms with several coefficients, for a summary; none where there are very many."""
        if len(self.params) > MOST_TESTED:
            return []
        from streamlr.inference.hypotheses import factor_tests

        return [asdict(test) for test in factor_tests(self)]

    def _profiled(self) -> list[str] | None:
        """Terms whose intervals in the table are profiled, None where none is."""
        if self.profile_bounds is None or self.profile_level != self.conf_level:
            return None
        return [
            term
            for term, bounds in zip(self.terms, self.profile_bounds, strict=True)
            if not np.isnan(bounds).all()
        ]

    def _tested(self) -> list[str]:
        """Terms whose tests in the table are penalised likelihood-ratio tests."""
        roots = None if self.firth is None else self.firth.roots
        if roots is None:
            return []
        return [term for term, root in zip(self.terms, roots, strict=True) if not np.isnan(root)]

    def _about_absorbed(self, factor: Factor) -> dict[str, Any]:
        return {
            "name": factor.name,
            "levels": len(factor.levels),
            "set_aside": len(factor.set_aside),
            "l2": self.design.absorb_l2,
        }

    def wald_test(self, hypothesis: Any, *, value: Any = None, conf_level: float | None = None) -> WaldTest:
        """Wald test of linear hypotheses: `"x1 - 2*x2 = 1"`, `"carrier[T.AA] = carrier[T.UA], age"`, a term
        such as `"carrier"` for all its coefficients, or a matrix; see `inference.hypotheses.wald_test`."""
        from streamlr.inference.hypotheses import wald_test

        return wald_test(self, hypothesis, value=value, conf_level=conf_level)

    def term_tests(self, type: int = 3) -> TermTests:
        """Wald tests of all terms, of type 2 or 3; see `streamlr.inference.hypotheses.term_tests`."""
        from streamlr.inference.hypotheses import term_tests

        return term_tests(self, type)

    def relevel(self, column: str, reference: Any) -> Model:
        """The same model with another reference level of a factor; see `inference.relevel.relevel`."""
        from streamlr.inference.relevel import relevel

        return relevel(self, column, reference)

    def vif(self) -> InflationFactors:
        """Generalised variance inflation factors of the terms; see `streamlr.inference.collinearity.vif`."""
        from streamlr.inference.collinearity import vif

        return vif(self)

    def condition_number(self, *, centred: bool = False) -> float:
        """Condition number of the scaled information; see `inference.collinearity.condition_number`."""
        from streamlr.inference.collinearity import condition_number

        return condition_number(self, centred=centred)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the model file; a reader never sees half of it. Raises `StreamlrError`."""
        from streamlr.model_file import write_model

        write_model(self, os.fspath(path))

    def _terms_with_places(self) -> list[tuple[str, int | None]]:
        """Every name of the table with its place among `terms`, None where it has no estimate."""
        own = self.design.layout.own_columns
        places: list[int | None] = [None] * own
        for place, active in enumerate(np.flatnonzero(self.basis.active[:own])):
            places[int(active)] = place
        column = int(self.design.intercept)
        found: list[tuple[str, int | None]] = [("Intercept", places[0])] if self.design.intercept else []
        for name in self.design.column_names[column:]:
            found.append((name, places[column]))
            column += 1
        listed = {name for name, _ in found}
        without = [*self.aliased, *terms_with_limits(self.design)]
        found.extend((name, None) for name in dict.fromkeys(without) if name not in listed)
        return found


def _number(value: Any) -> float | None:
    return None if value is None or not np.isfinite(value) else float(value)


def _whole(value: float) -> int | float:
    return int(value) if float(value).is_integer() else float(value)
