"""Model, scenes, decoding and loss -> a complete detection task."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autoprune.errors import CandidateError, TaskError
from autoprune.tasks.base import tensors_of
from autoprune.tasks.boxes import MOST, average_precisions, match
from autoprune.tasks.in_memory import InMemoryTask
from autoprune.tasks.protocol import Evaluated, MetricSpec, Predict, Split
from autoprune.tasks.scenes import Scenes

Floats = npt.NDArray[np.float64]
STATISTICS = ("score", "label", "hit")


class Detections(NamedTuple):
    """What a model sees in one scene.

    Args:
        boxes: [k, 4] corners (x1, y1, x2, y2), pixels.
        scores: [k] confidences, higher is surer.
        labels: [k] class numbers.
    """

    boxes: npt.NDArray[Any]
    scores: npt.NDArray[Any]
    labels: npt.NDArray[Any]


class DetectionTask(InMemoryTask):
    """Detection of objects, scored by AP50: COCO's mean average precision at an overlap of 0.5; the unit is a scene.

    Args:
        model: The trained model, or a function that returns it; the function is called once, then copied.
        data: Images, objects and splits.
        decode: Maps the model's outputs on a batch to one `Detections` a scene, duplicates suppressed
            (`autoprune.tasks.suppress`).
        loss: Maps outputs and a batch, as `Scenes.batch` gives it, to the scalar mean loss.
        name: Short name of the task.
        corruptions: Name -> corruption of a batch, such as `image_corruptions()`, for the front's robustness.
    """

    metrics: Sequence[MetricSpec] = (MetricSpec("ap50", "max", (0.0, 1.0)),)

    def __init__(
        self,
        model: nn.Module | Callable[[], nn.Module],
        data: Scenes,
        *,
        decode: Callable[[Any], Sequence[Detections]],
        loss: Callable[[Any, Any], Tensor],
        name: str = "detection",
        corruptions: Mapping[str, Callable[[Any], Any]] | None = None,
    ) -> None:
        super().__init__(model, data, name=name, corruptions=corruptions)
        self.data = data
        self.class_names = tuple(data.class_names)
        self._decode = decode
        self._loss = loss

    def structure(self, outputs: Any) -> Any:
        """Return the outputs as they are: `decode` and `loss` take them so."""
        return outputs

    def loss(self, outputs: Any, batch: Any) -> Tensor:
        """Return the user's loss."""
        return self._loss(outputs, batch)

    def distill_loss(self, student: Any, teacher: Any, batch: Any) -> Tensor:
        """Return the mean squared difference of all output tensors."""
        del batch
        pairs = zip(tensors_of(student), tensors_of(teacher), strict=True)
        return torch.stack([F.mse_loss(one, other) for one, other in pairs]).mean()

    def evaluate(self, predict: Predict, split: Split, *, limit: int | None = None, seed: int = 0) -> Evaluated:
        """Score `predict` by AP50.

        Raises:
            CandidateError: A box or a score is not finite.
            TaskError: `decode` returns something else than it should.
        """
        rows = self.data.rows(split, limit=limit, seed=seed)
        scored: list[Floats] = []
        for part in self.parts_of(rows):
            with torch.no_grad():
                scenes = self._decode(self.structure(predict(self.data.take(part))))
            if len(scenes) != len(part):
                raise TaskError(f"decode must return one Detections a scene: {len(part)}. Got {len(scenes)}.")
            scored += [self._scene(row, found) for row, found in zip(part, scenes, strict=True)]
        most = max(1, *(scene.shape[1] for scene in scored))
        table = np.full((len(STATISTICS), len(rows), most), np.nan)
        for index, scene in enumerate(scored):
            table[:, index, : scene.shape[1]] = scene
        objects = np.stack([np.bincount(self.data.labels[row], minlength=self.data.classes) for row in rows])
        per_unit = dict(zip(STATISTICS, table, strict=True)) | {"objects": objects.astype(np.float64)}
        return Evaluated(self.aggregate(per_unit), self.data.unit, tuple(str(row) for row in rows), per_unit)

    def aggregate(self, per_unit: Mapping[str, Floats]) -> dict[str, float]:
        """Return AP50, the mean over the classes that have objects; NaN where there is no object at all."""
        found = average_precisions(per_unit)
        there = found[~np.isnan(found)]
        return {"ap50": float(there.mean()) if len(there) else float("nan")}

    def by_class(self, evaluated: Evaluated) -> dict[str, float]:
        """Return class -> its average precision; NaN for a class without objects."""
        found = average_precisions(evaluated.per_unit)
        names = self.class_names or tuple(map(str, range(self.data.classes)))
        return {name: float(value) for name, value in zip(names, found, strict=True)}

    def _scene(self, row: int, found: Detections) -> Floats:
        """Return [3, k] scores, labels and whether each is right, highest score first, at most 100 a class."""
        boxes, scores, labels = _checked(found, self.data.classes)
        order = np.argsort(-scores, kind="stable")
        earlier = np.zeros(len(order), dtype=np.int64)
        for number in np.unique(labels):
            own = labels[order] == number
            earlier[own] = np.arange(own.sum())
        order = order[earlier < MOST]
        hit = match(boxes[order], labels[order], self.data.boxes[row], self.data.labels[row])
        return np.stack([scores[order], labels[order].astype(np.float64), hit.astype(np.float64)])


def _checked(found: Detections, classes: int) -> tuple[Floats, Floats, npt.NDArray[np.int64]]:
    boxes, scores, labels = (np.asarray(part) for part in found)
    if len(scores) == 0:
        return np.zeros((0, 4)), np.zeros(0), np.zeros(0, dtype=np.int64)
    shapes = (boxes.shape, scores.shape, labels.shape)
    if shapes != ((len(scores), 4), (len(scores),), (len(scores),)) or labels.dtype.kind not in "iu":
        raise TaskError(
            f"decode must give [k, 4] boxes, [k] scores and [k] integer labels a scene. Got {shapes} and labels of "
            f"{labels.dtype}."
        )
    if labels.min() < 0 or labels.max() >= classes:
        raise TaskError(f"Detected labels must be 0 to {classes - 1}. Got {labels.min()} to {labels.max()}.")
    if not np.isfinite(boxes).all() or not np.isfinite(scores).all():
        raise CandidateError("The detections hold NaN or infinity.", reason="nonfinite", stage="quality")
    return boxes.astype(np.float64), scores.astype(np.float64), labels.astype(np.int64)
