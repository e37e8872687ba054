"""A search as a process that can be signalled where it lingers, and what has to be true of it afterwards."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass, field
from pathlib import Path

import optuna
import psutil
from slow_task import FULL_STEPS, SHORT_STEPS
from stage import Act, Stage

from autoprune.records import CandidateRecord, RecordStore, RunLock
from autoprune.search.study import quiet_optuna

HERE = Path(__file__).resolve().parent
CONFIG = f"""
name: slow
task: {HERE}/slow_task.py:make_task
task_args: {{{{folder: {{folder}}}}}}
search: {{{{sampler: random, budget: {{{{evaluations: 4}}}}, warm_start: 0, controls: 0, workers: {{workers}}}}}}
recovery: {{{{short_steps: {SHORT_STEPS}, full_steps: {FULL_STEPS}, finalists: 2, seeds: 1, proxy_images: 64}}}}
latency: {{{{targets: [torch-eager-fp32-b4-t1], rounds: 5, final_rounds: 5}}}}
executor: {{{{threads: 1, kind: {{kind}}}}}}
output: {{folder}}/results
"""
PATIENCE_S = 120.0


@dataclass
class Search:
    """One call of `autoprune search` that lingers at a step.

    Args:
        stage: Where it runs.
        folder: Of its own.
        linger: The step; empty = nowhere.
        workers: Candidates at the same time.
        kind: The engine.
    """

    stage: Stage
    folder: Path
    linger: str = ""
    workers: int = 1
    kind: str = "local"
    family: list[psutil.Process] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.config = self.folder / "slow.yaml"
        self.config.write_text(CONFIG.format(folder=self.folder, workers=self.workers, kind=self.kind))
        self.directory = self.folder / "results" / "slow"

    def start(self) -> Act:
        """Start the process, which lingers when this returns."""
        (self.folder / "linger").write_text(self.linger)
        (self.folder / "lingers").unlink(missing_ok=True)
        act = self.stage.start("search", config=str(self.config))
        if self.linger:
            self.await_file(self.folder / "lingers", act)
        self.look(act)
        return act

    def await_file(self, path: Path, act: Act) -> None:
        limit = time.monotonic() + PATIENCE_S
        while not path.exists():
            assert time.monotonic() < limit, act.err.read_text()
            assert psutil.Process(act.pid).status() != psutil.STATUS_ZOMBIE, act.err.read_text()
            time.sleep(0.02)

    def look(self, act: Act) -> None:
        """Remember the process with all that it has started."""
        process = psutil.Process(act.pid)
        self.family += [p for p in (process, *process.children(recursive=True)) if p not in self.family]

    def stop(self, act: Act, sent: signal.Signals, *, again_after_s: float | None = None) -> tuple[int, float, str]:
        """Signal the process and return its exit status, the seconds that its end took, and its stderr."""
        self.look(act)
        started = time.monotonic()
        os.kill(act.pid, sent)
        if again_after_s is not None:
            time.sleep(again_after_s)
            os.kill(act.pid, sent)
        status = act.wait(60.0)
        return status, time.monotonic() - started, act.err.read_text()

    def records(self) -> list[CandidateRecord]:
        return RecordStore(self.directory).load_all()

    def assert_left_in_order(self) -> None:
        """Nothing runs on, nothing is locked, nothing in the index is under way, every record is whole."""
        _, alive = psutil.wait_procs(self.family, timeout=5.0)
        assert not alive
        with RunLock(self.directory, patience_s=0.0):
            pass
        records = self.records()
        assert not (self.directory / "candidates" / ".quarantine").exists()
        assert not [r for r in records if r.state == "failed"]
        assert running_trials(self.directory) == 0


def running_trials(directory: Path) -> int:
    """Return how many trials of the index are neither complete nor failed."""
    path = directory / "study.db"
    if not path.exists():
        return 0
    storage = optuna.storages.RDBStorage(f"sqlite:///{path}")
    with quiet_optuna():
        try:
            studies = optuna.get_all_study_names(storage)
            trials = [t for name in studies for t in optuna.load_study(study_name=name, storage=storage).trials]
        finally:
            storage.remove_session()
            storage.engine.dispose()
    return sum(not trial.state.is_finished() for trial in trials)
