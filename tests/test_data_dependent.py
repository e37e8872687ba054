"""Models whose Python depends on data: pruned by torch-pruning where that works, protected with a reason elsewhere."""

# mypy: no-warn-return-any
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from units import random_alive, run

from autoprune.groups import ModelGroups, find_groups, prepare_model
from autoprune.groups.cloning import clone_model
from autoprune.groups.layers import weighted_layers
from autoprune.groups.slicing import mask_model, slice_model
from autoprune.tasks.protocol import Inputs


def conv(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU())


class Branch(nn.Module):
    """Chooses one of two layers by the mean of what it sees."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.bright, self.dark = conv(3, 8), conv(8, 12), conv(8, 12)
        self.wide, self.head = conv(12, 20), nn.Linear(20, 4)

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean()
        x = self.stem(x)
        x = self.bright(x) if mean > -1 else self.dark(x)
        return self.head(self.wide(x).mean((2, 3)))


class Loop(nn.Module):
    """Refines as often as the norm of its state asks for."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.refine, self.head = nn.Linear(6, 16), nn.Linear(16, 16), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.enter(x))
        for _ in range(1 + int(x.abs().mean() * 3)):
            x = x + torch.tanh(self.refine(x)) * 0.5
        return self.head(x)


class EarlyExit(nn.Module):
    """Returns from the first head where that one is sure."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = conv(3, 8), conv(8, 16)
        self.early, self.late = nn.Linear(8, 4), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        early = self.early(x.mean((2, 3)))
        if early.softmax(-1).max() > 0.9:
            return early
        return self.late(self.second(x).mean((2, 3)))


class Trimmed(nn.Module):
    """Drops the padding that its batch does not need."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.hidden, self.head = nn.Embedding(20, 12), nn.Linear(12, 24), nn.Linear(24, 3)

    def forward(self, ids: Tensor) -> Tensor:
        longest = int((ids != 0).sum(1).max())
        return self.head(F.gelu(self.hidden(self.words(ids[:, :longest]))).mean(1))


class Clipped(nn.Module):
    """Rescales only what is too large, as gradient-like clipping does, by a Python number."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(6, 16), nn.Linear(16, 12), nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.first(x))
        largest = x.abs().max().item()
        x = x / largest if largest > 1.0 else x
        return self.head(F.relu(self.second(x)))


class Attending(nn.Module):
    """A transformer layer whose attention is skipped for a batch of short texts, heads a number in the source."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(20, 16)
        self.query, self.key, self.value, self.out = (nn.Linear(16, 16) for _ in range(4))
        self.norm = nn.LayerNorm(16)
        self.up, self.down, self.head = nn.Linear(16, 32), nn.Linear(32, 16), nn.Linear(16, 3)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.words(ids)
        if int((ids != 0).sum()) > 4:
            q, k, v = (f(x).view(*ids.shape, 4, 4).transpose(1, 2) for f in (self.query, self.key, self.value))
            mixed = ((q @ k.transpose(-2, -1)) / 2).softmax(-1) @ v
            x = x + self.out(mixed.transpose(1, 2).flatten(2))
        x = self.norm(x)
        return self.head((x + self.down(F.gelu(self.up(x)))).mean(1))


