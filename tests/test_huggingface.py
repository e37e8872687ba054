"""Hugging Face models: what is found, that it is right, saved, loaded and exported, and what their config says."""

# mypy: no-warn-return-any
from __future__ import annotations

import copy
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("transformers", reason="needs the extra [hf]")

from hugging_face_cases import DEFINITIONS, answers, built, inputs_of, made
from units import random_alive

from autoprune.artifacts import Member, load, save_member, verify, verify_with_model
from autoprune.errors import ArtifactError
from autoprune.evaluation import measure_cost
from autoprune.groups import (
    ModelGroups,
    apply_edits,
    architecture_of,
    edits_of,
    find_groups,
    mask_model,
    slice_model,
)
from autoprune.groups.edits import replace_module
from autoprune.groups.pretrained import describe_pretrained
from autoprune.integrations.hugging_face import as_pretrained
from autoprune.tasks.protocol import Inputs

LAYERS = {
    "bert": (2, {"attention.self.query": (4, "head"), "intermediate.dense": (48, "channel")}),
    "distilbert": (2, {"attention.q_lin": (4, "head"), "ffn.lin1": (48, "channel")}),
    "vit": (2, {"attention.q_proj": (4, "head"), "mlp.fc1": (48, "channel")}),
    "gpt2": (2, {"attn.c_attn": (4, "head"), "mlp.c_fc": (128, "channel")}),
    "llama": (2, {"self_attn.q_proj": (2, "head"), "mlp.gate_proj": (48, "channel")}),
}
PLACES = {
    "bert": "bert.encoder.layer",
    "distilbert": "distilbert.transformer.layer",
    "vit": "vit.layers",
    "gpt2": "transformer.h",
    "llama": "model.layers",
}
OTHERS: dict[str, dict[str, tuple[int, str]]] = {
    "bert": {"bert.embeddings.word_embeddings": (32, "channel"), "bert.pooler.dense": (32, "channel")},
    "distilbert": {"distilbert.embeddings.word_embeddings": (32, "channel"), "pre_classifier": (32, "channel")},
    "vit": {"vit.embeddings.patch_embeddings.projection": (32, "channel")},
    "gpt2": {"transformer.wte": (32, "channel")},
    "llama": {"model.embed_tokens": (32, "channel")},
    "t5": {
        "encoder.block.0.layer.0.SelfAttention.q": (4, "head"),
        "encoder.block.0.layer.1.DenseReluDense.wi": (48, "channel"),
        "encoder.block.1.layer.1.DenseReluDense.wi": (48, "channel"),
        "decoder.block.0.layer.0.SelfAttention.q": (4, "head"),
        "decoder.block.0.layer.1.EncDecAttention.q": (4, "head"),
        "decoder.block.0.layer.2.DenseReluDense.wi": (48, "channel"),
        "decoder.block.1.layer.2.DenseReluDense.wi": (48, "channel"),
    },
    "convnext": {
        "convnext.embeddings.patch_embeddings": (8, "channel"),
        **{f"convnext.encoder.stages.{i}.downsampling_layer.1": (8 + 8 * i, "channel") for i in (1, 2, 3)},
        **{
            f"convnext.encoder.stages.{i}.layers.{j}.pwconv1": (32 + 32 * i, "channel")
            for i in range(4)
            for j in range(2)
        },
    },
    "swin": {
        "swin.embeddings.patch_embeddings.projection": (16, "channel"),
        "swin.encoder.layers.0.downsample.reduction": (32, "channel"),
        **{f"swin.encoder.layers.{i}.blocks.{j}.attention.q_proj": (2 + 2 * i, "head") for i in (0, 1) for j in (0, 1)},
        **{f"swin.encoder.layers.{i}.blocks.{j}.mlp.fc1": (64 + 64 * i, "channel") for i in (0, 1) for j in (0, 1)},
    },
    "resnet": {
        "resnet.embedder.embedder.convolution": (8, "channel"),
        **{
            f"resnet.encoder.stages.{i}.layers.{j}.layer.{k}.convolution": (4 + 4 * i, "channel")
            for i in (0, 1)
            for j in (0, 1)
            for k in (0, 1)
        },
        **{f"resnet.encoder.stages.{i}.layers.0.layer.2.convolution": (16 + 16 * i, "channel") for i in (0, 1)},
    },
}
# Least share of multiply-accumulates that goes when every group keeps one unit. T5 returns its encoder's states, so its
# width stays.
SHARES = {
    "bert": 0.98,
    "distilbert": 0.98,
    "vit": 0.96,
    "gpt2": 0.98,
    "llama": 0.96,
    "t5": 0.78,
    "convnext": 0.96,
    "swin": 0.94,
    "resnet": 0.89,
}
REASONS = (
    "its output is the model's output",
    "rows of a table are looked up by index",
    "it meets a constant or an input of fixed size",
    "a size in the source does not follow it",
)
DEPTH = {
    "bert": ("bert.encoder.layer.0", "bert.encoder.layer.1"),
    "distilbert": ("distilbert.transformer.layer.0", "distilbert.transformer.layer.1"),
    "vit": ("vit.layers.0", "vit.layers.1"),
    "gpt2": ("transformer.h.0", "transformer.h.1"),
    "llama": ("model.layers.0", "model.layers.1"),
    "t5": (
        "encoder.block.0.layer.1",
        "encoder.block.1.layer.0",
        "encoder.block.1.layer.1",
        "decoder.block.0.layer.2",
        "decoder.block.1.layer.0",
        "decoder.block.1.layer.1",
        "decoder.block.1.layer.2",
    ),
    "convnext": tuple(f"convnext.encoder.stages.{i}.layers.{j}" for i in range(4) for j in range(2)),
    "swin": tuple(f"swin.encoder.layers.{i}.blocks.{j}" for i in range(2) for j in range(2)),
    "resnet": ("resnet.encoder.stages.0.layers.1", "resnet.encoder.stages.1.layers.1"),
}
ATTENTION = [name for name in DEFINITIONS if name not in ("convnext", "resnet")]
SLOW = ("gpt2", "t5", "swin")
CASES = [
    *((name, "eager") for name in DEFINITIONS),
    *(pytest.param(n, "sdpa", marks=[pytest.mark.slow] if n in SLOW else []) for n in ATTENTION),
]
both = pytest.mark.parametrize(("name", "attention"), CASES)

