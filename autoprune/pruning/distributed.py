"""One recovery on several processes of a host: each trains on its share of every batch, gradients are averaged.

All processes walk through the task's own loop with the same model, seeds and batches, so that they stay in step. A loss
is the whole batch's in value and the share's in gradient: one that diverges ends the loop of every process alike.
BatchNorm normalises by each process's share, as torch's DistributedDataParallel does; it is estimated anew afterwards.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from autoprune.errors import CandidateError
from autoprune.pruning.recovery import fine_tune
from autoprune.tasks import GuardedTask
from autoprune.tasks.base import map_tensors, tensors_of
from autoprune.tasks.protocol import RecoverContext, Task

PATIENCE = timedelta(minutes=10)
LOOPBACK = {"GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo"}


@dataclass(frozen=True)
class Team:
    """The processes that train one candidate.

    Args:
        rank: Number of this process, from 0.
        size: How many there are.
        meeting: File that does not exist yet, through which they find each other.
    """

    rank: int
    size: int
    meeting: Path


def fine_tune_together(model: nn.Module, task: Task, ctx: RecoverContext, team: Team) -> None:
    """Train as `fine_tune` does, on all processes of a team; each calls this with an equal model, task and context.

    Hooks of the context are called where they are set; what the first process answers to a report holds for all.

    Args:
        model: Trained in place; it ends on the CPU, equal in all processes but for BatchNorm's statistics.
        task: The user's own; its `batches` and `loss` are replaced in a copy.
        ctx: The budget; its device is this process's own.
        team: The processes.

    Raises:
        CandidateError: See `fine_tune`; also where another process has failed.
    """
    with _joined(team, ctx.device), ExitStack() as hooks:
        part = _Part(team, ctx.device)
        own = copy.copy(task)
        vars(own).update(batches=part.batches_of(task), loss=part.loss_of(task))
        for parameter in model.parameters():
            register: Any = parameter.register_post_accumulate_grad_hook  # torch leaves it untyped
            if parameter.requires_grad:
                hooks.callback(register(part.average).remove)
        fine_tune(model, GuardedTask(own), replace(ctx, penalty=part.penalty_of(ctx), on_report=part.report_of(ctx)))


def share_of(batch: Any, rank: int, size: int) -> tuple[Any, float]:
    """Return a process's share of a batch, and that share's weight: 1 on average over the processes.

    The batch is cut along the first dimension of its tensors, lists of mappings along with them. One with fewer
    examples than processes, or without tensors, is everybody's as a whole.
    """
    tensors = [tensor for tensor in tensors_of(batch) if tensor.ndim]
    count = len(tensors[0]) if tensors else 0
    if count < size:
        return batch, 1.0
    start, end = count * rank // size, count * (rank + 1) // size
    return _cut(batch, count, slice(start, end)), (end - start) * size / count


class _Part:
    """What one process does for its team."""

    def __init__(self, team: Team, device: torch.device) -> None:
        self._team = team
        self._device = device
        self._weight = 1.0

    def batches_of(self, task: Task) -> Callable[..., Iterator[Any]]:
        """Return `task.batches`, of which only this process's shares of `train` are seen."""

        def batches(split: str, **options: Any) -> Iterator[Any]:
            known: Any = task.batches
            for batch in known(split, **options):
                share, weight = share_of(batch, self._team.rank, self._team.size) if split == "train" else (batch, 1.0)
                self._weight = weight
                yield share

        return batches

    def loss_of(self, task: Task) -> Callable[[Any, Any], Tensor]:
        """Return `task.loss` with the whole batch's value and the share's gradient."""
        return lambda outputs, batch: self._whole(task.loss(outputs, batch))

    def penalty_of(self, ctx: RecoverContext) -> Callable[[nn.Module, Any, Any], Tensor] | None:
        """Return the context's penalty with the whole batch's value and the share's gradient."""
        penalty = ctx.penalty
        return None if penalty is None else lambda *inputs: self._whole(penalty(*inputs))

    def report_of(self, ctx: RecoverContext) -> Callable[[int, float], bool]:
        """Return a report to which the first process answers for all."""

        def report(step: int, value: float) -> bool:
            goes_on = True if ctx.on_report is None else ctx.on_report(step, value)
            answer = torch.tensor(int(goes_on), device=self._device)
            dist.broadcast(answer, src=0)
            return bool(answer)

        return report

    def average(self, parameter: Tensor) -> None:
        """Replace a gradient by the whole batch's."""
        if parameter.grad is not None:
            dist.all_reduce(parameter.grad.mul_(self._weight / self._team.size))

    def _whole(self, loss: Tensor) -> Tensor:
        value = loss.detach() * (self._weight / self._team.size)
        dist.all_reduce(value)
        return loss - loss.detach() + value


@contextmanager
def _joined(team: Team, device: torch.device) -> Iterator[None]:
    """Belong to a process group as long as the context lasts; its traffic stays on the host.

    Raises:
        CandidateError: Another process does not join.
    """
    for name, value in LOOPBACK.items():
        os.environ.setdefault(name, value)
    try:
        dist.init_process_group(
            "nccl" if device.type == "cuda" else "gloo",
            init_method=f"file://{team.meeting}",
            rank=team.rank,
            world_size=team.size,
            timeout=PATIENCE,
        )
    except RuntimeError as error:
        _forget_groups(team.meeting.with_suffix(".alone"))
        problem = str(error).splitlines()[0]
        raise CandidateError(f"The team does not come together: {problem}", reason="error", stage="recover") from error
    try:
        dist.all_reduce(torch.zeros((), device=device))  # none may fail and leave before all have joined
        yield
    finally:
        dist.destroy_process_group()


def _forget_groups(meeting: Path) -> None:
    """Reset torch's count of groups, which a failed start leaves behind and by which processes find each other."""
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=0, world_size=1)
    dist.destroy_process_group()


def _cut(value: Any, count: int, part: slice) -> Any:
    if isinstance(value, list) and len(value) == count and all(isinstance(item, Mapping) for item in value):
        return value[part]
    if isinstance(value, Mapping):
        return {key: _cut(item, count, part) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        kind: Any = type(value)
        items = [_cut(item, count, part) for item in value]
        return kind(*items) if hasattr(value, "_fields") else kind(items)
    return map_tensors(value, lambda tensor: tensor[part] if tensor.ndim and len(tensor) == count else tensor)
