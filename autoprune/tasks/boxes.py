"""Boxes and scores -> overlaps, kept and matched detections, average precision; as COCO defines them.

Boxes are [k, 4] corners (x1, y1, x2, y2) in pixels, x2 > x1 and y2 > y1.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

IOU = 0.5
MOST = 100
RECALLS = np.linspace(0.0, 1.0, 101)

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]


def overlaps(one: npt.NDArray[np.floating], other: npt.NDArray[np.floating]) -> Floats:
    """Return [len(one), len(other)] intersections over unions, from 0 to 1."""
    left = np.maximum(one[:, None, :2], other[None, :, :2])
    right = np.minimum(one[:, None, 2:], other[None, :, 2:])
    shared = np.prod(np.clip(right - left, 0.0, None), axis=2)
    areas = [np.prod(boxes[:, 2:] - boxes[:, :2], axis=1) for boxes in (one, other)]
    union = areas[0][:, None] + areas[1][None, :] - shared
    share: Floats = np.divide(shared, union, out=np.zeros(shared.shape), where=union > 0.0)
    return share


def suppress(
    boxes: npt.NDArray[np.floating], scores: npt.NDArray[np.floating], labels: npt.NDArray[np.integer], *, iou: float
) -> Ints:
    """Return the detections that non-maximum suppression keeps, highest score first.

    One is dropped where it overlaps a kept one of its own class by more than `iou`.
    """
    order = np.argsort(-scores, kind="stable")
    near = (overlaps(boxes, boxes) > iou) & (labels[:, None] == labels[None, :])
    alive = np.ones(len(boxes), dtype=bool)
    kept = []
    for index in order:
        if alive[index]:
            kept.append(int(index))
            alive &= ~near[index]
    return np.array(kept, dtype=np.int64)


def match(detected: Floats, labels: Ints, boxes: Floats, classes: Ints, *, iou: float = IOU) -> Flags:
    """Return which detections of a scene are right: each object is found once, by the highest score that fits.

    Args:
        detected: [k, 4] boxes, highest score first.
        labels: [k] their classes.
        boxes: [m, 4] of the objects that are there.
        classes: [m] their classes.
        iou: Least overlap of a right detection.
    """
    found = np.zeros(len(detected), dtype=bool)
    if not len(detected) or not len(boxes):
        return found
    fit = np.where(labels[:, None] == classes[None, :], overlaps(detected, boxes), 0.0)
    for index, row in enumerate(fit):
        best = int(row.argmax())
        if row[best] >= iou:
            found[index] = True
            fit[:, best] = 0.0
    return found


def average_precisions(per_unit: Mapping[str, Floats]) -> Floats:
    """Return [classes] average precisions at the overlap that was matched at; NaN for a class without objects.

    The mean of the interpolated precision at 101 recalls (Lin et al., 2014). scikit-learn's average precision is
    another number: it does not interpolate.

    Args:
        per_unit: `score`, `label` and `hit`, each [n_scenes, k] with NaN where a scene has fewer detections, and
            `objects`, [n_scenes, classes] numbers of objects.
    """
    score, label, hit = (per_unit[name].ravel() for name in ("score", "label", "hit"))
    real = np.flatnonzero(~np.isnan(score))
    order = real[np.argsort(-score[real], kind="stable")]
    label, hit = label[order], hit[order]
    objects = per_unit["objects"].sum(axis=0)
    found = np.full(len(objects), np.nan)
    for number in np.flatnonzero(objects > 0):
        found[number] = _average_precision(hit[label == number], float(objects[number]))
    return found


def _average_precision(hit: Floats, objects: float) -> float:
    """Return the average precision of one class's detections, highest score first."""
    right = np.cumsum(hit)
    precision = right / np.arange(1, len(hit) + 1)
    best_from = np.maximum.accumulate(precision[::-1])[::-1]
    at = np.searchsorted(right / objects, RECALLS, side="left")
    return float(np.append(best_from, 0.0)[at].mean())