Alive = npt.NDArray[np.bool_]


def kept(groups: ModelGroups, share: float, *, kinds: tuple[str, ...] = ("channel", "head")) -> Alive:
    """Keep the first units of every group of some kinds, the same share of each."""
    alive = np.ones(groups.plan.unit_count, dtype=np.bool_)
    for group in groups.groups:
        if group.granularity in kinds:
            alive[group.start + max(1, round(group.width * share)) : group.start + group.width] = False
    return alive


def feed_forward_only(groups: ModelGroups, share: float) -> Alive:
    alive = kept(groups, share)
    for group in groups.groups:
        if group.granularity != "channel" or not group.feed_forward or group.width == 32:
            alive[group.start : group.start + group.width] = True
    return alive


def close(left: list[Tensor], right: list[Tensor], tolerance: float = 1e-5) -> bool:
    return len(left) == len(right) and all(
        a.shape == b.shape and float((a - b).abs().max()) <= tolerance * float(b.abs().max())
        for a, b in zip(left, right, strict=True)
    )


@both
def test_heads_hidden_layers_and_width_are_groups(name: str, attention: str) -> None:
    groups = built(name, attention)[2]
    count, layers = LAYERS.get(name, (0, {}))
    expected = {f"{PLACES[name]}.{i}.{at}": size for i in range(count) for at, size in layers.items()} | OTHERS[name]
    assert {g.name: (g.width, g.granularity) for g in groups.groups} == expected
    assert groups.tracer == "torch.export"
    assert groups.notes == ()


