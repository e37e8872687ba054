"""Two deployed models -> the candidate's latency and its speed-up over the dense model.

The protocol stays right on a busy host: candidate and dense model take turns in random order, a sample during which
the process had to wait for a processor is recognised by its wall time exceeding its CPU time, the latency is the
fastest clean sample, and the speed-up compares the two models round by round. A GPU does not tell who had to wait for
it: there, a sample counts as disturbed when it is slower than the model's own fastest by a tenth.
"""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from autoprune.errors import CandidateError
from autoprune.evaluation.clocks import CLOCKS, Call
from autoprune.evaluation.gate import HostGate
from autoprune.evaluation.types import Latency

WALL_OVER_CPU = 1.05
CLOCK_SLACK_MS = 0.02
UTILISATION_DROP = 0.9
STEADY = 1.1
RESAMPLES = 1000
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
_WARM_UP_CALLS = 3
_MAX_REPEAT = 1000
_SECTION_S = 0.25
_CANDIDATE, _DENSE = 0, 1

Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class LatencySettings:
    """How a measurement is made.

    Args:
        rounds: Clean samples wanted of each model.
        threads: Intra-op threads of the target.
        seed: Of the order within rounds and of the bootstrap.
        gate: Held exclusively while timing, in sections of about a quarter of a second; None measures ungated.
        max_retries: How many times `rounds` may be run again to replace polluted samples.
        sample_ms: Shortest sample; a faster model is called several times in one sample.
        device: What the calls compute on; `cuda` is timed by events on the GPU.
    """

    rounds: int = 30
    threads: int = 1
    seed: int = 0
    gate: HostGate | None = None
    max_retries: int = 2
    sample_ms: float = 2.0
    device: Literal["cpu", "cuda"] = "cpu"

    @property
    def by_cpu_time(self) -> bool:
        """Whether CPU time measures a call: one thread of a processor computes all of it."""
        return self.threads == 1 and self.device == "cpu"


@dataclass(frozen=True)
class _Samples:
    """Elapsed and CPU milliseconds a call, each [rounds, 2]: candidate and dense."""

    wall: Floats
    cpu: Floats


def measure_latency(candidate: Call, dense: Call, settings: LatencySettings) -> Latency:
    """Time one call of the candidate against one call of the dense model.

    The latency is the least wall time of a clean sample. When too few are clean in spite of retries, the result is
    marked so, and for one-thread targets CPU time takes the place of wall time: it leaves out the waiting. The
    speed-up is the interquartile geometric mean of the rounds' dense / candidate.

    Args:
        candidate: One forward pass with converted inputs.
        dense: The same of the dense model, on the same inputs.
        settings: Rounds, threads, seed, gate.

    Raises:
        CandidateError: A call fails, or takes no measurable time (stage `latency`).
    """
    calls = (candidate, dense)
    samples = _sample(calls, _calibrate(calls, settings), settings)
    clean = _clean(samples, settings)
    enough = bool((clean.sum(axis=0) >= _wanted(settings)).all())
    times = samples.cpu if settings.by_cpu_time and not enough else samples.wall
    kept = np.where(clean, times, np.inf) if enough else times
    ms, dense_ms = (float(value) for value in kept.min(axis=0))
    if not (0 < ms < math.inf and 0 < dense_ms < math.inf):
        raise CandidateError(f"Latency must be positive. Got {ms} ms.", reason="nonfinite", stage="latency")
    rng = np.random.default_rng(settings.seed)
    own = kept[np.isfinite(kept[:, _CANDIDATE]), _CANDIDATE]
    spread = _minimum_spread(own, rng)
    speedup, speedup_low, speedup_high = _paired_ratio(_log_ratios(samples, clean, settings), rng)
    return Latency(
        ms=ms,
        low=ms / spread,
        high=ms * spread,
        samples=len(own),
        speedup=speedup,
        speedup_low=speedup_low,
        speedup_high=speedup_high,
        clean=enough,
        polluted_share=float(1 - clean.mean()),
        dense_ms=dense_ms,
        quantiles_ms=tuple(float(q) for q in np.quantile(own, QUANTILES)),
    )


