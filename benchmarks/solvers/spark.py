"""Spark's LogisticRegression in one process on all cores, without penalty; it has no standard errors.

Spark reads the Parquet file itself. Factors are indexed and one-hot encoded with the levels in
descending order and the last dropped, which makes the first in sorted order the reference. It
standardises columns inside. The tolerance is relative to the loss, and lbfgs stops there: 1e-12 is as
tight as it will go before the line search fails; a Newton solver Spark has for 4,096 columns of linear
regression only. Arrow and the web interface are off, compression and serialisation as they come.
"""

from __future__ import annotations

import os
from time import perf_counter
from typing import Any

from pyspark.ml.classification import LogisticRegression
from pyspark.ml.feature import OneHotEncoder, StringIndexer, VectorAssembler
from pyspark.sql import SparkSession
from pyspark.sql.functions import col

from . import Solution
from .loading import booleans, factors

DRIVER_MEMORY = "14g"  # the most its heap may grow to; what it takes is measured


def solve(path: str, target: str, features: list[str]) -> Solution:
    """Maximum likelihood by lbfgs."""
    cores = len(os.sched_getaffinity(0))
    spark = (
        SparkSession.builder.master(f"local[{cores}]")
        .config("spark.driver.memory", DRIVER_MEMORY)
        .config("spark.driver.host", "127.0.0.1")
        .config("spark.driver.bindAddress", "127.0.0.1")
        .config("spark.ui.enabled", "false")
        .config("spark.ui.showConsoleProgress", "false")
        .config("spark.log.level", "ERROR")
        .getOrCreate()
    )
    try:
        return fit(spark, path, target, features)
    finally:
        spark.stop()


def fit(spark: Any, path: str, target: str, features: list[str]) -> Solution:
    """Reading is lazy, so that it counts as fitting, all but the levels of the factors."""
    start = perf_counter()
    found = factors(path, features)
    frame = spark.read.parquet(path)
    frame = frame.select(
        *[col(f).cast("string") if f in found else col(f).cast("double") for f in features],
        col(target).cast("double").alias(target),
    )
    terms: list[str] = []
    numbers = [f for f in features if f not in found]
    terms += numbers
    columns = list(numbers)
    if found:
        indexed, encoded = [f"{f}_index" for f in found], [f"{f}_columns" for f in found]
        indexer = StringIndexer(inputCols=found, outputCols=indexed, stringOrderType="alphabetDesc")
        indexer = indexer.fit(frame)
        frame = indexer.transform(frame)
        encoder = OneHotEncoder(inputCols=indexed, outputCols=encoded, dropLast=True)
        frame = encoder.fit(frame).transform(frame)
        columns += encoded
        flags = booleans(path, features)
        for name, levels in zip(found, indexer.labelsArray, strict=True):
            if name in flags:
                levels = ["True", "False"]  # which Spark writes in lower case
            terms += [f"{name}[T.{level}]" for level in levels[:-1]]
    frame = VectorAssembler(inputCols=columns, outputCol="columns").transform(frame)
    loaded = perf_counter()
    model = LogisticRegression(
        featuresCol="columns",
        labelCol=target,
        regParam=0.0,
        tol=1e-12,
        maxIter=500,
        family="binomial",
    ).fit(frame.select("columns", target))
    fitted = perf_counter()
    coef = dict(zip(terms, model.coefficients.toArray().tolist(), strict=True))
    return {
        "coef": {"Intercept": float(model.intercept), **coef},
        "std_error": None,
        "load_seconds": loaded - start,
        "fit_seconds": fitted - loaded,
    }
