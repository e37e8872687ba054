"""A task without BatchNorm, whose training in several processes is that of one; it notes each share of a batch."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn

from autoprune.tasks import ClassificationTask, LabelledArrays

NOTES, FAIL, NAN = "notes", "fail", "nan"


class Mlp(nn.Module):
    """Two hidden layers with a LayerNorm between them."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(64, 32)
        self.norm = nn.LayerNorm(32)
        self.second = nn.Linear(32, 32)
        self.fc = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(F.relu(self.second(self.norm(F.relu(self.first(x))))))


class TeamTask(ClassificationTask):
    """Notes process and size of what each step sees; a process fails when a file holds its id."""

    def __init__(self, *args: Any, directory: Path, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._directory = directory

    def loss(self, outputs: Any, batch: Any) -> Tensor:
        with (self._directory / NOTES).open("a") as file:
            file.write(f"{os.getpid()} {len(outputs)}\n")
        if (self._directory / FAIL).exists() and int((self._directory / FAIL).read_text()) == os.getpid():
            raise RuntimeError("this process alone")
        return super().loss(outputs, batch)

    def batches(self, split: Any, **options: Any) -> Iterator[Any]:
        if (self._directory / NAN).exists() and split == "train":
            for x, y in super().batches(split, **options):
                yield torch.where(torch.arange(len(x))[:, None] == 0, torch.nan, x), y
            return
        yield from super().batches(split, **options)


def make_task(directory: str) -> TeamTask:
    digits = load_digits()
    x = torch.tensor(digits.data[:301] / 16.0, dtype=torch.float32)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Mlp()
    data = LabelledArrays(x, digits.target[:301], unit="image")
    return TeamTask(model, data, name="team", directory=Path(directory))
