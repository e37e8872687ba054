"""Ray Tune as an engine, and the search inside a user's own `Tuner`, in one Ray session of this machine."""

from __future__ import annotations

import math
import os
import pickle
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import psutil
import pytest
from executor_cases import TESTS, faulty_setup, gather, job, mark, until
from faulty_task import calls_in
from optuna.trial import TrialState
from ray import tune
from ray.tune.experiment import Trial
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search.optuna import OptunaSearch

from autoprune.config import RunConfig
from autoprune.errors import ConfigError, RunLockedError, StorageError
from autoprune.integrations.tune import FrontScheduler, PruningProblem, PruningSearcher
from autoprune.records import CandidateRecord, RecordStore
from autoprune.search.executors.cluster import Cluster
from autoprune.search.executors.desk import Desk
from autoprune.search.executors.tune import TunePool
from autoprune.search.executors.worker import Lost
from autoprune.search.samplers import LearnedSampler

SHARE = {"cpus_per_worker": 0.5}


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster of this machine with room for four workers; Tune's results go where nobody looks."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "RAY_AIR_NEW_OUTPUT"):
            patch.setenv(name, str(int("DISABLE" in name)))
        with closing(Cluster(faulty_setup(tmp_path_factory.mktemp("session"), workers=4, **SHARE))) as cluster:
            yield cluster


@pytest.fixture(scope="module")
def pool(session: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TunePool]:
    """A pool of two workers; Tune's own files and settings are gone when it is closed."""
    before = tune_environment()
    with closing(TunePool(faulty_setup(tmp_path_factory.mktemp("run"), **SHARE))) as pool:
        yield pool
        assert tune_files()
    assert not tune_files()
    assert tune_environment() == before


def tune_files() -> list[Path]:
    return list(Path(tempfile.gettempdir()).glob(f"autoprune-tune-{os.getpid()}-*"))


def tune_environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name.startswith(("TUNE_", "RAY_"))}


def directory_of(pool: TunePool) -> Path:
    return pool._parcel.setup.directory


def sessions(pool: TunePool) -> set[int]:
    return {c.session for c in calls_in(directory_of(pool))}


def await_workers(pool: TunePool, first: int) -> None:
    """Give the pool jobs until both workers have had one."""
    for number in range(first, first + 20, 2):
        gather(pool, [job(number), job(number + 1)])
        if len(sessions(pool)) == 2:
            return
    pytest.fail("the second worker never came")


def calls(pool: TunePool, steps: int) -> list[int]:
    """Return the children that began with the candidate of so many steps, in order."""
    return [c.session for c in calls_in(directory_of(pool)) if c.steps == steps]


def kill_actor(pool: TunePool, steps: int) -> None:
    """Kill the actor whose child begins with the candidate of so many steps."""
    until(lambda: bool(calls(pool, steps)))
    actor = psutil.Process(psutil.Process(calls(pool, steps)[0]).ppid())
    assert actor.name().startswith("ray::")
    actor.kill()


def test_workers_stay_while_there_is_nothing_to_do_and_say_nothing(
    pool: TunePool, capfd: pytest.CaptureFixture[str]
) -> None:
    await_workers(pool, 100)
    before = sessions(pool)
    mark(pool._parcel.setup, "recover", "fail", steps=3)
    records = gather(pool, [job(n) for n in range(4)])
    assert {r.number: r.state for r in records} == {0: "complete", 1: "failed", 2: "complete", 3: "complete"}
    assert sessions(pool) == before
    assert capfd.readouterr().out == ""


def test_the_job_of_a_killed_actor_is_done_by_another(pool: TunePool) -> None:
    mark(pool._parcel.setup, "recover", "sleep", "once", steps=12)
    pool.submit(job(10))
    kill_actor(pool, 12)
    assert [(r.number, r.state) for r in pool.collect()] == [(10, "complete")]
    assert len(set(calls(pool, 12))) == 2


def test_a_desk_waits_for_the_next_job_until_the_driver_waits_itself() -> None:
    desk, found = Desk(), list[Any]()

    def ask() -> None:
        found.append(desk.hand_out("one"))

    asking = threading.Thread(target=ask)
    asking.start()
    asking.join(0.2)
    assert asking.is_alive()
    desk.leave(job(0))
    asking.join()
    assert found == [job(0)]
    waiting = threading.Thread(target=desk.take)
    waiting.start()
    assert desk.hand_out("two") is None
    waiting.join()


def test_a_desk_gives_each_outcome_with_its_job_once() -> None:
    desk, lost = Desk(), Lost("worker_lost", "gone")
    desk.leave(job(0))
    assert desk.hand_out("one") == job(0)
    assert desk.has_job("one")
    desk.bring_back("one", lost)
    desk.bring_back("one", lost)
    desk.bring_back("two", ConfigError("cannot be built"))
    (first, outcome), (second, error) = desk.take()
    assert (first, outcome, second) == (job(0), lost, None)
    assert isinstance(error, ConfigError)
    assert desk.take() == []
    desk.close()
    assert desk.hand_out("one") is None
    assert not pickle.loads(pickle.dumps(desk)).closed


