"""Configuration -> the search problem of its run, for schedulers that bring a loop of their own."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path

from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler

from autoprune.config import LoadedConfig, RunConfig, load_config
from autoprune.errors import ConfigError, TaskError
from autoprune.policy import Policy
from autoprune.records import CandidateRecord, Fidelity, RecordStore, RunLock
from autoprune.search.check import load_checked_task, run_directory_of, setup_of
from autoprune.search.directory import RunDirectory
from autoprune.search.executors.base import Job
from autoprune.search.executors.shipping import Parcel, unmark, with_reserved_threads, wrap
from autoprune.search.loop import Phase
from autoprune.search.objectives import Objective, constraints_of
from autoprune.search.phases import PhaseMaker
from autoprune.search.setup import Setup
from autoprune.search.workbench import Workbench, evaluation_of


class PruningProblem:
    """The pruning policies of one model: what may be chosen, who proposes, and where results lie.

    The directory is that of `autoprune search` with the same configuration: each knows what the other has evaluated.
    It stays locked until `close`, or until this object is gone; a copy that was pickled holds no lock.

    Args:
        config: Path of a YAML configuration, or a configuration.
        overrides: `dotted.path=value` as on the command line, for a path.

    Raises:
        AutopruneError: Configuration, task, model or data are unusable, or another process has the directory.
    """

    def __init__(self, config: str | Path | RunConfig, *, overrides: Sequence[str] = ()) -> None:
        loaded = _loaded(config) if isinstance(config, RunConfig) else load_config(config, overrides=overrides)
        if loaded.config.executor.store is not None:
            raise ConfigError(
                f"executor.store is {loaded.config.executor.store}; with a loop of your own it must be null.",
                hint="Put `output` on a file system that all nodes share.",
            )
        directory = run_directory_of(loaded)
        directory.check()
        reference, task, notes = load_checked_task(loaded)
        bench = Workbench(setup_of(loaded, reference), task)
        bench.require_dense()
        directory.create()
        with ExitStack() as stack:
            stack.enter_context(RunLock(directory.path))
            _prepare(directory, bench, [*notes, *bench.groups.notes])
            records = RecordStore(directory.path).load_all()
            dense = _dense_record(bench, records)
            self._known = [r for r in records if r.number > 0 and not r.is_control]
            self.first_number = 1 + max(r.number for r in (dense, *records))
            self.phase = _phase_of(bench, dense, self.records("short"), self.records("proxy"))
            setup = replace(bench.setup, dense_ms=_dense_ms(bench, dense))
            self.parcel: Parcel = wrap(with_reserved_threads(setup))
            stack.callback(unmark, self.parcel)
            self._release: Callable[[], object] | None = weakref.finalize(self, stack.pop_all().close)

    @property
    def setup(self) -> Setup:
        """The run, with absolute paths."""
        return self.parcel.setup

    @property
    def objectives(self) -> tuple[Objective, ...]:
        """What is optimised, in order."""
        return self.phase.context.objectives

    @property
    def directions(self) -> Mapping[str, str]:
        """Objective -> `min` or `max`."""
        return {o.name: o.direction for o in self.objectives}

    @property
    def sampler(self) -> BaseSampler:
        """The configured sampler, for one Optuna study."""
        return self.phase.sampler

    @property
    def distributions(self) -> dict[str, BaseDistribution]:
        """Every dimension of the space by name."""
        return self.phase.context.space.distributions()

    def records(self, fidelity: Fidelity) -> list[CandidateRecord]:
        """Return what the directory held of a fidelity when it was opened: no dense model, no control, no repeat."""
        return [r for r in self._known if r.fidelity == fidelity and r.repeat == 0]

    def close(self) -> None:
        """Give the directory back."""
        if self._release is not None:
            self._release()

    def __getstate__(self) -> dict[str, object]:
        """Leave the lock behind."""
        return self.__dict__ | {"_release": None}


def _loaded(config: RunConfig) -> LoadedConfig:
    here = Path.cwd()
    return LoadedConfig(config, here / "config.yaml", here, config.model_dump(mode="json"))


def _prepare(directory: RunDirectory, bench: Workbench, notes: Sequence[str]) -> None:
    about = {
        "identity": {"task_sha256": bench.setup.task.sha256, "data_fingerprint": bench.task.fingerprint},
        "objectives": [asdict(o) for o in bench.objectives],
        "warnings": list(notes),
    }
    directory.prepare(bench.config, about, accept_changes=False)


def _dense_record(bench: Workbench, records: Sequence[CandidateRecord]) -> CandidateRecord:
    job = Job(0, Policy({}), "full")
    found = next((r for r in records if r.id == job.id and r.state == "complete"), None) or bench.run(job)
    if found.state != "complete":
        failure = found.failure or {}
        raise TaskError(
            f"The dense model cannot be evaluated at stage {failure.get('stage')}: {failure.get('message')}",
            hint="`autoprune check` tells more.",
        )
    return found


def _dense_ms(bench: Workbench, dense: CandidateRecord) -> float:
    return evaluation_of(dense).latency[bench.targets[0].name].ms


def _phase_of(
    bench: Workbench, dense: CandidateRecord, shorts: Sequence[CandidateRecord], proxies: Sequence[CandidateRecord]
) -> Phase:
    """Return the phase of trained candidates; none is stopped at a rung, which is left to the scheduler."""
    quality = evaluation_of(dense).quality["val"][bench.task.metrics[0].name].value
    constraints = constraints_of(bench.config, bench.task, quality)
    return replace(PhaseMaker(bench, constraints, dense).short(shorts, proxies), board=None)
