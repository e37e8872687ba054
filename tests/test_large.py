"""Large models: within time and memory, and no candidate copies the whole weights first."""

from __future__ import annotations

import time
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from units import built, random_alive, traced
from zoo import build, tokens
from zoo.transformers import Llama

from autoprune.groups import ModelGroups, find_groups
from autoprune.groups.cloning import named_tensors, sharing_clone
from autoprune.groups.slicing import Slicer
from autoprune.tasks.protocol import Inputs
from benchmarks.large import (
    LIMIT_CANDIDATE_SHARE,
    LIMIT_FIND_GROUPS_S,
    SUBJECTS,
    bytes_of,
    kept_half,
    peak_allocated,
)


def medium_llama() -> tuple[nn.Module, Inputs, ModelGroups]:
    """Return a decoder whose embedding alone is larger than its half-sized candidates."""
    model, inputs = build(partial(Llama, 12_000, 256, 3), tokens(8, vocabulary=12_000, batch=1))
    return model, inputs, find_groups(model, inputs)


def held(model: nn.Module) -> dict[str, tuple[int, int, float]]:
    """Return where every tensor lies, how often it was written to, and its sum."""
    tensors = named_tensors(model)
    return {name: (t.data_ptr(), t._version, float(t.detach().double().sum())) for name, t in tensors.items()}


def check_candidate(model: nn.Module, groups: ModelGroups) -> None:
    """Cut half of every group away and look at what that allocated, and at the dense model."""
    slicer, alive, before = Slicer(model, groups.plan), kept_half(groups), held(model)
    candidate = slicer.slice(alive)
    peak = peak_allocated(lambda: slicer.slice(alive))
    assert bytes_of(candidate) <= peak <= LIMIT_CANDIDATE_SHARE * bytes_of(candidate)
    assert peak < 0.65 * bytes_of(model)
    assert held(model) == before
    own = {t.data_ptr() for t in named_tensors(candidate).values() if t.numel()}
    assert own.isdisjoint(address for address, _, _ in before.values())


def test_candidate_of_a_decoder_allocates_its_own_size_and_leaves_the_dense_weights_alone() -> None:
    model, _, groups = medium_llama()
    check_candidate(model, groups)


def test_candidate_of_a_resnet_allocates_its_own_size_and_leaves_the_dense_weights_alone() -> None:
    check_candidate(built("resnet50")[0], traced("resnet50"))


@pytest.mark.parametrize("name", ["resnext50", "vit_fused", "llama", "chunk_se"])
def test_outline_has_the_shapes_of_the_slice_and_the_memory_of_what_is_not_cut(name: str) -> None:
    model = built(name)[0]
    slicer = Slicer(model, traced(name).plan)
    alive = random_alive(traced(name), np.random.default_rng(0))
    outline, sliced = slicer.outline(alive), slicer.slice(alive)
    shapes = {n: t.shape for n, t in named_tensors(outline).items()}
    assert shapes == {n: t.shape for n, t in named_tensors(sliced).items()}
    assert [m.extra_repr() for m in outline.modules()] == [m.extra_repr() for m in sliced.modules()]
    dense = named_tensors(model)
    same = [n for n, t in named_tensors(outline).items() if t.shape == dense[n].shape]
    assert all(named_tensors(outline)[n].data_ptr() == dense[n].data_ptr() for n in same)


def test_sharing_clone_can_be_taken_apart_without_its_original() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)).eval()
    clone = sharing_clone(model, {id(model[0].bias)})
    assert clone[0].weight.data_ptr() == model[0].weight.data_ptr()
    assert clone[0].bias.data_ptr() != model[0].bias.data_ptr()
    clone.train()(torch.rand(4, 3))
    clone[0].weight = nn.Parameter(torch.zeros(3, 3))
    with torch.no_grad():
        clone[0].bias.zero_()
    assert bool(model[0].weight.any())
    assert bool(model[0].bias.any())
    assert not bool(model[1].running_mean.any())
    assert not model[0].training


@pytest.mark.slow
@pytest.mark.parametrize("name", SUBJECTS)
def test_large_model_is_traced_proven_and_cut_within_the_limits(name: str) -> None:
    model, inputs = SUBJECTS[name]()
    start = time.process_time()
    groups = find_groups(model, inputs)
    assert time.process_time() - start <= LIMIT_FIND_GROUPS_S
    check_candidate(model, groups)
