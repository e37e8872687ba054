"""Records -> Optuna trials: the in-memory study that proposes, and `study.db`, an index that can always be rebuilt."""

from __future__ import annotations

import json
import sqlite3
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import distribution_to_json, json_to_distribution
from optuna.samplers import BaseSampler
from optuna.storages import BaseStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial
from sqlalchemy import text
from sqlalchemy.exc import DatabaseError

from autoprune.errors import RunLockedError, StorageError
from autoprune.records import CandidateRecord, State
from autoprune.search.context import SIGNAL
from autoprune.storage import free_bytes, storage_errors
from autoprune.storage.faults import fault_point

STATES: Mapping[State, TrialState] = {
    "complete": TrialState.COMPLETE,
    "stopped": TrialState.PRUNED,
    "failed": TrialState.FAIL,
}
STUDY_FILE = "study.db"
TIME_SHARE = 0.05
_LOCKED = ("database is locked", "database table is locked")
_UNREADABLE = ("not a database", "malformed", "no such table", "no such column")
_FAILURES = (DatabaseError, optuna.exceptions.StorageInternalError)
_ALTERED = (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
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

    It holds nothing that the records do not, so whatever is wrong with it is mended by building it again, and while
    another process has it locked the run goes on: what is missing is appended later, at the latest by `settle`.

    Args:
        path: The database file.
        name: Study name.
        directions: `minimize` or `maximize`, one an objective.
        objectives: Names of the values, in the same order.
        patience_s: Seconds that `add` and `settle` wait for a database that another process has locked.
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
        self._records: list[CandidateRecord] = []
        self._waiting: deque[CandidateRecord] = deque()
        self._compared = True
        self._rebuilt = False
        self._opened = time.monotonic()
        self._spent_s = 0.0
        self._retry = 0.0, _WAIT_S[0]

    def sync(self, records: Sequence[CandidateRecord]) -> None:
        """Make the study hold exactly the records' trials: add the missing, rebuild where others are found.

        A database that is locked is left alone for now.

        Raises:
            StorageError: The file cannot be written.
        """
        self._records = list(records)
        self._waiting = deque(records)
        self._compared = False
        self.flush()

    def add(self, record: CandidateRecord) -> None:
        """Append the trial of a record; where the database stayed locked it is put off.

        Raises:
            RunLockedError: The database stayed locked.
            StorageError: The file cannot be written.
        """
        self.offer(record)
        self.settle()

    def offer(self, record: CandidateRecord) -> None:
        """Take a record, whose trial is appended now or later: the index takes a small share of a run's time.

        Raises:
            StorageError: The file cannot be written.
        """
        self._records.append(record)
        self._waiting.append(record)
        again_at, _ = self._retry
        if time.monotonic() >= again_at:
            self._advance(lambda: self._spent_s <= TIME_SHARE * (time.monotonic() - self._opened))

    def flush(self) -> int:
        """Append what `offer` has put off, and return how many trials a lock by another process kept out.

        Raises:
            StorageError: The file cannot be written.
        """
        self._advance(lambda: True)
        return len(self._waiting)

    def settle(self) -> None:
        """Append what was put off, trying again with growing waits while the database is locked.

        Raises:
            RunLockedError: It stayed locked.
            StorageError: The file cannot be written.
        """
        deadline = time.monotonic() + self.patience_s
        while self.flush():
            _, wait_s = self._retry
            if time.monotonic() + wait_s > deadline:
                raise RunLockedError(
                    f"{self.path} stayed locked by another process for {self.patience_s:g} s and lacks "
                    f"{len(self._waiting)} of {len(self._records)} trials; the records are complete.",
                    hint="Close what has it open, such as a database browser, and run the same command again.",
                )
            time.sleep(wait_s)

    def close(self) -> None:
        """Give the file back; what was put off is left to the next `sync`."""
        if self._storage is not None:
            self._storage.remove_session()
            self._storage.engine.dispose()
        self._study = self._storage = None

    def _advance(self, may_go_on: Callable[[], bool]) -> None:
        """Append what was put off, until it is all there, `may_go_on` says no or the database is found locked."""
        _, wait_s = self._retry
        self._retry = time.monotonic() + wait_s, min(2 * wait_s, _WAIT_S[1])
        if self._is_locked():
            return
        try:
            self._compare()
            while self._waiting and may_go_on():
                self._append_first()
        except _FAILURES as error:
            if _says(error, _LOCKED):
                return
            if _says(error, _UNREADABLE) and not self._rebuilt:
                self._rebuild()
                self._advance(may_go_on)
                return
            why = " ".join(str(_chain(error)[-1]).split())
            raise StorageError(
                f"Cannot store {self.path}: {why} ({free_bytes(self.path)} bytes free).",
                hint="The records are complete; remove the file to have it rebuilt from them.",
            ) from error
        self._retry = 0.0, _WAIT_S[0]

    def _is_locked(self) -> bool:
        """Tell whether another process has the file locked: Optuna would find out only after seconds of waiting."""
        if not self.path.is_file():
            return False
        with closing(sqlite3.connect(self.path, timeout=0.0, isolation_level=None)) as connection:
            try:
                connection.execute("BEGIN IMMEDIATE")
                connection.execute("ROLLBACK")
            except sqlite3.DatabaseError as error:
                return _says(error, _LOCKED)
        return False

    def _append_first(self) -> None:
        started = time.monotonic()
        trial = trial_of(self._waiting[0], self.objectives)
        fault_point("trial-made")
        self._open().add_trial(trial)
        self._waiting.popleft()
        self._spent_s += time.monotonic() - started

    def _compare(self) -> None:
        """Leave to be appended what the study lacks, which is everything where it is no index of these records."""
        if self._compared:
            return
        known = self._known()
        mine = {record.id: record for record in self._records}
        if known is None or any(i not in mine or not self._is_trial_of(mine[i], t) for i, t in known.items()):
            self._discard()
            known = {}
        self._waiting = deque(record for record in self._records if record.id not in known)
        self._compared = True

    def _is_trial_of(self, record: CandidateRecord, trial: FrozenTrial) -> bool:
        values = [record.values[name] for name in self.objectives] if record.state == "complete" else None
        params = record.proposal.get("params", {})
        return (trial.state, trial.values, trial.params) == (STATES[record.state], values, params)

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

    def _known(self) -> dict[str, FrozenTrial] | None:
        """Return candidate -> trial of the study; None where it is unreadable or no index of this run."""
        try:
            study = self._open()
            trials = study.get_trials(deepcopy=False)
            sound = self._is_sound()
        except _FAILURES as error:
            if _says(error, _UNREADABLE):
                return None
            raise
        except _ALTERED:  # another version's tables, or altered rows
            return None
        found = {str(t.user_attrs.get("candidate_id")): t for t in trials}
        names = tuple(study.metric_names or ())
        ours = len(found) == len(trials) and study.directions == self.directions and names == self.objectives
        return found if ours and sound else None

    def _is_sound(self) -> bool:
        """Tell whether the file is whole as SQLite sees it."""
        if self._storage is None:
            return False
        with self._storage.engine.connect() as connection:
            return bool(connection.execute(text("PRAGMA quick_check(1)")).scalar() == "ok")

    def _rebuild(self) -> None:
        """Begin anew, once: a second time would not help."""
        self._rebuilt = True
        self._discard()
        self._waiting = deque(self._records)
        self._compared = True

    def _discard(self) -> None:
        self.close()
        with storage_errors(self.path):
            for suffix in ("", "-journal", "-wal", "-shm"):
                self.path.with_name(self.path.name + suffix).unlink(missing_ok=True)


def _directions(names: Iterable[str]) -> list[StudyDirection]:
    return [StudyDirection[name.upper()] for name in names]


def _chain(error: BaseException) -> list[BaseException]:
    """Return an error and what caused it, the first cause last."""
    found = [error]
    while (cause := found[-1].__cause__ or found[-1].__context__) is not None:
        found.append(cause)
    return found


def _says(error: BaseException, phrases: Iterable[str]) -> bool:
    """Tell whether an error or one that caused it holds any of the phrases."""
    return any(phrase in str(one) for one in _chain(error) for phrase in phrases)


@contextmanager
def quiet_optuna() -> Iterator[None]:
    """Keep Optuna from announcing each study on stderr."""
    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(level)
