"""A worker's child process: builds its workbench once, then a job comes in and its record goes to disk and back."""

from __future__ import annotations

import ctypes
import gc
import os
import signal
import sys
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from autoprune.errors import AutopruneError, CandidateError
from autoprune.search.executors.clock import WaitClock
from autoprune.search.setup import Setup
from autoprune.tasks.failures import user_code

if TYPE_CHECKING:
    from autoprune.search.workbench import Workbench

READY = "ready"
RECORD = "record"
ERROR = "error"

PARENT_DEATH_SIGNAL = 1
LIKELIER_TO_BE_ENDED = "500"


class Bonds(NamedTuple):
    """What ties a child to its supervisor.

    Args:
        alive: Descriptor that tells the supervisor of this process's end.
        clock: Descriptor of the page of a `WaitClock`.
        parent: Process that started this one, with which it ends.
    """

    alive: int
    clock: int
    parent: int


def serve(pipe: Connection, bonds: Bonds) -> None:
    """Build a workbench from the setup that comes first, then evaluate jobs until the pipe is closed.

    Args:
        pipe: Setup, then jobs come in; (`READY`, None), (`RECORD`, record) and (`ERROR`, error) go out.
        bonds: Descriptors, which programs that this process starts do not hold, and the parent.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for descriptor in (pipe.fileno(), bonds.alive, bonds.clock):
        os.set_inheritable(descriptor, False)
    _end_with(bonds.parent)
    _offer_to_the_system()
    with suppress(EOFError, ConnectionError):
        _work(pipe, WaitClock(bonds.clock))
    gc.collect()  # what the workbench has put into temporary directories goes with it
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # taking torch apart would last seconds


def _work(pipe: Connection, clock: WaitClock) -> None:
    setup = pipe.recv()
    try:
        bench = _build(setup, clock)
    except AutopruneError as error:
        pipe.send((ERROR, _portable(error)))
        return
    pipe.send((READY, None))
    while True:
        job = pipe.recv()
        try:
            answer = (RECORD, bench.run(job))
        except AutopruneError as error:
            pipe.send((ERROR, _portable(error)))
            return
        pipe.send(answer)


def _build(setup: Setup, clock: WaitClock) -> Workbench:
    """Return a workbench whose dense model is deployed, so that no candidate pays for it."""
    with user_code("Building a worker"):
        from autoprune.search.executors.gated import CountedGate
        from autoprune.search.workbench import Workbench, training_threads

        bench = Workbench(setup)
        bench.gate = CountedGate(clock, bench.gate.directory)
        with training_threads(setup.config):
            bench.require_dense()
        return bench


def _portable(error: AutopruneError) -> AutopruneError:
    """Return an error that can be pickled."""
    return AutopruneError(str(error), hint=error.hint) if isinstance(error, CandidateError) else error


def _end_with(parent: int) -> None:
    """Have the system kill this process when its parent ends, however that ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PARENT_DEATH_SIGNAL, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def _offer_to_the_system() -> None:
    """When the host runs out of memory, have a candidate ended rather than the driver."""
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(LIKELIER_TO_BE_ENDED, encoding="ascii")
