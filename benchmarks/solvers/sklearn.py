"""scikit-learn's newton-cholesky solver, without penalty; it has no standard errors."""

from __future__ import annotations

from time import perf_counter

import numpy as np
from sklearn.compose import make_column_transformer
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import OneHotEncoder

from . import Solution
from .loading import factors, read_frame, read_matrix


def solve(path: str, target: str, features: list[str]) -> Solution:
    """Maximum likelihood; factors are one-hot columns of a sparse matrix, first level left out."""
    start = perf_counter()
    text = factors(path, features)
    terms = features
    if text:
        frame, y = read_frame(path, target, features)
        levels = [frame[name].cat.categories.to_numpy() for name in text]
        encoder = make_column_transformer(
            (OneHotEncoder(categories=levels, drop="first"), text),
            remainder="passthrough",
            sparse_threshold=1.0,
        )
        X = encoder.fit_transform(frame)
        del frame
        terms = [f"{name}[T.{level}]" for name in text for level in levels[text.index(name)][1:]]
        terms += [name for name in features if name not in text]
    else:
        X, y = read_matrix(path, target, features, order="C")
    loaded = perf_counter()
    model = LogisticRegression(C=np.inf, solver="newton-cholesky", tol=1e-8).fit(X, y)
    fitted = perf_counter()
    coef = dict(zip(terms, model.coef_[0].tolist(), strict=True))
    return {
        "coef": {"Intercept": float(model.intercept_[0]), **coef},
        "std_error": None,
        "load_seconds": loaded - start,
        "fit_seconds": fitted - loaded,
    }
