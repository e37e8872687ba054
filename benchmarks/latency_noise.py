"""How steady is a measured speed-up? Our protocol beside PyTorch's Timer and a single shot, on a quiet and a busy host.

    python -m benchmarks.latency_noise

Every protocol measures the speed-up of a ResNet-14 with half the channels over the whole one, again and again, with
zero, one and two processes that burn a processor each. Also: does a doubled amount of work show as half the speed, and
how many measurements are flagged when the host is quiet? Writes results/benchmarks/latency_noise.json.
"""

from __future__ import annotations

import argparse
import multiprocessing
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from torch.utils.benchmark import Timer

from autoprune.evaluation import HostGate, LatencySettings, measure_latency
from autoprune.runtimes import open_session, parse_target
from benchmarks.common import write_result
from tests.zoo import CifarResNet, build, image

REPEATS = 12
TIMER_SECONDS = 0.1
TARGETS = ("onnxruntime-fp32-b1-t1", "torch-eager-fp32-b1-t1")
BURNERS = (0, 1, 2)

Call = Callable[[], None]
Protocol = Callable[[Call, Call, int], dict[str, Any]]


def ours(candidate: Call, dense: Call, seed: int, *, gate: HostGate) -> dict[str, Any]:
    latency = measure_latency(candidate, dense, LatencySettings(seed=seed, gate=gate))
    return {
        "speedup": latency.speedup,
        "low": latency.speedup_low,
        "high": latency.speedup_high,
        "minimum_ratio": latency.dense_ms / latency.ms,
        "clean": latency.clean,
        "polluted_share": latency.polluted_share,
    }


def torch_timer(candidate: Call, dense: Call, seed: int) -> dict[str, Any]:
    del seed
    medians = [
        Timer("call()", globals={"call": call}, num_threads=1).blocked_autorange(min_run_time=TIMER_SECONDS).median
        for call in (candidate, dense)
    ]
    return {"speedup": medians[1] / medians[0]}


def single_shot(candidate: Call, dense: Call, seed: int) -> dict[str, Any]:
    del seed
    return {"speedup": _seconds(dense) / _seconds(candidate)}


def _seconds(call: Call) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def burn() -> None:
    while True:
        sum(range(10_000))


@contextmanager
def burners(count: int) -> Iterator[None]:
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=burn, daemon=True) for _ in range(count)]
    for process in processes:
        process.start()
    try:
        time.sleep(2.0 if processes else 0.0)
        yield
    finally:
        for process in processes:
            process.kill()
            process.join()


def doubled(call: Call) -> Call:
    def twice() -> None:
        call()
        call()

    return twice


def variation(values: list[float]) -> float:
    return float(np.std(values, ddof=1) / np.mean(values))


def sessions(target_name: str) -> tuple[Call, Call]:
    """Return the timed calls of the half-width and the whole model."""
    target = parse_target(target_name)
    inputs = image(32, batch=target.batch)
    models = (build(partial(CifarResNet, 2, width=width), image(32))[0] for width in (16, 32))
    narrow, wide = (open_session(model, target, inputs) for model in models)
    return narrow.call(inputs), wide.call(inputs)


def measure(repeats: int) -> Iterator[dict[str, Any]]:
    """Yield one row a measurement; the protocols take turns, so that all see the same load."""
    gate = HostGate()
    protocols: Mapping[str, Protocol] = {
        "autoprune": partial(ours, gate=gate),
        "torch.utils.benchmark": torch_timer,
        "single shot": single_shot,
    }
    for target in TARGETS:
        candidate, dense = sessions(target)
        for count in BURNERS:
            with burners(count):
                for seed in range(repeats):
                    base = {"target": target, "burners": count, "seed": seed}
                    for name, protocol in protocols.items():
                        row = protocol(candidate, dense, seed)
                        yield {**base, "protocol": name, "comparison": "half width", **row}
                    slowed = ours(doubled(candidate), dense, seed, gate=gate)
                    yield {**base, "protocol": "autoprune", "comparison": "half width, work doubled", **slowed}
                    same = ours(candidate, candidate, seed, gate=gate)
                    yield {**base, "protocol": "autoprune", "comparison": "same model", **same}


def summarise(rows: list[dict[str, Any]]) -> dict[str, Any]:
    def speedups(**wanted: Any) -> list[float]:
        return [row["speedup"] for row in rows if all(row[key] == value for key, value in wanted.items())]

    protocols = sorted({row["protocol"] for row in rows})
    spread = {
        target: {
            f"{count} busy": {
                name: round(
                    variation(speedups(target=target, burners=count, protocol=name, comparison="half width")), 4
                )
                for name in protocols
            }
            for count in BURNERS
        }
        for target in TARGETS
    }
    single = [row for row in rows if row["protocol"] == "autoprune" and row["burners"] == 0]
    same = [row for row in rows if row["comparison"] == "same model"]
    slowdowns = {
        f"{count} busy": round(
            float(
                np.median(speedups(burners=count, comparison="half width", protocol="autoprune"))
                / np.median(speedups(burners=count, comparison="half width, work doubled"))
            ),
            3,
        )
        for count in BURNERS
    }
    return {
        "cv_of_speedup": spread,
        "cv_of_speedup_one_busy": {
            name: max(spread[target]["1 busy"][name] for target in TARGETS) for name in protocols
        },
        "injected_slowdown": 2.0,
        "measured_slowdown": slowdowns,
        "same_model_within_interval": round(float(np.mean([row["low"] <= 1 <= row["high"] for row in same])), 3),
        "same_model_largest_error": round(max(abs(row["speedup"] - 1) for row in same), 4),
        "flagged_share_quiet": round(float(np.mean([not row["clean"] for row in single])), 3),
    }


def main(repeats: int) -> Path:
    torch.set_num_threads(1)
    before = psutil.getloadavg()[0]
    rows = list(measure(repeats))
    summary = {
        **summarise(rows),
        "repeats": repeats,
        "load_average_before": round(before, 2),
        "load_average_after": round(psutil.getloadavg()[0], 2),
    }
    return write_result(
        "latency_noise",
        command="python -m benchmarks.latency_noise",
        seeds=range(repeats),
        rows=rows,
        summary=summary,
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=REPEATS)
    print(main(parser.parse_args().repeats))
