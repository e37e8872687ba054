"""A17: an export or report that fails costs only itself: the rest of the front is emitted, exit 5, the loss listed."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from acts import replayed_latency, tiny_groups
from test_search import config_file, load
from torch import nn
from typer.testing import CliRunner

from autoprune.artifacts import CardFacts, Format, saving
from autoprune.cli.app import app
from autoprune.errors import CandidateError
from autoprune.report import writers
from autoprune.report.document import FrontDocument, read_front
from autoprune.search import emit, exports, measured, workbench
from autoprune.search.run import run
from autoprune.storage import verify_directory
from autoprune.tasks.protocol import Inputs

OVERRIDES = (
    "search.budget.evaluations=4",
    "recovery.finalists=4",
    "executor.threads=1",
    "latency.targets=[torch-eager-fp32-b4-t1]",
    "objectives=[accuracy, macs]",
)
FILES = {"README.md", "metrics.json", "model.safetensors", "plan.json", "policy.json", "probes.safetensors"}
DOCUMENTS = ("front.json", "front.csv", "front.md", "report.html")


@pytest.fixture(scope="module", autouse=True)
def quick() -> Iterator[None]:
    """Trace the model once, replay latencies and export nothing, so that an emission takes less than a second."""
    groups = tiny_groups()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exports, "FORMATS", {})
        patch.setattr(workbench, "find_groups", lambda *_, **__: groups)
        for module in (workbench, measured):
            patch.setattr(module, "measure_latency", replayed_latency)
        yield


@pytest.fixture(scope="module")
def finished(quick: None, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, FrontDocument]:
    """A working folder with a finished run, and its front."""
    folder = tmp_path_factory.mktemp("partial")
    front = run(load(folder, *OVERRIDES, sampler="random")).front
    assert len(front.members) >= 2
    return folder, front


class Emitting:
    """The finished run, which every call of `search` emits anew from its records, with something broken."""

    def __init__(self, folder: Path, front: FrontDocument) -> None:
        self.folder = folder
        self.whole = front
        self.directory = folder / "results" / "tiny"

    def search(self) -> tuple[int, str]:
        """Return the exit status and what the command wrote to stderr."""
        arguments = [part for text in OVERRIDES for part in ("--set", text)]
        result = CliRunner().invoke(app, ["search", str(config_file(self.folder, sampler="random")), *arguments])
        assert "Traceback" not in result.stderr
        return result.exit_code, result.stderr

    def assert_emitted(self, *, lost: int = 0, formats: tuple[str, ...] = ()) -> FrontDocument:
        """Return the front, of which every member but the lost ones is complete on disk."""
        front = read_front(self.directory)
        assert len(front.members) == len(self.whole.members) - lost
        folders = [self.directory / str(member.directory) for member in front.members]
        assert sorted(p.name for p in (self.directory / "front").iterdir()) == sorted(f.name for f in folders)
        for folder in folders:
            assert verify_directory(folder) == []
            assert {p.name for p in folder.iterdir()} >= FILES | set(formats)
        return front


@pytest.fixture
def emitting(finished: tuple[Path, FrontDocument], tmp_path: Path) -> Emitting:
    folder, front = finished
    shutil.copytree(folder / "results", tmp_path / "results")
    for name in DOCUMENTS:
        (tmp_path / "results" / "tiny" / name).write_text("of an earlier front")
    return Emitting(tmp_path, front)


def failing_once(real: Callable[..., Any], error: Exception) -> Callable[..., Any]:
    """Return the function, except that its first call raises."""
    errors = [error]

    def maybe(*args: Any, **kwargs: Any) -> Any:
        if errors:
            raise errors.pop()
        return real(*args, **kwargs)

    return maybe


@pytest.mark.parametrize("step", ["weights_bytes", "architecture_to_json", "probes_bytes"])
def test_a_member_that_cannot_be_saved_is_listed_and_the_others_are_emitted(
    emitting: Emitting, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    monkeypatch.setattr(saving, step, failing_once(getattr(saving, step), RuntimeError("no plain form")))
    code, said = emitting.search()
    assert code == 5
    front = emitting.assert_emitted(lost=1)
    lost = {m.id for m in emitting.whole.members} - {m.id for m in front.members}
    assert f"{lost.pop()}: RuntimeError: no plain form" in said
    assert "The same command again tries the rest once more" in said
    assert emitting.search()[0] == 0
    emitting.assert_emitted()


def test_a_finalist_that_cannot_be_deployed_is_listed_and_the_others_are_emitted(
    emitting: Emitting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measured, "load_finalist", failing_once(measured.load_finalist, KeyError("weights")))
    code, said = emitting.search()
    assert code == 5
    assert "KeyError: 'weights'" in said
    assert read_front(emitting.directory).members


def writes(*, breaks_at: int | None = None, error: Exception | None = None) -> Format:
    """Return a format that writes a few bytes, except at one of its calls, or at all of them."""
    calls = []

    def write(model: nn.Module, example: Inputs, path: Path) -> None:
        calls.append(model)
        if error is not None and breaks_at in (None, len(calls)):
            raise error
        path.write_bytes(b"exported")

    return Format("model.onnx", write, lambda path, inputs: None)


UNFIT = CandidateError("data-dependent Python", reason="error", stage="export")


@pytest.mark.parametrize("error", [RuntimeError("the exporter broke"), UNFIT])
@pytest.mark.parametrize("name", ["onnx", "pt2"])
def test_a_format_that_fails_for_one_member_is_listed_and_the_member_stands_without_it(
    emitting: Emitting, monkeypatch: pytest.MonkeyPatch, name: str, error: Exception
) -> None:
    broken = {name: writes(breaks_at=1, error=error)}
    for module in (exports, saving, exports.export_bytes.__globals__):
        patch = monkeypatch.setitem if isinstance(module, dict) else monkeypatch.setattr
        patch(module, "FORMATS", broken)
    code, said = emitting.search()
    assert code == 5
    front = emitting.assert_emitted()
    without = [m for m in front.members if f"no_{name}" in {w.code for w in m.warnings}]
    assert len(without) == 1
    assert f"{without[0].id}, model.onnx: " in said
    assert str(error) in said
    have = [(emitting.directory / str(m.directory) / "model.onnx").exists() for m in front.members]
    assert have == [m is not without[0] for m in front.members]


def test_a_format_that_the_dense_model_has_not_either_is_a_warning(
    emitting: Emitting, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = {"onnx": writes(error=UNFIT)}
    monkeypatch.setattr(exports, "FORMATS", broken)
    monkeypatch.setitem(exports.export_bytes.__globals__, "FORMATS", broken)
    assert emitting.search()[0] == 0
    assert all("no_onnx" in {w.code for w in m.warnings} for m in emitting.assert_emitted().members)


def test_a_card_that_cannot_be_drawn_is_listed_and_its_model_is_emitted(
    emitting: Emitting, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(facts: CardFacts) -> str:
        raise KeyError(facts.run)

    monkeypatch.setattr(exports, "render_card", broken)
    code, said = emitting.search()
    assert code == 5
    for member in emitting.assert_emitted().members:
        assert f"{member.id}, model card: KeyError: 'tiny'" in said
        assert "metrics.json" in (emitting.directory / str(member.directory) / "README.md").read_text()


@pytest.mark.parametrize("name", ["front.csv", "front.md", "report.html"])
def test_a_report_that_fails_is_listed_and_everything_else_is_written(
    emitting: Emitting, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    def broken(_: Any) -> str:
        raise ZeroDivisionError("a column of zeros")

    if name == "report.html":
        monkeypatch.setattr(emit, "write_report", broken)
    else:
        monkeypatch.setitem(writers.FRONT_FILES, name, broken)
    code, said = emitting.search()
    assert code == 5
    assert f"{name}: ZeroDivisionError: a column of zeros" in said
    emitting.assert_emitted()
    written = {n for n in DOCUMENTS if (emitting.directory / n).exists()}
    assert written == set(DOCUMENTS) - {name}
    assert not any((emitting.directory / n).read_text() == "of an earlier front" for n in written)


def test_a_disk_that_is_full_for_one_member_is_exit_74_and_the_others_are_emitted(
    emitting: Emitting, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = OSError(errno.ENOSPC, "No space left on device")
    monkeypatch.setattr(saving, "probes_bytes", failing_once(saving.probes_bytes, full))
    code, said = emitting.search()
    assert code == 74
    assert "No space left on device" in said
    emitting.assert_emitted(lost=1)
