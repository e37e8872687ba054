"""Configuration -> an open connection to a Ray cluster, or the one reason why there is none. Knows nothing of jobs.

One that exists already is first looked at from a process of its own, because a connection that fails may wait for
minutes, fill the terminal or end its process. A cluster of this machine listens on its loopback address alone; for
that, and to keep standard output clean, two names in Ray's own modules are exchanged.
"""

from __future__ import annotations

import logging
import math
import os
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import ray

from autoprune.config.model import RunConfig
from autoprune.errors import ConfigError
from autoprune.search.executors.joining import refuse_unreachable_cluster
from autoprune.search.executors.shipping import pack
from autoprune.search.setup import Setup

ROOM_SECONDS = 15.0
ROOM_PAUSE = 0.5
TINY = 1e-9
STORE_BYTES = 100_000_000
QUIET: Mapping[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
CLUSTERED = "ENABLE_RAY_CLUSTER"
PRINTING = "print_to_stdstream"
LOCAL_ENVIRONMENT = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_USAGE_STATS_ENABLED": "0"}

_log = logging.getLogger("autoprune")


class Node(NamedTuple):
    """A node of the cluster that is alive: its id, its address, and how many workers it has room for."""

    id: str
    address: str
    rooms: int


class Cluster:
    """A connection to Ray; one that the process had before is used as it is and left open.

    Args:
        setup: The run; `executor.address` says which cluster, None starts one of this machine.
        resource: Ray resource of the hosts that workers are for, one of it a worker; None = any host.

    Raises:
        ConfigError: No cluster answers, it refuses this process, or no node has room for a worker.

    Attributes:
        share: What a worker reserves of a node.
    """

    def __init__(self, setup: Setup, resource: str | None = None) -> None:
        self._patience = 0.0 if setup.config.executor.address is None else ROOM_SECONDS
        self.share = _share_of(setup.config, resource)
        self._own = not ray.is_initialized()
        self._quiet = ExitStack()
        try:
            if self._own:
                self._quiet.enter_context(_told_to_the_log())
                _connect(setup)
            self._require_room()
        except BaseException:
            self.close()
            raise

    def nodes(self) -> list[Node]:
        """Return the nodes that are alive."""
        return [
            Node(node["NodeID"], node["NodeManagerAddress"], rooms_of(node["Resources"], self.share))
            for node in _alive()
        ]

    def close(self) -> None:
        """Leave the cluster, or end it where it was started here."""
        if self._own and ray.is_initialized():
            ray.shutdown()
        self._quiet.close()

    def _require_room(self) -> None:
        """Wait for a node with room for a worker: nodes of a new cluster come one by one."""
        deadline = time.monotonic() + self._patience
        while not any(node.rooms for node in self.nodes()):
            if time.monotonic() > deadline:
                raise _no_room(self.share)
            time.sleep(ROOM_PAUSE)


def rooms_of(resources: Mapping[str, float], share: Mapping[str, float]) -> int:
    """Return how many workers fit into the resources of an empty node.

    Args:
        resources: What the node has.
        share: What a worker takes. Several share a GPU, but none gets parts of several GPUs.
    """
    return min(_fitting(resources.get(name, 0.0), part, name == "GPU") for name, part in share.items() if part)


def _share_of(config: RunConfig, resource: str | None) -> dict[str, float]:
    """Return what a worker reserves; one that only measures takes turns with the others of its host, and needs none."""
    executor = config.executor
    if resource is None:
        return {"CPU": executor.cpus_per_worker, "GPU": executor.gpus_per_worker}
    on_gpu = any("cuda" in target for target in config.latency.targets)
    return {"CPU": 0.0, "GPU": executor.gpus_per_worker if on_gpu else 0.0, resource: 1.0}


def _alive() -> list[dict[str, Any]]:
    nodes: Callable[[], list[dict[str, Any]]] = ray.nodes
    return [node for node in nodes() if node["Alive"]]


def _fitting(amount: float, part: float, whole: bool) -> int:
    if whole and part < 1.0:
        return math.floor(amount) * math.floor(1.0 / part + TINY)
    return math.floor(amount / part + TINY)


def _no_room(share: Mapping[str, float]) -> ConfigError:
    found = [node["Resources"] for node in _alive()]
    share = {name: part for name, part in share.items() if part or name == "CPU"}
    most = {name: max((r.get(name, 0.0) for r in found), default=0.0) for name in share}
    return ConfigError(
        f"No node of the Ray cluster has room for a worker of {_listed(share)}. "
        f"The most that one of its {len(found)} nodes has: {_listed(most)}.",
        hint="Ask for less by executor.cpus_per_worker and executor.gpus_per_worker, or add a node that has it.",
    )


def _listed(amounts: Mapping[str, float]) -> str:
    return ", ".join(f"{amount:g} {name}" for name, amount in amounts.items())


def _connect(setup: Setup) -> None:
    config = setup.config.executor
    with _signals_kept():
        if config.address is None:
            _start_local(setup)
            return
        refuse_unreachable_cluster(config.address)
        with tempfile.TemporaryDirectory(prefix="autoprune-") as folder:
            packed = pack(setup, Path(folder))
            ray.init(address=config.address, runtime_env={"py_modules": [str(packed)]} if packed else None, **QUIET)


def _start_local(setup: Setup) -> None:
    config = setup.config.executor
    with _on_loopback(), _readable_by_its_owner(Path.home() / ".ray" / "auth_token"):
        ray.init(
            address="local",
            num_cpus=math.ceil(setup.config.search.workers * config.cpus_per_worker),
            include_dashboard=False,
            object_store_memory=STORE_BYTES,
            **QUIET,
        )


@contextmanager
def _told_to_the_log() -> Iterator[None]:
    """Have what Ray prints on standard output, such as the death of a worker, go to the log."""
    module = vars(import_module("ray._private.worker"))
    printing = module[PRINTING]
    module[PRINTING] = _log_lines
    try:
        yield
    finally:
        module[PRINTING] = printing


def _log_lines(data: Mapping[str, Any], ignore_prefix: bool) -> None:
    del ignore_prefix
    _log.debug("Ray: %s", "\n".join(data["lines"]))


@contextmanager
def _on_loopback() -> Iterator[None]:
    """Have all that Ray starts listen on this machine alone: its variable for that is read when it is imported."""
    constants = vars(import_module("ray._private.ray_constants"))
    environment, clustered = dict(os.environ), constants[CLUSTERED]
    os.environ.update(LOCAL_ENVIRONMENT)
    constants[CLUSTERED] = False
    try:
        yield
    finally:
        constants[CLUSTERED] = clustered
        for name in LOCAL_ENVIRONMENT:
            os.environ.pop(name)
        os.environ.update({n: v for n, v in environment.items() if n in LOCAL_ENVIRONMENT})


@contextmanager
def _readable_by_its_owner(token: Path) -> Iterator[None]:
    """Close the token file that Ray may make, and would leave open, to all other users."""
    known = token.exists()
    yield
    if not known and token.exists():
        token.chmod(0o600)


@contextmanager
def _signals_kept() -> Iterator[None]:
    """Restore this process's answer to SIGTERM, which Ray replaces by its own."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if before is not None:
            signal.signal(signal.SIGTERM, before)