@both
def test_little_is_protected_and_each_with_a_reason(name: str, attention: str) -> None:
    model, inputs, groups = built(name, attention)
    assert all(layer.reason.startswith(REASONS) for layer in groups.protected)
    dense, least = (measure_cost(m, inputs).macs for m in (model, slice_model(model, groups.plan, kept(groups, 0.0))))
    assert 1 - least / dense >= SHARES[name]


@both
def test_random_policies_run_forward_and_backward_at_other_sizes(name: str, attention: str) -> None:
    model, _, groups = built(name, attention)
    sample = inputs_of(name)
    others = [sample(3), sample(1)] if "pixel_values" in sample().kwargs else [sample(3, 9), sample(1, 4)]
    for seed in range(3):
        sliced = slice_model(model, groups.plan, random_alive(groups, np.random.default_rng(seed)))
        for inputs in others:
            with torch.no_grad():
                expected = model(**inputs.kwargs)
            outputs = sliced.train(seed > 0)(**inputs.kwargs)
            assert type(outputs) is type(expected)
            assert {k: v.shape for k, v in outputs.items()} == {k: v.shape for k, v in expected.items()}
            sum(v.square().mean() for v in outputs.values()).backward()
        used = [p.grad for p in sliced.parameters() if p.grad is not None]
        assert len(used) == len(list(sliced.parameters()))
        assert all(bool(torch.isfinite(gradient).all()) for gradient in used)


class Scale(nn.Module):
    """A norm's scale and shift without its statistics, so that zeroing a channel equals removing it."""

    def __init__(self, norm: Any) -> None:
        super().__init__()
        self.weight, self.bias = norm.weight, getattr(norm, "bias", None)
        self.trailing = 2 if getattr(norm, "data_format", "") == "channels_first" else 0

    def forward(self, x: Tensor) -> Tensor:
        shape = (-1, *[1] * self.trailing)
        x = x * self.weight.view(shape)
        return x if self.bias is None else x + self.bias.view(shape)


def without_statistics(name: str) -> nn.Module:
    model = made(name)
    for module in list(model.modules()):
        if re.search("(LayerNorm|RMSNorm)$", type(module).__name__):
            replace_module(model, module, Scale(module))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(0.5)
    return model.eval()


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] if n in SLOW else []) for n in DEFINITIONS])
def test_sliced_equals_masked_where_norms_only_scale(name: str) -> None:
    model, inputs = without_statistics(name), inputs_of(name)()
    groups = find_groups(model, inputs)
    assert [g.name for g in groups.groups] == [g.name for g in built(name)[2].groups]
    whole = answers(model, inputs)
    for seed in range(2):
        alive = random_alive(groups, np.random.default_rng(seed))
        sliced, masked = (answers(cut(model, groups.plan, alive), inputs) for cut in (slice_model, mask_model))
        assert close(sliced, masked, 1e-4)
        assert not close(sliced, whole, 1e-2)


def rows_of(heads: list[int], size: int) -> list[int]:
    return [head * size + i for head in heads for i in range(size)]


def cut_by_hand(layer: Any, rows: list[int] | None = None, columns: list[int] | None = None) -> None:
    with torch.no_grad():
        if rows is not None:
            layer.weight = nn.Parameter(layer.weight[rows])
            layer.bias = None if layer.bias is None else nn.Parameter(layer.bias[rows])
        if columns is not None:
            layer.weight = nn.Parameter(layer.weight[:, columns])


