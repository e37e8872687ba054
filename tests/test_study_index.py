"""study.db: an index of the records that Optuna opens, and that is mended by building it again."""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, distribution_to_json
from optuna.trial import TrialState
from record_factory import RECORD, numbered

from autoprune.errors import RunLockedError, StorageError
from autoprune.records import CandidateRecord, Report
from autoprune.search.study import StudyIndex, memory_study, trial_of

DIRECTIONS = ["maximize", "minimize"]
OBJECTIVES = ["accuracy", "latency_ms"]
SPACE = {"layer1/<b>": FloatDistribution(0.0, 0.9), "criterion": CategoricalDistribution(("l1", "taylor"))}


def proposed(number: int, *, sparsity: float = 0.5, generation: int = 0) -> CandidateRecord:
    proposal = {
        "params": {"layer1/<b>": sparsity, "criterion": "taylor"},
        "distributions": {k: json.loads(distribution_to_json(d)) for k, d in SPACE.items()},
        "system_attrs": {"NSGAIISampler:generation": generation},
    }
    values = {"latency_ms": 1.0 + sparsity, "accuracy": 0.9 + number / 1000}
    return replace(numbered(number), proposal=proposal, values=values)


def failed(number: int) -> CandidateRecord:
    failure = {"reason": "diverged", "stage": "recover", "message": "loss is nan"}
    return replace(proposed(number), state="failed", values={}, evaluation=None, failure=failure)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "study.db"


@pytest.fixture
def index(path: Path) -> Iterator[StudyIndex]:
    index = StudyIndex(path, "digits", DIRECTIONS, OBJECTIVES, patience_s=0.2)
    yield index
    index.close()


class Loaded(NamedTuple):
    trials: list[optuna.trial.FrozenTrial]
    directions: list[str]
    metric_names: list[str] | None


def loaded(path: Path) -> Loaded:
    storage = optuna.storages.RDBStorage(f"sqlite:///{path}")
    study = optuna.load_study(study_name="digits", storage=storage)
    found = Loaded(study.get_trials(), [d.name.lower() for d in study.directions], study.metric_names)
    storage.remove_session()
    storage.engine.dispose()
    return found


def test_a_trial_carries_params_values_by_name_and_reason() -> None:
    trial = trial_of(proposed(1), OBJECTIVES)
    assert trial.state == TrialState.COMPLETE
    assert trial.params == {"layer1/<b>": 0.5, "criterion": "taylor"}
    assert trial.distributions == SPACE
    assert trial.values == [0.901, 1.5]
    assert trial.user_attrs["candidate_id"] == numbered(1).id
    lost = trial_of(failed(2), OBJECTIVES)
    assert lost.state == TrialState.FAIL
    assert lost.values is None
    assert lost.user_attrs["failure"] == "recover: diverged: loss is nan"


@pytest.mark.parametrize(
    "proposal",
    [
        {"params": {"a": 1}},
        {
            "params": {"a": 2.0},
            "distributions": {"a": {"name": "FloatDistribution", "attributes": {"low": 0, "high": 1}}},
        },
        {"params": {}, "distributions": {"a": 1}},
    ],
)
def test_a_proposal_that_is_not_optunas_is_named(proposal: dict[str, object]) -> None:
    with pytest.raises(StorageError, match=RECORD.id):
        trial_of(replace(RECORD, proposal=proposal))


def test_optuna_opens_the_index_with_all_trials_and_metric_names(index: StudyIndex, path: Path) -> None:
    records = [proposed(0), failed(1), proposed(2)]
    index.sync(records[:2])
    index.offer(records[2])
    index.settle()
    study = loaded(path)
    assert study.metric_names == OBJECTIVES
    assert study.directions == DIRECTIONS
    assert [t.user_attrs["candidate_id"] for t in study.trials] == [r.id for r in records]
    assert [t.state for t in study.trials] == [TrialState.COMPLETE, TrialState.FAIL, TrialState.COMPLETE]
    assert study.trials[2].values == [0.902, 1.5]


