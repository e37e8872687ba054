"""Images as patches: ConvNeXt, Swin-like windows, MLP-Mixer."""

# mypy: no-warn-return-any
from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class ChannelNorm(nn.Module):
    """LayerNorm over the channels of [batch, channels, height, width]."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class ConvNeXtBlock(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(dim, dim, 7, padding=3, groups=dim)
        self.norm = nn.LayerNorm(dim)
        self.expand = nn.Linear(dim, 4 * dim)
        self.project = nn.Linear(4 * dim, dim)
        self.scale = nn.Parameter(0.5 + torch.rand(dim))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        y = self.scale * self.project(F.gelu(self.expand(y)))
        return x + y.permute(0, 3, 1, 2)


class ConvNeXt(nn.Module):
    """Depthwise convolutions, LayerNorm and LayerScale (Liu et al., 2022)."""

    def __init__(self, widths: tuple[int, int] = (16, 32), classes: int = 10) -> None:
        super().__init__()
        first, second = widths
        self.stem = nn.Conv2d(3, first, 4, 4)
        self.norm = ChannelNorm(first)
        self.stage1 = nn.Sequential(ConvNeXtBlock(first), ConvNeXtBlock(first))
        self.down = nn.Sequential(ChannelNorm(first), nn.Conv2d(first, second, 2, 2))
        self.stage2 = nn.Sequential(ConvNeXtBlock(second), ConvNeXtBlock(second))
        self.last = nn.LayerNorm(second)
        self.fc = nn.Linear(second, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stage2(self.down(self.stage1(self.norm(self.stem(x)))))
        return self.fc(self.last(x.mean((2, 3))))


class WindowAttention(nn.Module):
    """Attention within windows, with a learned bias by relative position and head."""

    places: Tensor

    def __init__(self, dim: int, heads: int, window: int) -> None:
        super().__init__()
        self.head_dim = dim // heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.out = nn.Linear(dim, dim)
        self.bias = nn.Parameter(torch.randn((2 * window - 1) ** 2, heads) * 0.2)
        grid = torch.stack(torch.meshgrid(torch.arange(window), torch.arange(window), indexing="ij")).flatten(1)
        apart = grid[:, :, None] - grid[:, None, :] + window - 1
        self.register_buffer("places", apart[0] * (2 * window - 1) + apart[1])

    def forward(self, x: Tensor) -> Tensor:
        windows, length, _ = x.shape
        q, k, v = self.qkv(x).reshape(windows, length, 3, -1, self.head_dim).permute(2, 0, 3, 1, 4).unbind(0)
        bias = self.bias[self.places.view(-1)].view(length, length, -1).permute(2, 0, 1)
        weights = (q @ k.transpose(-2, -1) * self.head_dim**-0.5 + bias[None]).softmax(-1)
        return self.out((weights @ v).transpose(1, 2).reshape(windows, length, -1))


class SwinBlock(nn.Module):
    """Attention in windows that are shifted by a roll in every second block; [batch, height, width, dim]."""

    def __init__(self, dim: int, heads: int, window: int, shift: int) -> None:
        super().__init__()
        self.window = window
        self.shift = shift
        self.norm1 = nn.LayerNorm(dim)
        self.attention = WindowAttention(dim, heads, window)
        self.norm2 = nn.LayerNorm(dim)
        self.fc1 = nn.Linear(dim, 2 * dim)
        self.fc2 = nn.Linear(2 * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attend(self.norm1(x))
        return x + self.fc2(F.gelu(self.fc1(self.norm2(x))))

    def attend(self, x: Tensor) -> Tensor:
        batch, height, width, _ = x.shape
        w = self.window
        if self.shift:
            x = torch.roll(x, (-self.shift, -self.shift), (1, 2))
        x = x.view(batch, height // w, w, width // w, w, -1).permute(0, 1, 3, 2, 4, 5)
        x = self.attention(x.reshape(-1, w * w, x.shape[-1]))
        x = x.view(batch, height // w, width // w, w, w, -1).permute(0, 1, 3, 2, 4, 5)
        x = x.reshape(batch, height, width, -1)
        return torch.roll(x, (self.shift, self.shift), (1, 2)) if self.shift else x


class PatchMerging(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * dim)
        self.reduce = nn.Linear(4 * dim, 2 * dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        quarters = [x[:, i::2, j::2] for j in (0, 1) for i in (0, 1)]
        return self.reduce(self.norm(torch.cat(quarters, -1)))


class Swin(nn.Module):
    """Two stages of windowed attention with merged patches between (Liu et al., 2021)."""

    def __init__(self, dim: int = 32, heads: int = 4, window: int = 4, classes: int = 10) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, dim, 4, 4)
        self.stage1 = nn.Sequential(SwinBlock(dim, heads, window, 0), SwinBlock(dim, heads, window, window // 2))
        self.merge = PatchMerging(dim)
        self.stage2 = SwinBlock(2 * dim, heads, window, 0)
        self.norm = nn.LayerNorm(2 * dim)
        self.head = nn.Linear(2 * dim, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stage1(self.patches(x).permute(0, 2, 3, 1))
        return self.head(self.norm(self.stage2(self.merge(x))).mean((1, 2)))


class MixerBlock(nn.Module):
    def __init__(self, length: int, dim: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.tokens1 = nn.Linear(length, 24)
        self.tokens2 = nn.Linear(24, length)
        self.norm2 = nn.LayerNorm(dim)
        self.channels1 = nn.Linear(dim, 3 * dim)
        self.channels2 = nn.Linear(3 * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        y = self.tokens2(F.gelu(self.tokens1(self.norm1(x).transpose(1, 2))))
        x = x + y.transpose(1, 2)
        return x + self.channels2(F.gelu(self.channels1(self.norm2(x))))


class Mixer(nn.Module):
    """Linear layers over patches and over channels in turn (Tolstikhin et al., 2021)."""

    def __init__(self, dim: int = 32, blocks: int = 2, classes: int = 10) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, dim, 8, 8)
        self.blocks = nn.Sequential(*[MixerBlock(16, dim) for _ in range(blocks)])
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        return self.head(self.norm(self.blocks(x)).mean(1))
