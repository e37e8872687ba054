"""Detection: average precision as COCO's own code has it, matching, suppression, and what is refused."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import Tensor, nn

from autoprune.errors import CandidateError, TaskError
from autoprune.evaluation.quality import compare, intervals
from autoprune.tasks import Detections, DetectionTask, Inputs, Scenes, Task, check_task, overlaps, suppress
from autoprune.tasks.boxes import match

SIDE = 64
CLASSES = 4


def random_boxes(rng: np.random.Generator, count: int) -> np.ndarray:
    corner = rng.uniform(0, SIDE - 20, (count, 2))
    return np.concatenate([corner, corner + rng.uniform(6, 20, (count, 2))], axis=1)


def random_scenes(n: int = 60, *, seed: int = 0, most: int = 5) -> Scenes:
    rng = np.random.default_rng(seed)
    counts = rng.integers(0, most + 1, n)
    boxes = [random_boxes(rng, k) for k in counts]
    labels = [rng.integers(0, CLASSES, k) for k in counts]
    names = [f"kind{i}" for i in range(CLASSES)]
    return Scenes(rng.normal(size=(n, 1, 8, 8)), boxes, labels, class_names=names)


def noisy_detections(data: Scenes, row: int, seed: int = 0, spread: float = 3.0) -> Detections:
    """Return moved, repeated, relabelled and invented boxes, with scores that know little of it."""
    rng = np.random.default_rng((seed, row))
    boxes = np.concatenate([data.boxes[row], data.boxes[row], random_boxes(rng, 3)])
    boxes = boxes + rng.normal(scale=spread, size=boxes.shape)
    boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2] + 1.0)
    labels = np.concatenate([data.labels[row], data.labels[row], rng.integers(0, CLASSES, 3)])
    wrong = rng.random(len(labels)) < 0.15
    labels[wrong] = rng.integers(0, CLASSES, wrong.sum())
    return Detections(boxes, rng.random(len(labels)), labels)


class Numbered(nn.Module):
    """Gives each image its own first pixel back, by which `answering` knows the scene."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        return x[:, 0, 0, 0] * self.scale


def answering(data: Scenes, answer: Any) -> DetectionTask:
    """Return a task whose decoding answers each scene by `answer(row)`."""
    row_of = {float(image[0, 0, 0]): row for row, image in enumerate(data.x)}

    def decode(outputs: Tensor) -> Sequence[Detections]:
        return [answer(row_of[float(value)]) for value in outputs]

    return DetectionTask(Numbered(), data, decode=decode, loss=lambda outputs, _: outputs.square().mean())


def scored(task: DetectionTask, split: Any = "train", **options: Any) -> Any:
    model = task.build_model()
    return task.evaluate(lambda inputs: model(*inputs.args), split, **options)


def coco_ap50(data: Scenes, rows: Sequence[int], answer: Any) -> np.ndarray:
    """Return COCOeval's AP50 of each class, NaN where it has no objects."""

    def listed(boxes: np.ndarray) -> list[list[float]]:
        return [[*map(float, b[:2]), *map(float, b[2:] - b[:2])] for b in boxes]

    objects, found = [], []
    for row in rows:
        for box, label in zip(listed(data.boxes[row]), data.labels[row], strict=True):
            entry = {"image_id": int(row), "category_id": int(label), "bbox": box, "area": box[2] * box[3]}
            objects.append(entry | {"id": len(objects) + 1, "iscrowd": 0})
        boxes, scores, labels = answer(int(row))
        for box, score, label in zip(listed(boxes), scores, labels, strict=True):
            found.append({"image_id": int(row), "category_id": int(label), "bbox": box, "score": float(score)})
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = {
            "info": {},
            "images": [{"id": int(row)} for row in rows],
            "annotations": objects,
            "categories": [{"id": i} for i in range(data.classes)],
        }
        truth.createIndex()
        judged = COCOeval(truth, truth.loadRes(found), "bbox")
        judged.params.iouThrs = np.array([0.5])
        judged.evaluate()
        judged.accumulate()
    precision = judged.eval["precision"][0, :, :, 0, -1]
    return np.where((precision < 0).all(axis=0), np.nan, precision.mean(axis=0))


