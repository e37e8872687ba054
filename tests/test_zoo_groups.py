"""What is found in the nets of the zoo: exact groups, how much of them can go, published weights."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from zoo import ARCHIVE, ZOO
from zoo.cases import case, prunable_share

from autoprune.errors import GroupError
from autoprune.groups import find_groups

EXPECTED = {
    "resnet20": (
        "conv1 16, layers.0.conv1 16, layers.1.conv1 16, layers.2.conv1 16, layers.3.conv1 32, layers.3.conv2 "
        "32, layers.4.conv1 32, layers.5.conv1 32, layers.6.conv1 64, layers.6.conv2 64, layers.7.conv1 64, "
        "layers.8.conv1 64"
    ),
    "mobilenetv3": (
        "stem.0 16, blocks.0.expand.0 16, blocks.0.gate.reduce 4, blocks.0.project.0 16, blocks.1.expand.0 "
        "72, blocks.1.gate.reduce 18, blocks.1.project.0 24, blocks.2.expand.0 88, blocks.2.gate.reduce 22, "
        "blocks.3.expand.0 96, blocks.3.gate.reduce 24, blocks.3.project.0 40, blocks.4.expand.0 240, "
        "blocks.4.gate.reduce 60, last.0 240, fc1 128"
    ),
    "shufflenet": "stem.0 24, wide.0 12 block, blocks.0.reduce.0 24, blocks.1.reduce.0 24, last.0 96",
    "unet": (
        "down1.0 12, down1.3 12, down2.0 24, down2.3 24, bottom.0 48, bottom.3 48, up2 24, merge2.0 24, "
        "merge2.3 24, up1 12, merge1.0 12, merge1.3 12"
    ),
    "yolo": (
        "stem.0.0 16, stem.1.0 24, stem.2.entry.0 12 block, stem.2.steps.0.0.0 12, stem.2.exit.0 24, "
        "stage.0.0 32, stage.1.entry.0 16 block, stage.1.steps.0.0.0 16, stage.1.steps.1.0.0 16, "
        "stage.1.exit.0 32, stage.2.entry.0 16, stage.2.exit.0 32, lateral.0 24, merge.entry.0 12 block, "
        "merge.steps.0.0.0 12, merge.exit.0 24, boxes.0.0.0 16, classes.0.0.0 16, boxes.1.0.0 16, "
        "classes.1.0.0 16"
    ),
    "autoencoder": "encoder.0 12, encoder.2 24, squeeze 20, expand 24 block, decoder.0 12",
    "convnext": "stem 16, stage1.0.expand 64, stage1.1.expand 64, down.1 32, stage2.0.expand 128, stage2.1.expand 128",
    "swin": (
        "patches 32, stage1.0.attention.qkv 4 head, stage1.0.fc1 64, stage1.1.attention.qkv 4 head, "
        "stage1.1.fc1 64, merge.reduce 64, stage2.attention.qkv 4 head, stage2.fc1 128"
    ),
    "mixer": "patches 32, blocks.0.tokens1 24, blocks.0.channels1 96, blocks.1.tokens1 24, blocks.1.channels1 96",
    "bert": (
        "words 48, blocks.0.attention.query 4 head, blocks.0.intermediate 96, blocks.1.attention.query 4 "
        "head, blocks.1.intermediate 96, pooler 48"
    ),
    "gpt": (
        "words 48, blocks.0.attention.project 4 head, blocks.0.fc1 192, blocks.1.attention.project 4 head, "
        "blocks.1.fc1 192"
    ),
    "llama": (
        "embedding 64, blocks.0.attention.query 2 head, blocks.0.gate 96, blocks.1.attention.query 2 head, "
        "blocks.1.gate 96"
    ),
    "t5": (
        "shared 32, encoder_bias.table 4 head, encoder.0.wi 64, encoder.1.wi 64, decoder_bias.table 4 head, "
        "decoder.0.cross.query 4 head, decoder.0.wi 64, decoder.1.cross.query 4 head, decoder.1.wi 64"
    ),
    "pointnet": "conv1 24, conv2 64, fc1 32",
    "multi_task": "trunk.0.0 16, trunk.2.0 32, hidden 24, map1 12",
    "siamese": "encoder.0.0 16, encoder.2.0 24, hidden 20",
}
"""Groups in forward order: first layer, units, and what a unit is where it is no channel."""

USUAL_SHARE = 0.9
MINIMUM: dict[str, tuple[float, str]] = {
    "translation": (0.75, "nn.Transformer keeps its width: d_model stands in checks of its source"),
}
"""Least share of the MACs that can be pruned, where it is below the usual, and why it is."""


@pytest.mark.parametrize("name", EXPECTED)
def test_groups_are_exactly_those_of_the_architecture(name: str) -> None:
    found = [(g.name, g.width, g.granularity) for g in case(name).groups.groups]
    wanted = [(*text.split(), "channel")[:3] for text in EXPECTED[name].split(", ")]
    assert found == [(layer, int(width), kind) for layer, width, kind in wanted]


@pytest.mark.parametrize("name", ZOO)
def test_most_multiply_accumulates_can_be_pruned(name: str) -> None:
    least, why = MINIMUM.get(name, (USUAL_SHARE, ""))
    assert least >= 0.6 or why
    assert prunable_share(case(name)) >= least


@pytest.mark.parametrize("name", ZOO)
def test_every_layer_is_in_a_group_or_protected_with_a_reason(name: str) -> None:
    of = case(name)
    assert all(p.reason for p in of.groups.protected)
    told = {p.name for p in of.groups.protected} | {layer for g in of.groups.groups for layer in g.layers}
    weighted = (nn.Linear, nn.Embedding, nn.RNNBase, nn.modules.conv._ConvNd)
    assert {path for path, module in of.model.named_modules() if isinstance(module, weighted)} <= told


@pytest.mark.parametrize("name", ["resnet20", "gpt", "multi_task"])
def test_protecting_everything_is_refused(name: str) -> None:
    of = case(name)
    with pytest.raises(GroupError, match="nothing that can be pruned"):
        find_groups(of.model, of.inputs, protect=["*"])


@pytest.mark.skipif(not ARCHIVE.is_file(), reason="the published weights are not here: run `make data`")
def test_published_weights_name_the_sample_photographs() -> None:
    from sklearn.datasets import load_sample_image

    model = case("efficientnet_lite0").model
    named = {}
    for photograph in ("china.jpg", "flower.jpg"):
        pixels = torch.from_numpy(load_sample_image(photograph).copy()).permute(2, 0, 1)[None].float()
        height, width = pixels.shape[2:]
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        square = F.interpolate(
            pixels[:, :, top : top + side, left : left + side], (224, 224), mode="bicubic", antialias=True
        )
        with torch.no_grad():
            named[photograph] = int(model((square - 127.0) / 128.0).argmax())
    palace, daisy = 698, 985
    assert named == {"china.jpg": palace, "flower.jpg": daisy}
