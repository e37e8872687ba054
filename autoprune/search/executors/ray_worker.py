"""A Ray actor that holds one worker process: jobs come in, records go out. Loads no torch."""

from __future__ import annotations

from dataclasses import dataclass
from multiprocessing.connection import wait

import ray

from autoprune.errors import AutopruneError
from autoprune.records import CandidateRecord
from autoprune.search.executors.base import Job
from autoprune.search.executors.shipping import Parcel, node_name, unpack
from autoprune.search.executors.worker import POLL_SECONDS, Lost, WorkerProcess
from autoprune.search.setup import Setup

CONTROL = "control"


@dataclass(frozen=True)
class Arrival:
    """What an actor answers once it can take jobs, or cannot.

    Args:
        node: Id of its node.
        host: Name of its host.
        refused: Why this node cannot evaluate candidates; None when it can.
        ended: How its worker process ended while it was being built; empty when it was built.
    """

    node: str
    host: str
    refused: AutopruneError | None = None
    ended: str = ""


class RayWorker:
    """Evaluates one job at a time in a child process, which it replaces when it is lost.

    `stop` answers while a job is under way.

    Args:
        parcel: The run.
    """

    def __init__(self, parcel: Parcel) -> None:
        self._parcel = parcel
        self._setup: Setup | None = None
        self._worker: WorkerProcess | None = None
        self._stopped = False

    def ready(self) -> Arrival:
        """Return when the child has built its workbench, or why it has not."""
        node = ray.get_runtime_context().get_node_id()
        try:
            return Arrival(node, node_name(), ended=self._build())
        except AutopruneError as error:
            self._end()
            return Arrival(node, node_name(), refused=error)

    def evaluate(self, job: Job) -> CandidateRecord | Lost | AutopruneError:
        """Return a job's record, why there is none, or why this run cannot go on."""
        try:
            return self._child().evaluate(job)
        except AutopruneError as error:
            return error

    def stop(self) -> None:
        """End the child with all that it has started."""
        self._stopped = True
        self._end()

    def _build(self) -> str:
        worker = self._child()
        while not worker.ready:
            wait([worker.connection, worker.sentinel], POLL_SECONDS)
            worker.poll()
            if not worker.alive:
                return f"The worker process on {node_name()} ended while it was being built."
        return ""

    def _child(self) -> WorkerProcess:
        if self._stopped:
            raise AutopruneError("The worker was stopped.")
        if self._setup is None:
            self._setup = unpack(self._parcel)
        if self._worker is None or not self._worker.alive:
            self._end()
            self._worker = WorkerProcess(self._setup)
        return self._worker

    def _end(self) -> None:
        if self._worker is not None:
            self._worker.close()