def test_offered_records_wait_so_that_the_index_takes_little_time(index: StudyIndex, path: Path) -> None:
    index.sync([])
    started = time.monotonic()
    for number in range(30):
        index.offer(proposed(number))
    offering = time.monotonic() - started
    assert len(loaded(path).trials) < 30
    started = time.monotonic()
    index.flush()
    assert offering < time.monotonic() - started
    assert [t.user_attrs["candidate_id"] for t in loaded(path).trials] == [numbered(n).id for n in range(30)]


def test_what_was_put_off_when_a_run_is_stopped_is_added_by_the_next(index: StudyIndex, path: Path) -> None:
    index.sync([])
    for number in range(20):
        index.offer(proposed(number))
    index.close()
    again = StudyIndex(path, "digits", DIRECTIONS, OBJECTIVES)
    again.sync([proposed(number) for number in range(20)])
    again.close()
    assert len(loaded(path).trials) == 20


def test_a_stopped_candidate_is_a_pruned_trial_with_its_reports(index: StudyIndex, path: Path) -> None:
    reports = (Report(15, 0.5), Report(30, 0.25))
    cost = {"cost": {"macs": 10}}
    index.sync([replace(proposed(0), state="stopped", values={}, evaluation=cost, reports=reports)])
    trial = loaded(path).trials[0]
    assert trial.state == TrialState.PRUNED
    assert trial.intermediate_values == {15: 0.5, 30: 0.25}


def test_a_trial_carries_the_smooth_signal_where_the_record_has_it() -> None:
    evaluation = {"quality": {"val": {"cross_entropy": {"value": 0.3}}}}
    record = replace(proposed(1), evaluation=evaluation)
    assert trial_of(record, OBJECTIVES, signal="cross_entropy").user_attrs["signal"] == 0.3
    assert "signal" not in trial_of(record, OBJECTIVES, signal="perplexity").user_attrs
    assert "signal" not in trial_of(record, OBJECTIVES).user_attrs


def test_sync_adds_only_what_is_missing(index: StudyIndex, path: Path) -> None:
    index.sync([proposed(0)])
    created = loaded(path).trials[0].datetime_start
    index.sync([proposed(0), proposed(1)])
    trials = loaded(path).trials
    assert len(trials) == 2
    assert trials[0].datetime_start == created


def test_a_trial_without_a_record_makes_it_rebuild(index: StudyIndex, path: Path) -> None:
    index.sync([proposed(0), proposed(1)])
    index.sync([proposed(1)])
    assert [t.user_attrs["candidate_id"] for t in loaded(path).trials] == [numbered(1).id]


def test_other_objectives_make_it_rebuild(index: StudyIndex, path: Path) -> None:
    index.sync([proposed(0)])
    index.close()
    other = StudyIndex(path, "digits", ["maximize"], ["accuracy"])
    other.sync([proposed(0)])
    other.close()
    assert loaded(path).trials[0].values == [0.9]


@pytest.mark.parametrize("content", [b"garbage" * 1000, b"SQLite format 3\0" + bytes(100), b""])
def test_a_damaged_database_is_built_again(index: StudyIndex, path: Path, content: bytes) -> None:
    index.sync([proposed(0)])
    index.close()
    path.write_bytes(content)
    index.sync([proposed(0), proposed(1)])
    assert len(loaded(path).trials) == 2


def test_a_database_that_comes_free_in_time_is_waited_for(path: Path) -> None:
    index = StudyIndex(path, "digits", DIRECTIONS, OBJECTIVES, patience_s=30)
    index.sync([proposed(0)])
    blocker = sqlite3.connect(path, check_same_thread=False)
    blocker.execute("BEGIN EXCLUSIVE")
    timer = threading.Timer(1.3, blocker.rollback)
    timer.start()
    index.offer(proposed(1))
    index.settle()
    timer.join()
    blocker.close()
    index.close()
    assert len(loaded(path).trials) == 2


