"""Small Hugging Face models with random weights, made from configurations without a hub."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
import transformers
from torch import Tensor, nn

from autoprune.groups import ModelGroups, find_groups
from autoprune.groups.recording import tensors_of
from autoprune.tasks.protocol import Inputs

VOCABULARY = 60
TEXT = {"vocab_size": VOCABULARY, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
CAUSAL = {"max_position_embeddings": 24, "use_cache": False}


def text(batch: int = 2, length: int = 6, *, seed: int = 0) -> Inputs:
    """Return token ids with one padded position in the first row."""
    ids = torch.randint(3, VOCABULARY, (batch, length), generator=torch.Generator().manual_seed(seed))
    mask = torch.ones_like(ids)
    mask[0, -1] = 0
    return Inputs((), {"input_ids": ids, "attention_mask": mask})


def pairs(batch: int = 2, length: int = 6, *, seed: int = 0) -> Inputs:
    """Return token ids for an encoder and one fewer for a decoder."""
    encoder, decoder = text(batch, length, seed=seed), text(batch, length - 1, seed=seed + 1)
    return Inputs((), {**encoder.kwargs, "decoder_input_ids": decoder.kwargs["input_ids"]})


def pictures(batch: int = 2, size: int = 32, *, seed: int = 0) -> Inputs:
    generator = torch.Generator().manual_seed(seed)
    return Inputs((), {"pixel_values": torch.randn(batch, 3, size, size, generator=generator)})


def bert(attention: str) -> Any:
    config = transformers.BertConfig(**TEXT, **SIZES, max_position_embeddings=24, num_labels=3)
    return transformers.BertForSequenceClassification, config, attention, text


def distilbert(attention: str) -> Any:
    config = transformers.DistilBertConfig(
        vocab_size=VOCABULARY, dim=32, n_layers=2, n_heads=4, hidden_dim=48, max_position_embeddings=24, num_labels=3
    )
    return transformers.DistilBertForSequenceClassification, config, attention, text


def vit(attention: str) -> Any:
    config = transformers.ViTConfig(**SIZES, image_size=32, patch_size=8, num_labels=3)
    return transformers.ViTForImageClassification, config, attention, pictures


def gpt2(attention: str) -> Any:
    config = transformers.GPT2Config(**TEXT, n_embd=32, n_layer=2, n_head=4, n_positions=24, use_cache=False)
    return transformers.GPT2LMHeadModel, config, attention, text


def llama(attention: str) -> Any:
    config = transformers.LlamaConfig(**TEXT, **SIZES, **CAUSAL, num_key_value_heads=2)
    return transformers.LlamaForCausalLM, config, attention, text


def t5(attention: str) -> Any:
    config = transformers.T5Config(
        vocab_size=VOCABULARY,
        d_model=32,
        d_kv=8,
        d_ff=48,
        num_layers=2,
        num_decoder_layers=2,
        num_heads=4,
        use_cache=False,
        decoder_start_token_id=0,
    )
    return transformers.T5ForConditionalGeneration, config, attention, pairs


def convnext(attention: str) -> Any:
    config = transformers.ConvNextConfig(
        hidden_sizes=[8, 16, 24, 32], depths=[2, 2, 2, 2], num_labels=3, layer_scale_init_value=0.5
    )
    return transformers.ConvNextForImageClassification, config, attention, pictures


def swin(attention: str) -> Any:
    config = transformers.SwinConfig(
        image_size=32, patch_size=4, embed_dim=16, depths=[2, 2], num_heads=[2, 4], window_size=4, num_labels=3
    )
    return transformers.SwinForImageClassification, config, attention, pictures


def resnet(attention: str) -> Any:
    config = transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[16, 32], depths=[2, 2], layer_type="bottleneck", num_labels=3
    )
    return transformers.ResNetForImageClassification, config, attention, pictures


DEFINITIONS: dict[str, Callable[[str], Any]] = {
    "bert": bert,
    "distilbert": distilbert,
    "vit": vit,
    "gpt2": gpt2,
    "llama": llama,
    "t5": t5,
    "convnext": convnext,
    "swin": swin,
    "resnet": resnet,
}


def made(name: str, attention: str = "eager") -> nn.Module:
    """Build a model with weights large enough that a wrong index shows in its outputs."""
    kind, config, attention, _ = DEFINITIONS[name](attention)
    config._attn_implementation = attention
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model: nn.Module = kind(config)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            spread = 0.2 if parameter.dim() > 1 else 0.1
            parameter.add_(torch.randn(parameter.shape, generator=generator) * spread)
    return model.eval()


def inputs_of(name: str) -> Callable[..., Inputs]:
    found: Callable[..., Inputs] = DEFINITIONS[name]("eager")[3]
    return found


def built(name: str, attention: str = "eager") -> tuple[nn.Module, Inputs, ModelGroups]:
    """Build a model and find its groups once; tests must not change it."""
    return _built(name, attention)


@cache
def _built(name: str, attention: str) -> tuple[nn.Module, Inputs, ModelGroups]:
    model, inputs = made(name, attention), inputs_of(name)()
    return model, inputs, find_groups(model, inputs)


def answers(model: nn.Module, inputs: Inputs) -> list[Tensor]:
    with torch.no_grad():
        return tensors_of(model(*inputs.args, **inputs.kwargs))
