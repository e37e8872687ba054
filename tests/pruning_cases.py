"""Trained nets that whole prunings run on, and nets without a task's say: shared by the tests of the pruning engine."""

# mypy: no-warn-return-any
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import tiny
import torch
import vit_task
from edit_cases import Block
from sklearn.datasets import load_digits
from torch import Tensor, nn

from autoprune.evaluation.cost import count_macs
from autoprune.groups import ModelGroups, find_groups
from autoprune.policy import Policy, Strategy
from autoprune.pruning import Pruner, Recovery
from autoprune.pruning.sparsifying import Sparsified, Sparsifier
from autoprune.tasks import ClassificationTask, LabelledArrays, RecoverContext, trained_once
from autoprune.tasks.protocol import Inputs, Task

STEPS = 8


@dataclass(frozen=True)
class Case:
    """A dense model with all that prunes it; tests must not change it."""

    task: Task
    dense: nn.Module
    groups: ModelGroups
    pruner: Pruner
    example: Inputs

    def macs(self, model: nn.Module | None = None) -> int:
        return count_macs(self.dense if model is None else model, self.example)

    def outputs(self, model: nn.Module) -> Tensor:
        with torch.no_grad():
            return model(*self.task.example_inputs(batch_size=6).args)


def case_of(task: Task, dense: nn.Module | None = None) -> Case:
    model = (task.build_model() if dense is None else dense).eval()
    example = task.example_inputs()
    groups = find_groups(model, example)
    return Case(task, model, groups, Pruner(model, groups, task, count=lambda m: count_macs(m, example)), example)


class PartsNet(nn.Module):
    """Residual blocks between poolings, with biases, activations and BatchNorms as modules of their own."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, width, 3, padding=1)
        self.norm = nn.BatchNorm2d(width)
        self.act = nn.ReLU()
        self.pool = nn.MaxPool2d(2)
        self.blocks = nn.Sequential(*[Block(width) for _ in range(4)])
        self.pool2 = nn.MaxPool2d(2)
        self.fc = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(self.pool(self.act(self.norm(self.stem(x)))))
        return self.fc(self.pool2(x).mean((2, 3)))


def parts_task() -> ClassificationTask:
    """Return half of the digits with a net of which every kind of part can go."""
    digits = load_digits()
    data = LabelledArrays(digits.images[:900, None] / 16.0, digits.target[:900], unit="image")

    def train(model: nn.Module) -> None:
        model.train()
        ClassificationTask(model, data).recover(model, context(60, lr=0.1))

    return ClassificationTask(trained_once(PartsNet, train, name="parts", recipe={"steps": 60}), data)


_TASKS: dict[str, Callable[[], Task]] = {"cnn": tiny.make_task, "vit": vit_task.make_task, "parts": parts_task}


@cache
def case(name: str) -> Case:
    """Return the residual CNN (`cnn`), the vision transformer (`vit`) or the net of parts (`parts`), once a session."""
    return case_of(_TASKS[name]())


def context(steps: int, *, lr: float = 0.02, seed: int = 0, **options: Any) -> RecoverContext:
    settings = {"batch_size": 64, "device": torch.device("cpu"), "dtype": torch.float32} | options
    return RecoverContext(steps=steps, lr=lr, generator=torch.Generator().manual_seed(seed), seed=seed, **settings)


def recovery(steps: int = STEPS, seed: int = 0, **options: Any) -> Recovery:
    return Recovery(steps=steps, batch_size=64, calibration=128, seed=seed, **options)


def sparsified(of: Case, policy: Policy, steps: int, **options: Any) -> Sparsified:
    """Train towards a policy, without the cut in shape."""
    sparsifier = Sparsifier(of.dense, of.groups, of.task, of.pruner.chooser(policy), calibration=128)
    return sparsifier.train(context(steps, lr=policy.strategy.learning_rate, **options))


class MuteTask(ClassificationTask):
    """Has no say: its loss is 0, so that what moves the weights is the strategy alone."""

    def loss(self, outputs: Any, batch: Any) -> Tensor:
        return outputs.sum() * 0.0


def mute_case(seed: int = 0) -> Case:
    """Return linear, BatchNorm, ReLU, linear with 8 units, under a task without a say."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))
        with torch.no_grad():
            model[1].weight.copy_(torch.linspace(0.2, 1.6, 8))
    rng = np.random.default_rng(seed)
    return case_of(MuteTask(model, LabelledArrays(rng.normal(size=(120, 6)), np.arange(120) % 3)))


def quiet(**choices: Any) -> Strategy:
    """Return a strategy whose optimizer moves nothing that can be seen."""
    return Strategy(**{"learning_rate": 1e-9, **choices})


def mlp(hidden: Any, out: Any) -> nn.Sequential:
    """Return linear [units, inputs], ReLU, linear [classes, units], without biases."""
    first, second = (torch.as_tensor(np.asarray(w), dtype=torch.float32) for w in (hidden, out))
    model = nn.Sequential(
        nn.Linear(first.shape[1], len(first), bias=False), nn.ReLU(), nn.Linear(len(first), len(second), bias=False)
    )
    with torch.no_grad():
        model[0].weight.copy_(first)
        model[2].weight.copy_(second)
    return model.eval()


def taught_case(model: nn.Sequential, x: Any) -> Case:
    """Return a model under the labels that it gives itself."""
    rows = torch.as_tensor(np.asarray(x), dtype=torch.float32)
    with torch.no_grad():
        labels = model(rows).argmax(1).numpy()
    return case_of(ClassificationTask(model, LabelledArrays(rows, labels)))


def state_of(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def same_state(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(value, right[name]) for name, value in left.items())
