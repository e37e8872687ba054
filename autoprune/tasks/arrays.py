"""Arrays in memory -> checked, split data of a classification task."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from autoprune.errors import TaskError
from autoprune.tasks.optional import unknown_shift
from autoprune.tasks.protocol import SPLITS, Inputs, Sample
from autoprune.tasks.splits import SCORED, complete_splits
from autoprune.tasks.subsets import stratified_subset

IntArray = npt.NDArray[np.int64]
SMALLEST_IMAGE = 4
Data = TypeVar("Data")


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
        shifts: Name -> data unlike these, of the same form and classes, of which every row is scored: how well a model
            fares where it was not trained.
        class_names: Names of the classes in the order of their numbers, for the report; they count for no digest.

    Raises:
        TaskError: Data that no honest measurement can come from: empty, one class, not finite, shapes or splits wrong.
    """

    x: Any
    y: Any
    splits: Mapping[str, Any] = field(default_factory=dict)
    unit: str = "row"
    seed: int = 0
    shifts: Mapping[str, LabelledArrays] = field(default_factory=dict)
    class_names: Sequence[str] = ()

    def __post_init__(self) -> None:
        y = _labels(self.y)
        object.__setattr__(self, "x", self._checked_inputs(len(y)))
        _check_labels(y)
        object.__setattr__(self, "y", y)
        object.__setattr__(self, "splits", complete_splits(self.splits, y, self.seed))
        for name in SCORED:
            if len(np.unique(y[self.splits[name]])) < 2:
                raise TaskError(
                    f"The split {name!r} holds one class only.", hint="Shuffle the rows before splitting, or stratify."
                )
        for name, other in self.shifts.items():
            if type(other) is not type(self) or other.classes > self.classes:
                raise TaskError(
                    f"The shifted domain {name!r} must be a {type(self).__name__} of at most {self.classes} classes.",
                    hint="Number the classes as in the data that the model was trained on.",
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
        return digest_of(self.unit, {**self._arrays(), "y": self.y, **{s: self.splits[s] for s in SPLITS}})

    def rows(self, split: str, *, limit: int | None = None, seed: int = 0) -> IntArray:
        """Return the rows of a split, shuffled by `seed`; `limit` draws a stratified subset of that many."""
        rows: IntArray = self.splits[split]
        return rows[stratified_subset(self.y[rows], limit, np.random.default_rng(seed))]

    def take(self, rows: IntArray) -> Inputs:
        """Return the model's inputs of some rows."""
        return Inputs((self.x[rows],), {})

    def batch(self, rows: IntArray) -> Any:
        """Return inputs and labels of some rows, to train on."""
        return self.x[rows], self.labels[rows]

    def samples(self, rows: IntArray) -> Sequence[Sample] | None:
        """Return rows that are images, [1 or 3, h, w], on one scale from their least to their greatest value."""
        if self.x.ndim != 4 or self.x.shape[1] not in (1, 3) or min(self.x.shape[2:]) < SMALLEST_IMAGE:
            return None
        x = self.x[rows].movedim(1, 3).numpy()
        x = (x - x.min()) / max(float(np.ptp(x)), float(np.finfo(np.float32).tiny))
        images = x[..., 0] if x.shape[3] == 1 else x
        return [Sample(str(row), image, None, self.name_of(row)) for row, image in zip(rows, images, strict=True)]

    def name_of(self, row: int) -> str:
        """Return the name of a row's class, or its number where the classes have no names."""
        number = int(self.y[row])
        return self.class_names[number] if number < len(self.class_names) else str(number)

    def _checked_inputs(self, count: int) -> Any:
        return checked_inputs(self.x, count)

    def _arrays(self) -> dict[str, npt.NDArray[Any]]:
        return {"x": self.x.numpy()}


def named_shift(task: str, shifts: Mapping[str, Data], name: str) -> Data:
    """Return the data of a shifted domain.

    Raises:
        TaskError: There is none of that name.
    """
    if name not in shifts:
        raise unknown_shift(task, name, shifts)
    return shifts[name]


def digest_of(unit: str, arrays: Mapping[str, npt.NDArray[Any]]) -> str:
    """Return the digest of a data set: its unit, and its arrays with their names."""
    digest = hashlib.sha256(unit.encode())
    for name, array in arrays.items():
        digest.update(f"{name}{array.dtype}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def checked_inputs(value: Any, count: int) -> Tensor:
    """Return inputs as a float32 tensor.

    Raises:
        TaskError: They are no numbers, not finite, empty, or not `count` rows.
    """
    x = _inputs(value)
    _check_rows(x, count)
    return x


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


def _check_rows(x: Tensor, count: int) -> None:
    if count == 0 or len(x) == 0:
        raise TaskError("The data are empty.", hint="Check where the task loads them from.")
    if x.ndim < 2 or len(x) != count:
        raise TaskError(
            f"Inputs of shape {tuple(x.shape)} do not go with {count} labels.", hint="Give one row of inputs a label."
        )
    bad = ~torch.isfinite(x).flatten(1).all(dim=1)
    if bad.any():
        raise TaskError(
            f"{int(bad.sum())} of {len(x)} rows hold NaN or infinity, the first is row {int(bad.int().argmax())}.",
            hint="Drop or fill those rows.",
        )


def _check_labels(y: IntArray) -> None:
    if y.min() < 0:
        raise TaskError(f"Labels must be >= 0. Got {y.min()}.", hint="Number the classes from 0.")
    if len(np.unique(y)) < 2:
        raise TaskError(f"All {len(y)} labels are {y[0]}: there is one class only.", hint="Give data of all classes.")
