"""Evaluates candidates of the faulty task on a cluster, and prints each record when it comes: one JSON line an event.

Takes one argument, JSON: `config`, the run's configuration; `directory` of the run; `base`, the directory of the task
file. It goes on as long as the run's directory holds a file `more`.
"""

from __future__ import annotations

import json
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

from autoprune.config.model import RunConfig
from autoprune.errors import AutopruneError
from autoprune.policy import Policy, Strategy
from autoprune.search.executors.base import Job
from autoprune.search.executors.ray_pool import RayPool
from autoprune.search.setup import Setup
from autoprune.tasks.reference import TaskRef


def tell(**event: Any) -> None:
    print(json.dumps({"at": time.monotonic(), **event}), flush=True)


def setup_of(asked: dict[str, Any]) -> Setup:
    config, base = RunConfig.model_validate(asked["config"]), Path(asked["base"])
    return Setup(config, TaskRef(config.task, config.task_args, base), base, Path(asked["directory"]), dense_ms=1.0)


def job(number: int) -> Job:
    sparsity = 0.125 * (1 + number % 6)
    return Job(number, Policy({"first": sparsity}, Strategy(recovery_steps=2 + number)), "short")


def main(asked: dict[str, Any]) -> None:
    tell(event="started")
    with closing(RayPool(setup_of(asked))) as pool:
        tell(event="connected")
        number, underway = 0, 0
        more = Path(asked["directory"]) / "more"
        while more.exists() or underway:
            while pool.free and more.exists():
                pool.submit(job(number))
                number, underway = number + 1, underway + 1
            for record in pool.collect():
                underway -= 1
                failure = (record.failure or {}).get("reason")
                tell(event="record", number=record.number, state=record.state, host=record.host, failure=failure)
        tell(event="finished")
    tell(event="closed")


if __name__ == "__main__":
    try:
        main(json.loads(sys.argv[1]))
    except AutopruneError as error:
        tell(event="error", kind=type(error).__name__, message=str(error), hint=error.hint)
        sys.exit(error.exit_code)
