"""Images with boxes -> checked, split scenes of a detection task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from autoprune.errors import TaskError
from autoprune.tasks.arrays import checked_inputs, digest_of
from autoprune.tasks.protocol import SPLITS, Inputs
from autoprune.tasks.splits import SCORED, complete_splits
from autoprune.tasks.subsets import stratified_subset

Floats = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
NOTHING = -1


@dataclass(frozen=True, eq=False)
class Scenes:
    """Images with the objects on them, cut into splits; checked as it is made.

    Args:
        x: [n, c, h, w] finite images, arrays or tensors; stored as float32.
        boxes: n arrays of [k, 4] corners (x1, y1, x2, y2), pixels; k may differ, and be 0.
        labels: n arrays of [k] class numbers from 0.
        splits: Split name -> row numbers. Left out as a whole: 70% train, 15% val and 15% test, scenes of few and of
            many objects alike. Left out alone: `calibration` and `tune` are two such halves of train.
        class_names: Names of the classes in the order of their numbers; left out, there are as many classes as labels.
        unit: What one row is.
        seed: Seed of the splits that are made here.

    Raises:
        TaskError: Data that no honest measurement can come from: no objects, boxes of no area, not finite, shapes or
            splits wrong.
    """

    x: Any
    boxes: Sequence[Any]
    labels: Sequence[Any]
    splits: Mapping[str, Any] = field(default_factory=dict)
    class_names: Sequence[str] = ()
    unit: str = "scene"
    seed: int = 0

    def __post_init__(self) -> None:
        count = len(self.boxes)
        x = checked_inputs(self.x, count)
        if x.ndim != 4:
            raise TaskError(f"Images must be [n, channels, height, width]. Got shape {tuple(x.shape)}.")
        if len(self.labels) != count:
            raise TaskError(f"{len(self.labels)} scenes with labels do not go with {count} scenes with boxes.")
        found = [_objects(i, *pair) for i, pair in enumerate(zip(self.boxes, self.labels, strict=True))]
        object.__setattr__(self, "x", x)
        object.__setattr__(self, "boxes", tuple(boxes for boxes, _ in found))
        object.__setattr__(self, "labels", tuple(labels for _, labels in found))
        object.__setattr__(self, "splits", complete_splits(self.splits, self._strata, self.seed))
        highest = max((int(labels.max()) for labels in self.labels if len(labels)), default=NOTHING)
        if self.class_names and highest >= len(self.class_names):
            raise TaskError(f"Labels reach {highest}, but there are {len(self.class_names)} class names.")
        for name in SCORED:
            if not any(len(self.labels[row]) for row in self.splits[name]):
                raise TaskError(f"The split {name!r} holds no object.", hint="Give every split scenes with objects.")

    @cached_property
    def classes(self) -> int:
        """Number of classes."""
        return len(self.class_names) or 1 + max(int(labels.max()) for labels in self.labels if len(labels))

    @cached_property
    def fingerprint(self) -> str:
        """Digest of images, objects, splits and unit."""
        boxes = {f"boxes{i}": array for i, array in enumerate(self.boxes)}
        labels = {f"labels{i}": array for i, array in enumerate(self.labels)}
        splits = {str(name): self.splits[name] for name in SPLITS}
        return digest_of(self.unit, {"x": self.x.numpy(), **boxes, **labels, **splits})

    def rows(self, split: str, *, limit: int | None = None, seed: int = 0) -> IntArray:
        """Return the rows of a split, shuffled by `seed`; `limit` draws that many, with few and many objects alike."""
        rows: IntArray = self.splits[split]
        return rows[stratified_subset(self._strata[rows], limit, np.random.default_rng(seed))]

    def take(self, rows: IntArray) -> Inputs:
        """Return the model's inputs of some rows."""
        return Inputs((self.x[rows],), {})

    def batch(self, rows: IntArray) -> tuple[Tensor, Tensor, Tensor]:
        """Return images, [n, k, 4] boxes and [n, k] labels of some rows; where a scene has fewer, labels are -1."""
        most = max(1, *(len(self.labels[row]) for row in rows)) if len(rows) else 1
        boxes, labels = torch.zeros(len(rows), most, 4), torch.full((len(rows), most), NOTHING)
        for index, row in enumerate(rows):
            count = len(self.labels[row])
            boxes[index, :count] = torch.from_numpy(self.boxes[row]).float()
            labels[index, :count] = torch.from_numpy(self.labels[row])
        return self.x[rows], boxes, labels

    @cached_property
    def _strata(self) -> IntArray:
        """[n] numbers of objects."""
        return np.array([len(labels) for labels in self.labels], dtype=np.int64)


def _objects(scene: int, boxes: Any, labels: Any) -> tuple[Floats, IntArray]:
    corners = np.asarray(boxes, dtype=np.float64).reshape(-1, 4) if np.size(boxes) == 0 else np.asarray(boxes)
    numbers = np.asarray(labels)
    if corners.ndim != 2 or corners.shape[1] != 4 or corners.dtype.kind not in "fiu":
        raise TaskError(f"Boxes must be [k, 4] numbers. Got shape {corners.shape} in scene {scene}.")
    if numbers.shape != (len(corners),) or (len(numbers) and numbers.dtype.kind not in "iu"):
        raise TaskError(f"Scene {scene} has {len(corners)} boxes, but labels of {numbers.shape} {numbers.dtype}.")
    corners = corners.astype(np.float64)
    if not np.isfinite(corners).all() or not (corners[:, 2:] > corners[:, :2]).all():
        raise TaskError(
            f"Scene {scene} has a box that is no (x1, y1, x2, y2) with x2 > x1 and y2 > y1.",
            hint="Give corners in pixels, not centre and size.",
        )
    if len(numbers) and numbers.min() < 0:
        raise TaskError(f"Labels must be >= 0. Got {numbers.min()} in scene {scene}.", hint="Number them from 0.")
    return corners, numbers.astype(np.int64)
