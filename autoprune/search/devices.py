"""A worker's share of GPUs -> the devices that its candidates train on, chosen here and nowhere else."""

from __future__ import annotations

import fcntl
import logging
import math
import os
from collections.abc import Sequence
from pathlib import Path

import torch

from autoprune.runtimes import CPU

_log = logging.getLogger("autoprune")
_held: list[int] = []


def training_devices(gpus: float, locks: Path) -> tuple[torch.device, ...]:
    """Return the devices that one candidate trains on; the first GPU of them becomes torch's current one.

    Ray shows a worker its own GPUs alone. Where more are visible than it may use, it takes some that no other worker
    of this host has taken, and holds them until its process ends.

    Args:
        gpus: GPUs that the worker may use; a share of one is one, which as many workers use as the share allows.
        locks: Directory of this host in which the taken GPUs are marked.
    """
    if gpus <= 0:
        return (CPU,)
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if count == 0:
        _log.warning("executor.gpus_per_worker is %g, but torch sees no GPU: candidates train on the CPU.", gpus)
        return (CPU,)
    wanted = min(math.ceil(gpus), count)
    names = [str(torch.cuda.get_device_properties(index).uuid) for index in range(count)]
    chosen = claim(names, wanted, max(1, int(1 / gpus)), locks) if wanted < count else range(count)
    devices = tuple(torch.device("cuda", index) for index in chosen)
    torch.cuda.set_device(devices[0])
    return devices


def claim(names: Sequence[str], wanted: int, sharers: int, locks: Path) -> list[int]:
    """Return the indices of GPUs that are claimed for this process; taken ones where too few are free.

    The marks are `flock`s: the kernel frees them when the process ends, however it ends.

    Args:
        names: What tells the host's GPUs apart.
        wanted: How many.
        sharers: Processes that may claim the same GPU; each is filled only when the others hold as many.
        locks: Directory of the marks.
    """
    found: list[int] = []
    for place in range(sharers):
        for index, name in enumerate(names):
            if len(found) < wanted and index not in found and _taken(locks / f"gpu-{name}-{place}"):
                found.append(index)
    rest = [index for index in range(len(names)) if index not in found]
    return sorted([*found, *rest[: wanted - len(found)]])


def _taken(mark: Path) -> bool:
    """Take a mark for the rest of this process; False where another holds it."""
    descriptor = os.open(mark, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return False
    _held.append(descriptor)
    return True
