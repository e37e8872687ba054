"""A real task of seconds: a small residual CNN on half of scikit-learn's digits, trained once a test session."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn

from autoprune.errors import CandidateError
from autoprune.tasks import ClassificationTask, LabelledArrays, image_corruptions, trained_once
from autoprune.tasks.protocol import Inputs, RecoverContext

RECIPE = {"seed": 0, "epochs": 6, "rows": 900, "width": 16}


class TinyNet(nn.Module):
    """Convolution, one residual block, one wider convolution, linear."""

    def __init__(self, width: int = RECIPE["width"]) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, width, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(width)
        self.inner = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.inner_norm = nn.BatchNorm2d(width)
        self.outer = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.outer_norm = nn.BatchNorm2d(width)
        self.wide = nn.Conv2d(width, 2 * width, 3, stride=2, padding=1, bias=False)
        self.wide_norm = nn.BatchNorm2d(2 * width)
        self.fc = nn.Linear(2 * width, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.stem(x)))
        y = F.relu(self.inner_norm(self.inner(x)))
        x = F.relu(x + self.outer_norm(self.outer(y)))
        return self.fc(F.relu(self.wide_norm(self.wide(x))).mean((2, 3)))


class Branching(nn.Module):
    """Cannot be exported: what it does depends on the pixels."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        if x.mean() > 100.0:
            x = x / 255.0
        return self.net(x)


class TinyTask(ClassificationTask):
    """Misbehaves on request: `fail` names how candidates (never the dense model) go wrong."""

    def __init__(self, *args: Any, fail: str = "", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fail = fail

    def recover(self, model: nn.Module, ctx: RecoverContext) -> None:
        if self.fail == "raise":
            raise RuntimeError("the training loop of the user failed")
        if self.fail == "exit":
            raise SystemExit(3)
        if self.fail == "diverge":
            raise CandidateError("the loss is nan", reason="diverged", stage="recover")
        super().recover(model, ctx)


class Faulty:
    """A corruption that fails on more units than the contract tries: at each call, or `once`."""

    def __init__(self, once: bool) -> None:
        self.once, self.failed = once, False

    def __call__(self, inputs: Inputs) -> Inputs:
        (x,) = inputs.args
        if len(x) > 2 and not (self.once and self.failed):
            self.failed = True
            raise KeyError("lens")
        return Inputs((0.5 * x,), {})


def make_task(fail: str = "", corrupt: bool = False, faulty: bool = False) -> TinyTask:
    """Return the task, with corruptions and a shifted domain where asked for; `faulty` adds two that fail.

    `fail` is "", "raise", "exit", "diverge", or "branch" for a model with data-dependent Python.
    """
    digits = load_digits()
    x = torch.tensor(digits.images[: RECIPE["rows"], None] / 16.0, dtype=torch.float32)
    shifts = {"mirrored": LabelledArrays(x.flip(3), digits.target[: len(x)], unit="image")} if corrupt else {}
    data = LabelledArrays(x, digits.target[: RECIPE["rows"]], unit="image", shifts=shifts)

    def train(model: nn.Module) -> None:
        generator = torch.Generator().manual_seed(0)
        untrained = ClassificationTask(model, data, name="tiny")
        context = RecoverContext(
            steps=RECIPE["epochs"] * 10,
            lr=0.1,
            batch_size=64,
            device=torch.device("cpu"),
            dtype=torch.float32,
            generator=generator,
        )
        model.train()
        untrained.recover(model, context)

    model = trained_once(TinyNet, train, name="tiny", recipe=RECIPE)
    if fail == "branch":
        model = Branching(model)
    plain = image_corruptions(noise=(0.3,), blur=(1.0,)) if corrupt else {}
    failing = {"broken": Faulty(once=False), "late": Faulty(once=True)} if faulty else {}
    return TinyTask(model, data, name="tiny", fail=fail, corruptions={**plain, **failing})
