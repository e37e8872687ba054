"""Pruned model -> recovered model: BatchNorm estimated anew, weights fine-tuned."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from autoprune.errors import AutopruneError, CandidateError, TaskError
from autoprune.tasks.failures import describe
from autoprune.tasks.protocol import RecoverContext, Task

CPU = torch.device("cpu")
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


def recalibrate(model: nn.Module, task: Task, *, limit: int, seed: int) -> None:
    """Estimate BatchNorm statistics anew, as a cumulative average over `calibration` (Li et al., EagleEye, ECCV 2020).

    Only BatchNorms run in training mode, so dropout stays off. A model without running statistics is left as it is.

    Args:
        model: Changed in place; modes and momenta end as they were.
        task: Gives the calibration data.
        limit: Units to average over.
        seed: Seed of their draw.

    Raises:
        TaskError: There is no calibration data.
        CandidateError: A statistic is not finite.
    """
    norms = [m for m in model.modules() if isinstance(m, BATCH_NORMS) and m.running_mean is not None]
    if not norms:
        return
    modes = [(m, m.training) for m in model.modules()]
    momenta = [m.momentum for m in norms]
    model.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
        norm.train()
    try:
        count = _run_over(model, task, limit, seed)
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        for module, training in modes:
            module.training = training
    if count == 0:
        raise TaskError("batches('calibration') yields nothing.", hint="Give the task calibration data.")
    _demand_finite(model, "A BatchNorm statistic", reason="nonfinite")


def calibration_loss(model: nn.Module, task: Task, *, limit: int, seed: int) -> float:
    """Return the mean loss over calibration batches, in eval mode; BatchNorm is taken as it is.

    Args:
        model: Put into eval mode.
        task: Gives data and loss.
        limit: Units to average over.
        seed: Seed of their draw.
    """
    model.eval()
    found = []
    with torch.no_grad():
        for drawn in task.batches("calibration", seed=seed, limit=limit):
            batch = task.move(drawn, _device(model))
            args, kwargs = task.inputs(batch)
            found.append(float(task.loss(task.structure(model(*args, **kwargs)), batch)))
    return sum(found) / max(len(found), 1)


@contextmanager
def as_recalibrated(model: nn.Module, task: Task, *, limit: int, seed: int) -> Iterator[None]:
    """Let a model in the middle of its training be looked at: eval mode, BatchNorm estimated anew; all of it restored.

    Args:
        model: Its weights are not touched.
        task: Gives the calibration data.
        limit: Units to average over.
        seed: Seed of their draw.

    Raises:
        CandidateError: A statistic is not finite.
    """
    modes = [(m, m.training) for m in model.modules()]
    norms = [m for m in model.modules() if isinstance(m, BATCH_NORMS)]
    buffers = [(buffer, buffer.clone()) for norm in norms for buffer in norm.buffers()]
    with torch.random.fork_rng(devices=[]):
        try:
            recalibrate(model, task, limit=limit, seed=seed)
            model.eval()
            yield
        finally:
            with torch.no_grad():
                for buffer, before in buffers:
                    buffer.copy_(before)
            for module, training in modes:
                module.training = training


def fine_tune(model: nn.Module, task: Task, ctx: RecoverContext) -> None:
    """Train by the task's own `recover`; the model ends on the CPU in eval mode.

    torch's global random state, which dropout draws from, is seeded by `ctx.seed` inside and restored after.

    Raises:
        CandidateError: The loop raises (stage `recover`, with the place in the user's code), the GPU's memory does not
            suffice, or a weight is not finite afterwards.
    """
    devices = [ctx.device] if ctx.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(ctx.seed)
        try:
            task.recover(model, ctx)
        except (AutopruneError, MemoryError):
            raise
        except torch.OutOfMemoryError as error:
            raise CandidateError(describe(error), reason="memory", stage="recover") from error
        except (Exception, SystemExit) as error:
            raise CandidateError(describe(error), reason="error", stage="recover") from error
    model.cpu().eval()
    _demand_finite(model, "A weight", reason="diverged")


@contextmanager
def placed(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Let a model of the CPU lie on `device` as long as the context lasts."""
    if device.type == "cpu":
        yield
        return
    model.to(device)
    try:
        yield
    finally:
        model.cpu()


def _run_over(model: nn.Module, task: Task, limit: int, seed: int) -> int:
    device = _device(model)
    count = 0
    with torch.no_grad():
        for batch in task.batches("calibration", seed=seed, limit=limit):
            args, kwargs = task.inputs(task.move(batch, device))
            model(*args, **kwargs)
            count += 1
    return count


def _device(model: nn.Module) -> torch.device:
    first = next(model.parameters(), None)
    return torch.device("cpu") if first is None else first.device


def _demand_finite(model: nn.Module, what: str, *, reason: str) -> None:
    for name, value in model.state_dict().items():
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise CandidateError(f"{what} is not finite after recovery: {name!r}.", reason=reason, stage="recover")