def alive_but(groups: ModelGroups, gone: dict[str, list[int]]) -> Alive:
    alive = np.ones(groups.plan.unit_count, dtype=np.bool_)
    for name, units in gone.items():
        alive[[groups[name].start + unit for unit in units]] = False
    return alive


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_bert_heads_are_those_that_one_would_cut_by_hand(attention: str) -> None:
    model, inputs, groups = built("bert", attention)
    sliced = slice_model(
        model,
        groups.plan,
        alive_but(
            groups,
            {"bert.encoder.layer.0.attention.self.query": [1, 2], "bert.encoder.layer.1.intermediate.dense": [5, 40]},
        ),
    )
    hand = copy.deepcopy(model)
    stays = rows_of([0, 3], 8)
    for projection in ("query", "key", "value"):
        cut_by_hand(hand.get_submodule(f"bert.encoder.layer.0.attention.self.{projection}"), stays)
    cut_by_hand(hand.get_submodule("bert.encoder.layer.0.attention.output.dense"), columns=stays)
    units = [i for i in range(48) if i not in (5, 40)]
    cut_by_hand(hand.get_submodule("bert.encoder.layer.1.intermediate.dense"), units)
    cut_by_hand(hand.get_submodule("bert.encoder.layer.1.output.dense"), columns=units)
    assert all(torch.equal(a, b) for a, b in zip(answers(sliced, inputs), answers(hand, inputs), strict=True))


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_llama_key_value_heads_go_with_the_queries_that_read_them(attention: str) -> None:
    model, inputs, groups = built("llama", attention)
    gone = {"model.layers.1.self_attn.q_proj": [0], "model.layers.0.mlp.gate_proj": [7, 8, 9]}
    sliced = slice_model(model, groups.plan, alive_but(groups, gone))
    hand: Any = copy.deepcopy(model)
    own = hand.model.layers[1].self_attn
    cut_by_hand(own.q_proj, rows_of([2, 3], 8))
    cut_by_hand(own.k_proj, rows_of([1], 8))
    cut_by_hand(own.v_proj, rows_of([1], 8))
    cut_by_hand(own.o_proj, columns=rows_of([2, 3], 8))
    units = [i for i in range(48) if i not in (7, 8, 9)]
    mlp = hand.model.layers[0].mlp
    cut_by_hand(mlp.gate_proj, units)
    cut_by_hand(mlp.up_proj, units)
    cut_by_hand(mlp.down_proj, columns=units)
    assert all(torch.equal(a, b) for a, b in zip(answers(sliced, inputs), answers(hand, inputs), strict=True))


def saved(name: str, alive: Alive, folder: Path, *, formats: tuple[str, ...] = (), **changes: Any) -> Path:
    """Emit a pruned model whose weights are no longer a gather of the whole one's."""
    model, inputs, groups = built(name)
    pruned = slice_model(model, groups.plan, alive).eval()
    plan = replace(architecture_of(model, groups.plan, alive), **changes)
    apply_edits(pruned, plan.edits)
    with torch.no_grad():
        for parameter in pruned.parameters():
            parameter.mul_(0.95)
    return save_member(folder / name, Member(pruned, inputs, {"sparsity": {}}, plan, {}, "# card\n", formats=formats))


@pytest.mark.parametrize("name", ["bert", "vit", "llama"])
def test_pruned_model_is_saved_loaded_and_exported_to_equal_outputs(name: str, tmp_path: Path) -> None:
    model, inputs, groups = built(name)
    directory = saved(name, kept(groups, 0.5), tmp_path, formats=("onnx",))
    report = verify(directory)
    assert report.ok, report
    assert [check.name for check in report.checks] == ["files", "architecture", "onnx"]
    assert verify_with_model(directory, model).ok
    loaded = load(directory, model)
    assert type(loaded(**inputs.kwargs)) is type(model(**inputs.kwargs))


@pytest.mark.parametrize("name", ["distilbert", "gpt2", "t5", "convnext", "swin", "resnet"])
def test_every_model_is_saved_and_loaded(name: str, tmp_path: Path) -> None:
    model, _, groups = built(name)
    alive = random_alive(groups, np.random.default_rng(4))
    with pytest.warns(UserWarning, match="keeps the sizes of the whole model"):
        assert verify_with_model(saved(name, alive, tmp_path), model).ok


UNIFORM = {
    "bert": {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 24},
    "distilbert": {"dim": 16, "n_heads": 2, "hidden_dim": 24},
    "vit": {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 24},
    "gpt2": {"n_embd": 16, "n_head": 2},
    "llama": {"hidden_size": 16, "num_attention_heads": 2, "num_key_value_heads": 1, "intermediate_size": 24},
    "convnext": {"hidden_sizes": [4, 8, 12, 16]},
}


