"""Further processes of a worker that train its candidates with it, one for each GPU beyond the first.

They belong to the worker's session, so that whatever ends the worker reaches them, and end with it in any case. Each
builds task and dense model once; a candidate comes as its architecture and its weights.
"""

from __future__ import annotations

import ctypes
import os
import secrets
import signal
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from autoprune.errors import AutopruneError, CandidateError
from autoprune.groups import prepare_model, rebuild
from autoprune.groups.types import ArchitecturePlan
from autoprune.policy import Policy
from autoprune.pruning import PrunedModel, Recovery, Team, fine_tune_together, recover_context
from autoprune.search.setup import Setup
from autoprune.search.weights import set_weights, weights_of
from autoprune.tasks.failures import user_code
from autoprune.tasks.protocol import RecoverContext, Task

BOOT = """
import sys
from multiprocessing.connection import Connection
pipe = Connection(int(sys.argv[1]))
sys.path[:] = pipe.recv()
from autoprune.search.ranks import serve
serve(pipe, int(sys.argv[2]))
"""
PARENT_DEATH_SIGNAL = 1
READY = ""


@dataclass(frozen=True)
class Order:
    """A candidate to train together.

    Args:
        policy: What was asked.
        architecture: What it is.
        weights: Its tensors after the cut.
        masks: Weights' entries that are not held at zero.
        recovery: Its budget, without hooks.
        team: This process's place.
    """

    policy: Policy
    architecture: ArchitecturePlan
    weights: bytes
    masks: Mapping[str, Tensor]
    recovery: Recovery
    team: Team


class Ranks:
    """The worker's side; the processes start with the first candidate, and anew after one that failed.

    Args:
        setup: The run.
        task: The worker's own task.
        devices: One for each process, the worker's first.
    """

    def __init__(self, setup: Setup, task: Task, devices: Sequence[torch.device]) -> None:
        self._setup = setup
        self._task = task
        self._devices = tuple(devices)
        self._others: list[tuple[int, Connection]] = []

    def train(self, pruned: PrunedModel, context: RecoverContext) -> None:
        """Fine-tune a pruned model in place, with all processes.

        Raises:
            CandidateError: Training fails in one of them.
        """
        size = len(self._devices)
        with tempfile.TemporaryDirectory(prefix="autoprune-") as folder:
            meeting = Path(folder) / secrets.token_hex(8)
            weights = weights_of(pruned.model)
            try:
                if not self._others:
                    self._others = [_started(self._setup) for _ in range(1, size)]
                for rank, (_, pipe) in enumerate(self._others, start=1):
                    team, recovery = Team(rank, size, meeting), self._recovery_of(context, rank)
                    pipe.send(Order(pruned.policy, pruned.architecture, weights, pruned.masks, recovery, team))
                self._await_all()
                fine_tune_together(pruned.model, self._task, context, Team(0, size, meeting))
                self._await_all()
            except BaseException:
                self.close()
                raise

    def close(self) -> None:
        """End the processes."""
        for pid, pipe in self._others:
            pipe.close()
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            with suppress(ChildProcessError):
                os.waitpid(pid, 0)
        self._others.clear()

    def _recovery_of(self, context: RecoverContext, rank: int) -> Recovery:
        """Return the budget of a context as another process builds it again, on its own device and without hooks."""
        distillation = self._setup.config.recovery.distillation
        return Recovery(
            context.steps,
            context.batch_size,
            calibration=0,
            distillation=distillation,
            seed=context.seed,
            device=self._devices[rank],
        )

    def _await_all(self) -> None:
        """Wait until each has built the candidate, or has trained it."""
        for rank, (_, pipe) in enumerate(self._others, start=1):
            try:
                problem = pipe.recv()
            except (EOFError, OSError):
                problem = "it ended"
            if problem != READY:
                raise CandidateError(f"Process {rank} of the team: {problem}", reason="error", stage="recover")


def serve(pipe: Connection, parent: int) -> None:
    """Train with a worker until the pipe is closed: setup, then orders come in; twice an order, an answer goes out."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PARENT_DEATH_SIGNAL, signal.SIGKILL)
    if os.getppid() != parent:
        return
    with suppress(EOFError, ConnectionError):
        try:
            _follow(pipe, pipe.recv())
        except AutopruneError as error:
            pipe.send(str(error))


def _follow(pipe: Connection, setup: Setup) -> None:
    """Train one candidate after another; the first that fails ends this process."""
    with user_code("Building a process of a team"):
        task = setup.task.load()
        dense, _ = prepare_model(task.build_model().eval())
        torch.set_num_threads(setup.config.executor.threads or 1)
    while True:
        order: Order = pipe.recv()
        with user_code("Training in a team"):
            _train(pipe, order, task, dense)


def _train(pipe: Connection, order: Order, task: Task, dense: nn.Module) -> None:
    device = order.recovery.device
    if device.type == "cuda":
        torch.cuda.set_device(device)
    model = set_weights(rebuild(dense, order.architecture), order.weights)
    pruned = PrunedModel(model, order.policy, np.ones(0, dtype=bool), order.architecture, order.masks)
    with ExitStack() as hooks:
        context = recover_context(pruned, order.recovery, task, dense, hooks)
        pipe.send(READY)
        fine_tune_together(model, task, context, order.team)
    pipe.send(READY)


def _started(setup: Setup) -> tuple[int, Connection]:
    """Return a process of this session and the connection to it."""
    pipe, theirs = Pipe()
    try:
        os.set_inheritable(theirs.fileno(), True)
        arguments = [sys.executable, "-P", "-c", BOOT, str(theirs.fileno()), str(os.getpid())]
        pid = os.posix_spawn(sys.executable, arguments, dict(os.environ))
    finally:
        theirs.close()
    pipe.send([p for p in sys.path if isinstance(p, str)])
    pipe.send(setup)
    return pid, pipe
