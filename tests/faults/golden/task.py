"""The task of the golden runs. Frozen: a run made by a released version has to find the very same file."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn

from autoprune.errors import CandidateError
from autoprune.tasks import ClassificationTask, LabelledArrays
from autoprune.tasks.protocol import RecoverContext


class SmallNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 8, 3, stride=2, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.second = nn.Conv2d(8, 12, 3, stride=2, padding=1)
        self.head = nn.Linear(12, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.second(F.relu(self.norm(self.first(x))))).mean((2, 3)))


class SmallTask(ClassificationTask):
    """Fails for one candidate in three, so that the records tell of failures too."""

    def recover(self, model: nn.Module, ctx: RecoverContext) -> None:
        if ctx.steps < 20 and sum(p.numel() for p in model.parameters()) % 3 == 1:
            raise CandidateError("the loss is nan", reason="diverged", stage="recover")
        super().recover(model, ctx)


def make_task() -> SmallTask:
    digits = load_digits()
    x = torch.tensor(digits.images[:400, None] / 16.0, dtype=torch.float32)
    data = LabelledArrays(x, digits.target[:400], unit="image")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = SmallNet()
    generator = torch.Generator().manual_seed(0)
    ctx = RecoverContext(
        steps=80, lr=0.2, batch_size=64, device=torch.device("cpu"), dtype=torch.float32, generator=generator
    )
    ClassificationTask(model.train(), data, name="small").recover(model, ctx)
    return SmallTask(model, data, name="small")
