from __future__ import annotations

import fcntl
import gc
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from autoprune.errors import CandidateError
from autoprune.evaluation import HostGate, LatencySettings, measure_latency

WORK = 20_000


def work(amount: int = WORK) -> Callable[[], None]:
    def call() -> None:
        sum(range(amount))

    return call


def test_twice_the_work_is_half_the_speed() -> None:
    latency = measure_latency(work(2 * WORK), work(), LatencySettings())
    assert latency.speedup < 0.67
    assert latency.ms > 1.5 * latency.dense_ms


def test_half_the_work_is_twice_the_speed() -> None:
    latency = measure_latency(work(WORK // 2), work(), LatencySettings())
    assert latency.speedup > 1.5


def test_a_model_against_itself_has_speedup_one() -> None:
    same = work()
    results = [measure_latency(same, same, LatencySettings(seed=seed)) for seed in range(5)]
    assert all(0.85 < latency.speedup < 1.15 for latency in results)
    assert sum(latency.speedup_low <= 1 <= latency.speedup_high for latency in results) >= 3


def test_intervals_hold_their_values() -> None:
    latency = measure_latency(work(), work(2 * WORK), LatencySettings(rounds=10))
    assert 0 < latency.low <= latency.ms <= latency.high
    assert 0 < latency.speedup_low <= latency.speedup <= latency.speedup_high
    assert latency.samples >= 5


def test_quantiles_rise_from_the_fastest_sample() -> None:
    latency = measure_latency(work(), work(2 * WORK), LatencySettings(rounds=10))
    assert len(latency.quantiles_ms) == 5
    assert latency.ms <= latency.quantiles_ms[0]
    assert list(latency.quantiles_ms) == sorted(latency.quantiles_ms)


def test_a_measurement_that_only_waits_is_not_clean() -> None:
    def wait() -> None:
        time.sleep(0.002)

    latency = measure_latency(wait, work(), LatencySettings(rounds=6, max_retries=1))
    assert not latency.clean
    assert latency.polluted_share >= 0.5


def test_samples_with_waiting_are_dropped() -> None:
    calls = 0

    def sometimes_waits() -> None:
        nonlocal calls
        calls += 1
        if calls % 3 == 0:
            time.sleep(0.02)
        sum(range(8 * WORK))

    settings = LatencySettings(rounds=20, max_retries=5, sample_ms=1e-3)
    latency = measure_latency(sometimes_waits, work(8 * WORK), settings)
    assert latency.polluted_share > 0
    assert 0.7 < latency.speedup < 1.4


def test_order_is_random_but_follows_the_seed() -> None:
    def order(seed: int) -> str:
        calls: list[str] = []
        settings = LatencySettings(rounds=16, max_retries=0, sample_ms=1e-9, seed=seed)
        measure_latency(lambda: calls.append("c"), lambda: calls.append("d"), settings)
        return "".join(calls)

    assert order(0) == order(0)
    assert order(0) != order(1)
    rounds = {order(0)[i : i + 2] for i in range(6, 38, 2)}
    assert rounds == {"cd", "dc"}


def test_the_gate_is_held_while_a_model_runs(tmp_path: Path) -> None:
    gate = HostGate(tmp_path)
    free: list[bool] = []

    def call() -> None:
        with (tmp_path / "gate").open("a") as other:
            try:
                fcntl.flock(other, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                free.append(False)
            else:
                free.append(True)

    measure_latency(call, call, LatencySettings(rounds=5, max_retries=0, gate=gate))
    assert free
    assert not any(free)
    with gate.exclusive():
        pass


def test_a_failing_call_fails_the_candidate_at_stage_latency() -> None:
    def fail() -> None:
        raise RuntimeError("kernel died")

    with pytest.raises(CandidateError, match="kernel died") as caught:
        measure_latency(fail, work(), LatencySettings())
    assert (caught.value.stage, caught.value.reason) == ("latency", "error")


def test_fast_calls_are_repeated_within_a_sample() -> None:
    calls = 0

    def tiny() -> None:
        nonlocal calls
        calls += 1

    latency = measure_latency(tiny, tiny, LatencySettings(rounds=5, max_retries=0))
    assert calls > 5 * 2 * 100
    assert 0 < latency.ms < 0.01


def test_several_threads_are_timed_by_wall_clock() -> None:
    def wait() -> None:
        time.sleep(0.004)

    def half() -> None:
        time.sleep(0.002)

    latency = measure_latency(half, wait, LatencySettings(rounds=8, max_retries=1, threads=2))
    assert latency.ms >= 2.0
    assert latency.speedup > 1.4


def test_the_garbage_collector_is_as_it_was() -> None:
    assert gc.isenabled()
    measure_latency(work(100), work(100), LatencySettings(rounds=5, max_retries=0))
    assert gc.isenabled()