@pytest.mark.parametrize("name", UNIFORM)
def test_configuration_has_the_sizes_of_a_model_whose_layers_agree(name: str, tmp_path: Path) -> None:
    model, inputs, groups = built(name)
    before = model.config.to_dict()
    loaded = load(saved(name, kept(groups, 0.5), tmp_path), model)
    after = loaded.config.to_dict()
    assert {k: v for k, v in after.items() if before.get(k) != v} == UNIFORM[name]
    assert model.config.to_dict() == before
    assert len({id(m.config) for m in loaded.modules() if hasattr(m, "config")}) == 1
    loaded.save_pretrained(tmp_path / "pretrained")
    again = type(model).from_pretrained(tmp_path / "pretrained", attn_implementation="eager").eval()
    assert close(answers(again, inputs), answers(loaded, inputs), 1e-6)
    assert sum(p.numel() for p in again.parameters()) == sum(p.numel() for p in loaded.parameters())


def test_only_the_hidden_layers_width_changes_when_only_hidden_layers_were_cut(tmp_path: Path) -> None:
    model, _, groups = built("bert")
    loaded = load(saved("bert", feed_forward_only(groups, 0.5), tmp_path), model)
    assert (loaded.config.hidden_size, loaded.config.num_attention_heads, loaded.config.intermediate_size) == (
        32,
        4,
        24,
    )


def test_configuration_of_a_model_whose_layers_differ_says_so_and_from_pretrained_refuses(tmp_path: Path) -> None:
    model, inputs, groups = built("bert")
    alive = alive_but(groups, {"bert.encoder.layer.1.intermediate.dense": [1, 2, 3]})
    with pytest.warns(UserWarning, match=r"layers differ: 'bert.encoder.layer.*load that with autoprune.load"):
        loaded = load(saved("bert", alive, tmp_path), model)
    assert loaded.config.intermediate_size == 48
    with pytest.raises(ArtifactError, match="No configuration describes the pruned BertForSequenceClassification"):
        as_pretrained(loaded, inputs)
    loaded.save_pretrained(tmp_path / "pretrained")
    written = json.loads((tmp_path / "pretrained" / "config.json").read_text())
    assert written["autoprune"].startswith("pruned, and these sizes are those of the whole model: layers differ")
    with pytest.raises(RuntimeError, match="mismatch"):
        type(model).from_pretrained(tmp_path / "pretrained")


class Headed(nn.Module):
    """A user's own module around a pretrained one."""

    def __init__(self) -> None:
        super().__init__()
        encoder = built("bert")[0].bert
        self.encoder = type(encoder)(copy.deepcopy(encoder.config))
        self.head = nn.Linear(32, 2)

    def forward(self, input_ids: Tensor) -> Tensor:
        output: Tensor = self.head(self.encoder(input_ids=input_ids).pooler_output)
        return output


def sliced_headed(sparsity: dict[str, float]) -> tuple[Headed, Inputs]:
    torch.manual_seed(0)
    model, inputs = Headed().eval(), Inputs((torch.arange(12).reshape(2, 6),), {})
    groups = find_groups(model, inputs)
    alive = np.ones(groups.plan.unit_count, dtype=np.bool_)
    for group in groups.groups:
        removed = next((share for part, share in sparsity.items() if part in group.name), 0.0)
        alive[group.start : group.start + int(removed * group.width)] = False
    pruned = slice_model(model, groups.plan, alive).eval()
    assert isinstance(pruned, Headed)
    return pruned, inputs


def test_pretrained_module_within_another_model_says_its_own_sizes(tmp_path: Path) -> None:
    pruned, inputs = sliced_headed({"": 0.5})
    describe_pretrained(pruned, inputs)
    assert (pruned.encoder.config.hidden_size, pruned.encoder.config.intermediate_size) == (16, 24)
    pruned.encoder.save_pretrained(tmp_path)
    again = type(pruned.encoder).from_pretrained(tmp_path).eval()
    torch.testing.assert_close(again(*inputs.args).pooler_output, pruned.encoder(*inputs.args).pooler_output)


