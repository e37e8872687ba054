"""Arrays in memory -> checked, split data of a classification task."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from autoprune.errors import TaskError
from autoprune.tasks.protocol import SPLITS
from autoprune.tasks.subsets import stratified_subset

IntArray = npt.NDArray[np.int64]
SCORED = ("train", "val", "test")


@dataclass(frozen=True, eq=False)
class LabelledArrays:
    """Inputs with integer labels, cut into splits; checked as it is made.

    Args:
        x: [n, ...] finite inputs, arrays or tensors; stored as float32.
        y: [n] class numbers from 0.
        splits: Split name -> row numbers. Left out as a whole: 70% train, 15% val and 15% test, stratified. Left out
            alone: `calibration` and `tune` are the two stratified halves of train.
        unit: What one row is: image, document, scene or row.
        seed: Seed of the splits that are made here.

    Raises:
        TaskError: Data that no honest measurement can come from: empty, one class, not finite, shapes or splits wrong.
    """

    x: Any
    y: Any
    splits: Mapping[str, Any] = field(default_factory=dict)
    unit: str = "row"
    seed: int = 0

    def __post_init__(self) -> None:
        x, y = _inputs(self.x), _labels(self.y)
        _check_rows(x, y)
        object.__setattr__(self, "x", x)
        object.__setattr__(self, "y", y)
        object.__setattr__(self, "splits", _complete(self.splits, y, self.seed))
        for name in SCORED:
            if len(np.unique(y[self.splits[name]])) < 2:
                raise TaskError(
                    f"The split {name!r} holds one class only.", hint="Shuffle the rows before splitting, or stratify."
                )

    @property
    def classes(self) -> int:
        """Number of classes: the largest label + 1."""
        return int(self.y.max()) + 1

    @cached_property
    def labels(self) -> Tensor:
        """[n] labels as a tensor."""
        return torch.from_numpy(self.y)

    @cached_property
    def fingerprint(self) -> str:
        """Digest of inputs, labels, splits and unit."""
        digest = hashlib.sha256(self.unit.encode())
        for name, array in (("x", self.x.numpy()), ("y", self.y), *((s, self.splits[s]) for s in SPLITS)):
            digest.update(f"{name}{array.dtype}{array.shape}".encode())
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()

    def rows(self, split: str, *, limit: int | None = None, seed: int = 0) -> IntArray:
        """Return the rows of a split, shuffled by `seed`; `limit` draws a stratified subset of that many."""
        rows: IntArray = self.splits[split]
        return rows[stratified_subset(self.y[rows], limit, np.random.default_rng(seed))]


def _inputs(value: Any) -> Tensor:
    array = value.detach().cpu().numpy() if isinstance(value, Tensor) else np.asarray(value)
    if array.dtype.kind not in "fiub":
        raise TaskError(f"Inputs must be numbers. Got {array.dtype}.", hint="Encode them before making the task.")
    return torch.tensor(array, dtype=torch.float32)


def _labels(value: Any) -> IntArray:
    array = value.detach().cpu().numpy() if isinstance(value, Tensor) else np.asarray(value)
    if array.ndim != 1 or array.dtype.kind not in "iub":
        raise TaskError(
            f"Labels must be [n] integers. Got shape {array.shape} of {array.dtype}.",
            hint="Give class numbers from 0, not one-hot rows or names.",
        )
    return array.astype(np.int64)


def _check_rows(x: Tensor, y: IntArray) -> None:
    if len(y) == 0 or len(x) == 0:
        raise TaskError("The data are empty.", hint="Check where the task loads them from.")
    if x.ndim < 2 or len(x) != len(y):
        raise TaskError(
            f"Inputs of shape {tuple(x.shape)} do not go with {len(y)} labels.", hint="Give one row of inputs a label."
        )
    bad = ~torch.isfinite(x).flatten(1).all(dim=1)
    if bad.any():
        raise TaskError(
            f"{int(bad.sum())} of {len(x)} rows hold NaN or infinity, the first is row {int(bad.int().argmax())}.",
            hint="Drop or fill those rows.",
        )
    if y.min() < 0:
        raise TaskError(f"Labels must be >= 0. Got {y.min()}.", hint="Number the classes from 0.")
    if len(np.unique(y)) < 2:
        raise TaskError(f"All {len(y)} labels are {y[0]}: there is one class only.", hint="Give data of all classes.")


def _complete(given: Mapping[str, Any], y: IntArray, seed: int) -> dict[str, IntArray]:
    rng = np.random.default_rng(seed)
    if not given:
        given = _stratified_splits(y, rng)
    unknown, missing = sorted(set(given) - set(SPLITS)), [s for s in SCORED if s not in given]
    if unknown or missing:
        problem = f"unknown split {unknown[0]!r}" if unknown else f"split {missing[0]!r} is missing"
        raise TaskError(f"splits: {problem}.", hint=f"Splits: {', '.join(SPLITS)}; calibration and tune are optional.")
    splits = {name: _check_split(name, rows, len(y)) for name, rows in given.items()}
    _check_overlap(splits)
    train = splits["train"]
    half = train[stratified_subset(y[train], (len(train) + 1) // 2, rng)]
    splits.setdefault("calibration", half)
    splits.setdefault("tune", np.setdiff1d(train, half))
    return {name: _check_split(name, splits[name], len(y)) for name in SPLITS}


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
