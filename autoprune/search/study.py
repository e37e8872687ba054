"""Records -> Optuna trials: the in-memory study that proposes, and `study.db`, an index that can always be rebuilt."""

from __future__ import annotations

import json
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import optuna
from optuna.distributions import distribution_to_json, json_to_distribution
from optuna.samplers import BaseSampler
from optuna.storages import BaseStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial
from sqlalchemy.exc import DatabaseError

from autoprune.errors import RunLockedError, StorageError
from autoprune.records import CandidateRecord, State
from autoprune.search.context import SIGNAL
from autoprune.storage import storage_errors

T = TypeVar("T")

STATES: Mapping[State, TrialState] = {
    "complete": TrialState.COMPLETE,
    "stopped": TrialState.PRUNED,
    "failed": TrialState.FAIL,
}
TIME_SHARE = 0.05
_LOCKED = ("database is locked", "database table is locked")
_UNREADABLE = ("not a database", "malformed", "no such table", "no such column")
_WAIT_S = (0.05, 2.0)


def proposal_of(trial: FrozenTrial) -> dict[str, Any]:
    """Return what a sampler chose, as plain JSON for a record; `trial_of` gives the trial back."""
    return {
        "params": dict(trial.params),
        "distributions": {k: json.loads(distribution_to_json(d)) for k, d in trial.distributions.items()},
        "system_attrs": dict(trial.system_attrs),
    }


def trial_of(
    record: CandidateRecord, objectives: Sequence[str] | None = None, *, signal: str | None = None
) -> FrozenTrial:
    """Return the finished trial of a record: COMPLETE with its values, PRUNED with its reports, FAIL with its reason.

    The system attributes are kept: without them NSGA-II does not take the trial as a parent.

    Args:
        record: The candidate.
        objectives: Names of the values in the study's order; None takes the record's own order.
        signal: Metric that becomes the user attribute `signal`, where the record has it.

    Raises:
        StorageError: The proposal in the record is not Optuna's.
    """
    complete = record.state == "complete"
    proposal: Mapping[str, Any] = record.proposal
    encoded: Mapping[str, Any] = proposal.get("distributions", {})
    try:
        return create_trial(
            state=STATES[record.state],
            params=dict(proposal.get("params", {})),
            distributions={k: json_to_distribution(json.dumps(d)) for k, d in encoded.items()},
            values=[record.values[name] for name in objectives or record.values] if complete else None,
            user_attrs=attributes_of(record, signal),
            system_attrs=dict(proposal.get("system_attrs", {})),
            intermediate_values={r.step: r.value for r in record.reports},
        )
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        message = f"Candidate {record.id} holds a proposal or values that make no trial: {error}"
        raise StorageError(message, hint=f"Remove candidates/{record.id} to have it evaluated again.") from error


def attributes_of(record: CandidateRecord, signal: str | None = None) -> dict[str, Any]:
    """Return the user attributes of a record's trial."""
    found: dict[str, Any] = {"candidate_id": record.id, "digest": record.digest, "fidelity": record.fidelity}
    if record.origin:
        found["origin"] = record.origin
    if record.predicted:
        found["predicted"] = {name: dict(expected) for name, expected in record.predicted.items()}
    if record.failure is not None:
        found["failure"] = ": ".join(str(record.failure.get(k, "")) for k in ("stage", "reason", "message"))
    value = signal_value(record, signal)
    return found if value is None else {**found, SIGNAL: value}


def signal_value(record: CandidateRecord, signal: str | None) -> float | None:
    """Return a complete record's value of the task's smooth signal on val; None where there is none."""
    if signal is None or record.state != "complete" or record.evaluation is None:
        return None
    interval = record.evaluation.get("quality", {}).get("val", {}).get(signal)
    return None if interval is None else float(interval["value"])


def memory_study(
    records: Iterable[CandidateRecord],
    sampler: BaseSampler,
    directions: Sequence[str],
    objectives: Sequence[str] | None = None,
    *,
    storage: BaseStorage | None = None,
) -> optuna.Study:
    """Return an in-memory study that knows the records' trials, in their order.

    Args:
        records: Finished candidates.
        sampler: Who proposes.
        directions: `minimize` or `maximize`, one an objective.
        objectives: Names of the values in that order; None takes each record's own order.
        storage: Where it is kept; None = in memory.
    """
    with quiet_optuna():
        study = optuna.create_study(storage=storage, sampler=sampler, directions=_directions(directions))
    study.add_trials([trial_of(record, objectives) for record in records])
    return study