def problem_of(directory: Path, **changes: Any) -> PruningProblem:
    """Return the problem of `faulty_task`, whose markers lie in a directory."""
    document = {
        "name": "tuned",
        "task": f"{TESTS}/faulty_task.py:make_task",
        "task_args": {"directory": str(directory)},
        "search": {"seed": 0, "budget": {"evaluations": 12}},
        "recovery": {"short_steps": 4, "full_steps": 8, "val_images": 64, "proxy_images": 32},
        "latency": {"targets": ["torch-eager-fp32-b1-t1"], "rounds": 5},
        "objectives": ["accuracy", "macs"],
        "constraints": {"require": ["accuracy>=0.2"]},
        "executor": {"threads": 1, **SHARE},
        "output": str(directory),
    }
    return PruningProblem(RunConfig.model_validate(document | changes))


@pytest.fixture
def problem(tmp_path: Path) -> Iterator[PruningProblem]:
    with closing(problem_of(tmp_path)) as problem:
        yield problem


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PruningProblem]:
    """A problem for tests that evaluate nothing."""
    with closing(problem_of(tmp_path_factory.mktemp("shared"))) as problem:
        yield problem


def states(searcher: PruningSearcher) -> list[TrialState]:
    return [t.state for t in searcher._proposals._study.get_trials(deepcopy=False)]


def fit(
    trainable: type[tune.Trainable], searcher: Any, directory: Path, samples: int, **settings: Any
) -> tune.ResultGrid:
    tuner = tune.Tuner(
        trainable,
        tune_config=tune.TuneConfig(
            search_alg=searcher, num_samples=samples, max_concurrent_trials=1, reuse_actors=True, **settings
        ),
        run_config=tune.RunConfig(name="user", storage_path=str(directory / "tune"), verbose=0),
    )
    return tuner.fit()


def metrics_of(grid: tune.ResultGrid) -> list[dict[str, Any]]:
    return [dict(result.metrics or {}) for result in grid]


def test_a_tuner_searches_with_our_sampler_and_a_failure_leaves_nothing_open(
    session: Cluster, problem: PruningProblem, tmp_path: Path
) -> None:
    (tmp_path / "recover").write_text("fail once")
    searcher = PruningSearcher(problem)
    found = metrics_of(fit(searcher.trainable(), searcher, tmp_path, 4))
    failed = [m for m in found if m["failure"]]
    assert len(found) == 4
    assert len({m["candidate"] for m in found}) == 4
    assert len(failed) == 1
    assert math.isnan(failed[0]["accuracy"])
    assert "the candidate's own mistake" in failed[0]["failure"]
    assert sorted(s.name for s in states(searcher)) == ["COMPLETE"] * 3 + ["FAIL"]
    assert len({c.session for c in calls_in(tmp_path)}) == 1
    store = RecordStore(problem.setup.directory)
    for figures in found:
        record = store.load(figures["candidate"])
        assert record is not None
        assert figures["failure"] or record.values == {name: figures[name] for name in ("accuracy", "macs")}


def test_asha_cuts_trials_between_fidelities(session: Cluster, problem: PruningProblem, tmp_path: Path) -> None:
    searcher = PruningSearcher(problem, fidelities=("proxy", "short", "full"))
    scheduler = ASHAScheduler(metric="accuracy", mode="max", max_t=3, grace_period=1, reduction_factor=2)
    found = metrics_of(fit(searcher.trainable(), searcher, tmp_path, 5, scheduler=scheduler))
    reached = {m["candidate"]: m["training_iteration"] for m in found}
    assert {m["training_iteration"]: m["fidelity"] for m in found}.items() <= {
        1: "proxy",
        2: "short",
        3: "full",
    }.items()
    assert min(reached.values()) < 3
    assert max(reached.values()) == 3
    expected = [TrialState.COMPLETE if m["training_iteration"] == 3 else TrialState.PRUNED for m in found]
    assert states(searcher) == expected
    pruned = next(t for t in searcher._proposals._study.trials if t.state == TrialState.PRUNED)
    assert set(pruned.intermediate_values) <= {1, 2}


def told(accuracy: float = 0.9, **more: Any) -> dict[str, Any]:
    return {"accuracy": accuracy, "macs": 1000.0, "training_iteration": 1, **more}


def finish(searcher: PruningSearcher, *results: Mapping[str, Any] | None) -> None:
    for number, result in enumerate(results):
        searcher.suggest(f"t{number}")
        searcher.on_trial_complete(f"t{number}", result, error=result is None)


def test_what_cannot_be_learnt_from_has_failed(shared: PruningProblem) -> None:
    searcher = PruningSearcher(shared)
    finish(searcher, told(math.nan), told(macs=math.inf), {"accuracy": 0.9}, None, told())
    assert states(searcher) == [TrialState.FAIL] * 4 + [TrialState.COMPLETE]
    searcher.on_trial_complete("unknown", told())


