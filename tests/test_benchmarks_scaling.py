"""The scaling benchmarks count rightly: busy workers, batches, overhead, latencies beside load; parts are kept."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import common, latency_load, promises, scaling, search_tasks
from benchmarks.readme_scaling import latency_load_lines, promises_lines, scaling_lines
from benchmarks.scaling_cluster import Durations, InBatches, utilisation
from benchmarks.scaling_simulated import Plan, run_plan, time_to, volume_at
from benchmarks.scaling_tune import Ended, Run, summary_of_engines
from benchmarks.scaling_workers import summary_of_workers, watched

CURVE = [(1.0, 0.1), (4.0, 0.3), (9.0, 0.35)]


def test_utilisation_counts_busy_time_inside_the_window_alone() -> None:
    busy = [(0.0, 10.0), (2.0, 6.0), (8.0, 14.0), (-3.0, 1.0)]
    assert utilisation(busy, workers=2, start=0.0, end=10.0) == pytest.approx((10 + 4 + 2 + 1) / 20)
    assert utilisation([(0.0, 5.0), (5.0, 10.0)], workers=1, start=0.0, end=10.0) == 1.0
    assert utilisation([(20.0, 30.0)], workers=3, start=0.0, end=10.0) == 0.0
    with pytest.raises(ValueError, match="after its start"):
        utilisation([], workers=1, start=1.0, end=1.0)


def test_durations_have_their_mean_stragglers_and_failures_and_follow_from_the_number() -> None:
    durations = Durations(20.0, seed=3)
    draws = [durations.of(number) for number in range(4_000)]
    lasting = np.array([draw.seconds for draw in draws if not draw.fails])
    assert lasting.mean() == pytest.approx(20.0, rel=0.05)
    assert 0.005 < np.mean([draw.fails for draw in draws]) < 0.015
    assert 0.01 < (lasting > 60.0).mean() < 0.05
    assert draws[17] == durations.of(17) != Durations(20.0, seed=4).of(17)
    assert max(d.seconds for d in draws if d.fails) < lasting.max()


class Queue:
    """An executor that gives one record back a call."""

    def __init__(self, workers: int) -> None:
        self.workers, self.jobs = workers, []

    @property
    def free(self) -> int:
        return self.workers - len(self.jobs)

    def submit(self, job: Any) -> None:
        self.jobs.append(job)

    def collect(self) -> list[Any]:
        return [self.jobs.pop(0)]


def test_a_batch_begins_only_when_the_last_one_is_back() -> None:
    batches = InBatches(Queue(3), 3)
    seen = []
    for number in range(3):
        assert batches.free == 3 - number
        batches.submit(number)
    for _ in range(3):
        assert batches.free == 0
        seen += batches.collect()
    assert seen == [0, 1, 2]
    assert batches.free == 3


@pytest.fixture
def small_task(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A benchmark task whose network is trained in a second."""
    spec = search_tasks.TaskSpec("digits.py", {"depth": 8, "epochs": 1})
    monkeypatch.setattr(search_tasks, "TASKS", {**search_tasks.TASKS, "small": spec})
    search_tasks.search_task.cache_clear()
    yield "small"
    search_tasks.search_task.cache_clear()


def test_five_sleeping_workers_take_thirty_candidates_through_the_real_loop(small_task: str) -> None:
    row = run_plan(Plan(5, "asynchronous", 30, mean_s=0.2, task=small_task))
    assert row["submitted"] == row["finished"] == 30
    assert row["failed"] == sum(Durations(0.2).of(n).fails for n in range(1, 31))
    assert row["records_missing"] == 0
    assert 0.0 < row["utilisation"] <= 1.0
    asleep = sum(Durations(0.2).of(n).seconds for n in range(1, 31))
    assert row["utilisation"] <= asleep / (5 * row["wall_s"]) * 1.01
    assert 0.0 <= row["driver_waited_share"] < 1.0
    assert row["driver_cpu_s"] > 0.0
    seconds, volumes = zip(*row["hypervolume"], strict=True)
    assert list(seconds) == sorted(seconds)
    assert list(volumes) == sorted(volumes)
    assert volumes[-1] > 0.1
    json.dumps(row, allow_nan=False)


def test_batches_leave_workers_idle_and_end_with_their_time(small_task: str) -> None:
    row = run_plan(Plan(5, "synchronous", 1_000, mean_s=0.3, limit_s=2.0, task=small_task))
    assert row["wall_s"] == 2.0
    assert row["submitted"] % 5 == 0
    assert row["finished"] <= row["submitted"] < 60
    assert row["utilisation"] < 0.8


def test_a_curve_tells_its_value_and_when_it_reached_one() -> None:
    assert [volume_at(CURVE, t) for t in (0.5, 1.0, 8.9, 99.0)] == [0.0, 0.1, 0.3, 0.35]
    assert time_to(CURVE, 0.2) == 4.0
    assert time_to(CURVE, 0.35) == 9.0
    assert time_to(CURVE, 0.36) is None