class StudyIndex:
    """The Optuna study of a run in one SQLite file, for optuna-dashboard and Optuna's analyses.

    It holds nothing that the records do not, so whatever is wrong with it is mended by building it again.

    Args:
        path: The database file.
        name: Study name.
        directions: `minimize` or `maximize`, one an objective.
        objectives: Names of the values, in the same order.
        patience_s: Seconds to wait for a database that another process has locked.
    """

    def __init__(
        self,
        path: Path,
        name: str,
        directions: Sequence[str],
        objectives: Sequence[str],
        *,
        patience_s: float = 60.0,
    ) -> None:
        self.path = path
        self.name = name
        self.directions = _directions(directions)
        self.objectives = tuple(objectives)
        self.patience_s = patience_s
        self._study: optuna.Study | None = None
        self._storage: optuna.storages.RDBStorage | None = None
        self._waiting: deque[CandidateRecord] = deque()
        self._opened = time.monotonic()
        self._spent_s = 0.0

    def sync(self, records: Sequence[CandidateRecord]) -> None:
        """Make the study hold exactly the records' trials: add the missing, rebuild where others are found.

        Raises:
            RunLockedError: The database stayed locked.
            StorageError: The file cannot be written.
        """
        wanted = {record.id for record in records}
        known = self._patiently(self._known)
        if known is None or not known <= wanted:
            self._discard()
            known = set()
        for record in records:
            if record.id not in known:
                self.add(record)

    def add(self, record: CandidateRecord) -> None:
        """Append the trial of a record.

        Raises:
            RunLockedError: The database stayed locked.
            StorageError: The file cannot be written.
        """
        trial = trial_of(record, self.objectives)
        self._patiently(lambda: self._open().add_trial(trial))

    def offer(self, record: CandidateRecord) -> None:
        """Take a record, whose trial is appended now or later: the index takes a small share of a run's time.

        Raises:
            RunLockedError: The database stayed locked.
            StorageError: The file cannot be written.
        """
        self._waiting.append(record)
        while self._waiting and self._spent_s <= TIME_SHARE * (time.monotonic() - self._opened):
            self._append_first()

    def flush(self) -> None:
        """Append what `offer` has put off.

        Raises:
            RunLockedError: The database stayed locked.
            StorageError: The file cannot be written.
        """
        while self._waiting:
            self._append_first()

    def _append_first(self) -> None:
        started = time.monotonic()
        self.add(self._waiting[0])
        self._waiting.popleft()
        self._spent_s += time.monotonic() - started

    def close(self) -> None:
        """Give the file back; what was put off is left to the next `sync`."""
        if self._storage is not None:
            self._storage.remove_session()
            self._storage.engine.dispose()
        self._study = self._storage = None

    def _open(self) -> optuna.Study:
        if self._study is None:
            self.close()
            with storage_errors(self.path):
                self.path.parent.mkdir(parents=True, exist_ok=True)
            with quiet_optuna():
                self._storage = optuna.storages.RDBStorage(
                    f"sqlite:///{self.path.absolute()}", engine_kwargs={"connect_args": {"timeout": 0.2}}
                )
                study = optuna.create_study(
                    storage=self._storage, study_name=self.name, directions=self.directions, load_if_exists=True
                )
            if study.metric_names is None:
                with warnings.catch_warnings():  # Optuna still calls this experimental
                    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                    study.set_metric_names(list(self.objectives))
            self._study = study
        return self._study

    def _known(self) -> set[str] | None:
        """Return the candidates that the study holds; None where it is unreadable or no index of this run."""
        try:
            study = self._open()
            attributes = [trial.user_attrs for trial in study.get_trials(deepcopy=False)]
        except (DatabaseError, optuna.exceptions.StorageInternalError) as error:
            if _says(error, _UNREADABLE):
                return None
            raise
        except (RuntimeError, ValueError, TypeError, KeyError):  # another version's tables, or altered rows
            return None
        ids = {a["candidate_id"] for a in attributes if "candidate_id" in a}
        names = tuple(study.metric_names or ())
        ours = len(ids) == len(attributes) and study.directions == self.directions and names == self.objectives
        return ids if ours else None

    def _discard(self) -> None:
        self.close()
        with storage_errors(self.path):
            for suffix in ("", "-journal", "-wal", "-shm"):
                self.path.with_name(self.path.name + suffix).unlink(missing_ok=True)

    def _patiently(self, action: Callable[[], T]) -> T:
        """Run `action` again, with growing waits, while the database is locked."""
        deadline = time.monotonic() + self.patience_s
        wait_s, longest_s = _WAIT_S
        while True:
            try:
                return action()
            except (DatabaseError, optuna.exceptions.StorageInternalError) as error:
                if not _says(error, _LOCKED):
                    raise StorageError(
                        f"Cannot write {self.path}: {error.__cause__ or error}",
                        hint="The records are complete; remove the file to have it rebuilt from them.",
                    ) from error
                if time.monotonic() + wait_s > deadline:
                    raise RunLockedError(
                        f"{self.path} stayed locked by another process for {self.patience_s:g} s.",
                        hint="Close what has it open, such as a database browser, and run the same command again.",
                    ) from error
            time.sleep(wait_s)
            wait_s = min(2 * wait_s, longest_s)


def _directions(names: Iterable[str]) -> list[StudyDirection]:
    return [StudyDirection[name.upper()] for name in names]


def _says(error: BaseException | None, phrases: Iterable[str]) -> bool:
    """Tell whether an error or one that caused it holds any of the phrases."""
    while error is not None:
        if any(phrase in str(error) for phrase in phrases):
            return True
        error = error.__cause__ or error.__context__
    return False


@contextmanager
def quiet_optuna() -> Iterator[None]:
    """Keep Optuna from announcing each study on stderr."""
    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(level)
