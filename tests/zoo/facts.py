"""What a table of supported architectures says of a net without measuring it, and how the nets are called there."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

from autoprune.groups import PruningGroup

from .cases import Case, prunable_share

OUTPUT = "its output is the model's output"
_DETAIL = re.compile(r"( \(in '[^']*'\)|:).*")

TITLES: Mapping[str, str] = {
    "resnet14": "ResNet-14 (CIFAR)",
    "resnet20": "ResNet-20 (CIFAR)",
    "resnet56": "ResNet-56 (CIFAR)",
    "resnet20_pad": "ResNet-20, padded shortcuts (option A)",
    "resnet50": "ResNet-50",
    "resnext50": "ResNeXt-50 32x4d",
    "densenet": "DenseNet",
    "vgg": "VGG",
    "mobilenetv2": "MobileNetV2",
    "mobilenetv3": "MobileNetV3",
    "efficientnet_lite0": "EfficientNet-Lite0, published weights",
    "shufflenet": "ShuffleNet: channel split and shuffle",
    "chunk_se": "branches of chunked channels, squeeze and excitation",
    "groupnorm": "CNN with GroupNorm",
    "convnext": "ConvNeXt with LayerScale",
    "vit": "ViT",
    "vit_ti_224": "ViT-Ti at 224",
    "vit_fused": "ViT with one projection for q, k and v",
    "swin": "Swin: windows, shifts, relative positions",
    "mixer": "MLP-Mixer",
    "unet": "U-Net with InstanceNorm",
    "fcos": "FCOS with FPN and a shared head",
    "yolo": "YOLO: C2f, SPPF",
    "autoencoder": "autoencoder, transposed convolutions",
    "super_resolution": "super-resolution, pixel shuffle",
    "pixel_shuffle": "transposed convolution, then pixel shuffle",
    "volume": "3-D CNN",
    "bert": "BERT",
    "distilbert": "DistilBERT",
    "gpt": "GPT-2: fused projection, causal mask, tied head",
    "llama": "Llama: grouped-query attention, RMSNorm, SwiGLU, tied head",
    "multi_query": "multi-query attention",
    "t5": "T5: encoder and decoder, relative positions",
    "translation": "nn.Transformer, prepared",
    "textcnn": "text CNN",
    "keyword_spotting": "keyword spotting, depthwise separable",
    "lstm": "LSTM classifier",
    "gru": "GRU classifier, bidirectional",
    "tcn": "TCN under weight normalisation",
    "pointnet": "PointNet: maximum over points",
    "mlp": "MLP with BatchNorm and PReLU",
    "mlp_784": "MLP 784-64-10",
    "multi_input": "image and table as inputs",
    "multi_task": "three outputs in a dictionary",
    "siamese": "Siamese: one encoder called twice",
    "structured": "dataclass as output",
    "keyword_only": "inputs by name alone, in a dictionary",
    "bfloat16": "ResNet-8 in bfloat16",
    "channels_last": "ResNet-8 in channels_last",
    "data_dependent": "Python that depends on data (fall-back)",
}

HUGGING_FACE: Mapping[str, str] = {
    "hf_bert": "BertForSequenceClassification (transformers)",
    "hf_distilbert": "DistilBertForSequenceClassification (transformers)",
    "hf_gpt2": "GPT2LMHeadModel (transformers)",
    "hf_llama": "LlamaForCausalLM (transformers)",
    "hf_t5": "T5ForConditionalGeneration (transformers)",
    "hf_vit": "ViTForImageClassification (transformers)",
    "hf_convnext": "ConvNextForImageClassification (transformers)",
    "hf_swin": "SwinForImageClassification (transformers)",
    "hf_resnet": "ResNetForImageClassification (transformers)",
}
"""What `tests/hugging_face_cases.py` makes, by its name there behind `hf_`."""


def facts(of: Case) -> dict[str, Any]:
    """Return size, groups, what their units are, removable blocks, prunable share of the MACs, what is protected.

    Layers that make the model's output are left out of what is protected: they are in every net.
    """
    kinds = Counter(_kind(group) for group in of.groups.groups)
    reasons = Counter(_DETAIL.sub("", layer.reason) for layer in of.groups.protected)
    del reasons[OUTPUT]
    return {
        "parameters": sum(p.numel() for p in of.model.parameters()),
        "tracer": of.groups.tracer,
        "groups": len(of.groups.groups),
        "units": of.groups.plan.unit_count,
        "kinds": dict(kinds),
        "blocks": next((part.width for part in of.groups.parts if part.kind == "depth"), 0),
        "macs_share": round(prunable_share(of), 4),
        "protected": dict(reasons.most_common()),
    }


def _kind(group: PruningGroup) -> str:
    return "ffn" if group.feed_forward else group.granularity
