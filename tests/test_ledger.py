"""What a run knows while it goes on: fronts, picks, the predictor's rank, and when its time is up."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from run_factory import OBJECTIVES, bound_space, failed, measured, stopped

from autoprune.config.model import RunConfig
from autoprune.pareto import non_dominated
from autoprune.records import CandidateRecord
from autoprune.search.budget import Budget
from autoprune.search.callbacks import Progress, SilentCallback
from autoprune.search.directory import EventLog, read_events, total_times
from autoprune.search.executors.base import Job
from autoprune.search.finalists import finalist_jobs, median_recovery, recoveries
from autoprune.search.ledger import Ledger, Tally, trust_log
from autoprune.search.objectives import minimised

SPACE = bound_space(16, 32, 64)


def random_records(count: int, *, fidelity: Any = "short") -> list[CandidateRecord]:
    rng = np.random.default_rng(0)
    found = []
    for number in range(1, count + 1):
        levels = {f"level/{name}": int(rng.integers(len(w))) for name, w in SPACE.widths.items()}
        record = measured(Job(number, SPACE.policy_of(levels), fidelity))
        values = {"accuracy": round(float(rng.random()), 2), "latency_ms": round(float(rng.random()), 2) + 0.1}
        found.append(replace(record, id=f"{number:016x}-{fidelity}", values=values))
    return found


class Told(SilentCallback):
    def __init__(self) -> None:
        self.progress: list[Progress] = []
        self.fronts = 0

    def on_candidate_end(self, record: CandidateRecord, progress: Progress) -> None:
        self.progress.append(progress)

    def on_front_update(self, progress: Progress) -> None:
        self.fronts += 1


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture
def ledger(told: Told, tmp_path: Path) -> Ledger:
    return Ledger(OBJECTIVES, EventLog(tmp_path / "events.jsonl"), [told], 2, apart=True)


def test_the_front_kept_a_record_at_a_time_is_the_front_of_all() -> None:
    records = random_records(60)
    tally = Tally(OBJECTIVES)
    for record in records:
        tally.add(record)
    mask = non_dominated(minimised(OBJECTIVES, [r.values for r in records]))
    assert {r.id for r in tally.front} == {r.id for r, on in zip(records, mask, strict=True) if on}
    latencies = [r.values["latency_ms"] for r in tally.front]
    assert latencies == sorted(latencies)
    picks = tally.picks()
    assert picks["fastest"] == tally.front[0].id
    assert picks["most_accurate"] == max(tally.front, key=lambda r: r.values["accuracy"]).id
    assert picks["balanced"] in {r.id for r in tally.front}


def test_stages_are_apart_and_neither_controls_nor_repeats_are_candidates(ledger: Ledger, told: Told) -> None:
    one, two, three, four, five = random_records(5)
    dense = replace(one, id="d", number=0, fidelity="full")
    control = replace(two, origin="control:uniform", values={"accuracy": 1.0, "latency_ms": 0.01})
    proxy = replace(three, id="p-proxy", fidelity="proxy")
    again = replace(four, id="q-full-r1", fidelity="full", repeat=1)
    ledger.load([dense])
    for record in (one, control, proxy, again, five):
        ledger.finished_one(record, 9)
    assert [p.stage for p in told.progress] == ["search", "controls", "proxy", "finalists", "search"]
    assert [p.done for p in told.progress] == [1, 1, 1, 1, 2]
    assert told.progress[3].front == ()
    assert {i for i, _ in told.progress[-1].front} <= {one.id, five.id}
    assert [r.id for r in ledger.searched("short")] == [one.id, five.id]
    assert ledger.searched("proxy") == [proxy]


def test_failed_and_stopped_candidates_are_counted_and_have_no_place_on_the_front(ledger: Ledger, told: Told) -> None:
    jobs = [Job(n, SPACE.policy_of({"level/layer0": n}), "short") for n in (1, 2, 3)]
    for record in (failed(jobs[0]), stopped(jobs[1], (15, 0.4)), measured(jobs[2])):
        ledger.finished_one(record, 6)
    last = told.progress[-1]
    assert (last.done, last.failed, last.stopped, last.total) == (3, 1, 1, 6)
    assert [i for i, _ in last.front] == [jobs[2].id]
    assert last.remaining_s == pytest.approx(3 * 1.0 / 2)
    assert told.fronts == 1


def test_the_rank_correlation_is_that_of_predictions_with_later_measurements(ledger: Ledger, told: Told) -> None:
    for number, record in enumerate(random_records(20), start=1):
        mean = record.values["accuracy"]
        predicted = {"accuracy": {"mean": mean, "std": 0.1, "at_evaluation": number - 1}}
        ledger.finished_one(replace(record, predicted=predicted), 20)
    assert told.progress[8].rank_correlation is None
    assert told.progress[-1].rank_correlation == pytest.approx(1.0)
    log = trust_log(ledger.searched("short"), OBJECTIVES)
    figures = log.figures()
    assert len(log) == 20
    assert figures is not None
    assert figures.kendall_tau == pytest.approx(1.0)


def test_workers_time_counts_before_they_end(ledger: Ledger, tmp_path: Path) -> None:
    for record in random_records(3):
        ledger.finished_one(record, 3)
    _, cpu = total_times(tmp_path / "events.jsonl")
    assert 6.0 <= cpu < 8.0
    assert [e["number"] for e in read_events(tmp_path / "events.jsonl")] == [1, 2, 3]


@dataclass
class Clock:
    elapsed: float = 0.0
    cpu_s: float = 0.0


def budget(
    clock: Any,
    earlier: tuple[float, float] = (0.0, 0.0),
    shorts: int = 4,
    recovery: dict[str, int] | None = None,
    **limits: float,
) -> Budget:
    config = RunConfig.model_validate(
        {
            "task": "a.py:b",
            "search": {"budget": limits, "controls": 2, "workers": 2},
            "recovery": {"short_steps": 10, "full_steps": 40, "finalists": 4, "seeds": 2} | (recovery or {}),
        }
    )
    tallies: Any = {stage: Tally(OBJECTIVES) for stage in ("proxy", "search", "controls", "finalists")}
    for record in random_records(shorts):
        tallies["search"].add(record)
    return Budget(config, clock, earlier, tallies)


def test_a_run_without_limits_never_runs_out_of_time() -> None:
    free = budget(Clock(1e9, 1e9))
    assert (free.proxy_ended(), free.search_ended(), free.all_spent()) == (None, None, None)


def test_the_search_ends_while_controls_and_finalists_still_fit() -> None:
    # A candidate takes 1 s, 0.75 s of it training: a full recovery 3.25 s. 1 + (8 + 4 * (2 * 3.25 + 0.75)) / 2 = 19.5.
    assert budget(Clock(40.0), minutes=1.0).search_ended() is None
    assert budget(Clock(41.5), minutes=1.0).search_ended() == "minutes"
    assert budget(Clock(11.5), earlier=(30.0, 0.0), minutes=1.0).search_ended() == "minutes"
    assert budget(Clock(41.5), minutes=1.0).all_spent() is None
    assert budget(Clock(60.0), minutes=1.0).all_spent() == "minutes"


def test_controls_leave_the_finalists_their_time() -> None:
    # 1 + 4 * (2 * 3.25 + 0.75) / 2 = 15.5 s.
    assert budget(Clock(44.0), minutes=1.0).controls_ended() is None
    assert budget(Clock(46.0), minutes=1.0).controls_ended() == "minutes"


def test_what_comes_after_the_search_never_takes_more_than_half_of_the_time() -> None:
    assert budget(Clock(8.0), minutes=20 / 60).search_ended() is None
    assert budget(Clock(9.5), minutes=20 / 60).search_ended() == "minutes"
    assert budget(Clock(10.5), minutes=20 / 60).controls_ended() is None


def test_as_many_finalists_are_recovered_as_fit_and_a_few_in_any_case() -> None:
    # Recovered once, a finalist takes (3.25 + 0.75) / 2 = 2 s.
    many = {"finalists": 40}
    assert budget(Clock(), recovery=many).affordable_finalists() == 40
    assert budget(Clock(39.5), recovery=many, minutes=1.0).affordable_finalists() == 10
    assert budget(Clock(70.0), recovery=many, minutes=1.0).affordable_finalists() == 4
    assert budget(Clock(70.0), recovery={"finalists": 2}, minutes=1.0).affordable_finalists() == 2


def test_processor_seconds_are_a_limit_of_their_own() -> None:
    # Twice the wall time a candidate, and no parallel workers: 2 + 8 * 2 + 4 * (2 * 6.5 + 1.5) = 76 s.
    assert budget(Clock(0.0, 123.0), cpu_seconds=200.0).search_ended() is None
    assert budget(Clock(0.0, 125.0), cpu_seconds=200.0).search_ended() == "cpu_seconds"


def test_untrained_candidates_have_a_quarter_of_the_time() -> None:
    assert budget(Clock(14.9), minutes=1.0).proxy_ended() is None
    assert budget(Clock(15.0), minutes=1.0).proxy_ended() == "minutes"


def test_before_any_candidate_only_the_limit_itself_counts() -> None:
    assert budget(Clock(59.0), minutes=1.0, shorts=0).search_ended() is None
    assert budget(Clock(60.0), minutes=1.0, shorts=0).search_ended() == "minutes"


def test_finalists_recover_with_every_seed_and_the_median_stands_for_them() -> None:
    chosen = random_records(2)
    jobs = finalist_jobs(chosen, 3)
    assert [(j.number, j.repeat) for j in jobs] == [(1, 0), (2, 0), (1, 1), (2, 1), (1, 2), (2, 2)]
    assert {j.origin for j in jobs} == {"finalist"}
    assert len({j.id for j in jobs}) == 6
    accuracy = {(1, 0): 0.9, (1, 1): 0.7, (1, 2): 0.8, (2, 0): 0.6, (2, 1): 0.5}
    records = [
        measured(j, values={"accuracy": accuracy[j.number, j.repeat], "latency_ms": 1.0})
        for j in jobs
        if (j.number, j.repeat) in accuracy
    ]
    found = recoveries([*records, failed(jobs[-1]), measured(Job(0, SPACE.smallest(), "full"))])
    picked = [median_recovery(found[r.digest], OBJECTIVES[0]) for r in chosen]
    assert [(p.number, p.repeat) for p in picked] == [(1, 2), (2, 1)]
