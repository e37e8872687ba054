"""Optional parts of a task: read where they are, replaced where they are not, and checked before a search."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from autoprune.errors import TaskError
from autoprune.tasks import (
    ClassificationTask,
    Evaluated,
    GuardedTask,
    Inputs,
    LabelledArrays,
    Predict,
    Sample,
    Split,
    check_task,
    class_names_of,
    evaluate_shift,
    samples_of,
    shifts_of,
)

OPTIONAL = ("signal", "class_names", "shifts", "evaluate_shift", "samples")


def images(count: int = 120, channels: int = 1, names: Sequence[str] = ()) -> LabelledArrays:
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, count)
    x = rng.normal(size=(count, channels, 6, 6)) + 3.0 * y[:, None, None, None]
    return LabelledArrays(x, y, class_names=names)


def model(channels: int = 1) -> nn.Module:
    last = nn.Linear(36 * channels, 2)
    with torch.no_grad():
        last.weight.copy_(torch.stack([-torch.ones(36 * channels), torch.ones(36 * channels)]))
        last.bias.copy_(torch.tensor([54.0 * channels, -54.0 * channels]))
    return nn.Sequential(nn.Flatten(), last)


class Shifted(ClassificationTask):
    """Also scores its val rows with the sign turned."""

    def __init__(self, corruptions: Mapping[str, Callable[[Any], Any]] | None = None) -> None:
        super().__init__(model(), images(names=("low", "high")), corruptions=corruptions)

    def shifts(self) -> Sequence[str]:
        return ("turned",)

    def evaluate_shift(self, predict: Predict, name: str, *, limit: int | None = None, seed: int = 0) -> Evaluated:
        turned = LabelledArrays(-self.data.x, self.data.y, splits=self.data.splits)
        return ClassificationTask(model(), turned).evaluate(predict, "val", limit=limit, seed=seed)


class Bare:
    """A task written without `BaseTask`: it forwards what the protocol demands and has none of the optional parts."""

    def __init__(self, task: ClassificationTask) -> None:
        self._task = task

    def __getattr__(self, name: str) -> Any:
        if name in OPTIONAL or name.startswith("__"):
            raise AttributeError(name)
        return getattr(self._task, name)


def predict(inputs: Inputs) -> Any:
    with torch.no_grad():
        return model()(*inputs.args)


def test_a_task_without_the_optional_parts_is_checked_and_guarded_as_before() -> None:
    bare: Any = Bare(Shifted())
    assert check_task(bare) == []
    for task in (bare, GuardedTask(bare)):
        assert (class_names_of(task), shifts_of(task), samples_of(task, "val", count=3, seed=0)) == ((), (), ())
        with pytest.raises(TaskError, match="no shifted domain 'turned'"):
            evaluate_shift(task, predict, "turned")


def test_the_guarded_task_hands_on_shifts_and_names() -> None:
    task = GuardedTask(Shifted())
    assert (task.class_names, task.shifts()) == (("low", "high"), ("turned",))
    assert task.evaluate_shift(predict, "turned").metrics["accuracy"] < 0.7
    with pytest.raises(TaskError, match="no shifted domain 'blurred'"):
        task.evaluate_shift(predict, "blurred")


def test_the_guarded_task_shows_no_sample_of_test() -> None:
    task = GuardedTask(Shifted())
    assert len(task.samples("val", 3, 0) or ()) == 3
    with pytest.raises(TaskError, match="test split"):
        task.samples("test", 3, 0)


@pytest.mark.parametrize(("channels", "shape"), [(1, (6, 6)), (3, (6, 6, 3))])
def test_a_classification_of_images_shows_them_between_black_and_white(channels: int, shape: tuple[int, ...]) -> None:
    task = ClassificationTask(model(channels), images(channels=channels, names=("low",)))
    samples = samples_of(task, "val", count=5, seed=1)
    assert [s.image.shape for s in samples if s.image is not None] == [shape] * 5
    assert min(s.image.min() for s in samples if s.image is not None) == 0.0
    assert max(s.image.max() for s in samples if s.image is not None) == pytest.approx(1.0)
    assert [s.label for s in samples] == ["low" if task.data.y[int(s.id)] == 0 else "1" for s in samples]
    assert {s.id for s in samples} <= set(task.evaluate(predict_any(channels), "val").ids)


def predict_any(channels: int) -> Predict:
    net = model(channels)
    return lambda inputs: net(*inputs.args)


def test_rows_that_are_no_images_are_not_shown() -> None:
    rng = np.random.default_rng(0)
    task = ClassificationTask(nn.Linear(5, 2), LabelledArrays(rng.normal(size=(60, 5)), rng.integers(0, 2, 60)))
    assert samples_of(task, "val", count=5, seed=0) == ()


def test_labels_of_a_classification_are_those_its_accuracy_is_counted_by() -> None:
    scored = Shifted().evaluate(predict, "val")
    assert scored.outputs is not None
    assert scored.labels is not None
    assert float((scored.outputs.argmax(1) == scored.labels).mean()) == scored.metrics["accuracy"]


def on_images(change: Callable[[Tensor], Any]) -> Callable[[Inputs], Inputs]:
    return lambda inputs: Inputs((change(inputs.args[0]),), {})


@pytest.mark.parametrize(
    ("corrupt", "problem"),
    [
        (on_images(lambda x: x + torch.rand(())), "same at every call"),
        (on_images(lambda x: x.add_(1.0)), "same at every call"),
        (on_images(lambda x: x[:1]), "return Inputs like those"),
        (on_images(lambda x: x.double()), "return Inputs like those"),
        (on_images(lambda x: x / 0.0), "NaN or infinity"),
        (on_images(lambda x: x), "measures nothing"),
        (lambda x: x.no_such_method(), "corruption 'bad'"),
        (lambda x: x.args[0], "corruption 'bad'"),
    ],
)
def test_a_corruption_that_measures_nothing_is_refused(corrupt: Callable[[Any], Any], problem: str) -> None:
    with pytest.raises(TaskError, match=problem):
        check_task(Shifted({"bad": corrupt}))


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("clean", "must not be called 'clean'"),
        ("shift:turned", "must not be called 'shift:turned'"),
        (3, r"corruptions\(\) must be strings that are not empty. Got 3"),
        ("", "must be strings that are not empty"),
    ],
)
def test_a_corruption_that_results_could_not_tell_from_another_condition_is_refused(name: Any, problem: str) -> None:
    with pytest.raises(TaskError, match=problem):
        check_task(Shifted({name: on_images(lambda x: 0.5 * x)}))
    assert check_task(Shifted({f"{name}.": on_images(lambda x: 0.5 * x)})) == []


def test_a_sound_corruption_and_shift_pass() -> None:
    assert check_task(Shifted({"darker": on_images(lambda x: 0.5 * x)})) == []


class NoScores(Shifted):
    def evaluate_shift(self, predict: Predict, name: str, *, limit: int | None = None, seed: int = 0) -> Any:
        return {"accuracy": 1.0}


class Named(Shifted):
    def __init__(self, names: Any) -> None:
        super().__init__()
        self.class_names = names


class ShiftsTo(Shifted):
    def __init__(self, names: Any) -> None:
        super().__init__()
        self.names = names

    def shifts(self) -> Any:
        return self.names


class Shows(Shifted):
    def __init__(self, **fields: Any) -> None:
        super().__init__()
        self.fields: dict[str, Any] = {"id": "0"} | fields

    def samples(self, split: Split, count: int, seed: int) -> Sequence[Sample] | None:
        return [Sample(**self.fields)]


class Unshaped:
    @property
    def shape(self) -> Any:
        raise RuntimeError("no shape")


GREY = np.full((6, 6), 0.5, dtype=np.float32)


@pytest.mark.parametrize(
    ("task", "problem"),
    [
        (NoScores, "must return an Evaluated"),
        (lambda: Named((0, 1)), r"class_names must be strings that are not empty\. Got 0"),
        (lambda: Named("ab"), "class_names must be a sequence of names. Got the text 'ab'"),
        (lambda: Named(("low", "low")), "class_names must differ. Got 'low'"),
        (lambda: Named(("low", "high", "none")), "names 3 classes, but the model tells 2 apart"),
        (lambda: Named(("low",)), "names 1 classes, but the model tells 2 apart"),
        (lambda: ShiftsTo("turned"), r"shifts\(\) must be a sequence of names. Got the text 'turned'"),
        (lambda: ShiftsTo((1,)), r"shifts\(\) must be strings"),
        (lambda: ShiftsTo(("turned", "turned")), r"shifts\(\) must differ"),
        (lambda: Shows(image=np.zeros((2, 6, 6), dtype=np.float32)), r"\[h, w\] or \[h, w, 3\].*Got \(2, 6, 6\)"),
        (lambda: Shows(image=np.zeros((0, 6), dtype=np.float32)), r"image of a sample.*Got \(0, 6\)"),
        (lambda: Shows(image=np.where(np.eye(6) > 0, np.nan, GREY)), "image of a sample.*from nan"),
        (lambda: Shows(image=255 * GREY), "image of a sample.*from 127.5 to 127.5"),
        (lambda: Shows(image=[[0.5]]), "image of a sample must be an array.*Got list"),
        (lambda: Shows(image=Unshaped()), "image of a sample must be an array.*Got Unshaped"),
        (lambda: Shows(image=np.full((6, 6), "x")), "image of a sample must be an array.*Got an array of <U1"),
        (lambda: Shows(text=b"words"), "text of a sample must be a string. Got bytes"),
        (lambda: Shows(label=1), "label of a sample must be a string. Got int"),
        (lambda: Shows(id=0), "id of a sample must be a string. Got int"),
        (lambda: Shows(id=None), "id of a sample must be a string. Got NoneType"),
    ],
)
def test_an_optional_part_that_is_wrong_is_found_before_a_search(
    task: Callable[[], ClassificationTask], problem: str
) -> None:
    with pytest.raises(TaskError, match=problem):
        check_task(task())


@pytest.mark.parametrize("image", [GREY, np.stack([GREY] * 3, axis=2), np.ones((4, 5), dtype=np.uint8), GREY > 0])
def test_images_between_black_and_white_pass(image: Any) -> None:
    assert check_task(Shows(image=image, text="words", label="low")) == []


def test_a_text_in_place_of_names_is_refused_behind_the_guard_too() -> None:
    with pytest.raises(TaskError, match=r"shifts\(\) must be a sequence of names"):
        check_task(GuardedTask(ShiftsTo("turned")))
