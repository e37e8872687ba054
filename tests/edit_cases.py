"""A small residual CNN with everything that an edit can take away, and nets whose parts must stay."""

# mypy: no-warn-return-any
from __future__ import annotations

from functools import cache

import torch
from torch import Tensor, nn
from zoo import build, image

from autoprune.groups import ModelGroups, find_groups
from autoprune.tasks.protocol import Inputs


class Gate(nn.Module):
    """Squeeze and excitation."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.squeeze = nn.Linear(width, 4)
        self.inner = nn.ReLU()
        self.excite = nn.Linear(4, width)
        self.gate = nn.Sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gate(self.excite(self.inner(self.squeeze(x.mean((2, 3))))))[:, :, None, None]


class Block(nn.Module):
    """Two convolutions beside a shortcut; without one they are a plain stack."""

    def __init__(self, width: int, *, shortcut: bool = True) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.norm1 = nn.BatchNorm2d(width)
        self.act1 = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm2(self.conv2(self.act1(self.norm1(self.conv1(x)))))
        return x + y if self.shortcut else y


class Stage(nn.Module):
    """Chains blocks and does nothing else."""

    def __init__(self, blocks: int, width: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([Block(width) for _ in range(blocks)])

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return x


class ResidualNet(nn.Module):
    """Stem, pooling, two stages of residual blocks with a grouped layer between, a gate, two linear layers."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        self.norm = nn.BatchNorm2d(width)
        self.act = nn.ReLU()
        self.pool = nn.MaxPool2d(3, 2, padding=1)
        self.first = Stage(2, width)
        self.grouped = nn.Conv2d(width, width, 3, stride=2, padding=1, groups=4)
        self.second = Stage(2, width)
        self.gate = Gate(width)
        self.fc1 = nn.Linear(width, 24)
        self.act2 = nn.GELU()
        self.fc2 = nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.second(self.grouped(self.first(self.pool(self.act(self.norm(self.stem(x)))))))
        return self.fc2(self.act2(self.fc1(self.gate(x).mean((2, 3)))))


BLOCKS = ("first.blocks.0", "first.blocks.1", "second.blocks.0", "second.blocks.1")


@cache
def residual() -> tuple[nn.Module, Inputs, ModelGroups]:
    """Build the net once; tests must not change it."""
    model, inputs = build(ResidualNet, image(16))
    return model, inputs, find_groups(model, inputs)


def seeded(model: nn.Module, seed: int = 0) -> nn.Module:
    """Fill a model with random weights of its own scale, without touching the global generator."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return model.eval()
