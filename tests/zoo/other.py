"""Detection, text, super-resolution, recurrent, tabular, and a model that torch.export cannot take."""

# mypy: no-warn-return-any
from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .cnn import conv_bn


class FCOS(nn.Module):
    """Small backbone, feature pyramid and a shared fully convolutional head; returns a list of tuples a level."""

    def __init__(self, classes: int = 20, width: int = 64) -> None:
        super().__init__()
        self.stem = nn.Sequential(conv_bn(3, 32, 3, 2), nn.ReLU(), conv_bn(32, 64, 3, 2), nn.ReLU())
        self.stage3 = nn.Sequential(conv_bn(64, 96, 3, 2), nn.ReLU())
        self.stage4 = nn.Sequential(conv_bn(96, 128, 3, 2), nn.ReLU())
        self.lateral3 = nn.Conv2d(96, width, 1)
        self.lateral4 = nn.Conv2d(128, width, 1)
        self.smooth3 = nn.Conv2d(width, width, 3, 1, 1)
        self.smooth4 = nn.Conv2d(width, width, 3, 1, 1)
        self.class_tower = self._tower(width)
        self.box_tower = self._tower(width)
        self.logits = nn.Conv2d(width, classes, 3, 1, 1)
        self.boxes = nn.Conv2d(width, 4, 3, 1, 1)
        self.centerness = nn.Conv2d(width, 1, 3, 1, 1)

    @staticmethod
    def _tower(width: int) -> nn.Sequential:
        layers: list[nn.Module] = []
        for _ in range(2):
            layers += [nn.Conv2d(width, width, 3, 1, 1), nn.GroupNorm(8, width), nn.ReLU()]
        return nn.Sequential(*layers)

    def forward(self, x: Tensor) -> list[tuple[Tensor, Tensor, Tensor]]:
        c3 = self.stage3(self.stem(x))
        c4 = self.stage4(c3)
        p4 = self.lateral4(c4)
        p3 = self.lateral3(c3) + F.interpolate(p4, scale_factor=2.0)
        levels = []
        for level in (self.smooth3(p3), self.smooth4(p4)):
            classes, boxes = self.class_tower(level), self.box_tower(level)
            levels.append((self.logits(classes), self.boxes(boxes), self.centerness(boxes)))
        return levels


class TextCNN(nn.Module):
    """Convolutions of several widths over embeddings, maximum over time (Kim, 2014)."""

    def __init__(self, vocabulary: int = 100, dim: int = 32, classes: int = 5) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, dim)
        self.convs = nn.ModuleList([nn.Conv1d(dim, 24, kernel) for kernel in (2, 3, 4)])
        self.fc = nn.Linear(72, classes)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embedding(ids).transpose(1, 2)
        return self.fc(torch.cat([F.relu(conv(x)).amax(-1) for conv in self.convs], 1))


class PixelShuffleNet(nn.Module):
    """Upsampling by a transposed convolution, then by pixel shuffle."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1)
        self.up = nn.ConvTranspose2d(16, 32, 2, 2)
        self.shuffle = nn.PixelShuffle(2)
        self.conv2 = nn.Conv2d(8, 12, 3, 1, 1)
        self.conv3 = nn.Conv2d(12, 3, 3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.up(F.relu(self.conv1(x))))
        return self.conv3(F.relu(self.conv2(self.shuffle(x))))


class LSTMClassifier(nn.Module):
    def __init__(self, vocabulary: int = 100, classes: int = 5) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, 32)
        self.lstm = nn.LSTM(32, 48, batch_first=True)
        self.fc1 = nn.Linear(48, 64)
        self.fc2 = nn.Linear(64, classes)

    def forward(self, ids: Tensor) -> Tensor:
        states, _ = self.lstm(self.embedding(ids))
        return self.fc2(F.relu(self.fc1(states[:, -1])))


class MLP(nn.Module):
    def __init__(self, inputs: int = 16, hidden: int = 48, classes: int = 5) -> None:
        super().__init__()
        self.fc1 = nn.Linear(inputs, hidden)
        self.bn1 = nn.BatchNorm1d(hidden)
        self.fc2 = nn.Linear(hidden, hidden)
        self.activation = nn.PReLU(hidden)
        self.fc3 = nn.Linear(hidden, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.fc1(x)))
        return self.fc3(self.activation(self.fc2(x)))


class DataDependent(nn.Module):
    """Branches in Python on a value of the data, which torch.export refuses."""

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1)
        self.bn1 = nn.BatchNorm2d(16)
        self.conv2 = nn.Conv2d(16, 24, 3, 1, 1)
        self.bn2 = nn.BatchNorm2d(24)
        self.fc = nn.Linear(24, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        if x.mean() > 0.5:
            x = x * 0.5
        x = F.relu(self.bn2(self.conv2(x)))
        return self.fc(x.mean((2, 3)))