def _wanted(settings: LatencySettings) -> int:
    """Return the clean samples without which a measurement is not clean: half of what was asked for."""
    return max(2, settings.rounds // 2)


def _calibrate(calls: tuple[Call, Call], settings: LatencySettings) -> tuple[int, int]:
    """Warm both models up and return how many calls make one sample of each."""
    fastest = [math.inf, math.inf]
    with _section(settings.gate):
        for _ in range(_WARM_UP_CALLS):
            for index, call in enumerate(calls):
                fastest[index] = min(fastest[index], _first_call_ms(call, settings))
    counts = [min(_MAX_REPEAT, max(1, math.ceil(settings.sample_ms / max(ms, 1e-6)))) for ms in fastest]
    return counts[_CANDIDATE], counts[_DENSE]


def _first_call_ms(call: Call, settings: LatencySettings) -> float:
    try:
        return CLOCKS[settings.device](call, 1)[0]
    except Exception as error:
        raise CandidateError(f"A timed call failed: {error}", reason="error", stage="latency") from error


def _sample(calls: tuple[Call, Call], repeats: tuple[int, int], settings: LatencySettings) -> _Samples:
    """Run rounds until both models have enough clean samples or the retries are used up."""
    rng = np.random.default_rng(settings.seed)
    wall: list[list[float]] = []
    cpu: list[list[float]] = []
    limit = settings.rounds * (1 + settings.max_retries)
    clean = np.zeros(2)
    while len(wall) < limit and (clean < settings.rounds).any():
        missing = max(1, settings.rounds - int(clean.min()))
        with _section(settings.gate):
            end = time.perf_counter() + _SECTION_S
            for _ in range(min(missing, limit - len(wall))):
                elapsed, served = _round(calls, repeats, rng, settings)
                wall.append(elapsed)
                cpu.append(served)
                if time.perf_counter() > end:
                    break
        clean = _clean(_Samples(np.array(wall), np.array(cpu)), settings).sum(axis=0)
    return _Samples(np.array(wall), np.array(cpu))


def _round(
    calls: tuple[Call, Call], repeats: tuple[int, int], rng: np.random.Generator, settings: LatencySettings
) -> tuple[list[float], list[float]]:
    """Return elapsed and CPU milliseconds a call of one sample of each model, taken in random order."""
    row_wall, row_cpu = [0.0, 0.0], [0.0, 0.0]
    clock = CLOCKS[settings.device]
    order = (_CANDIDATE, _DENSE) if rng.random() < 0.5 else (_DENSE, _CANDIDATE)
    for index in order:
        row_wall[index], row_cpu[index] = clock(calls[index], repeats[index])
    return row_wall, row_cpu


def _clean(samples: _Samples, settings: LatencySettings) -> Mask:
    """Return [rounds, 2] whether the process ran undisturbed during a sample.

    One thread: wall time equals CPU time then. Several threads: no model keeps all of them busy, so a sample's
    utilisation, CPU / (wall x threads), is held against that of the model's own fastest sample. A GPU: the time itself
    is held against that of the fastest sample.
    """
    if settings.by_cpu_time:
        return np.asarray(samples.wall <= WALL_OVER_CPU * samples.cpu + CLOCK_SLACK_MS)
    if settings.device == "cuda":
        return np.asarray(samples.wall <= STEADY * samples.wall.min(axis=0))
    utilisation = samples.cpu / (samples.wall * settings.threads)
    usual = np.take_along_axis(utilisation, samples.wall.argmin(axis=0, keepdims=True), axis=0)
    return np.asarray(utilisation >= UTILISATION_DROP * usual)


def _log_ratios(samples: _Samples, clean: Mask, settings: LatencySettings) -> Floats:
    """Return log(dense / candidate) of the rounds in which both samples are clean, or of all when those are few.

    One thread: by CPU time, which equals wall time in clean samples and is steadier; several: by wall time.
    """
    times = samples.cpu if settings.by_cpu_time else samples.wall
    both = clean.all(axis=1)
    rows = times[both] if both.sum() >= _wanted(settings) else times
    return np.asarray(np.log(rows[:, _DENSE]) - np.log(rows[:, _CANDIDATE]))


def _paired_ratio(logs: Floats, rng: np.random.Generator) -> tuple[float, float, float]:
    """Return the typical ratio with its 95% interval: percentile bootstrap over runs of consecutive rounds.

    Foreign load comes in bursts, so neighbouring rounds are not independent. The interval speaks of these two
    sessions; another session of the same model may lie differently in memory, which moves latency by a percent or two.
    """
    n = len(logs)
    run = np.arange(max(1, math.isqrt(n)))
    starts = rng.integers(n, size=(RESAMPLES, math.ceil(n / len(run))))
    draws = [_interquartile_mean(logs[(start[:, None] + run).ravel() % n]) for start in starts]
    low, high = np.quantile(draws, [0.025, 0.975])
    return math.exp(_interquartile_mean(logs)), math.exp(low), math.exp(high)


def _interquartile_mean(values: Floats) -> float:
    quarter = len(values) // 4
    return float(np.sort(values)[quarter : len(values) - quarter].mean())


def _minimum_spread(times: Floats, rng: np.random.Generator) -> float:
    """Return the factor, >= 1, by which the least of `times` may be off with 95% confidence.

    Half as many samples are redrawn as there are: the ordinary bootstrap of a minimum is inconsistent, that of fewer
    draws is not (Bickel, Goetze and van Zwet, 1997). A redrawn minimum is never below the observed one, so the
    interval is taken symmetric in the logarithm.
    """
    half = max(1, len(times) // 2)
    minima = [times[rng.integers(len(times), size=half)].min() for _ in range(RESAMPLES)]
    return float(np.quantile(minima, 0.95) / times.min())


def _gated(gate: HostGate | None) -> AbstractContextManager[None]:
    return nullcontext() if gate is None else gate.exclusive()


@contextmanager
def _section(gate: HostGate | None) -> Iterator[None]:
    """Hold the gate, and keep Python's garbage collector out of the samples."""
    collecting = gc.isenabled()
    with _gated(gate):
        gc.disable()
        try:
            yield
        finally:
            if collecting:
                gc.enable()