@pytest.mark.parametrize("seed", range(6))
def test_average_precision_is_that_of_cocoeval(seed: int) -> None:
    data = random_scenes(seed=seed)

    def answer(row: int) -> Detections:
        return noisy_detections(data, row, seed, spread=1.0 + seed / 2)

    task = answering(data, answer)
    found = scored(task)
    expected = coco_ap50(data, [int(i) for i in found.ids], answer)
    np.testing.assert_allclose(list(task.by_class(found).values()), expected, atol=1e-12)
    assert found.metrics["ap50"] == pytest.approx(np.nanmean(expected), abs=1e-12)
    assert 0.05 < found.metrics["ap50"] < 0.95


def test_a_class_without_objects_counts_for_nothing_as_in_cocoeval() -> None:
    plain = random_scenes(seed=3)
    labels = [np.where(found == 2, 1, found) for found in plain.labels]
    data = Scenes(plain.x, plain.boxes, labels, class_names=plain.class_names)

    def answer(row: int) -> Detections:
        return noisy_detections(data, row)

    task = answering(data, answer)
    found = scored(task)
    by_class = task.by_class(found)
    assert np.isnan(by_class["kind2"])
    expected = coco_ap50(data, [int(i) for i in found.ids], answer)
    assert found.metrics["ap50"] == pytest.approx(np.nanmean(expected), abs=1e-12)


def test_more_than_a_hundred_detections_of_a_class_count_as_in_cocoeval() -> None:
    data = random_scenes(20, seed=1)

    def answer(row: int) -> Detections:
        rng = np.random.default_rng(row)
        boxes = np.concatenate([random_boxes(rng, 300), data.boxes[row]])
        labels = np.concatenate([np.zeros(300, np.int64), data.labels[row]])
        return Detections(boxes, rng.random(len(labels)), labels)

    found = scored(answering(data, answer))
    assert found.per_unit["score"].shape[1] < 300
    expected = coco_ap50(data, [int(i) for i in found.ids], answer)
    assert found.metrics["ap50"] == pytest.approx(np.nanmean(expected), abs=1e-12)


def test_the_right_answer_scores_one_and_none_scores_zero() -> None:
    data = random_scenes()

    def truth(row: int) -> Detections:
        return Detections(data.boxes[row], np.full(len(data.labels[row]), 0.9), data.labels[row])

    def nothing(row: int) -> Detections:
        return Detections([], [], [])

    assert scored(answering(data, truth)).metrics["ap50"] == 1.0
    empty = scored(answering(data, nothing))
    assert empty.metrics["ap50"] == 0.0
    assert empty.per_unit["score"].shape == (len(empty.ids), 1)


def test_scenes_without_objects_are_units_and_false_alarms_there_cost() -> None:
    data = random_scenes(40, most=1)
    quiet = [row for row in data.splits["train"] if not len(data.labels[row])]
    assert len(quiet) > 5

    def answer(row: int, *, alarm: bool) -> Detections:
        own = Detections(data.boxes[row], np.full(len(data.labels[row]), 0.5), data.labels[row])
        if row not in quiet or not alarm:
            return own
        return Detections(random_boxes(np.random.default_rng(row), 1), np.array([0.9]), np.array([0]))

    right, alarmed = (scored(answering(data, lambda row, a=a: answer(row, alarm=a))) for a in (False, True))
    assert {str(row) for row in quiet} <= set(right.ids)
    assert right.metrics["ap50"] == 1.0
    assert alarmed.metrics["ap50"] < 0.95


def test_the_interval_holds_the_value_and_draws_scenes() -> None:
    data = random_scenes(200)
    task = answering(data, lambda row: noisy_detections(data, row))
    found = scored(task)
    (interval,) = intervals(task, found, seed=0).values()
    assert interval.low < interval.value < interval.high
    assert (interval.n, interval.unit, interval.method) == (140, "scene", "bias-corrected-bootstrap-1000")
    few = intervals(task, scored(task, limit=30, seed=1), seed=0)["ap50"]
    assert few.high - few.low > 1.3 * (interval.high - interval.low)


