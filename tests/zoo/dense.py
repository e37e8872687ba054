"""Images to images, maps or volumes: segmentation, detection, autoencoder, super-resolution, volumes."""

# mypy: no-warn-return-any
from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .cnn import conv_bn


def conv_silu(inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(*conv_bn(inputs, outputs, kernel, stride), nn.SiLU())


class DoubleConv(nn.Sequential):
    def __init__(self, inputs: int, outputs: int) -> None:
        layers: list[nn.Module] = []
        for width in (inputs, outputs):
            conv = nn.Conv2d(width, outputs, 3, padding=1)
            layers += [conv, nn.InstanceNorm2d(outputs, affine=True), nn.LeakyReLU(0.01)]
        super().__init__(*layers)


class UNet(nn.Module):
    """Encoder and decoder with skip connections (Ronneberger et al., 2015), InstanceNorm as in nnU-Net."""

    def __init__(self, width: int = 12, classes: int = 3) -> None:
        super().__init__()
        self.down1 = DoubleConv(3, width)
        self.down2 = DoubleConv(width, 2 * width)
        self.bottom = DoubleConv(2 * width, 4 * width)
        self.up2 = nn.ConvTranspose2d(4 * width, 2 * width, 2, 2)
        self.merge2 = DoubleConv(4 * width, 2 * width)
        self.up1 = nn.ConvTranspose2d(2 * width, width, 2, 2)
        self.merge1 = DoubleConv(2 * width, width)
        self.head = nn.Conv2d(width, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        first = self.down1(x)
        second = self.down2(F.max_pool2d(first, 2))
        x = self.bottom(F.max_pool2d(second, 2))
        x = self.merge2(torch.cat([self.up2(x), second], 1))
        return self.head(self.merge1(torch.cat([self.up1(x), first], 1)))


class C2f(nn.Module):
    """Chunked channels, of which one half goes through a chain of bottlenecks that are all concatenated."""

    def __init__(self, channels: int, repeats: int) -> None:
        super().__init__()
        hidden = channels // 2
        self.entry = conv_silu(channels, 2 * hidden, 1)
        self.steps = nn.ModuleList(
            nn.Sequential(conv_silu(hidden, hidden), conv_silu(hidden, hidden)) for _ in range(repeats)
        )
        self.exit = conv_silu((2 + repeats) * hidden, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        parts = list(self.entry(x).chunk(2, 1))
        for step in self.steps:
            parts.append(parts[-1] + step(parts[-1]))
        return self.exit(torch.cat(parts, 1))


class SPPF(nn.Module):
    """The same max pooling three times in a row, all results concatenated."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.entry = conv_silu(channels, channels // 2, 1)
        self.exit = conv_silu(channels * 2, channels, 1)
        self.pool = nn.MaxPool2d(5, 1, 2)

    def forward(self, x: Tensor) -> Tensor:
        parts = [self.entry(x)]
        for _ in range(3):
            parts.append(self.pool(parts[-1]))
        return self.exit(torch.cat(parts, 1))


class Yolo(nn.Module):
    """YOLOv8-like: C2f backbone, SPPF, top-down path, a head of boxes and classes a level."""

    def __init__(self, classes: int = 4) -> None:
        super().__init__()
        self.stem = nn.Sequential(conv_silu(3, 16, 3, 2), conv_silu(16, 24, 3, 2), C2f(24, 1))
        self.stage = nn.Sequential(conv_silu(24, 32, 3, 2), C2f(32, 2), SPPF(32))
        self.lateral = conv_silu(56, 24, 1)
        self.merge = C2f(24, 1)
        self.boxes = nn.ModuleList(nn.Sequential(conv_silu(c, 16), nn.Conv2d(16, 4, 1)) for c in (24, 32))
        self.classes = nn.ModuleList(nn.Sequential(conv_silu(c, 16), nn.Conv2d(16, classes, 1)) for c in (24, 32))

    def forward(self, x: Tensor) -> list[Tensor]:
        fine = self.stem(x)
        coarse = self.stage(fine)
        up = F.interpolate(coarse, scale_factor=2.0, mode="nearest")
        fine = self.merge(self.lateral(torch.cat([fine, up], 1)))
        levels = zip((fine, coarse), self.boxes, self.classes, strict=True)
        return [torch.cat([boxes(x), classes(x)], 1) for x, boxes, classes in levels]


class Autoencoder(nn.Module):
    def __init__(self, width: int = 12, code: int = 20) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(3, width, 3, 2, 1), nn.ReLU(), nn.Conv2d(width, 2 * width, 3, 2, 1), nn.ReLU()
        )
        self.squeeze = nn.Linear(2 * width * 16, code)
        self.expand = nn.Linear(code, 2 * width * 16)
        self.decoder = nn.Sequential(
            nn.ConvTranspose2d(2 * width, width, 4, 2, 1), nn.ReLU(), nn.ConvTranspose2d(width, 3, 4, 2, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        code = torch.tanh(self.squeeze(self.encoder(x).flatten(1)))
        maps = torch.unflatten(F.relu(self.expand(code)), 1, (-1, 4, 4))
        return torch.sigmoid(self.decoder(maps))


class ResidualConvs(nn.Module):
    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, inner, 3, padding=1)
        self.conv2 = nn.Conv2d(inner, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + 0.5 * self.conv2(F.relu(self.conv1(x)))


class SuperResolution(nn.Module):
    """Residual blocks, pixel shuffle, and the interpolated image added to the result (Lim et al., 2017)."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.head = nn.Conv2d(3, width, 3, padding=1)
        self.blocks = nn.Sequential(ResidualConvs(width, 24), ResidualConvs(width, 24))
        self.up = nn.Conv2d(width, 4 * width, 3, padding=1)
        self.tail = nn.Conv2d(width, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.head(x)
        y = F.pixel_shuffle(self.up(y + self.blocks(y)), 2)
        return self.tail(y) + F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)


class VolumeNet(nn.Module):
    """3-D convolutions over [batch, 1, depth, height, width]."""

    def __init__(self, classes: int = 4) -> None:
        super().__init__()
        self.conv1 = nn.Conv3d(1, 12, 3, padding=1)
        self.norm1 = nn.BatchNorm3d(12)
        self.conv2 = nn.Conv3d(12, 20, 3, stride=2, padding=1)
        self.norm2 = nn.BatchNorm3d(20)
        self.fc = nn.Linear(20, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool3d(F.relu(self.norm1(self.conv1(x))), 2)
        return self.fc(F.relu(self.norm2(self.conv2(x))).mean((2, 3, 4)))
