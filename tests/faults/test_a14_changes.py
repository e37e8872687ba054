"""A14: a run goes on only as the same experiment: what differs is named and refused, a larger budget is welcome."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from acts import TESTS, replayed_latency, tiny_groups
from typer.testing import CliRunner

from autoprune.cli.app import app
from autoprune.records import RecordStore
from autoprune.report.document import read_front
from autoprune.search import exports, measured, workbench

TASK = """
from pathlib import Path
import tiny

class Tagged(tiny.TinyTask):
    @property
    def fingerprint(self):
        return super().fingerprint + Path(__file__).with_name("data").read_text()

def make_task(fail=""):
    task = tiny.make_task()
    task.__class__ = Tagged
    return task
"""
CONFIG = """
name: changed
task: task.py:make_task
search: {{sampler: random, budget: {{evaluations: 2}}, warm_start: 0, controls: 0}}
recovery: {{short_steps: 1, full_steps: 1, finalists: 1, seeds: 1, proxy_images: 64}}
latency: {{targets: [torch-eager-fp32-b4-t1], rounds: 5, final_rounds: 5}}
objectives: [accuracy, macs]
executor: {{threads: 1}}
output: {output}
"""
REFUSED = {
    "search.seed=1": "search.seed: was 0, is 1",
    "search.sampler=nsga2": "search.sampler: was random, is nsga2",
    "search.budget.evaluations=1": "search.budget.evaluations: was 2, is 1",
    "space=quickstart": "space: was channels, is quickstart",
    "groups.protect=[stem]": "groups.protect: was [], is ['stem']",
    "recovery.short_steps=2": "recovery.short_steps: was 1, is 2",
    "latency.rounds=6": "latency.rounds: was 5, is 6",
    "objectives=[accuracy, bytes]": "objectives: was ['accuracy', 'macs'], is ['accuracy', 'bytes']",
    "task_args.fail=raise": "task_args.fail: was null, is raise",
}
ALLOWED = {"search.budget.evaluations=3": 3, "executor.cpus_per_worker=2": 2, "search.plateau=false": 2}


@pytest.fixture(scope="module", autouse=True)
def quick() -> Iterator[None]:
    """Trace the model once, replay latencies and export nothing."""
    groups = tiny_groups()
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(TESTS))
        patch.setattr(exports, "FORMATS", {})
        patch.setattr(workbench, "find_groups", lambda *_, **__: groups)
        for module in (workbench, measured):
            patch.setattr(module, "measure_latency", replayed_latency)
        yield


class Run:
    """An unfinished run: its candidates are there, its front is not."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.directory = folder / "results" / "changed"

    def search(self, *options: str) -> tuple[int, str]:
        (self.folder / "run.yaml").write_text(CONFIG.format(output=self.folder / "results"))
        result = CliRunner().invoke(app, ["search", str(self.folder / "run.yaml"), *options])
        assert "Traceback" not in result.stderr
        return result.exit_code, result.stderr

    def candidates(self) -> dict[str, str]:
        return {r.id: r.created for r in RecordStore(self.directory).load_all()}

    def state(self) -> dict[str, bytes]:
        files = (p for p in self.directory.rglob("*") if p.is_file() and p.name != "run.lock")
        return {str(p.relative_to(self.directory)): p.read_bytes() for p in files}

    def assert_refused(self, *options: str) -> str:
        """Return what a call says that changes nothing."""
        before = self.state()
        code, said = self.search(*options)
        assert code == 2, said
        assert "holds a run that differs from this one" in said
        assert "--accept-changes" in said
        assert self.state() == before
        return said


@pytest.fixture(scope="module")
def unfinished(quick: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("changes")
    (folder / "task.py").write_text(TASK)
    (folder / "data").write_text("first")
    code, said = Run(folder).search()
    assert code in (0, 4), said
    for path in (folder / "results" / "changed").glob("front*"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    return folder


@pytest.fixture
def changed(unfinished: Path, tmp_path: Path) -> Run:
    """The run, copied with its task."""
    folder = tmp_path / "copy"
    shutil.copytree(unfinished, folder)
    return Run(folder)


@pytest.mark.parametrize("override", REFUSED)
def test_a_changed_setting_is_refused_with_the_difference(changed: Run, override: str) -> None:
    assert REFUSED[override] in changed.assert_refused("--set", override)


def test_changed_code_is_refused_with_the_difference(changed: Run) -> None:
    (changed.folder / "task.py").write_text(f"{TASK}\n# another version\n")
    assert "task_sha256 has changed" in changed.assert_refused()


def test_changed_data_are_refused_with_the_difference(changed: Run) -> None:
    (changed.folder / "data").write_text("second")
    assert "data_fingerprint has changed" in changed.assert_refused()


@pytest.mark.parametrize("override", ALLOWED)
def test_a_larger_budget_and_another_engine_are_welcome(changed: Run, override: str) -> None:
    before = changed.candidates()
    code, said = changed.search("--set", override)
    assert code in (0, 4), said
    after = changed.candidates()
    assert {i: after[i] for i in before} == before
    assert sum(i.endswith("-short") for i in after) == ALLOWED[override]
    read_front(changed.directory)


def test_a_flag_goes_on_in_spite_of_all_changes(changed: Run) -> None:
    (changed.folder / "data").write_text("second")
    code, said = changed.search("--accept-changes", "--set", "recovery.full_steps=2")
    assert code in (0, 4), said
    read_front(changed.directory)