def test_a_worse_detector_is_told_from_a_better_one_on_the_same_scenes() -> None:
    data = random_scenes(200)
    good, bad = (scored(answering(data, lambda row, s=s: noisy_detections(data, row, spread=s))) for s in (1.0, 4.0))
    task = answering(data, lambda row: noisy_detections(data, row))
    change = compare(task, bad, good, seed=0)["ap50"]
    assert change.low < change.delta < change.high < 0.0
    assert compare(task, good, good, seed=0)["ap50"].noninferior


def test_overlaps_are_those_of_pycocotools() -> None:
    rng = np.random.default_rng(0)
    one, other = random_boxes(rng, 20), random_boxes(rng, 30)
    as_coco = [np.concatenate([b[:, :2], b[:, 2:] - b[:, :2]], axis=1) for b in (one, other)]
    expected = coco_mask.iou(as_coco[0], as_coco[1], [0] * 30)
    np.testing.assert_allclose(overlaps(one, other), expected, atol=1e-12)
    touching = np.array([[0.0, 0.0, 1.0, 1.0], [1.0, 0.0, 2.0, 1.0]])
    assert overlaps(touching, touching).tolist() == [[1.0, 0.0], [0.0, 1.0]]


def test_suppression_keeps_the_surest_of_each_heap_and_class() -> None:
    boxes = np.array([[0, 0, 10, 10], [1, 0, 11, 10], [0, 1, 10, 11], [30, 30, 40, 40]], dtype=np.float64)
    scores = np.array([0.5, 0.9, 0.8, 0.1])
    assert suppress(boxes, scores, np.array([0, 0, 0, 0]), iou=0.5).tolist() == [1, 3]
    assert suppress(boxes, scores, np.array([0, 0, 1, 0]), iou=0.5).tolist() == [1, 2, 3]
    assert suppress(boxes, scores, np.array([0, 0, 0, 0]), iou=0.95).tolist() == [1, 2, 0, 3]
    assert suppress(boxes[:0], scores[:0], np.array([], dtype=np.int64), iou=0.5).tolist() == []


@pytest.mark.parametrize("seed", range(5))
def test_suppression_leaves_no_pair_too_near_and_drops_none_without_cause(seed: int) -> None:
    rng = np.random.default_rng(seed)
    boxes, scores, labels = random_boxes(rng, 80), rng.random(80), rng.integers(0, 2, 80)
    kept = suppress(boxes, scores, labels, iou=0.3)
    near = (overlaps(boxes, boxes) > 0.3) & (labels[:, None] == labels[None, :])
    assert near[np.ix_(kept, kept)].sum() == len(kept)
    for dropped in set(range(80)) - set(kept):
        assert any(near[dropped, k] and scores[k] > scores[dropped] for k in kept)


def test_an_object_is_found_once_and_only_by_its_class() -> None:
    there = np.array([[0.0, 0.0, 10.0, 10.0]])
    twice = np.array([[0.0, 0.0, 10.0, 9.0], [0.0, 0.0, 10.0, 10.0]])
    assert match(twice, np.array([1, 1]), there, np.array([1])).tolist() == [True, False]
    assert match(twice, np.array([0, 1]), there, np.array([1])).tolist() == [False, True]
    assert match(twice[:0], np.array([], dtype=np.int64), there, np.array([1])).tolist() == []


def test_batches_pad_what_scenes_lack() -> None:
    data = random_scenes()
    x, boxes, labels = data.batch(data.splits["train"][:16])
    assert x.shape == (16, 1, 8, 8)
    assert boxes.shape == (*labels.shape, 4)
    for index, row in enumerate(data.splits["train"][:16]):
        there = labels[index] >= 0
        assert labels[index][there].tolist() == data.labels[row].tolist()
        np.testing.assert_allclose(boxes[index][there].numpy(), data.boxes[row], rtol=1e-6)


