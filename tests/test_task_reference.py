"""References to the user's task: every way to load one, and one clear message for every way to fail."""

from __future__ import annotations

import hashlib
import pickle
import sys
from pathlib import Path

import pytest

from autoprune.errors import TaskError
from autoprune.tasks import ClassificationTask, TaskRef, load_task

GOOD = """
from dataclasses import dataclass
import numpy as np
from torch import nn
from autoprune.tasks import ClassificationTask, LabelledArrays


@dataclass(frozen=True)
class Setting:
    width: int


def make_task(width: int = 4, name: str = "good"):
    rng = np.random.default_rng(0)
    data = LabelledArrays(rng.normal(size=(60, 5)), rng.integers(0, 2, 60))
    task = ClassificationTask(nn.Sequential(nn.Linear(5, width), nn.Linear(width, 2)), data, name=name)
    task.setting = Setting(width)
    return task
"""


def written(directory: Path, source: str, name: str = "mine.py") -> Path:
    path = directory / name
    path.write_text(source, encoding="utf-8")
    return path


def failure(directory: Path, reference: str = "mine.py:make_task", **args: object) -> TaskError:
    with pytest.raises(TaskError) as caught:
        load_task(reference, args, base=directory)
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)
    return caught.value


def test_a_file_is_found_beside_the_config_and_gets_its_arguments(tmp_path: Path) -> None:
    written(tmp_path, GOOD)
    task = load_task("mine.py:make_task", {"width": 7, "name": "seven"}, base=tmp_path)
    assert isinstance(task, ClassificationTask)
    assert task.name == "seven"
    assert task.build_model()[0].out_features == 7


def test_a_file_in_a_folder_below_is_found(tmp_path: Path) -> None:
    (tmp_path / "tasks").mkdir()
    written(tmp_path / "tasks", GOOD)
    assert load_task("tasks/mine.py:make_task", base=tmp_path).name == "good"


def test_a_module_beside_the_config_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "own_package_of_tasks").mkdir()
    written(tmp_path / "own_package_of_tasks", "", "__init__.py")
    written(tmp_path / "own_package_of_tasks", GOOD)
    assert load_task("own_package_of_tasks.mine:make_task", base=tmp_path).name == "good"


def test_a_file_may_import_what_lies_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    written(tmp_path, GOOD, "neighbour_of_the_task.py")
    written(tmp_path, "from neighbour_of_the_task import make_task\n")
    assert load_task("mine.py:make_task", base=tmp_path).name == "good"


def test_classes_of_a_file_can_be_pickled(tmp_path: Path) -> None:
    written(tmp_path, GOOD)
    task = load_task("mine.py:make_task", base=tmp_path)
    assert pickle.loads(pickle.dumps(task)).setting == task.setting


def test_an_edited_file_is_read_anew_and_no_byte_code_is_left(tmp_path: Path) -> None:
    path = written(tmp_path, GOOD)
    load_task("mine.py:make_task", base=tmp_path)
    path.write_text(GOOD.replace('"good"', '"gone"'), encoding="utf-8")
    assert load_task("mine.py:make_task", base=tmp_path).name == "gone"
    assert [p.name for p in tmp_path.iterdir()] == ["mine.py"]


def test_files_of_one_name_do_not_meet(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        written(tmp_path / name, GOOD.replace('"good"', f'"{name}"'))
    refs = [TaskRef("mine.py:make_task", {}, tmp_path / name) for name in ("a", "b")]
    assert [r.load().name for r in refs] == ["a", "b"]


def test_the_digest_is_that_of_the_source(tmp_path: Path) -> None:
    path = written(tmp_path, GOOD)
    assert TaskRef("mine.py:make_task", {}, tmp_path).sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert TaskRef("missing.py:make_task", {}, tmp_path).sha256 == ""
    assert TaskRef("package.module:make_task", {}, tmp_path).sha256 == ""


@pytest.mark.parametrize("reference", ["mine.py", "make_task", ":make_task", "mine.py:", "mine.py:make task"])
def test_a_reference_of_another_form_is_explained(tmp_path: Path, reference: str) -> None:
    written(tmp_path, GOOD)
    error = failure(tmp_path, reference)
    assert repr(reference) in str(error)
    assert "file.py:factory" in error.hint


def test_a_missing_file_is_named_with_its_near_namesake(tmp_path: Path) -> None:
    written(tmp_path, GOOD)
    error = failure(tmp_path, "mime.py:make_task")
    assert str(tmp_path / "mime.py") in str(error)
    assert "Did you mean mine.py?" in str(error)


def test_a_missing_module_is_told_from_a_missing_dependency(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    assert "'no_such_module' is not found" in str(failure(tmp_path, "no_such_module:make_task"))
    written(tmp_path, "import no_such_dependency\n")
    error = failure(tmp_path)
    assert "mine.py:1" in str(error)
    assert "Install 'no_such_dependency'" in error.hint


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("def make_task(:\n", ["SyntaxError", "mine.py:1"]),
        ("x = 1\nraise ValueError('no data here')\n", ["ValueError: no data here", "mine.py:2"]),
        ("import sys\nsys.exit(3)\n", ["SystemExit: 3", "mine.py:2"]),
        ("def make_tusk():\n    pass\n", ["no 'make_task'", "Did you mean 'make_tusk'?"]),
        ("make_task = 3\n", ["int", "cannot be called"]),
        ("def make_task():\n    return 1 / 0\n", ["ZeroDivisionError", "mine.py:2"]),
        (
            "def make_task():\n    raise OSError('two\\nlines' + 999 * ' and more')\n",
            ["OSError: two lines and more", "..."],
        ),
        (
            "import torch\n\ndef make_task():\n    return torch.zeros(2) @ torch.zeros(3)\n",
            ["RuntimeError", "mine.py:4"],
        ),
        ("from torch import nn\n\ndef make_task():\n    return nn.Linear(2, 2)\n", ["Linear", "batches", "evaluate"]),
        ("def make_task():\n    pass\n", ["NoneType"]),
    ],
)
def test_a_broken_file_is_one_message_with_its_place(tmp_path: Path, source: str, words: list[str]) -> None:
    written(tmp_path, source)
    error = failure(tmp_path)
    assert [w for w in words if w not in str(error)] == []
    assert error.hint


def test_arguments_that_do_not_fit_are_named_before_anything_runs(tmp_path: Path) -> None:
    written(tmp_path, GOOD)
    error = failure(tmp_path, widht=3)
    assert "widht" in str(error)
    assert "Did you mean 'width'?" in str(error)
    assert "width: int = 4" in error.hint.replace("'", "")


def test_a_failed_import_leaves_no_module_behind(tmp_path: Path) -> None:
    path = written(tmp_path, "raise ValueError\n")
    failure(tmp_path)
    assert not [m for m in sys.modules.values() if getattr(m, "__file__", None) == str(path)]


def test_errors_that_are_already_clear_pass_unchanged(tmp_path: Path) -> None:
    written(tmp_path, GOOD.replace("rng.integers(0, 2, 60)", "np.zeros(60, int)"))
    assert "one class only" in str(failure(tmp_path))


def test_values_of_arguments_stay_out_of_messages(tmp_path: Path) -> None:
    written(tmp_path, "def make_task(token):\n    raise ValueError('refused')\n")
    assert "s3cret" not in str(failure(tmp_path, token="s3cret"))
