"""Is a latency right that is measured beside training? Beside our own workers, and beside a process that is not ours.

    python -m benchmarks.latency_load [--repeats 20] [--again]

The latency of a ResNet-14 with half the channels on ONNX Runtime, and its speed-up over the whole one, as a run
measures the models of its front: several short passes, half a second apart. Our own workers train candidates of
ResNet-14 on digits as those of a run do: they share the host's gate and let measurements in between. The foreign
process burns a processor and knows no gate. In every repeat all conditions take their turn in random order; a value is
compared with the median of the quiet ones.

Finished repeats are kept in results/benchmarks/latency_load.json and made again only with --again.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch

from autoprune.config.model import LatencyConfig
from autoprune.evaluation import HostGate, LatencySettings, measure_latency, pool_passes
from autoprune.search.measured import PASSES
from autoprune.search.setup import Setup
from autoprune.search.workbench import Workbench, training_threads
from benchmarks.common import known_rows, rounded, write_result
from benchmarks.latency_noise import Call, sessions
from benchmarks.scaling_workers import setup_of

NAME = "latency_load"
TARGET = "onnxruntime-fp32-b1-t1"
REPEATS = 20
CONDITIONS = ("quiet", "1 own worker", "2 own workers", "foreign process")
OWN = CONDITIONS[1:3]
TOLERANCE = 0.05
GOALS = {"within_5%_or_flagged": 1.0, "flagged_beside_own": 0.2}
STEPS = 20
SPARSITY = 0.3
SETTLE_S = 0.3
PAUSE_S = 0.5
VALUES = ("ms", "speedup")

Row = dict[str, Any]
Load = Callable[[], AbstractContextManager[None]]


class OwnWorker:
    """A worker of a run that trains one candidate after another while it is told to.

    Args:
        setup: The run.
    """

    def __init__(self, setup: Setup) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_train, args=(theirs, setup), daemon=True)
        self._process.start()
        theirs.close()

    def await_ready(self) -> None:
        """Wait until it has built the task."""
        self._connection.recv()

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Let it train, until its last candidate is done."""
        self._connection.send("train")
        self._connection.recv()
        try:
            yield
        finally:
            self._connection.send("rest")
            self._connection.recv()

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.join()
        self._connection.close()


def _train(connection: Connection, setup: Setup) -> None:
    """Train when told to, as a run's worker does, until the parent is gone."""
    bench = Workbench(setup)
    policy = bench.space.policy_of(bench.space.uniform(SPARSITY))
    connection.send("ready")
    repeat = 0
    with training_threads(setup.config):
        try:
            while connection.recv():
                connection.send("training")
                while not connection.poll():
                    bench.prune(policy, "short", repeat=repeat)
                    repeat += 1
                connection.recv()
                connection.send("resting")
        except EOFError:
            return


def burn() -> None:
    """Keep a processor busy for ever."""
    while True:
        sum(range(10_000))


@contextmanager
def loads() -> Iterator[Mapping[str, Load]]:
    """Yield condition -> what loads the host as long as it is entered."""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        workers = [OwnWorker(setup_of(Path(folder) / str(n), 2, STEPS)) for n in range(len(OWN))]
        foreign = multiprocessing.get_context("spawn").Process(target=burn, daemon=True)
        for worker in workers:
            stack.callback(worker.close)
        for worker in workers:
            worker.await_ready()
        foreign.start()
        stack.callback(foreign.join)
        stack.callback(foreign.kill)
        process = psutil.Process(foreign.pid)
        process.suspend()

        @contextmanager
        def own(count: int) -> Iterator[None]:
            with ExitStack() as working:
                for worker in workers[:count]:
                    working.enter_context(worker.at_work())
                yield

        @contextmanager
        def burning() -> Iterator[None]:
            process.resume()
            try:
                yield
            finally:
                process.suspend()

        yield dict(zip(CONDITIONS, (nullcontext, lambda: own(1), lambda: own(2), burning), strict=True))


