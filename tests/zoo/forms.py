"""Sequences and point sets, and models whose inputs or outputs are no single tensor."""

# mypy: no-warn-return-any
from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm

from .cnn import conv_bn


class GRUClassifier(nn.Module):
    """Bidirectional GRU, mean over time."""

    def __init__(self, vocabulary: int = 60, classes: int = 5) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, 24)
        self.gru = nn.GRU(24, 32, batch_first=True, bidirectional=True)
        self.fc1 = nn.Linear(64, 48)
        self.fc2 = nn.Linear(48, classes)

    def forward(self, ids: Tensor) -> Tensor:
        states, _ = self.gru(self.embedding(ids))
        return self.fc2(F.relu(self.fc1(states.mean(1))))


class TemporalBlock(nn.Module):
    """Two causal dilated convolutions under weight normalisation, with a shortcut."""

    def __init__(self, inputs: int, outputs: int, dilation: int) -> None:
        super().__init__()
        self.padding = 2 * dilation
        self.conv1 = weight_norm(nn.Conv1d(inputs, outputs, 3, dilation=dilation))
        self.conv2 = weight_norm(nn.Conv1d(outputs, outputs, 3, dilation=dilation))
        self.shortcut = nn.Conv1d(inputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.conv1(F.pad(x, (self.padding, 0))))
        y = F.relu(self.conv2(F.pad(y, (self.padding, 0))))
        return F.relu(y + self.shortcut(x))


class TCN(nn.Module):
    """Temporal convolutional net (Bai et al., 2018) over [batch, channels, time]."""

    def __init__(self, channels: int = 4, classes: int = 6) -> None:
        super().__init__()
        self.blocks = nn.Sequential(TemporalBlock(channels, 20, 1), TemporalBlock(20, 24, 2), TemporalBlock(24, 28, 4))
        self.fc = nn.Linear(28, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.blocks(x)[:, :, -1])


class PointNet(nn.Module):
    """One net for every point, maximum over all points [batch, 3, points] (Qi et al., 2017)."""

    def __init__(self, classes: int = 6) -> None:
        super().__init__()
        self.conv1 = nn.Conv1d(3, 24, 1)
        self.norm1 = nn.BatchNorm1d(24)
        self.conv2 = nn.Conv1d(24, 64, 1)
        self.norm2 = nn.BatchNorm1d(64)
        self.fc1 = nn.Linear(64, 32)
        self.norm3 = nn.BatchNorm1d(32)
        self.fc2 = nn.Linear(32, classes)

    def forward(self, points: Tensor) -> Tensor:
        x = F.relu(self.norm1(self.conv1(points)))
        x = self.norm2(self.conv2(x)).max(dim=2).values
        return self.fc2(F.relu(self.norm3(self.fc1(x))))


class DigitMLP(nn.Module):
    """784-64-10 on flattened images."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = nn.Linear(784, 64)
        self.out = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(F.relu(self.hidden(x.flatten(1))))


class MultiInput(nn.Module):
    """An image and a row of a table, joined."""

    def __init__(self, columns: int = 6, classes: int = 4) -> None:
        super().__init__()
        self.image = nn.Sequential(conv_bn(3, 16, 3, 2), nn.ReLU(), conv_bn(16, 24, 3, 2), nn.ReLU())
        self.row = nn.Sequential(nn.Linear(columns, 32), nn.ReLU(), nn.Linear(32, 20), nn.ReLU())
        self.joint = nn.Linear(44, 32)
        self.out = nn.Linear(32, classes)

    def forward(self, image: Tensor, row: Tensor) -> Tensor:
        joint = torch.cat([self.image(image).mean((2, 3)), self.row(row)], 1)
        return self.out(F.relu(self.joint(joint)))


class MultiTask(nn.Module):
    """One trunk, three heads: a dictionary of a class, a box and a map."""

    def __init__(self, classes: int = 5) -> None:
        super().__init__()
        self.trunk = nn.Sequential(conv_bn(3, 16, 3, 2), nn.ReLU(), conv_bn(16, 32), nn.ReLU())
        self.hidden = nn.Linear(32, 24)
        self.classes = nn.Linear(24, classes)
        self.box = nn.Linear(24, 4)
        self.map1 = nn.Conv2d(32, 12, 3, padding=1)
        self.map2 = nn.Conv2d(12, 2, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x = self.trunk(x)
        hidden = F.relu(self.hidden(x.mean((2, 3))))
        return {
            "logits": self.classes(hidden),
            "box": self.box(hidden).sigmoid(),
            "map": self.map2(F.relu(self.map1(x))),
        }


class Siamese(nn.Module):
    """One encoder called on both images, similarity from the difference of what it makes of them."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(conv_bn(3, 16, 3, 2), nn.ReLU(), conv_bn(16, 24, 3, 2), nn.ReLU())
        self.hidden = nn.Linear(24, 20)
        self.out = nn.Linear(20, 2)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        apart = (self.encode(left) - self.encode(right)).abs()
        return self.out(F.gelu(self.hidden(apart)))

    def encode(self, image: Tensor) -> Tensor:
        return self.encoder(image).mean((2, 3))


@dataclass
class Prediction:
    """What `Structured` returns."""

    logits: Tensor
    features: Tensor


torch.export.register_dataclass(Prediction, serialized_type_name="zoo.Prediction")


class Structured(nn.Module):
    """Returns a dataclass, in which a hidden layer is an output too."""

    def __init__(self, classes: int = 5) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(16, 48), nn.ReLU(), nn.Linear(48, 40), nn.ReLU())
        self.features = nn.Linear(40, 12)
        self.classifier = nn.Linear(12, classes)

    def forward(self, x: Tensor) -> Prediction:
        features = self.features(self.body(x))
        return Prediction(logits=self.classifier(features), features=features)


class KeywordOnly(nn.Module):
    """Takes its tensors by name alone, one of them in a dictionary."""

    def __init__(self, classes: int = 5) -> None:
        super().__init__()
        self.embedding = nn.Embedding(30, 16)
        self.fc1 = nn.Linear(16, 40)
        self.side = nn.Linear(6, 40)
        self.fc2 = nn.Linear(40, classes)

    def forward(self, *, ids: Tensor, extra: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        hidden = torch.tanh(self.fc1(self.embedding(ids).mean(1)) + self.side(extra["row"]))
        logits = self.fc2(hidden)
        return logits, logits.softmax(-1)
