"""Jobs -> persistent actors of a Ray cluster -> records: the engine for more than one machine.

Each actor builds the task once and then takes one job after another. Only actors that have answered get jobs; one that
is lost is replaced, and its job goes through the same rules as in every engine. As many actors as there are workers are
always asked for: what the cluster has no room for waits, and a node that joins late is used.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayActorError, RayError, RayTaskError

from autoprune.errors import AutopruneError
from autoprune.records import CandidateRecord
from autoprune.search.executors.base import Job
from autoprune.search.executors.cluster import Cluster, Node
from autoprune.search.executors.ray_worker import CONTROL, Arrival, RayWorker
from autoprune.search.executors.retry import STARTS, Retries
from autoprune.search.executors.shipping import Parcel, unmark, with_reserved_threads, wrap
from autoprune.search.executors.worker import Lost
from autoprune.search.setup import Setup

WAIT_SECONDS = 1.0
NODES_SECONDS = 1.0
STOP_SECONDS = 5.0

_log = logging.getLogger("autoprune")


@dataclass(eq=False)
class Member:
    """An actor of the pool.

    Args:
        actor: Its handle.
        node: Id of its node, once it has answered.
        host: Name of its host, once it has answered.
        job: What it evaluates now.
        started: When it got its job, by the monotonic clock.
    """

    actor: Any
    node: str = ""
    host: str = ""
    job: Job | None = None
    started: float = 0.0


class RayPool:
    """Evaluates jobs on a Ray cluster.

    Args:
        setup: The run; `executor` and `search.workers` say where, and how many workers.
        resource: Ray resource of the hosts to work on, one of it a worker; None = any host.

    Raises:
        ConfigError: See `Cluster`.
    """

    def __init__(self, setup: Setup, resource: str | None = None) -> None:
        self._retries = Retries(setup)
        self._wanted = setup.config.search.workers
        self._parcel = wrap(setup if setup.config.executor.address is None else with_reserved_threads(setup))
        try:
            self._cluster = Cluster(setup, resource)
        except BaseException:
            unmark(self._parcel)
            raise
        self._asked: dict[Any, Member] = {}
        self._idle: list[Member] = []
        self._parked: list[Member] = []
        self._waiting: deque[Job] = deque()
        self._finished: list[CandidateRecord] = []
        self._failed_starts = 0
        self._nodes: list[Node] = self._cluster.nodes()
        self._looked = time.monotonic()
        self._first_nodes = {node.id for node in self._nodes}
        self._closed = False
        self._create = _actor_maker(self._parcel, self._cluster.share)
        self._fill()

    @property
    def free(self) -> int:
        """Number of jobs that would start at once; at least one when nothing is under way."""
        rooms = sum(node.rooms for node in self._alive()) - len(self._parked)
        return max(0, min(self._wanted, max(rooms, 1)) - self._under_way)

    def submit(self, job: Job) -> None:
        """Take a job; it waits while no worker is ready."""
        self._waiting.append(job)
        self._dispatch()

    def collect(self) -> list[CandidateRecord]:
        """Return the records finished since the last call, waiting for at least one while any job is under way.

        Raises:
            AutopruneError: A node cannot build the task, does not share the run's directory or cannot write a record.
        """
        while self._under_way and not self._finished:
            for answer in self._answers():
                self._take(answer)
            self._dispatch()
        records, self._finished = self._finished, []
        return records

    def close(self) -> None:
        """End the workers with all that they have started; jobs under way are abandoned."""
        if self._closed:
            return
        self._closed = True
        if ray.is_initialized():
            self._end_workers()
        self._cluster.close()
        unmark(self._parcel)

    def _end_workers(self) -> None:
        everyone = {*self._idle, *self._parked, *self._asked.values()}
        answered = [member for member in everyone if member.node]
        with suppress(RayError):
            stops = [member.actor.stop.options(concurrency_group=CONTROL).remote() for member in answered]
            if stops:
                ray.wait(stops, num_returns=len(stops), timeout=STOP_SECONDS)
        for member in everyone:
            _kill(member)

    @property
    def _under_way(self) -> int:
        return len(self._waiting) + sum(member.job is not None for member in self._asked.values())

    def _alive(self) -> list[Node]:
        if time.monotonic() - self._looked > NODES_SECONDS:
            self._nodes, self._looked = self._cluster.nodes(), time.monotonic()
        return self._nodes

    def _fill(self) -> None:
        """Ask for as many actors as are wanted; those that find no room wait in the cluster."""
        for _ in range(self._wanted - len(self._asked) - len(self._idle)):
            self._await_ready(Member(self._create()))

    def _await_ready(self, member: Member) -> None:
        self._asked[member.actor.ready.remote()] = member

    def _dispatch(self) -> None:
        while self._waiting and self._idle:
            member = self._idle.pop(0)
            member.job, member.started = self._waiting.popleft(), time.monotonic()
            self._asked[member.actor.evaluate.remote(member.job)] = member

    def _answers(self) -> Iterable[Any]:
        """Return what has been answered, waiting a moment for the first."""
        done, _ = ray.wait(list(self._asked), num_returns=1, timeout=WAIT_SECONDS)
        if done and len(self._asked) > 1:
            done, _ = ray.wait(list(self._asked), num_returns=len(self._asked), timeout=0)
        return done

    def _take(self, reference: Any) -> None:
        member = self._asked.pop(reference)
        try:
            answer = ray.get(reference)
        except RayTaskError as error:
            self._parked.append(member)
            raise AutopruneError(
                f"A worker on {member.host or 'a node'} failed: {type(error.cause).__name__}: {error.cause}",
                hint="The nodes may have other versions of autoprune's requirements.",
            ) from error
        except RayError as error:
            self._lose(member, error)
            return
        if isinstance(answer, Arrival):
            self._welcome(member, answer)
        else:
            self._finish(member, answer)

    def _welcome(self, member: Member, arrival: Arrival) -> None:
        member.node, member.host = arrival.node, arrival.host
        if arrival.refused is not None:
            self._park(member, arrival.refused)
        elif arrival.ended:
            self._count_failed_start(arrival.ended)
            self._await_ready(member)
        else:
            self._failed_starts = 0
            self._idle.append(member)

    def _park(self, member: Member, reason: AutopruneError) -> None:
        """Do without a node that joined late; its actor keeps its room, so that no other is sent there."""
        self._parked.append(member)
        rooms = sum(node.rooms for node in self._cluster.nodes())
        if member.node in self._first_nodes or len(self._parked) >= rooms:
            raise reason
        _log.warning("Node %s, which joined late, is not used: %s", member.host, reason)
        self._fill()

    def _finish(self, member: Member, answer: CandidateRecord | Lost | AutopruneError) -> None:
        job, member.job = member.job, None
        if isinstance(answer, AutopruneError):
            self._await_ready(member)
            raise answer
        if isinstance(answer, Lost):
            self._settle(job, answer)
            self._await_ready(member)
            return
        self._finished.append(answer)
        self._idle.append(member)

    def _lose(self, member: Member, error: RayError) -> None:
        """Replace an actor that is gone; others of its node get jobs only after they have answered again."""
        job, where = member.job, member.host or "a node"
        what = "has ended" if isinstance(error, RayActorError) else "does not answer"
        message = f"The worker on {where} {what} ({type(error).__name__})."
        _kill(member)
        doubtful = [other for other in self._idle if other.node == member.node]
        self._idle = [other for other in self._idle if other.node != member.node]
        for other in doubtful:
            self._await_ready(other)
        if job is None:
            self._count_failed_start(f"{message} {_last_line(error)}")
        else:
            _log.warning("%s It was evaluating candidate %s.", message, job.id)
            self._settle(job, Lost("worker_lost", message, time.monotonic() - member.started))
        self._fill()

    def _settle(self, job: Job | None, lost: Lost) -> None:
        """Take the record of a lost job, or queue it again, first in line."""
        if job is None:
            return
        record = self._retries.settle(job, lost)
        if record is None:
            self._waiting.appendleft(job)
        else:
            self._finished.append(record)

    def _count_failed_start(self, message: str) -> None:
        if "ModuleNotFoundError" in message:
            raise AutopruneError(message, hint="Install autoprune, with all it needs, on every node.")
        self._failed_starts += 1
        if self._failed_starts >= STARTS:
            raise AutopruneError(
                f"{STARTS} workers in a row ended while they were being built. {message}",
                hint="See Ray's logs of that node; fewer workers need less memory.",
            )


def _actor_maker(parcel: Parcel, share: Mapping[str, float]) -> Callable[[], Any]:
    """Return what creates one more actor, wherever the cluster has room, spread over the nodes."""
    options: dict[str, Any] = {
        "num_cpus": share["CPU"],
        "num_gpus": share["GPU"],
        "resources": {name: part for name, part in share.items() if name not in ("CPU", "GPU")},
        "max_restarts": 0,
        "max_task_retries": 0,
        "concurrency_groups": {CONTROL: 1},
        "scheduling_strategy": "SPREAD",
    }
    maker = ray.remote(**options)(RayWorker)
    return lambda: maker.remote(parcel)


def _kill(member: Member) -> None:
    with suppress(RayError, ValueError):
        ray.kill(member.actor, no_restart=True)


def _last_line(error: RayError) -> str:
    return next((line.strip() for line in reversed(str(error).splitlines()) if line.strip()), "")