def measured(calls: tuple[Call, Call], gate: HostGate, seed: int) -> Row:
    """Return one measurement, as a run makes it."""
    start, passes = time.perf_counter(), []
    for turn in range(PASSES):
        time.sleep(PAUSE_S if turn else 0.0)
        rounds = LatencyConfig().final_rounds // PASSES
        passes.append(measure_latency(*calls, LatencySettings(seed=PASSES * seed + turn, rounds=rounds, gate=gate)))
    latency = pool_passes(passes)
    return {
        "ms": rounded(latency.ms),
        "speedup": rounded(latency.speedup),
        "speedup_low": rounded(latency.speedup_low),
        "speedup_high": rounded(latency.speedup_high),
        "clean": latency.clean,
        "polluted_share": rounded(latency.polluted_share),
        "took_s": rounded(time.perf_counter() - start),
        "load_average": rounded(psutil.getloadavg()[0]),
    }


def measure(repeats: Sequence[int], session: int) -> Iterator[list[Row]]:
    """Yield the rows of a repeat: all conditions, in random order.

    Args:
        repeats: Numbers of the repeats, seeds of their order.
        session: Number of this call: deployed models of another call may lie differently in memory.
    """
    torch.set_num_threads(1)
    gate, calls = HostGate(), sessions(TARGET)
    with loads() as by_name:
        for repeat in repeats:
            rows = []
            for index in np.random.default_rng(repeat).permutation(len(CONDITIONS)):
                name = CONDITIONS[index]
                with by_name[name]():
                    time.sleep(SETTLE_S)
                    row = measured(calls, gate, repeat)
                rows.append({"condition": name, "repeat": repeat, "session": session, **row})
            yield rows


def summarise(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return condition -> shares of its measurements; each value is held against the quiet ones of its own session."""
    found: dict[str, Any] = {}
    for name in CONDITIONS:
        own = [row for row in rows if row["condition"] == name]
        if own:
            found[name] = {"flagged": rounded(float(np.mean([not row["clean"] for row in own])), 3)}
            for value in VALUES:
                found[name][value] = _shares(own, rows, value)
    beside_own = [not row["clean"] for row in rows if row["condition"] in OWN]
    return {
        "target": TARGET,
        "repeats": len({row["repeat"] for row in rows}),
        "goals": GOALS,
        "flagged_beside_own": rounded(float(np.mean(beside_own)), 3) if beside_own else None,
        "conditions": found,
    }


def _shares(own: Sequence[Mapping[str, Any]], rows: Sequence[Mapping[str, Any]], value: str) -> dict[str, float]:
    errors = np.array([row[value] / quiet_value(rows, row["session"], value) - 1.0 for row in own])
    within = np.abs(errors) <= TOLERANCE
    flagged = np.array([not row["clean"] for row in own])
    return {
        "within_5%": rounded(float(within.mean()), 3),
        "within_5%_or_flagged": rounded(float((within | flagged).mean()), 3),
        "median_error": rounded(float(np.median(errors)), 3),
        "largest_error_unflagged": rounded(float(np.abs(errors[~flagged]).max(initial=0.0)), 3),
    }


def quiet_value(rows: Sequence[Mapping[str, Any]], session: int, value: str) -> float:
    """Return the median of a session's quiet measurements."""
    return float(np.median([r[value] for r in rows if r["condition"] == "quiet" and r["session"] == session]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=REPEATS)
    parser.add_argument("--again", action="store_true", help="measure also what is known")
    arguments = parser.parse_args()
    rows = [] if arguments.again else known_rows(NAME)
    session = 1 + max((row["session"] for row in rows), default=0)
    missing = [repeat for repeat in range(arguments.repeats) if all(row["repeat"] != repeat for row in rows)]
    command = "python -m benchmarks.latency_load"
    for fresh in measure(missing, session) if missing else ():
        rows += fresh
        write_result(NAME, command=command, seeds=range(arguments.repeats), rows=rows, summary=summarise(rows))
    print(json.dumps(summarise(rows), indent=2))


if __name__ == "__main__":
    main()