def test_pretrained_module_within_another_model_is_marked_where_no_configuration_fits(tmp_path: Path) -> None:
    pruned, inputs = sliced_headed({"layer.1.intermediate": 0.5})
    with pytest.warns(UserWarning, match="BertModel keeps the sizes of the whole model: layers differ"):
        describe_pretrained(pruned, inputs)
    pruned.encoder.save_pretrained(tmp_path)
    assert "layers differ" in json.loads((tmp_path / "config.json").read_text())["autoprune"]


def test_equal_shapes_do_not_pass_for_an_equal_model(tmp_path: Path) -> None:
    model, _, groups = built("bert")
    alive = np.ones(groups.plan.unit_count, dtype=np.bool_)
    width = groups["bert.embeddings.word_embeddings"]
    heads = [g for g in groups.groups if g.granularity == "head"]
    alive[width.start + 24 : width.start + 32] = False
    for group in heads:
        alive[group.start] = False
    pooler = groups["bert.pooler.dense"]
    alive[pooler.start + 24 : pooler.start + 32] = False
    loaded = load(saved("bert", alive, tmp_path), model)
    assert (loaded.config.hidden_size, loaded.config.num_attention_heads) == (24, 3)


@pytest.mark.parametrize("name", DEPTH)
def test_whole_layers_may_go_and_the_rest_computes_on(name: str) -> None:
    model, inputs, groups = built(name)
    depth = next(part for part in groups.parts if part.name == "@depth")
    assert depth.members == DEPTH[name]
    sliced = slice_model(model, groups.plan, random_alive(groups, np.random.default_rng(5))).eval()
    for member in range(depth.width):
        shorter = copy.deepcopy(sliced)
        apply_edits(shorter, edits_of(depth, 1 / depth.width, -np.eye(depth.width)[member]))
        outputs = answers(shorter, inputs)
        assert [t.shape for t in outputs] == [t.shape for t in answers(model, inputs)]
        assert not close(outputs, answers(sliced, inputs), 1e-3)
        assert sum(p.numel() for p in shorter.parameters()) < sum(p.numel() for p in sliced.parameters())


COUNTED = {"bert": "num_hidden_layers", "vit": "num_hidden_layers", "llama": "num_hidden_layers", "gpt2": "n_layer"}


@pytest.mark.parametrize("name", COUNTED)
def test_model_without_a_layer_is_saved_exported_and_made_a_shorter_pretrained_one(name: str, tmp_path: Path) -> None:
    model, inputs, groups = built(name)
    depth = next(part for part in groups.parts if part.name == "@depth")
    edits = edits_of(depth, 0.5, np.array([0.0, 1.0]))
    formats = ("onnx",) if name != "gpt2" else ()
    directory = saved(name, kept(groups, 0.5), tmp_path, formats=formats, edits=edits)
    with pytest.warns(UserWarning, match=r"layers were removed; autoprune\.integrations\.hugging_face\.as_pretrained"):
        assert verify_with_model(directory, model).ok
    with pytest.warns(UserWarning, match="layers were removed"):
        loaded = load(directory, model)
    short = as_pretrained(loaded, inputs)
    assert getattr(short.config, COUNTED[name]) == 1
    assert not hasattr(short.config, "autoprune")
    assert close(answers(short, inputs), answers(loaded, inputs), 1e-6)
    short.save_pretrained(tmp_path / "pretrained")
    again = type(model).from_pretrained(tmp_path / "pretrained", attn_implementation="eager").eval()
    assert close(answers(again, inputs), answers(loaded, inputs), 1e-6)


def test_model_that_is_none_of_theirs_has_no_pretrained_form() -> None:
    with pytest.raises(ArtifactError, match="Linear is not built from a configuration"):
        as_pretrained(nn.Linear(2, 2), Inputs((torch.rand(1, 2),), {}))
