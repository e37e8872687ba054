"""Given or missing splits -> checked ones: disjoint where it matters, and stratified where they are made here."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from autoprune.errors import TaskError
from autoprune.tasks.protocol import SPLITS
from autoprune.tasks.subsets import stratified_subset

IntArray = npt.NDArray[np.int64]
SCORED = ("train", "val", "test")


def complete_splits(given: Mapping[str, Any], strata: IntArray, seed: int) -> dict[str, IntArray]:
    """Return every split's row numbers.

    Args:
        given: Split name -> row numbers. Empty: 70% train, 15% val and 15% test, stratified. `calibration` and `tune`
            are the two stratified halves of train where they are left out.
        strata: [n] class of every row, kept in proportion in what is drawn here; zeros where rows have no classes.
        seed: Of what is drawn here.

    Raises:
        TaskError: A split is missing, unknown, empty, or shares rows with `val` or `test`; or its rows do not exist.
    """
    rng = np.random.default_rng(seed)
    if not given:
        given = _stratified_splits(strata, rng)
    unknown, missing = sorted(set(given) - set(SPLITS)), [s for s in SCORED if s not in given]
    if unknown or missing:
        problem = f"unknown split {unknown[0]!r}" if unknown else f"split {missing[0]!r} is missing"
        raise TaskError(f"splits: {problem}.", hint=f"Splits: {', '.join(SPLITS)}; calibration and tune are optional.")
    splits = {name: _check_split(name, rows, len(strata)) for name, rows in given.items()}
    _check_overlap(splits)
    train = splits["train"]
    half = train[stratified_subset(strata[train], (len(train) + 1) // 2, rng)]
    splits.setdefault("calibration", half)
    splits.setdefault("tune", np.setdiff1d(train, half))
    return {name: _check_split(name, splits[name], len(strata)) for name in SPLITS}


def _stratified_splits(y: IntArray, rng: np.random.Generator) -> dict[str, IntArray]:
    n = len(y)
    train_size, test_size = round(0.7 * n), round(0.15 * n)
    test = stratified_subset(y, test_size, rng)
    rest = np.setdiff1d(np.arange(n), test)
    val = rest[stratified_subset(y[rest], n - train_size - test_size, rng)]
    return {"train": np.setdiff1d(rest, val), "val": val, "test": test}


def _check_split(name: str, rows: Any, n: int) -> IntArray:
    array = np.asarray(rows)
    if array.ndim != 1 or len(array) == 0 or array.dtype.kind not in "iu":
        raise TaskError(
            f"The split {name!r} must be [k] row numbers, k >= 1. Got shape {array.shape} of {array.dtype}."
        )
    if array.min() < 0 or array.max() >= n or len(np.unique(array)) != len(array):
        raise TaskError(f"The split {name!r} must be distinct row numbers in 0..{n - 1}.")
    return array.astype(np.int64)


def _check_overlap(splits: Mapping[str, IntArray]) -> None:
    for one, other in itertools.combinations(splits, 2):
        if not {one, other} & {"val", "test"}:
            continue
        shared = np.intersect1d(splits[one], splits[other])
        if len(shared):
            raise TaskError(
                f"{len(shared)} rows are both in {one!r} and in {other!r}, such as row {shared[0]}.",
                hint="Make the splits disjoint: scores on rows that were trained on mean nothing.",
            )