def test_overhead_is_what_the_evaluations_do_not_explain() -> None:
    steady = [Ended(110.0 + 0.75 * n, 1.0) for n in range(20)]
    run = Run(100.0, [*steady[:-1], Ended(steady[-1].at + 30.0, 1.0)])
    figures = run.figures(workers=2)
    assert (figures["start_s"], figures["evaluation_ms"]) == (9.0, 1_000.0)
    assert figures["overhead_ms_a_candidate"] == pytest.approx(250.0)
    assert figures["wall_s"] == pytest.approx(54.25)
    assert figures["overhead_with_start_ms_a_candidate"] == pytest.approx(1e3 * (54.25 - 10.0) / 20, rel=1e-3)
    other = Run(0.0, [Ended(6.0 * n, 1.0) for n in range(1, 11)]).figures(workers=2)
    summary = summary_of_engines([{"engine": "ours", **figures}, {"engine": "tune_function", **other}])
    assert summary["ours"]["times_ours"] == 1.0
    assert summary["tune_function"]["times_ours"] == pytest.approx(5.5 / 0.25)


def worker_row(number: int, side: str, workers: int, rate: float) -> dict[str, Any]:
    shares = {"own_cpu_share": workers / 2, "machine_busy_share": 1.0}
    return {"round": number, "side": side, "workers": workers, "candidates_per_s": rate, **shares}


def test_two_workers_are_compared_by_the_best_of_the_rounds() -> None:
    rates = {("executor", 1): (0.5, 0.4), ("executor", 2): (0.7, 0.95)}
    rates |= {("plain training", 1): (1.0, 1.0), ("plain training", 2): (1.9, 1.8)}
    rows = [worker_row(n, *key, rate) for key, both in rates.items() for n, rate in enumerate(both)]
    summary = summary_of_workers(rows)
    assert summary["rounds"] == 2
    assert summary["executor"]["gain"] == 1.9
    assert summary["executor"]["candidates_per_s"] == {"1": 0.5, "2": 0.95}
    assert summary["plain_training"]["gain"] == 1.9


def test_usage_of_the_processors_is_a_share() -> None:
    with watched() as usage:
        sum(range(3_000_000))
    assert usage.seconds > 0.0
    assert 0.0 <= usage.busy_share <= 1.0
    assert 0.0 <= usage.steal_share <= 1.0


def simulated(schedule: str, wall_s: float, curve: list[tuple[float, float]]) -> dict[str, Any]:
    driver = {"driver_cpu_ms_a_candidate": 5.0, "driver_waited_share": 0.5, "driver_peak_mib": 400.0}
    counts = {"submitted": 100, "finished": 100, "failed": 1, "records_missing": 0, "indexed": 9, "mean_s": 20.0}
    times = {
        "wall_s": wall_s,
        "first_wave_s": 0.1,
        "longest_gap_s": 0.4,
        "median_writing_s": 0.01,
        "load_average_before": 0.0,
    }
    more = {"schedule": schedule, "utilisation": 0.97, "driver_peak_mib_before": 300.0, "hypervolume": curve}
    return {"part": f"simulated 10 {schedule}", **driver, **counts, **times, **more}


def test_the_summary_holds_utilisation_by_workers_and_both_schedules() -> None:
    rows = [simulated("asynchronous", 10.0, CURVE), simulated("synchronous", 10.0, [(2.0, 0.1), (8.0, 0.2)])]
    assert scaling.summarise(rows[:1])["simulated"]["10"]["utilisation"] == 0.97
    found = scaling.summarise(rows)["simulated"]["10"]
    assert found["candidates_per_s"] == 10.0
    assert found["hypervolume"]["asynchronous"] == {"10%": 0.1, "25%": 0.1, "50%": 0.3, "75%": 0.3, "100%": 0.35}
    assert found["synchronous"]["final_hypervolume"] == 0.2
    assert found["synchronous"]["reached_asynchronously_at"] == 0.4


def test_finished_parts_are_kept_unless_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured: list[str] = []

    def part(name: str) -> scaling.Part:
        workers = {"round": 0, "side": "executor", "workers": 1}
        return scaling.Part(name, lambda _: measured.append(name) or [{"value": len(measured), **workers}])

    monkeypatch.setattr(scaling, "parts", lambda: [part("one"), part("two")])
    monkeypatch.setattr(common, "RESULTS", tmp_path)

    def called(*arguments: str) -> list[int]:
        monkeypatch.setattr("sys.argv", ["scaling", *arguments])
        scaling.main()
        document = json.loads((tmp_path / "scaling.json").read_text(encoding="utf-8"))
        assert set(document) >= {"schema_version", "command", "commit", "machine", "versions", "seeds", "summary"}
        return [row["value"] for row in sorted(document["rows"], key=lambda r: r["part"])]

    assert called("one") == [1]
    assert called() == [1, 2]
    assert called() == [1, 2]
    assert called("two", "--again") == [1, 3]
    assert measured == ["one", "two", "two"]
    with pytest.raises(SystemExit):
        called("three")