def test_a_database_that_stays_locked_is_a_temporary_error(index: StudyIndex, path: Path) -> None:
    index.sync([proposed(0)])
    blocker = sqlite3.connect(path)
    blocker.execute("BEGIN EXCLUSIVE")
    started = time.monotonic()
    index.offer(proposed(1))
    assert index.flush() == 1
    with pytest.raises(RunLockedError, match="lacks 1 of 2 trials") as caught:
        index.settle()
    assert caught.value.exit_code == 75
    assert time.monotonic() - started < 10
    blocker.close()
    index.settle()
    assert len(loaded(path).trials) == 2


def test_an_index_that_cannot_be_written_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "study.db").mkdir()
    index = StudyIndex(tmp_path / "study.db", "digits", DIRECTIONS, OBJECTIVES)
    with pytest.raises(StorageError, match=r"study\.db"):
        index.sync([proposed(0)])


def test_the_same_records_and_seed_give_the_same_proposals() -> None:
    records = [proposed(n, sparsity=n / 40) for n in range(20)]

    def ask() -> list[dict[str, object]]:
        study = memory_study(records, optuna.samplers.TPESampler(seed=3), DIRECTIONS, OBJECTIVES)
        return [study.ask(SPACE).params for _ in range(3)]

    assert ask() == ask()


def test_nsga2_takes_the_records_as_parents() -> None:
    records = [proposed(n, sparsity=0.111) for n in range(20)]
    sampler = optuna.samplers.NSGAIISampler(population_size=10, seed=0)
    study = memory_study(records, sampler, DIRECTIONS, OBJECTIVES)
    children = [study.ask(SPACE).params["layer1/<b>"] for _ in range(20)]
    assert sum(abs(c - 0.111) < 0.1 for c in children) >= 10


def test_a_study_in_memory_announces_nothing(capfd: pytest.CaptureFixture[str], index: StudyIndex) -> None:
    level = optuna.logging.get_verbosity()
    memory_study([proposed(0)], optuna.samplers.RandomSampler(seed=0), DIRECTIONS)
    index.sync([proposed(0)])
    assert capfd.readouterr() == ("", "")
    assert optuna.logging.get_verbosity() == level


def test_a_database_that_is_locked_from_the_start_is_left_alone_and_catches_up(path: Path) -> None:
    first = StudyIndex(path, "digits", DIRECTIONS, OBJECTIVES)
    first.sync([proposed(0)])
    first.close()
    blocker = sqlite3.connect(path)
    blocker.execute("BEGIN EXCLUSIVE")
    index = StudyIndex(path, "digits", DIRECTIONS, OBJECTIVES)
    started = time.monotonic()
    index.sync([proposed(0), proposed(1)])
    index.offer(proposed(2))
    assert time.monotonic() - started < 5
    blocker.close()
    index.settle()
    index.close()
    assert [t.user_attrs["candidate_id"] for t in loaded(path).trials] == [numbered(n).id for n in range(3)]


def test_a_trial_whose_value_was_altered_makes_it_rebuild(index: StudyIndex, path: Path) -> None:
    index.sync([proposed(0), proposed(1)])
    index.close()
    with sqlite3.connect(path) as database:
        database.execute("UPDATE trial_values SET value = 9.9 WHERE trial_id = 1")
    database.close()
    index.sync([proposed(0), proposed(1)])
    assert [t.values for t in loaded(path).trials] == [[0.9, 1.5], [0.901, 1.5]]


def test_a_database_that_is_damaged_while_it_is_open_is_built_again(index: StudyIndex, path: Path) -> None:
    index.sync([proposed(n) for n in range(3)])
    path.write_bytes(b"garbage" * 2000)
    index.offer(proposed(3))
    index.settle()
    assert len(loaded(path).trials) == 4