class Centres(nn.Module):
    """One box in the middle of the image, its class by the brightest quarter."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(1, CLASSES, 4, 4)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"scores": self.layer(x).mean(dim=(2, 3))}


def centre_task() -> DetectionTask:
    rng = np.random.default_rng(0)
    labels = [rng.integers(0, CLASSES, 1) for _ in range(200)]
    x = rng.normal(size=(200, 1, 8, 8)) * 0.1
    for image, (label,) in zip(x, labels, strict=True):
        image[0, :: label + 1, :] += 3.0
    boxes = [np.array([[20.0, 20.0, 40.0, 40.0]])] * 200
    box = np.array([[21.0, 20.0, 40.0, 40.0]])

    def decode(outputs: dict[str, Tensor]) -> list[Detections]:
        best = outputs["scores"].softmax(dim=1).max(dim=1)
        return [Detections(box, v.numpy()[None], i.numpy()[None]) for v, i in zip(*best, strict=True)]

    def loss(outputs: dict[str, Tensor], batch: Any) -> Tensor:
        return nn.functional.cross_entropy(outputs["scores"], batch[2][:, 0])

    with torch.random.fork_rng():
        torch.manual_seed(0)
        return DetectionTask(Centres(), Scenes(x, boxes, labels), decode=decode, loss=loss)


def test_a_detector_with_outputs_of_its_own_passes_the_contract_suite() -> None:
    task = centre_task()
    assert isinstance(task, Task)
    assert check_task(task, full=True) == []


def test_distillation_is_the_squared_difference_of_all_outputs() -> None:
    task, outputs = centre_task(), {"scores": torch.zeros(2, CLASSES)}
    assert float(task.distill_loss(outputs, {"scores": torch.full((2, CLASSES), 3.0)}, None)) == pytest.approx(9.0)


BOX = [[0.0, 0.0, 5.0, 5.0]]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"x": np.zeros((9, 8, 8))}, "height, width"),
        ({"x": np.full((9, 1, 8, 8), np.nan)}, "NaN"),
        ({"boxes": [BOX] * 8}, "8 labels|rows"),
        ({"labels": [[0]] * 8}, "8 scenes with labels"),
        ({"labels": [[0, 1]] * 9}, "1 boxes"),
        ({"labels": [[0.5]] * 9}, "float"),
        ({"labels": [[-1]] * 9}, ">= 0"),
        ({"boxes": [[[5.0, 0.0, 0.0, 5.0]]] * 9}, "x2 > x1"),
        ({"boxes": [[[0.0, 0.0, np.inf, 5.0]]] * 9}, "x2 > x1"),
        ({"boxes": [[0.0, 0.0, 5.0, 5.0]] * 9}, r"\[k, 4\]"),
        ({"boxes": [[]] * 9, "labels": [[]] * 9}, "no object"),
        ({"class_names": ["one"], "labels": [[1]] * 9}, "class names"),
    ],
)
def test_scenes_that_nothing_can_be_learned_from_are_refused(change: dict[str, Any], words: str) -> None:
    good: dict[str, Any] = {"x": np.zeros((9, 1, 8, 8)), "boxes": [BOX] * 9, "labels": [[0]] * 9}
    assert Scenes(**good).classes == 1
    with pytest.raises(TaskError, match=words):
        Scenes(**good | change)


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (Detections(np.zeros((1, 4)), np.zeros(2), np.zeros(2, np.int64)), "boxes"),
        (Detections(np.zeros((1, 4)), np.zeros(1), np.zeros(1)), "integer labels"),
        (Detections(np.zeros((1, 4)), np.zeros(1), np.array([CLASSES])), "labels must be 0 to 3"),
    ],
)
def test_detections_of_another_form_are_refused(found: Detections, words: str) -> None:
    with pytest.raises(TaskError, match=words):
        scored(answering(random_scenes(), lambda row: found))


def test_a_score_that_is_not_finite_fails_the_candidate() -> None:
    broken = Detections(np.array(BOX), np.array([np.nan]), np.array([0]))
    with pytest.raises(CandidateError) as caught:
        scored(answering(random_scenes(), lambda row: broken))
    assert (caught.value.reason, caught.value.stage) == ("nonfinite", "quality")


def test_decoding_that_loses_a_scene_is_refused() -> None:
    task = DetectionTask(Numbered(), random_scenes(), decode=lambda outputs: [], loss=lambda o, b: o.mean())
    with pytest.raises(TaskError, match="one Detections a scene"):
        task.evaluate(lambda inputs: Inputs(*inputs).args[0], "val")
