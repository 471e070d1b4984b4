"""What the user asked for, checked against the names and types of the data before any row is read.

A `Spec` holds roles (outcome, weights, offset, trials) and features with the kind each will be coded as.
Columns that the user did not name and that can be no term are left out here with the reason; a column the
user named that cannot be used is an error.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any, Literal

import pyarrow as pa

from streamlr.design.columns import is_factor, is_number, is_text, why_unusable
from streamlr.design.formula import Formula, parse_formula
from streamlr.errors import StreamlrError, did_you_mean

TARGET_NAMES = ("y", "target", "label", "outcome", "class")

WeightType = Literal["frequency", "analytic"]
MissingPolicy = Literal["drop", "error"]


@dataclass(frozen=True)
class Feature:
    """A column used as a term. `named`: the user asked for it by name. `absorbed`: see `design.absorbing`."""

    column: str
    name: str
    categorical: bool
    named: bool
    absorbed: bool = False


@dataclass(frozen=True)
class Spec:
    """A model before its data are read."""

    target: str
    features: tuple[Feature, ...]
    intercept: bool
    types: Mapping[str, pa.DataType]
    weights: str | None
    weight_type: WeightType
    offset: str | None
    trials: str | None
    missing: MissingPolicy
    positive: Any
    reference: Mapping[str, Any]
    excluded: Mapping[str, str]
    target_inferred: bool
    absorb_l2: float = 0.0

    @property
    def absorbed(self) -> str | None:
        """The column whose effects are absorbed."""
        return next((feature.column for feature in self.features if feature.absorbed), None)

    @property
    def columns(self) -> tuple[str, ...]:
        """Every column that is read, each once."""
        roles = (self.target, self.weights, self.offset, self.trials)
        names = [name for name in roles if name is not None]
        names.extend(feature.column for feature in self.features)
        return tuple(dict.fromkeys(names))


def resolve_spec(
    schema: pa.Schema,
    *,
    origin: str,
    formula: str | None,
    target: str | None,
    features: Sequence[str] | None,
    exclude: Sequence[str],
    categorical: Sequence[str],
    numeric: Sequence[str],
    reference: Mapping[str, Any],
    positive: Any,
    missing: MissingPolicy,
    weights: str | None,
    weight_type: WeightType,
    offset: str | None,
    trials: str | None,
) -> Spec:
    """Check every name and settle every role. Raises `StreamlrError`."""
    names = list(schema.names)
    types = {field.name: field.type for field in schema}
    given = [name for name in (weights, offset, trials) if name is not None]
    parsed = None
    if formula is not None:
        if features is not None:
            raise StreamlrError("give either a formula or a list of features, not both.")
        parsed = _parsed(formula, types, target, {*given, *exclude})
        target = parsed.target if parsed.target is not None else target
    outcome = _inferred_target(schema) if target is None else target
    for name in (outcome, *given, *exclude, *categorical, *numeric, *reference):
        _check_name(name, names, origin)
    _check_roles(types, outcome, weights=weights, offset=offset, trials=trials)
    both = sorted(set(categorical) & set(numeric))
    if both:
        raise StreamlrError(f"column '{both[0]}' cannot be both categorical and numeric.")

    roles = {outcome, *given}
    wanted, excluded = _wanted(types, parsed, features, {*roles, *exclude})
    resolved = []
    for request in wanted:
        _check_name(request.column, names, origin)
        if request.column in roles:
            raise StreamlrError(
                f"column '{request.column}' cannot be both a feature and the target, weights, offset or "
                "trials."
            )
        if request.column not in exclude:
            resolved.append(_feature(request, types[request.column], categorical, numeric))
    if parsed is None and not resolved:
        raise StreamlrError(
            "no feature is left: every column has another role, is excluded or cannot be used."
        )
    _check_options(resolved, (*categorical, *numeric), reference)
    return Spec(
        target=outcome,
        features=tuple(resolved),
        intercept=parsed.intercept if parsed is not None else True,
        types=types,
        weights=weights,
        weight_type=weight_type,
        offset=offset,
        trials=trials,
        missing=missing,
        positive=positive,
        reference=dict(reference),
        excluded=excluded,
        target_inferred=target is None,
    )


@dataclass(frozen=True)
class Request:
    """A column asked for as a term: as `C(column)` or bare, by name or by default."""

    column: str
    factor: bool
    named: bool


def _parsed(formula: str, types: Mapping[str, pa.DataType], target: str | None, taken: Set[str]) -> Formula:
    """The formula; its dot stands for the columns that would be features by default."""
    dot = [name for name, kind in types.items() if _default_reason(name, kind) is None]
    parsed = parse_formula(formula, [name for name in dot if name not in taken and name != target])
    if parsed.target is not None and target is not None and parsed.target != target:
        raise StreamlrError(
            f"the formula's outcome is '{parsed.target}' but the target is '{target}'. Give one of them."
        )
    return parsed


def _wanted(
    types: Mapping[str, pa.DataType], parsed: Formula | None, features: Sequence[str] | None, taken: Set[str]
) -> tuple[list[Request], dict[str, str]]:
    """The columns asked for, and those that nobody named and that can be no feature, with the reason."""
    left_out = {
        name: reason
        for name, kind in types.items()
        if name not in taken and (reason := _default_reason(name, kind)) is not None
    }
    if parsed is not None:
        requests = [Request(name, factor, name in parsed.written) for name, factor in parsed.terms]
        return requests, left_out if parsed.has_dot else {}
    if features is not None:
        return [Request(name, False, True) for name in dict.fromkeys(features)], {}
    return [
        Request(name, False, False) for name in types if name not in taken and name not in left_out
    ], left_out


def _check_roles(
    types: Mapping[str, pa.DataType],
    outcome: str,
    *,
    weights: str | None,
    offset: str | None,
    trials: str | None,
) -> None:
    for role, name in (("weights", weights), ("offset", offset), ("trials", trials)):
        if name == outcome:
            raise StreamlrError(f"column '{name}' cannot be both the target and the {role}.")
        if name is not None and not is_number(types[name]):
            raise StreamlrError(f"column '{name}' ({types[name]}) cannot be the {role}: it holds no numbers.")
    _check_target(outcome, types[outcome], trials)


def _check_options(resolved: Sequence[Feature], coded: Sequence[str], reference: Mapping[str, Any]) -> None:
    """Options about a column need that column among the features, and a reference needs levels."""
    factors = {feature.column: feature.categorical for feature in resolved}
    for column in (*coded, *reference):
        if column not in factors:
            raise StreamlrError(f"column '{column}' is given an option but is not a feature of this model.")
    for column in reference:
        if not factors[column]:
            raise StreamlrError(
                f"column '{column}' is numeric and has no reference level; make it categorical."
            )


def _default_reason(name: str, kind: pa.DataType) -> str | None:
    """Why a column that nobody named is no feature, as far as its name and type tell."""
    return "index written by pandas" if name.startswith("__index_level_") else why_unusable(kind)


def _check_name(name: str, names: Sequence[str], origin: str) -> None:
    if name not in names:
        raise StreamlrError(
            f"no column '{name}' in {origin} ({len(names)} columns).{did_you_mean(name, names)}"
        )


def _check_target(name: str, kind: pa.DataType, trials: str | None) -> None:
    if trials is not None and not is_number(kind):
        raise StreamlrError(f"column '{name}' ({kind}) cannot count successes: it holds no numbers.")
    if not (is_number(kind) or is_factor(kind) or pa.types.is_null(kind)):
        raise StreamlrError(f"column '{name}' ({kind}) cannot be the target: {why_unusable(kind)}.")
    if pa.types.is_null(kind):
        raise StreamlrError(f"the target '{name}' is all null.")


def _inferred_target(schema: pa.Schema) -> str:
    found = [name for name in schema.names if name in TARGET_NAMES]
    if len(found) == 1:
        return found[0]
    if found:
        raise StreamlrError(
            f"several columns could be the target: {', '.join(found)}. Name one with --target (target=...)."
        )
    candidates = [
        field.name
        for field in schema
        if pa.types.is_boolean(field.type) or pa.types.is_integer(field.type) or is_factor(field.type)
    ] or list(schema.names)
    shown = ", ".join(candidates[:20]) + (", …" if len(candidates) > 20 else "")
    raise StreamlrError(
        f"no column is named {', '.join(TARGET_NAMES[:-1])} or {TARGET_NAMES[-1]}, so the target must be "
        f"named with --target (target=...). Candidates: {shown}."
    )


def _feature(
    request: Request, kind: pa.DataType, categorical: Sequence[str], numeric: Sequence[str]
) -> Feature:
    column, named = request.column, request.named
    reason = why_unusable(kind)
    if reason is not None:
        raise StreamlrError(
            f"column '{column}' cannot be a feature: {reason}. Leave it out with --exclude {column}."
        )
    made = request.factor or column in categorical
    if column in numeric:
        if made:
            raise StreamlrError(f"column '{column}' cannot be both categorical and numeric.")
        value_type = kind.value_type if pa.types.is_dictionary(kind) else kind
        if not (is_number(value_type) or is_text(value_type) or pa.types.is_boolean(value_type)):
            raise StreamlrError(f"column '{column}' ({kind}) cannot be read as numbers.")
        return Feature(column, column, categorical=False, named=named)
    if made:
        name = f"C({column})" if request.factor or is_number(kind) else column
        return Feature(column, name, categorical=True, named=named)
    return Feature(column, column, categorical=is_factor(kind), named=named)