def test_constraints_are_told_from_the_results(shared: PruningProblem) -> None:
    searcher = PruningSearcher(shared)
    finish(searcher, told(0.9), told(0.1))
    first, second = searcher._proposals._study.trials
    assert first.constraints == {"accuracy>=0.2": pytest.approx(-0.7)}
    assert second.constraints == {"accuracy>=0.2": pytest.approx(0.1)}


@pytest.mark.parametrize("way", ["save", "pickle"])
def test_a_restored_searcher_knows_what_was_learnt_and_what_is_under_way(
    shared: PruningProblem, tmp_path: Path, way: str
) -> None:
    before = PruningSearcher(shared)
    finish(before, told(), told(0.5, final=False))
    opened = before.suggest("open")
    if way == "save":
        before.save(str(tmp_path / "state"))
        after = PruningSearcher(shared)
        after.restore(str(tmp_path / "state"))
    else:
        after = pickle.loads(pickle.dumps(before))
    after.on_trial_complete("open", told())
    assert states(after) == [TrialState.COMPLETE, TrialState.PRUNED, TrialState.COMPLETE]
    following = after.suggest("next")
    assert following["autoprune"].number == opened["autoprune"].number + 1
    assert without(following) != without(opened)


def without(config: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in config.items() if name != "autoprune"}


def test_a_state_of_something_else_is_refused(shared: PruningProblem, tmp_path: Path) -> None:
    for content in ('{"version": 7}', '{"version": 1, "records": [], "open": {"t": {}}, "next": 1}', "[]"):
        (tmp_path / "state").write_text(content)
        with pytest.raises(StorageError, match="no state of a PruningSearcher"):
            PruningSearcher(shared).restore(str(tmp_path / "state"))


def test_a_directory_has_one_owner_and_its_records_are_known(problem: PruningProblem, tmp_path: Path) -> None:
    with pytest.raises(RunLockedError):
        problem_of(tmp_path)
    suggested = PruningSearcher(problem).suggest("t")
    policy = problem.phase.context.space.policy_of(flattened(suggested))
    record = CandidateRecord(
        f"{policy.digest[:16]}-short", 7, "failed", policy.to_json(), policy.digest, "short", 0, failure={}
    )
    RecordStore(problem.setup.directory).write(record)
    problem.close()
    with closing(problem_of(tmp_path)) as again:
        assert [r.id for r in again.records("short")] == [record.id]
        following = PruningSearcher(again).suggest("t")
        assert following["autoprune"].number == 8
        assert again.phase.context.space.policy_of(flattened(following)).digest != policy.digest


def flattened(config: Mapping[str, Any]) -> dict[str, Any]:
    from autoprune.integrations.tune_trainable import flat

    return dict(flat(without(config)))


def test_our_sampler_serves_in_optuna_search(shared: PruningProblem, tmp_path: Path) -> None:
    names = list(shared.directions)
    searcher = OptunaSearch(
        shared.distributions, sampler=shared.sampler, metric=names, mode=[shared.directions[n] for n in names]
    )
    chosen = [flattened(searcher.suggest(f"t{number}")) for number in range(4)]
    assert len({shared.phase.context.space.policy_of(params).digest for params in chosen}) == 4
    for number in range(3):
        searcher.on_trial_complete(f"t{number}", told())
    searcher.on_trial_complete("t3", error=True)
    assert [t.state for t in searcher._ot_study.trials] == [TrialState.COMPLETE] * 3 + [TrialState.FAIL]
    assert isinstance(shared.sampler, LearnedSampler)
    assert all(shared.sampler.proposal(number) is not None for number in range(4))
    searcher.save(str(tmp_path / "state"))
    after = OptunaSearch(shared.distributions, metric=names, mode=["max", "min"])
    after.restore(str(tmp_path / "state"))
    assert flattened(after.suggest("t4")) not in chosen


def test_results_in_a_store_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"executor\.store is s3://bucket"):
        problem_of(tmp_path, executor={"store": "s3://bucket"})


def test_a_front_scheduler_stops_what_lies_behind_the_front_at_its_iteration() -> None:
    scheduler = FrontScheduler(cost="macs")

    def goes_on(accuracy: float, macs: float, iteration: int = 1) -> bool:
        result = {"accuracy": accuracy, "macs": macs, "training_iteration": iteration}
        return scheduler.on_trial_result(None, Trial("none", stub=True), result) == scheduler.CONTINUE

    assert all(goes_on(0.9 - share, 100.0 * (1.0 - share)) for share in (0.1, 0.2, 0.3, 0.4))
    assert not goes_on(0.6, 95.0)
    assert goes_on(0.6, 10.0)
    assert goes_on(0.6, 95.0, iteration=2)
    assert not goes_on(math.nan, 10.0)


@pytest.mark.parametrize("fidelities", [(), ("proxy",), ("full", "short"), ("short", "short")])
def test_fidelities_rise_and_end_with_a_trained_one(shared: PruningProblem, fidelities: Sequence[Any]) -> None:
    with pytest.raises(ConfigError, match="fidelities must rise"):
        PruningSearcher(shared, fidelities=fidelities)
