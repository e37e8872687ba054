"""Small model definitions for the tests and benchmarks: `ZOO[name]() -> (model in eval mode, example inputs)`.

Every call builds an equal, independent model. Normalisation statistics fit the activations and the affine parameters
are random, so that two models with equal outputs are equal for a reason.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import nn

from autoprune.tasks.protocol import Inputs

from .cnn import (
    BasicBlock,
    Bottleneck,
    ChunkSE,
    CifarResNet,
    DenseNet,
    GroupNormNet,
    ImageNetResNet,
    MobileNetV2,
    PadShortcut,
    VGGSmall,
)
from .other import FCOS, MLP, DataDependent, LSTMClassifier, PixelShuffleNet, TextCNN
from .settle import settle
from .transformers import Llama, VisionTransformer

__all__ = [
    "CNNS",
    "ZOO",
    "BasicBlock",
    "Bottleneck",
    "CifarResNet",
    "VisionTransformer",
    "build",
    "image",
    "tokens",
]

Built = tuple[nn.Module, Inputs]


def image(size: int, *, batch: int = 2, seed: int = 0) -> Inputs:
    """Return normal noise [batch, 3, size, size]."""
    generator = torch.Generator().manual_seed(seed)
    return Inputs((torch.randn(batch, 3, size, size, generator=generator),), {})


def features(width: int, *, batch: int = 4, seed: int = 0) -> Inputs:
    """Return normal noise [batch, width]."""
    generator = torch.Generator().manual_seed(seed)
    return Inputs((torch.randn(batch, width, generator=generator),), {})


def tokens(length: int, *, vocabulary: int = 100, batch: int = 2, seed: int = 0) -> Inputs:
    """Return token ids [batch, length]."""
    generator = torch.Generator().manual_seed(seed)
    return Inputs((torch.randint(vocabulary, (batch, length), generator=generator),), {})


def build(definition: Callable[[], nn.Module], inputs: Inputs, settle_on: Inputs | None = None, seed: int = 0) -> Built:
    """Build a model from a seed without touching the global generator.

    `settle_on` replaces `inputs` where statistics are gathered: smaller images make large nets quick to build.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = definition()
        settle(model, settle_on or inputs, torch.Generator().manual_seed(seed + 1))
    return model, inputs


ZOO: dict[str, Callable[[], Built]] = {
    "resnet14": lambda: build(partial(CifarResNet, 2), image(32)),
    "resnet20": lambda: build(partial(CifarResNet, 3), image(32)),
    "resnet56": lambda: build(partial(CifarResNet, 9), image(32)),
    "resnet20_pad": lambda: build(partial(CifarResNet, 3, shortcut=PadShortcut), image(32)),
    "resnet50": lambda: build(ImageNetResNet, image(224, batch=1), image(64, batch=4)),
    "resnext50": lambda: build(
        partial(ImageNetResNet, groups=32, base_width=4), image(224, batch=1), image(64, batch=4)
    ),
    "mobilenetv2": lambda: build(MobileNetV2, image(224, batch=1), image(64, batch=4)),
    "densenet": lambda: build(DenseNet, image(32)),
    "vgg": lambda: build(VGGSmall, image(32)),
    "chunk_se": lambda: build(ChunkSE, image(32)),
    "groupnorm": lambda: build(GroupNormNet, image(32)),
    "vit": lambda: build(partial(VisionTransformer, 96, 3, 6, image_size=32, patch=4, classes=10), image(32)),
    "vit_ti_224": lambda: build(partial(VisionTransformer, 192, 12, 3), image(224, batch=1)),
    "vit_fused": lambda: build(
        partial(VisionTransformer, 96, 3, 6, image_size=32, patch=4, classes=10, fused=True), image(32)
    ),
    "fcos": lambda: build(FCOS, image(64, batch=1), image(64)),
    "llama": lambda: build(Llama, tokens(12)),
    "textcnn": lambda: build(TextCNN, tokens(16)),
    "pixel_shuffle": lambda: build(PixelShuffleNet, image(8)),
    "lstm": lambda: build(LSTMClassifier, tokens(10)),
    "mlp": lambda: build(MLP, features(16)),
    "data_dependent": lambda: build(DataDependent, image(16)),
}

CNNS = (
    "resnet14",
    "resnet20",
    "resnet56",
    "resnet50",
    "resnext50",
    "mobilenetv2",
    "densenet",
    "vgg",
    "groupnorm",
)
