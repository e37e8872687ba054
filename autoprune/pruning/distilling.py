"""The dense model as teacher: of outputs, and of features of the channels that stay."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from autoprune.errors import ConfigError
from autoprune.groups.types import ArchitecturePlan
from autoprune.tasks.protocol import Task

Penalty = Callable[[nn.Module, Any, Any], Tensor]
LAYERS = 4
_SMALLEST = 1e-8


def distillation_penalty(task: Task, teacher: nn.Module, weight: float) -> Penalty:
    """Return a penalty for `RecoverContext`: `weight` times the task's distance from the teacher's outputs.

    Args:
        task: Gives `distill_loss`.
        teacher: The dense model; put into eval mode. A copy is made where training runs on another device.
        weight: In [0, 1].
    """
    teachers = _Teachers(teacher, weight)

    def penalty(model: nn.Module, outputs: Any, batch: Any) -> Tensor:
        args, kwargs = task.inputs(batch)
        with torch.no_grad():
            target = task.structure(teachers.beside(model)(*args, **kwargs))
        return weight * task.distill_loss(task.structure(outputs), target, batch)

    return penalty


@contextmanager
def feature_penalty(
    task: Task, teacher: nn.Module, student: nn.Module, architecture: ArchitecturePlan, weight: float
) -> Iterator[Penalty]:
    """Give a penalty: `weight` times the mean squared distance of features, over the teacher's variance (FitNets).

    Features are the outputs of up to four convolution or linear layers, evenly spread; of the teacher's channels those
    that the student has (Romero et al., FitNets, ICLR 2015).

    Args:
        task: Gives the model's inputs.
        teacher: The dense model; put into eval mode.
        student: The pruned model that will train; hooks stand on it as long as the context lasts.
        architecture: Says which channels it has.
        weight: In [0, 1].
    """
    teachers = _Teachers(teacher, weight)
    names = _spread([n for n, m in student.named_modules() if isinstance(m, _ConvNd | nn.Linear)][:-1])
    kept = {name: architecture.kept.get(f"{name}.weight", {}).get(0) for name in names}
    felt: dict[str, Tensor] = {}
    handles = [student.get_submodule(name).register_forward_hook(_keeper(felt, name)) for name in names]

    def penalty(model: nn.Module, outputs: Any, batch: Any) -> Tensor:
        del outputs
        args, kwargs = task.inputs(batch)
        wanted: dict[str, Tensor] = {}
        dense = teachers.beside(model)
        own = [dense.get_submodule(name).register_forward_hook(_keeper(wanted, name)) for name in names]
        try:
            with torch.no_grad():
                dense(*args, **kwargs)
        finally:
            for handle in own:
                handle.remove()
        terms = [_distance(felt[name], _channels(dense, name, wanted[name], kept[name])) for name in names]
        felt.clear()
        return weight * torch.stack(terms).mean()

    try:
        yield penalty
    finally:
        for handle in handles:
            handle.remove()


class _Teachers:
    """A teacher on every device where a student trains."""

    def __init__(self, teacher: nn.Module, weight: float) -> None:
        if not 0.0 <= weight <= 1.0:
            raise ConfigError(f"The distillation weight must lie in [0, 1]. Got {weight}.")
        self._on: dict[torch.device, nn.Module] = {_device(teacher): teacher.eval()}
        self._first = teacher

    def beside(self, student: nn.Module) -> nn.Module:
        device = _device(student)
        if device not in self._on:
            self._on[device] = copy.deepcopy(self._first).to(device)
        return self._on[device]


def _keeper(into: dict[str, Tensor], name: str) -> Callable[..., None]:
    def hook(module: nn.Module, args: Any, output: Any) -> None:
        del module, args
        into[name] = output

    return hook


def _channels(dense: nn.Module, name: str, features: Tensor, kept: Sequence[int] | None) -> Tensor:
    if kept is None:
        return features
    dim = 1 if isinstance(dense.get_submodule(name), _ConvNd) else features.ndim - 1
    return features.index_select(dim, torch.tensor(kept, device=features.device))


def _distance(student: Tensor, teacher: Tensor) -> Tensor:
    return (student - teacher).square().mean() / teacher.var().clamp_min(_SMALLEST)


def _spread(names: Sequence[str]) -> list[str]:
    if len(names) <= LAYERS:
        return list(names)
    return [names[round(i * (len(names) - 1) / (LAYERS - 1))] for i in range(LAYERS)]


def _device(model: nn.Module) -> torch.device:
    first = next(model.parameters(), None)
    return torch.device("cpu") if first is None else first.device
