"""The model file: versioned JSON without rows and without code, written whole or not at all.

Floats are written in the shortest form that reads back to the same bits; the covariance of the basis, which
nobody reads with their eyes, is the base64 of its lower triangle as little-endian doubles. So are absorbed
effects, and what of them is taken out of other columns.
"""

from __future__ import annotations

import base64
import json
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from streamlr.design.basis import Basis
from streamlr.design.columns import sorted_levels
from streamlr.design.cuts import Cut
from streamlr.design.design import Design
from streamlr.design.encoding import Encoder
from streamlr.design.expressions import Call, nodes_of, parse_expression, text_of
from streamlr.design.features import Feature, Reader
from streamlr.design.functions import FUNCTIONS
from streamlr.design.profile import Merging
from streamlr.design.terms import Cells, Factor, Number, Term, Variable
from streamlr.errors import StreamlrError
from streamlr.inference.firth import Firth
from streamlr.model_document import check_document, parsed
from streamlr.whole_file import written_whole

if TYPE_CHECKING:
    from streamlr.model import Model

FORMAT = "streamlr-model"
VERSION = 3


def write_model(model: Model, path: str) -> None:
    """Write a model so that a reader never sees half of it. Raises `StreamlrError`."""
    text = json.dumps(_to_json(model), indent=1, allow_nan=False, ensure_ascii=False)
    with written_whole(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        file.write(text + "\n")


def read_model(path: str) -> Model:
    """The model of a file. Raises `StreamlrError` for anything that is not one."""
    try:
        with open(path, encoding="utf-8") as file:
            content = parsed(file.read())
    except OSError as error:
        raise StreamlrError(f"cannot read {path}: {error.strerror or error}.") from error
    except (ValueError, RecursionError) as error:
        raise StreamlrError(f"{path} is not a streamlr model: it is not JSON ({error}).") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise StreamlrError(f"{path} is not a streamlr model.")
    if content.get("version") != VERSION:
        raise StreamlrError(
            f"{path} has model format {content.get('version')}; this program reads format {VERSION}. "
            "Fit again."
        )
    try:
        check_document(content)
        with np.errstate(all="ignore"):
            model = _from_json(content)
            _check_encoding(model.design)
        return model
    except StreamlrError as error:
        raise StreamlrError(f"{path} is damaged: {error}") from error
    except ValueError as error:
        raise StreamlrError(f"{path} is damaged: {error}.") from error
    except (KeyError, TypeError, IndexError, AttributeError, OverflowError) as error:
        raise StreamlrError(f"{path} is damaged: {type(error).__name__}: {error}.") from error


def _to_json(model: Model) -> dict[str, Any]:
    basis = model.basis
    own = model.design.layout.own_columns
    content: dict[str, Any] = {
        "format": FORMAT,
        "version": VERSION,
        "terms": list(model.terms),
        "params": model.params.tolist(),
        "std_errors": _or_none(model.bse),
        "statistics": asdict(model.statistics),
        "conf_level": model.conf_level,
        "dropped": dict(model.dropped),
        "excluded": dict(model.excluded),
        "aliased": list(model.aliased),
        "separation": model.separation,
        "design": _design_to_json(model.design),
        "basis": {
            "centre": basis.centre.tolist(),
            "scale": basis.scale.tolist(),
            "active": basis.active[:own].tolist(),
            "reduced": list(basis.reduced),
            "gamma": [row[:own].tolist() for row in basis.gamma],
            "stretch": list(basis.stretch),
            "coef": model.conditioned_coef.tolist(),
            "covariance": _pack(model.conditioned_covariance),
        },
        "covariance_type": model.covariance_type,
        "clusters": dict(model.clusters),
        "small_sample": model.small_sample,
        "trace": [dict(row) for row in model.trace],
        "provenance": dict(model.provenance),
    }
    if model.profile_bounds is not None:
        content["profile"] = {
            "level": model.profile_level,
            "low": _or_none(model.profile_bounds[:, 0]),
            "high": _or_none(model.profile_bounds[:, 1]),
        }
    if model.firth is not None:
        content["penalty"] = model.firth.as_dict()
        if model.firth.roots is not None:
            content["penalty"]["roots"] = _or_none(model.firth.roots)
    if model.robust_covariance is not None:
        content["basis"]["robust_covariance"] = _pack(model.robust_covariance)
    if model.conditioned_effects is not None:
        content["absorbed"] = {
            "effects": _pack_numbers(model.conditioned_effects),
            "gamma": [_pack_numbers(row[own:]) for row in basis.gamma],
        }
    return content


def _from_json(content: dict[str, Any]) -> Model:
    from streamlr.model import Model, Statistics

    design = _design_from_json(content["design"])
    stored = content["basis"]
    own, columns = design.layout.own_columns, design.layout.columns
    effects = None
    gamma_behind = [np.empty(0)] * len(stored["gamma"])
    behind = np.empty(0, dtype=np.bool_)
    if design.absorbed is not None:
        effects = _unpack_numbers(content["absorbed"]["effects"], columns - own)
        gamma_behind = [_unpack_numbers(row, columns - own) for row in content["absorbed"]["gamma"]]
        behind = np.isfinite(effects)
    active = np.array(stored["active"], dtype=np.bool_)
    if active.shape != (own,):
        raise ValueError("the numbers of columns do not agree")
    basis = Basis(
        layout=design.layout,
        centre=_numbers(stored["centre"], len(design.inputs)),
        scale=_numbers(stored["scale"], len(design.inputs)),
        active=np.concatenate([active, behind]),
        reduced=tuple(stored["reduced"]),
        gamma=tuple(
            np.concatenate([_numbers(row, own), rest])
            for row, rest in zip(stored["gamma"], gamma_behind, strict=True)
        ),
        stretch=tuple(stored["stretch"]),
    )
    k = int(active.sum())
    coef = _numbers(stored["coef"], k)
    robust = stored.get("robust_covariance")
    profile = content.get("profile")
    penalty = content.get("penalty")
    if (robust is None) != (content["covariance_type"] == "nonrobust"):
        raise ValueError("the type of the covariance and what is stored of it do not agree")
    return Model(
        design=design,
        basis=basis,
        conditioned_coef=coef,
        inverse_information=_unpack(stored["covariance"], coef.size),
        params=_numbers(content["params"], k),
        bse=(_numbers if robust is None else _numbers_or_none)(content["std_errors"], k),
        statistics=Statistics(**content["statistics"]),
        conf_level=content["conf_level"],
        dropped=content["dropped"],
        excluded=content["excluded"],
        aliased=content["aliased"],
        separation=content["separation"],
        trace=content["trace"],
        provenance=content["provenance"],
        conditioned_effects=effects,
        covariance_type=content["covariance_type"],
        robust_covariance=None if robust is None else _unpack(robust, k),
        clusters=content["clusters"],
        small_sample=content["small_sample"],
        profile_bounds=None
        if profile is None
        else np.column_stack([_numbers_or_none(profile[side], k) for side in ("low", "high")]),
        profile_level=None if profile is None else float(profile["level"]),
        firth=None
        if penalty is None
        else Firth.from_dict(penalty, _numbers_or_none(penalty["roots"], k) if "roots" in penalty else None),
    )


def _check_encoding(design: Design) -> None:
    """Encode a row, so that what functions have learned is known to be whole. Raises what encoding raises."""
    for variable in design.variables:
        for column in variable.feature.columns:
            if column not in design.reader.kinds:
                raise ValueError(f"the kind of column {column!r} is missing")
    types = {"number": pa.float64(), "text": pa.string(), "logical": pa.bool_(), "time": pa.timestamp("us")}
    values = {"number": 1.0, "text": "", "logical": True, "time": 0}
    kinds = [design.reader.kinds.get(name, "number") for name in design.feature_columns]
    arrays = [pa.array([values[kind]], types[kind]) for kind in kinds]
    schema = pa.schema(
        [(name, types[kind]) for name, kind in zip(design.feature_columns, kinds, strict=True)]
    )
    Encoder(design).encode_features(pa.RecordBatch.from_arrays(arrays, schema=schema))


def _design_to_json(design: Design) -> dict[str, Any]:
    return {
        "target": design.target,
        "positive": design.positive,
        "negative": design.negative,
        "intercept": design.intercept,
        "weights": design.weights,
        "weight_type": design.weight_type,
        "offset": design.offset,
        "trials": design.trials,
        "missing": design.missing,
        "clusters": list(design.clusters),
        **({"absorb_l2": design.absorb_l2} if design.absorbed is not None else {}),
        "variables": [_variable_to_json(variable) for variable in design.variables],
        "terms": [_term_to_json(term) for term in design.terms],
        "fills": dict(design.reader.fills),
        "states": {name: dict(state) for name, state in design.reader.states.items()},
        "kinds": dict(design.reader.kinds),
        "cuts": [
            {
                "centre": cut.centre.tolist(),
                "scale": cut.scale.tolist(),
                "coef": _pack_numbers(cut.coef),
                "unit": cut.unit,
            }
            for cut in design.cuts
        ],
    }


def _variable_to_json(variable: Variable) -> dict[str, Any]:
    feature = variable.feature
    common = {
        "expression": text_of(feature.expression),
        "name": feature.name,
        "named": feature.named,
        "whole": feature.whole,
        "absorbed": feature.absorbed,
    }
    if isinstance(variable, Number):
        return {"kind": "number", **common, "suffixes": list(variable.suffixes)}
    merging = variable.merging
    return {
        "kind": "factor",
        **common,
        "levels": list(variable.levels),
        "reference": variable.reference,
        "set_aside": [list(pair) for pair in variable.set_aside],
        "unused": list(variable.unused),
        "coding": variable.coding,
        "kept": None if merging.kept is None else sorted_levels(merging.kept),
        "missing_level": merging.missing,
    }


def _term_to_json(term: Term) -> dict[str, Any]:
    cells = term.cells
    return {
        "variables": list(term.variables),
        "full": list(term.full),
        "cells": None if cells is None else list(cells.seen),
        "cells_set_aside": None if cells is None else [list(pair) for pair in cells.set_aside],
    }


def _design_from_json(stored: dict[str, Any]) -> Design:
    design = Design(
        target=stored["target"],
        positive=stored["positive"],
        negative=stored["negative"],
        intercept=stored["intercept"],
        variables=tuple(_variable_from_json(variable) for variable in stored["variables"]),
        terms=tuple(_term_from_json(term, len(stored["variables"])) for term in stored["terms"]),
        reader=Reader(
            fills={name: float(value) for name, value in stored["fills"].items()},
            states={name: dict(state) for name, state in stored["states"].items()},
            kinds=dict(stored["kinds"]),
        ),
        weights=stored["weights"],
        weight_type=stored["weight_type"],
        offset=stored["offset"],
        trials=stored["trials"],
        missing=stored["missing"],
        clusters=tuple(stored["clusters"]),
        absorb_l2=stored.get("absorb_l2", 0.0),
    )
    cuts = tuple(
        Cut(
            centre=_numbers(cut["centre"], len(design.inputs)),
            scale=_numbers(cut["scale"], len(design.inputs)),
            coef=_unpack_numbers(cut["coef"], design.layout.columns),
            unit=float(cut["unit"]),
        )
        for cut in stored.get("cuts", ())
    )
    return replace(design, cuts=cuts) if cuts else design


def _variable_from_json(stored: dict[str, Any]) -> Variable:
    factor = stored["kind"] == "factor"
    if not factor and stored["kind"] != "number":
        raise ValueError(f"unknown kind of variable {stored['kind']!r}")
    expression = parse_expression(stored["expression"])
    for node in nodes_of(expression):
        if isinstance(node, Call) and node.function not in FUNCTIONS:
            raise ValueError(f"there is no function {node.function!r}")
    feature = Feature(
        expression=expression,
        name=stored["name"],
        categorical=factor,
        named=stored["named"],
        whole=stored["whole"],
        absorbed=stored["absorbed"],
    )
    if not factor:
        return Number(feature, tuple(stored["suffixes"]))
    kept = stored["kept"]
    return Factor(
        feature=feature,
        levels=tuple(stored["levels"]),
        reference=stored["reference"],
        set_aside=tuple((level, outcome) for level, outcome in stored["set_aside"]),
        unused=tuple(stored["unused"]),
        coding=stored["coding"],
        merging=Merging(None if kept is None else frozenset(kept), missing=stored["missing_level"]),
    )


def _term_from_json(stored: dict[str, Any], variables: int) -> Term:
    places = tuple(stored["variables"])
    if not all(type(place) is int and 0 <= place < variables for place in places):
        raise ValueError("a term names a variable that there is not")
    cells = None
    if stored["cells"] is not None:
        aside = tuple((int(cell), int(outcome)) for cell, outcome in stored["cells_set_aside"])
        cells = Cells(tuple(int(cell) for cell in stored["cells"]), aside)
    return Term(places, tuple(stored["full"]), cells)


def _numbers(values: Any, count: int) -> NDArray[np.float64]:
    """A list of `count` finite numbers as an array."""
    if not isinstance(values, list) or len(values) != count:
        raise ValueError(f"expected a list of {count} numbers")
    if not all(type(value) in (int, float) for value in values):
        raise ValueError("a list of numbers holds something else")
    array = np.array(values, dtype=np.float64)
    if not np.isfinite(array).all():
        raise ValueError("a number is not finite")
    return array


def _or_none(values: NDArray[np.float64]) -> list[float | None]:
    """Numbers for a file, None where there is none."""
    return [value if np.isfinite(value) else None for value in values.tolist()]


def _numbers_or_none(values: Any, count: int) -> NDArray[np.float64]:
    """A list of `count` numbers as an array, NaN where there is none."""
    if not isinstance(values, list):
        raise ValueError(f"expected a list of {count} numbers")
    known = _numbers([0.0 if value is None else value for value in values], count)
    return np.where([value is None for value in values], np.nan, known)


def _pack_numbers(values: NDArray[np.float64]) -> str:
    return base64.b64encode(values.astype("<f8").tobytes()).decode("ascii")


def _unpack_numbers(text: str, count: int) -> NDArray[np.float64]:
    """`count` numbers; NaN stands for none."""
    values = np.frombuffer(base64.b64decode(text, validate=True), dtype="<f8")
    if values.size != count or np.isinf(values).any():
        raise ValueError(f"expected {count} numbers")
    return values.astype(np.float64)


def _pack(matrix: NDArray[np.float64]) -> str:
    rows = [matrix[i, : i + 1] for i in range(len(matrix))]
    lower = np.concatenate([np.empty(0), *rows]).astype("<f8", copy=False)
    return base64.b64encode(lower.tobytes()).decode("ascii")


def _unpack(text: str, k: int) -> NDArray[np.float64]:
    lower = np.frombuffer(base64.b64decode(text, validate=True), dtype="<f8")
    if lower.size != k * (k + 1) // 2 or not np.isfinite(lower).all():
        raise ValueError("the covariance does not fit the coefficients")
    matrix = np.zeros((k, k))
    begin = 0
    for i in range(k):
        matrix[i, : i + 1] = matrix[: i + 1, i] = lower[begin : begin + i + 1]
        begin += i + 1
    return matrix