def latency_row(condition: str, repeat: int, ms: float, *, clean: bool = True, session: int = 1) -> dict[str, Any]:
    return {"condition": condition, "repeat": repeat, "session": session, "ms": ms, "speedup": 2.0, "clean": clean}


def test_latencies_are_within_five_percent_of_the_quiet_ones_of_their_session_or_flagged() -> None:
    quiet = [latency_row("quiet", n, ms) for n, ms in enumerate((1.0, 1.02, 0.98))]
    other = [latency_row("quiet", 3, 2.0, session=2), latency_row("1 own worker", 3, 2.04, session=2)]
    beside = [
        latency_row("1 own worker", 0, 1.04),
        latency_row("1 own worker", 1, 1.2),
        latency_row("1 own worker", 2, 1.5, clean=False),
        latency_row("2 own workers", 0, 1.0),
    ]
    summary = latency_load.summarise([*quiet, *other, *beside])
    assert summary["flagged_beside_own"] == 0.2
    found = summary["conditions"]["1 own worker"]
    assert found["flagged"] == 0.25
    assert (found["ms"]["within_5%"], found["ms"]["within_5%_or_flagged"]) == (0.5, 0.75)
    assert found["ms"]["largest_error_unflagged"] == pytest.approx(0.2)
    assert found["speedup"]["within_5%"] == 1.0
    assert summary["conditions"]["quiet"]["ms"]["within_5%"] == 1.0
    assert "foreign process" not in summary["conditions"]


def test_tables_hold_the_figures_of_the_parts_that_were_measured() -> None:
    rows = [simulated("asynchronous", 10.0, CURVE), simulated("synchronous", 10.0, [(2.0, 0.1), (8.0, 0.2)])]
    summary = scaling.summarise(rows)
    found = "\n".join(scaling_lines(summary))
    assert "| 10 | 10 | 97.0% | 97.0% | 5.0 | 400 | 0.300, 0.350 | 0.100, 0.200 |" in found
    assert "after 40% of the time with 10." in found
    workers = [worker_row(0, side, n, n * 0.95) for side in ("executor", "plain training") for n in (1, 2)]
    engines = [{"engine": "ours", **Run(0.0, [Ended(n + 1.0, 1.0) for n in range(1, 11)]).figures(2)}]
    more = {**summary, "workers": summary_of_workers(workers), "tune": summary_of_engines(engines)}
    assert "| 2.00x | 100% |" in "\n".join(scaling_lines(more))
    assert "| autoprune, engine `ray` | 500.0 | 1.0 | 1.0 |" in "\n".join(scaling_lines(more))


def test_the_table_of_latencies_tells_which_value_is_within() -> None:
    rows = [latency_row("quiet", 0, 1.0), latency_row("1 own worker", 0, 1.2, clean=False)]
    found = "\n".join(latency_load_lines(latency_load.summarise(rows)))
    assert "| 1 own worker | 0% | 100% | 100% | 100% | 100% |" in found
    assert "beside our own workers 100% are flagged, goal 20%" in found


def test_cases_of_a_promise_are_counted_by_test() -> None:
    cases = [
        ("test_a2_ten_ends[pool]", "passed", 60.0),
        ("test_a2_ten_ends[ray]", "failed", 30.0),
        ("test_a_search_ends", "skipped", 0.0),
    ]
    rows = promises.rows_of("A2", cases)
    assert [(r["test"], r["passed"], r["failed"], r["skipped"], r["seconds"]) for r in rows] == [
        ("ten_ends", 1, 1, 0, 90.0),
        ("a_search_ends", 0, 0, 1, 0.0),
    ]
    assert promises.summarise(rows) == {"A2": {"passed": 1, "failed": 1, "skipped": 1, "minutes": 1.5}}
    assert promises_lines(rows)[2:] == ["| A2 | ten ends | 1 of 2 | 1.5 |", "| A2 | a search ends | skipped | 0.0 |"]


def test_every_promise_has_a_file_of_tests() -> None:
    assert list(promises.files()) == ["A1", "A1b", *(f"A{number}" for number in range(2, 18))]
    assert all(path.is_file() for path in promises.files().values())
    told = ET.fromstring("<t><testcase/><testcase><failure/></testcase><testcase><skipped/></testcase></t>")
    assert [promises.outcome_of(case) for case in told] == ["passed", "failed", "skipped"]
