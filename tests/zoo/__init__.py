"""Small model definitions for the tests and benchmarks: `ZOO[name]() -> (model in eval mode, example inputs)`.

Every call builds an equal, independent model. Normalisation statistics fit the activations and the affine parameters
are random, so that two models with equal outputs are equal for a reason.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

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
from .dense import Autoencoder, SuperResolution, UNet, VolumeNet, Yolo
from .forms import (
    TCN,
    DigitMLP,
    GRUClassifier,
    KeywordOnly,
    MultiInput,
    MultiTask,
    PointNet,
    Siamese,
    Structured,
)
from .language import GPT, T5, Bert, DistilBert, MultiQuery, Translation
from .mobile import ARCHIVE, EfficientNetLite0, KeywordNet, MobileNetV3, ShuffleNet, load_published
from .other import FCOS, MLP, DataDependent, LSTMClassifier, PixelShuffleNet, TextCNN
from .patches import ConvNeXt, Mixer, Swin
from .settle import settle
from .transformers import Llama, VisionTransformer

__all__ = [
    "ARCHIVE",
    "CNNS",
    "ZOO",
    "BasicBlock",
    "Bottleneck",
    "CifarResNet",
    "VisionTransformer",
    "build",
    "image",
    "normal",
    "tokens",
]

Built = tuple[nn.Module, Inputs]


def image(size: int, *, batch: int = 2, seed: int = 0) -> Inputs:
    """Return normal noise [batch, 3, size, size]."""
    return normal(batch, 3, size, size, seed=seed)


def normal(*shape: int, seed: int = 0) -> Inputs:
    """Return normal noise of a shape."""
    return Inputs((torch.randn(shape, generator=torch.Generator().manual_seed(seed)),), {})


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


def _ids(length: int, *, vocabulary: int = 60, seed: int = 0) -> Tensor:
    ids: Tensor = tokens(length, vocabulary=vocabulary, seed=seed).args[0]
    return ids


def _sentences(*, types: bool = False) -> Inputs:
    """Return token ids [2, 12] with a mask that ends the second one early, and the types of the tokens."""
    mask = torch.ones(2, 12, dtype=torch.long)
    mask[1, 9:] = 0
    named = {"input_ids": _ids(12), "attention_mask": mask}
    return Inputs((), named | ({"token_type_ids": _ids(12, vocabulary=2, seed=1)} if types else {}))


def _efficientnet() -> Built:
    """Return the net with its published weights, or with random ones where `make data` has not fetched them."""
    if not ARCHIVE.is_file():
        return build(EfficientNetLite0, image(224, batch=1), image(64, batch=4))
    with torch.random.fork_rng(devices=[]):
        model = EfficientNetLite0()
    load_published(model)
    return model.eval(), image(224, batch=1)


def _converted(**format_: Any) -> Built:
    """Return a small residual net, and its inputs, in another precision or memory format."""
    model, inputs = build(partial(CifarResNet, 1, width=12), image(16))
    return model.to(**format_), Inputs((inputs.args[0].to(**format_),), {})


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
    "mlp": lambda: build(MLP, normal(4, 16)),
    "data_dependent": lambda: build(DataDependent, image(16)),
    "mobilenetv3": lambda: build(MobileNetV3, image(32)),
    "efficientnet_lite0": _efficientnet,
    "shufflenet": lambda: build(ShuffleNet, image(32)),
    "keyword_spotting": lambda: build(KeywordNet, normal(2, 1, 49, 10)),
    "unet": lambda: build(UNet, image(16)),
    "yolo": lambda: build(Yolo, image(32)),
    "autoencoder": lambda: build(Autoencoder, image(16)),
    "super_resolution": lambda: build(SuperResolution, image(8)),
    "volume": lambda: build(VolumeNet, normal(2, 1, 8, 8, 8)),
    "convnext": lambda: build(ConvNeXt, image(32)),
    "swin": lambda: build(Swin, image(32)),
    "mixer": lambda: build(Mixer, image(32)),
    "bert": lambda: build(Bert, _sentences(types=True)),
    "distilbert": lambda: build(DistilBert, _sentences()),
    "gpt": lambda: build(GPT, tokens(12, vocabulary=60)),
    "multi_query": lambda: build(MultiQuery, tokens(12, vocabulary=60)),
    "t5": lambda: build(
        T5,
        Inputs((), {"input_ids": _ids(10), "decoder_input_ids": _ids(7, seed=1)}),
    ),
    "translation": lambda: build(Translation, Inputs((_ids(9), _ids(7, seed=1)), {})),
    "gru": lambda: build(GRUClassifier, tokens(10, vocabulary=60)),
    "tcn": lambda: build(TCN, normal(2, 4, 24)),
    "pointnet": lambda: build(PointNet, normal(2, 3, 40)),
    "mlp_784": lambda: build(DigitMLP, normal(4, 1, 28, 28)),
    "multi_input": lambda: build(MultiInput, Inputs((*image(16).args, *normal(2, 6).args), {})),
    "multi_task": lambda: build(MultiTask, image(16)),
    "siamese": lambda: build(Siamese, Inputs((*image(16).args, *image(16, seed=1).args), {})),
    "structured": lambda: build(Structured, normal(4, 16)),
    "keyword_only": lambda: build(
        KeywordOnly, Inputs((), {"ids": _ids(6, vocabulary=30), "extra": {"row": normal(2, 6).args[0]}})
    ),
    "bfloat16": lambda: _converted(dtype=torch.bfloat16),
    "channels_last": lambda: _converted(memory_format=torch.channels_last),
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