class Encoder(nn.Module):
    """Torch's own encoder layers behind a branch."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(20, 16)
        layer = nn.TransformerEncoderLayer(16, 4, 24, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(16, 3)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.words(ids)
        if ids.sum() % 2 == 0:
            x = x + 1
        return self.head(self.encoder(x).mean(1))


def picture() -> Inputs:
    return Inputs((torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)),), {})


def row() -> Inputs:
    return Inputs((torch.randn(4, 6, generator=torch.Generator().manual_seed(0)),), {})


def ids() -> Inputs:
    found = torch.randint(1, 20, (2, 7), generator=torch.Generator().manual_seed(0))
    found[:, -2:] = 0
    return Inputs((found,), {})


def other_ids() -> Inputs:
    """Return texts of one word each."""
    found = torch.zeros(2, 7, dtype=torch.long)
    found[:, 0] = 3
    return Inputs((found,), {})


@dataclass(frozen=True)
class Case:
    """A model, inputs, and inputs with which its Python goes another way."""

    kind: Callable[[], nn.Module]
    inputs: Callable[[], Inputs]
    others: Callable[[], Inputs]
    groups: dict[str, int]
    protected: dict[str, str]


UNREACHED = "which the example inputs do not reach, may read or join its outputs"
TORN = "does not run without some of its outputs"
CASES = {
    "branch": Case(
        Branch,
        picture,
        lambda: Inputs((-10 * torch.ones(2, 3, 8, 8),), {}),
        {"wide.0": 20},
        {"stem.0": UNREACHED, "bright.0": UNREACHED, "dark.0": "the example inputs do not reach it"},
    ),
    "loop": Case(Loop, row, lambda: Inputs((torch.full((4, 6), 9.0),), {}), {"enter": 16}, {}),
    "early exit": Case(
        EarlyExit, picture, lambda: Inputs((100 * picture().args[0],), {}), {"second.0": 16}, {"first.0": TORN}
    ),
    "trimmed padding": Case(Trimmed, ids, other_ids, {"words": 12, "hidden": 24}, {}),
    "clipped": Case(Clipped, row, lambda: Inputs((row().args[0] * 1e-3,), {}), {"first": 16, "second": 12}, {}),
    "attention with heads in the source": Case(
        Attending, ids, other_ids, {"words": 16, "up": 32}, {"query": TORN, "key": TORN, "value": TORN}
    ),
    "torch's encoder": Case(
        Encoder,
        ids,
        other_ids,
        {"words": 16, "encoder.layers.0.linear1": 24, "encoder.layers.1.linear1": 24},
        {f"encoder.layers.{i}.self_attn.{p}_proj": TORN for i in range(2) for p in "qkv"},
    ),
}


@cache
def found(name: str) -> tuple[nn.Module, ModelGroups]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model, _ = prepare_model(CASES[name].kind().eval())
    return model, find_groups(model, CASES[name].inputs())


@pytest.mark.parametrize("name", CASES)
def test_what_can_be_pruned_is_found_and_every_other_layer_has_a_reason(name: str) -> None:
    model, groups = found(name)
    case = CASES[name]
    assert groups.tracer == "torch-pruning"
    assert {g.name: g.width for g in groups.groups} == case.groups
    reasons = {layer.name: layer.reason for layer in groups.protected}
    assert all(text in reasons[layer] for layer, text in case.protected.items()), reasons
    in_groups = {layer for group in groups.groups for layer in group.layers}
    assert weighted_layers(model).keys() <= in_groups | reasons.keys()
    assert any("torch-pruning traced the branch" in note for note in groups.notes)


@pytest.mark.parametrize("name", CASES)
def test_pruned_models_run_and_train_on_every_branch(name: str) -> None:
    model, groups = found(name)
    case = CASES[name]
    for seed in range(4):
        sliced = slice_model(model, groups.plan, random_alive(groups, np.random.default_rng(seed)))
        for inputs in (case.inputs(), case.others()):
            outputs = sliced(*inputs.args)
            assert outputs.shape == run(model, inputs)[0].shape
            outputs.square().mean().backward()
            assert bool(torch.isfinite(outputs).all())


def path_of(model: nn.Module, inputs: Inputs) -> list[str]:
    """Return which modules are called, in order."""
    called: list[str] = []
    watched = clone_model(model, {})
    for path, module in watched.named_modules():
        module.register_forward_pre_hook(lambda _, __, p=path: called.append(p))
    run(watched, inputs)
    return called


@pytest.mark.parametrize("name", ["branch", "loop", "early exit"])
def test_the_other_inputs_take_another_way(name: str) -> None:
    model, case = found(name)[0], CASES[name]
    assert path_of(model, case.inputs()) != path_of(model, case.others())


@pytest.mark.parametrize("name", ["branch", "early exit", "trimmed padding", "clipped"])
def test_sliced_equals_masked_without_statistics_over_channels(name: str) -> None:
    model, groups = found(name)
    inputs = CASES[name].inputs()
    for group in groups.groups:
        alive = np.ones(groups.plan.unit_count, dtype=np.bool_)
        alive[group.start : group.start + group.width // 2] = False
        sliced, masked = (run(cut(model, groups.plan, alive), inputs) for cut in (slice_model, mask_model))
        assert all(torch.allclose(a, b, rtol=1e-3, atol=1e-5) for a, b in zip(sliced, masked, strict=True))
