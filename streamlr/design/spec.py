"""What the user asked for, checked against the names and types of the data before any row is read.

A `Spec` holds roles (outcome, weights, offset, trials), variables with the kind each will be coded as, and
terms, which are sets of variables. Columns that the user did not name and that can be no term are left out
here with the reason; what the user named and cannot be used is an error.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, get_args

import pyarrow as pa

from streamlr.design.columns import is_factor, is_number, is_text, why_unusable
from streamlr.design.expressions import Call, Column, Expression, columns_of, quoted, text_of
from streamlr.design.features import Feature, unwrapped
from streamlr.design.formula import Formula, parse_formula
from streamlr.design.functions import CALENDAR, check_alone, is_whole, kind_of
from streamlr.design.keys import can_be_keys
from streamlr.errors import StreamlrError, did_you_mean

if TYPE_CHECKING:
    from streamlr.design.where import Where

TARGET_NAMES = ("y", "target", "label", "outcome", "class")

WeightType = Literal["frequency", "analytic", "sampling"]
MissingPolicy = Literal["drop", "error", "indicator", "fill"]
FILL = "fill="
MOST_CLUSTERS = 2


@dataclass(frozen=True)
class Spec:
    """A model before its data are read. `terms`: for each the places of its variables among `features`.

    `fill`: what stands for missing values where the policy is to fill them.
    """

    target: str
    features: tuple[Feature, ...]
    terms: tuple[tuple[int, ...], ...]
    intercept: bool
    types: Mapping[str, pa.DataType]
    where: Where | None
    weights: str | None
    weight_type: WeightType
    offset: str | None
    trials: str | None
    missing: MissingPolicy
    fill: str | None
    positive: Any
    reference: Mapping[str, Any]
    excluded: Mapping[str, str]
    target_inferred: bool
    absorb_l2: float = 0.0
    clusters: tuple[str, ...] = ()

    @property
    def absorbed(self) -> str | None:
        """The name of the factor whose effects are absorbed."""
        return next((feature.name for feature in self.features if feature.absorbed), None)

    @property
    def columns(self) -> tuple[str, ...]:
        """Every column that is read, each once."""
        return self.columns_for(self.features)

    @property
    def keeps_gaps(self) -> bool:
        """Whether rows in which a factor is missing are used, as a level of their own."""
        return self.missing in ("indicator", "fill")

    def columns_for(self, features: Sequence[Feature]) -> tuple[str, ...]:
        """The columns of the roles, the filter and some variables, each once."""
        names = [name for name in (self.target, self.weights, self.offset, self.trials) if name is not None]
        names.extend(self.clusters)
        names.extend(self.where.columns if self.where is not None else ())
        names.extend(name for feature in features for name in feature.columns)
        return tuple(dict.fromkeys(names))

    def without(self, gone: Set[int], reasons: Mapping[str, str]) -> Spec:
        """The spec without some variables, and without the terms that they are in."""
        kept = [place for place in range(len(self.features)) if place not in gone]
        moved = {place: new for new, place in enumerate(kept)}
        return replace(
            self,
            features=tuple(self.features[place] for place in kept),
            terms=tuple(tuple(moved[place] for place in term) for term in self.terms if not gone & set(term)),
            excluded={**self.excluded, **reasons},
        )

    def with_term(self, feature: Feature) -> Spec:
        """The spec with one variable more, as a term of its own behind the others of one variable."""
        place = len(self.features)
        main = [term for term in self.terms if len(term) == 1 and not self.features[term[0]].absorbed]
        rest = [term for term in self.terms if term not in main]
        return replace(self, features=(*self.features, feature), terms=(*main, (place,), *rest))


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
    where: str | None,
    missing: str,
    weights: str | None,
    weight_type: WeightType,
    offset: str | None,
    trials: str | None,
    clusters: Sequence[str] = (),
) -> Spec:
    """Check every name and settle every role. Raises `StreamlrError`."""
    if weight_type not in get_args(WeightType):
        raise StreamlrError(f"weight_type is '{weight_type}'; it must be frequency, analytic or sampling.")
    names = list(schema.names)
    types = {field.name: field.type for field in schema}
    given = [name for name in (weights, offset, trials) if name is not None]
    parsed = None
    if formula is not None:
        if features is not None:
            raise StreamlrError("give either a formula or a list of features, not both.")
        parsed = _parsed(formula, types, target, {*given, *exclude, *clusters})
        target = parsed.target if parsed.target is not None else target
    outcome = _inferred_target(schema) if target is None else target
    for name in (outcome, *given, *clusters, *exclude, *categorical, *numeric, *reference):
        _check_name(name, names, origin)
    _check_roles(types, outcome, weights=weights, offset=offset, trials=trials)
    _check_clusters(types, clusters)
    both = sorted(set(categorical) & set(numeric))
    if both:
        raise StreamlrError(f"column '{both[0]}' cannot be both categorical and numeric.")

    policy, fill = _missing_policy(missing)
    roles = {outcome, *given}
    wanted, excluded = _wanted(types, parsed, features, {*roles, *exclude, *clusters})
    variables: dict[Expression, Feature] = {}
    places: dict[Expression, int] = {}
    terms = []
    for term in wanted:
        for request in term:
            for name in columns_of(request.expression):
                _check_name(name, names, origin)
                if name in roles:
                    raise StreamlrError(
                        f"column '{name}' cannot be both a feature and the target, weights, offset or trials."
                    )
        if any(name in exclude for request in term for name in columns_of(request.expression)):
            continue
        for request in term:
            if request.expression not in variables:
                variables[request.expression] = _feature(request, types, categorical, numeric)
                places[request.expression] = len(places)
        terms.append(tuple(places[request.expression] for request in term))
    resolved = list(variables.values())
    if parsed is None and not resolved:
        raise StreamlrError(
            "no feature is left: every column has another role, is excluded or cannot be used."
        )
    _check_options(resolved, (*categorical, *numeric), reference)
    rows = None
    if where is not None:
        from streamlr.design.where import parse_where

        rows = parse_where(where, schema, origin)
    return Spec(
        target=outcome,
        features=tuple(resolved),
        terms=tuple(terms),
        intercept=parsed.intercept if parsed is not None else True,
        types=types,
        where=rows,
        weights=weights,
        weight_type=weight_type,
        offset=offset,
        trials=trials,
        missing=policy,
        fill=fill,
        positive=positive,
        reference=dict(reference),
        excluded=excluded,
        target_inferred=target is None,
        clusters=tuple(clusters),
    )


def _missing_policy(missing: str) -> tuple[MissingPolicy, str | None]:
    if missing.startswith(FILL) and len(missing) > len(FILL):
        return "fill", missing[len(FILL) :]
    policies: dict[str, MissingPolicy] = {"drop": "drop", "error": "error", "indicator": "indicator"}
    if missing in policies:
        return policies[missing], None
    raise StreamlrError(f"missing must be drop, error, indicator or fill=VALUE, not '{missing}'.")


@dataclass(frozen=True)
class Request:
    """A variable asked for, by name or by default."""

    expression: Expression
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
) -> tuple[list[tuple[Request, ...]], dict[str, str]]:
    """The terms asked for, and columns that nobody named and that can be no feature, with the reason."""
    left_out = {
        name: reason
        for name, kind in types.items()
        if name not in taken and (reason := _default_reason(name, kind)) is not None
    }
    if parsed is not None:
        by_dot = set(types) - parsed.written if parsed.has_dot else set()
        terms = [
            tuple(
                Request(variable, not (isinstance(variable, Column) and variable.name in by_dot))
                for variable in term
            )
            for term in parsed.terms
        ]
        return terms, left_out if parsed.has_dot else {}
    if features is not None:
        return [(Request(Column(name), True),) for name in dict.fromkeys(features)], {}
    return [
        (Request(Column(name), False),) for name in types if name not in taken and name not in left_out
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


def _check_clusters(types: Mapping[str, pa.DataType], clusters: Sequence[str]) -> None:
    if len(clusters) > MOST_CLUSTERS or len(set(clusters)) < len(clusters):
        raise StreamlrError(
            f"clusters are told by one column or by two different ones, not by {', '.join(clusters)}."
        )
    for name in clusters:
        if not can_be_keys(types[name]):
            raise StreamlrError(f"column '{name}' ({types[name]}) cannot tell clusters.")


def _check_options(resolved: Sequence[Feature], coded: Sequence[str], reference: Mapping[str, Any]) -> None:
    """Options about a column need that column among the features, and a reference needs levels."""
    columns = {name for feature in resolved for name in feature.columns}
    factors = {feature.column: feature.categorical for feature in resolved}
    factors.update({feature.column: True for feature in resolved if feature.categorical})
    for column in (*coded, *reference):
        if column not in columns:
            raise StreamlrError(f"column '{column}' is given an option but is not a feature of this model.")
    for column in reference:
        if not factors.get(column):
            raise StreamlrError(
                f"column '{column}' is numeric and has no reference level; make it categorical."
            )


def _default_reason(name: str, kind: pa.DataType) -> str | None:
    """Why a column that nobody named is no feature, as far as its name and type tell."""
    return "index written by pandas" if name.startswith("__index_level_") else why_unusable(kind)


def _check_name(name: str, names: Sequence[str], origin: str) -> None:
    if name not in names:
        shown = name if len(name) <= 60 else name[:57] + "..."
        raise StreamlrError(
            f"no column '{shown}' in {origin} ({len(names)} columns).{did_you_mean(name, names)}"
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
    request: Request,
    types: Mapping[str, pa.DataType],
    categorical: Sequence[str],
    numeric: Sequence[str],
) -> Feature:
    expression, named = request.expression, request.named
    if isinstance(expression, Column):
        return _column_feature(expression.name, types[expression.name], named, categorical, numeric)
    name = text_of(expression)
    for column in columns_of(expression):
        kind = types[column]
        if pa.types.is_nested(kind) or pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
            raise StreamlrError(f"column '{column}' cannot be a feature: {why_unusable(kind)}.")
    check_alone(expression)
    sort = kind_of(expression, types)
    if not columns_of(expression):
        raise StreamlrError(f"{name} reads no column, so it is the same for every row. Leave it out.")
    if sort == "time":
        raise StreamlrError(f"{name} is a date or time. Use its parts: {', '.join(CALENDAR)}.")
    if sort == "factor" and isinstance(expression, Call) and expression.function == "C":
        inner = expression.arguments[0]
        if isinstance(inner, Column) and inner.name in numeric:
            raise StreamlrError(f"column '{inner.name}' cannot be both categorical and numeric.")
    return Feature(
        expression,
        name,
        categorical=sort != "number",
        named=named,
        whole=is_whole(unwrapped(expression), types),
    )


def _column_feature(
    column: str, kind: pa.DataType, named: bool, categorical: Sequence[str], numeric: Sequence[str]
) -> Feature:
    reason = why_unusable(kind)
    if reason is not None:
        parts = f" Use its parts: {', '.join(f'{part}({column})' for part in CALENDAR)}."
        time = pa.types.is_timestamp(kind) or pa.types.is_date(kind)
        raise StreamlrError(
            f"column '{column}' cannot be a feature: {reason}. Leave it out with --exclude {column}."
            + (parts if time else "")
        )
    expression = Column(column)
    if column in numeric:
        value_type = kind.value_type if pa.types.is_dictionary(kind) else kind
        if not (is_number(value_type) or is_text(value_type) or pa.types.is_boolean(value_type)):
            raise StreamlrError(f"column '{column}' ({kind}) cannot be read as numbers.")
        return Feature(expression, column, categorical=False, named=named)
    if column in categorical:
        name = f"C({quoted(column)})" if is_number(kind) else column
        return Feature(expression, name, categorical=True, named=named)
    return Feature(expression, column, categorical=is_factor(kind), named=named)
