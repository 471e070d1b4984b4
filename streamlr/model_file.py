"""The model file: versioned JSON without rows and without code, written whole or not at all.

Floats are written in the shortest form that reads back to the same bits; the covariance of the basis, which
nobody reads with their eyes, is the base64 of its lower triangle as little-endian doubles. So are absorbed
effects, and what of them is taken out of other columns.
"""

from __future__ import annotations

import base64
import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from streamlr.design.basis import Basis
from streamlr.design.design import Design, Factor, Number, Term
from streamlr.errors import StreamlrError
from streamlr.whole_file import written_whole

if TYPE_CHECKING:
    from streamlr.model import Model

FORMAT = "streamlr-model"
VERSION = 1


def write_model(model: Model, path: str) -> None:
    """Write a model so that a reader never sees half of it. Raises `StreamlrError`."""
    text = json.dumps(_to_json(model), indent=1, allow_nan=False, ensure_ascii=False)
    with written_whole(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        file.write(text + "\n")


def read_model(path: str) -> Model:
    """The model of a file. Raises `StreamlrError` for anything that is not one."""
    try:
        with open(path, encoding="utf-8") as file:
            content = json.load(file)
    except OSError as error:
        raise StreamlrError(f"cannot read {path}: {error.strerror or error}.") from error
    except (ValueError, RecursionError) as error:
        raise StreamlrError(f"{path} is not a streamlr model: it is not JSON ({error}).") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise StreamlrError(f"{path} is not a streamlr model.")
    if content.get("version") != VERSION:
        raise StreamlrError(
            f"{path} has model format {content.get('version')}; this program reads format {VERSION}."
        )
    try:
        return _from_json(content)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, OverflowError) as error:
        raise StreamlrError(f"{path} is damaged: {type(error).__name__}: {error}.") from error


def _to_json(model: Model) -> dict[str, Any]:
    basis = model.basis
    own = model.design.layout.own_columns
    content = {
        "format": FORMAT,
        "version": VERSION,
        "terms": list(model.terms),
        "params": model.params.tolist(),
        "std_errors": model.bse.tolist(),
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
        "trace": [dict(row) for row in model.trace],
        "provenance": dict(model.provenance),
    }
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
        centre=_numbers(stored["centre"], design.layout.numeric),
        scale=_numbers(stored["scale"], design.layout.numeric),
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
    return Model(
        design=design,
        basis=basis,
        conditioned_coef=coef,
        conditioned_covariance=_unpack(stored["covariance"], coef.size),
        params=_numbers(content["params"], k),
        bse=_numbers(content["std_errors"], k),
        statistics=Statistics(**content["statistics"]),
        conf_level=content["conf_level"],
        dropped=content["dropped"],
        excluded=content["excluded"],
        aliased=content["aliased"],
        separation=content["separation"],
        trace=content["trace"],
        provenance=content["provenance"],
        conditioned_effects=effects,
    )


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
        **({"absorb_l2": design.absorb_l2} if design.absorbed is not None else {}),
        "terms": [_term_to_json(term) for term in design.terms],
    }


def _term_to_json(term: Term) -> dict[str, Any]:
    common = {"column": term.column, "name": term.name, "named": term.named}
    if isinstance(term, Number):
        return {"kind": "number", **common}
    return {
        "kind": "factor",
        **common,
        "levels": list(term.levels),
        "reference": term.reference,
        "set_aside": [list(pair) for pair in term.set_aside],
        "unused": list(term.unused),
        **({"absorbed": True} if term.absorbed else {}),
    }


def _design_from_json(stored: dict[str, Any]) -> Design:
    return Design(
        target=stored["target"],
        positive=stored["positive"],
        negative=stored["negative"],
        intercept=stored["intercept"],
        terms=tuple(_term_from_json(term) for term in stored["terms"]),
        weights=stored["weights"],
        weight_type=stored["weight_type"],
        offset=stored["offset"],
        trials=stored["trials"],
        missing=stored["missing"],
        absorb_l2=stored.get("absorb_l2", 0.0),
    )


def _term_from_json(stored: dict[str, Any]) -> Term:
    if stored["kind"] == "number":
        return Number(stored["column"], stored["name"], stored["named"])
    if stored["kind"] != "factor":
        raise ValueError(f"unknown kind of term {stored['kind']!r}")
    return Factor(
        column=stored["column"],
        name=stored["name"],
        named=stored["named"],
        levels=tuple(stored["levels"]),
        reference=stored["reference"],
        set_aside=tuple((level, outcome) for level, outcome in stored["set_aside"]),
        unused=tuple(stored["unused"]),
        absorbed=stored.get("absorbed", False),
    )


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


def _pack_numbers(values: NDArray[np.float64]) -> str:
    return base64.b64encode(values.astype("<f8").tobytes()).decode("ascii")


def _unpack_numbers(text: str, count: int) -> NDArray[np.float64]:
    """`count` numbers; NaN stands for none."""
    values = np.frombuffer(base64.b64decode(text, validate=True), dtype="<f8")
    if values.size != count or np.isinf(values).any():
        raise ValueError(f"expected {count} numbers")
    return values.astype(np.float64)


def _pack(matrix: NDArray[np.float64]) -> str:
    lower = matrix[np.tril_indices(len(matrix))].astype("<f8")
    return base64.b64encode(lower.tobytes()).decode("ascii")


def _unpack(text: str, k: int) -> NDArray[np.float64]:
    lower = np.frombuffer(base64.b64decode(text, validate=True), dtype="<f8")
    if lower.size != k * (k + 1) // 2 or not np.isfinite(lower).all():
        raise ValueError("the covariance does not fit the coefficients")
    matrix = np.zeros((k, k))
    matrix[np.tril_indices(k)] = lower
    return matrix + np.tril(matrix, -1).T
