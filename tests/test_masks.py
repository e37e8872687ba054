"""Masks: how many entries stay and which, and that training does not bring the others back."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import make_task
from torch import Tensor, nn

from autoprune.axes import MASKED
from autoprune.errors import ConfigError, GroupError, UnknownNameError
from autoprune.pruning.masks import MaskHolder, mask_of, pattern_holds, ranked_entries, spread
from autoprune.pruning.recovery import fine_tune
from autoprune.tasks.protocol import RecoverContext

SHAPES = st.one_of(
    st.tuples(st.integers(1, 11), st.integers(1, 13)),
    st.tuples(st.integers(1, 9), st.integers(1, 9), st.integers(1, 3)),
    st.tuples(st.integers(1, 6), st.integers(1, 9), st.integers(1, 3), st.integers(1, 3)),
)
SPARSITIES = st.floats(0.0, 0.999)


@st.composite
def weights(draw: st.DrawFn) -> Tensor:
    """A weight whose entries may be equal."""
    shape, seed = draw(SHAPES), draw(st.integers(0, 2**16))
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(shape, generator=generator, dtype=torch.float64)
    return values.round() if draw(st.booleans()) else values


def rows_of(tensor: Tensor) -> np.ndarray:
    """Return [out, k * k * in] with the input channel fastest, written out with loops."""
    array = tensor.numpy()
    rows = []
    for output in array:
        flat = output.reshape(len(output), -1)
        rows.append([flat[channel, place] for place in range(flat.shape[1]) for channel in range(len(flat))])
    return np.array(rows)


@given(weights(), st.sampled_from(MASKED), SPARSITIES)
@settings(max_examples=150, deadline=None)
def test_a_mask_has_the_shape_and_the_number_of_its_sparsity(scores: Tensor, granularity: str, sparsity: float) -> None:
    mask = mask_of(granularity, scores, sparsity)
    assert mask.shape == scores.shape
    assert mask.dtype == torch.bool
    if granularity == "weight":
        assert int(mask.sum()) == max(1, round(scores.numel() * (1 - sparsity)))
    elif granularity == "n_m":
        rows = rows_of(mask)
        whole = rows.shape[1] // 4 * 4
        assert (rows[:, :whole].reshape(-1, 4).sum(1) == max(1, round(4 * (1 - sparsity)))).all()
        assert rows[:, whole:].all()
    else:
        blocks = [
            mask.reshape(*mask.shape[:2], -1)[i : i + 4, j : j + 4, k]
            for k in range(mask[0, 0].numel())
            for i in range(0, mask.shape[0], 4)
            for j in range(0, mask.shape[1], 4)
        ]
        assert all(block.all() or not block.any() for block in blocks)
        assert sum(bool(block.all()) for block in blocks) == max(1, round(len(blocks) * (1 - sparsity)))


@given(weights(), st.sampled_from(MASKED), SPARSITIES, SPARSITIES)
@settings(max_examples=150, deadline=None)
def test_what_stays_at_one_sparsity_stays_at_a_lower_one(
    scores: Tensor, granularity: str, one: float, other: float
) -> None:
    low, high = (mask_of(granularity, scores, s) for s in sorted((one, other)))
    assert bool((low | ~high).all())


@given(weights(), SPARSITIES)
@settings(max_examples=80, deadline=None)
def test_no_weight_that_goes_scores_higher_than_one_that_stays(scores: Tensor, sparsity: float) -> None:
    mask = mask_of("weight", scores, sparsity)
    if not mask.all():
        assert scores[~mask].max() <= scores[mask].min()


@given(weights())
@settings(max_examples=80, deadline=None)
def test_a_weight_masked_at_half_has_the_pattern_two_of_four(scores: Tensor) -> None:
    masked = torch.rand(scores.shape, generator=torch.Generator().manual_seed(0)) + 0.5
    masked = masked * mask_of("n_m", scores, 0.5)
    assert pattern_holds("n_m", masked)
    rows = rows_of(masked)[:, : rows_of(masked).shape[1] // 4 * 4].reshape(-1, 4)
    assert ((rows != 0).sum(1) == 2).all()


def test_of_four_neighbours_the_two_best_stay() -> None:
    scores = torch.tensor([[1.0, 4.0, 3.0, 2.0, 7.0, 7.0, 7.0, 7.0, 0.0, 0.0]])
    assert mask_of("n_m", scores, 0.5).int().tolist() == [[0, 1, 1, 0, 1, 1, 0, 0, 1, 1]]
    assert mask_of("n_m", scores, 0.75).int().tolist() == [[0, 1, 0, 0, 1, 0, 0, 0, 1, 1]]
    assert mask_of("n_m", scores, 0.99).int().tolist() == [[0, 1, 0, 0, 1, 0, 0, 0, 1, 1]]


def test_neighbours_of_a_convolution_are_its_input_channels_at_one_position() -> None:
    scores = torch.zeros(1, 4, 1, 2)
    scores[0, :, 0, 0] = torch.tensor([1.0, 2.0, 3.0, 4.0])
    scores[0, :, 0, 1] = torch.tensor([4.0, 3.0, 2.0, 1.0])
    mask = mask_of("n_m", scores, 0.5)
    assert mask[0, :, 0, 0].tolist() == [False, False, True, True]
    assert mask[0, :, 0, 1].tolist() == [True, True, False, False]


def test_blocks_go_by_their_mean_also_at_the_edges() -> None:
    scores = torch.ones(6, 5)
    scores[:4, :4] = 0.5
    scores[4:, 4:] = 3.0
    scores[0, 0] = 5.0
    mask = mask_of("block", scores, 0.5)
    assert mask[4:, 4:].all()
    assert mask[:4, 4:].all()
    assert int(mask.sum()) == 6
    assert ranked_entries("block", scores).tolist() == pytest.approx([(7.5 + 5.0) / 16, 1.0, 1.0, 3.0])


def test_of_equal_scores_the_earlier_stay() -> None:
    assert mask_of("weight", torch.ones(2, 3), 0.5).tolist() == [[True, True, True], [False, False, False]]
    assert mask_of("block", torch.ones(8, 8), 0.5)[:4].all()


@pytest.mark.parametrize("granularity", MASKED)
def test_nothing_goes_at_sparsity_0_and_not_everything_below_1(granularity: str) -> None:
    scores = torch.randn(5, 9)
    assert mask_of(granularity, scores, 0.0).all()
    assert mask_of(granularity, scores, 0.9999).any()


@pytest.mark.parametrize("granularity", ["weight", "block"])
def test_ranks_spread_to_the_mask_that_they_stand_for(granularity: str) -> None:
    scores = torch.randn(9, 7, 3, 2)
    ranked = ranked_entries(granularity, scores)
    threshold = ranked.quantile(0.4)
    expected = mask_of(granularity, scores, 1 - int((ranked > threshold).sum()) / len(ranked))
    assert torch.equal(spread(granularity, ranked > threshold, scores.shape), expected)


def test_a_pattern_that_is_broken_is_seen() -> None:
    weight = torch.rand(4, 8, 3, 3) + 0.5
    masked = weight * mask_of("n_m", weight, 0.5)
    assert not pattern_holds("n_m", weight)
    assert pattern_holds("n_m", masked)
    assert pattern_holds("n_m", weight * mask_of("n_m", weight, 0.25), keep=3)
    dead = torch.nonzero(masked == 0)[0]
    masked[tuple(dead)] = 1.0
    assert not pattern_holds("n_m", masked)
    in_blocks = weight * mask_of("block", weight, 0.5)
    assert pattern_holds("block", in_blocks)
    in_blocks[tuple(torch.nonzero(in_blocks)[0])] = 0.0
    assert not pattern_holds("block", in_blocks)
    assert pattern_holds("weight", in_blocks)


@pytest.mark.parametrize("sparsity", [-0.1, 1.0, float("nan")])
def test_a_sparsity_out_of_range_is_refused(sparsity: float) -> None:
    with pytest.raises(ConfigError, match=r"\[0, 1\)"):
        mask_of("weight", torch.ones(3, 3), sparsity)


def test_what_has_no_such_mask_is_refused() -> None:
    with pytest.raises(UnknownNameError, match=r"granularity of masks 'blok'.*'block'"):
        mask_of("blok", torch.ones(3, 3), 0.5)
    for granularity in ("n_m", "block"):
        with pytest.raises(ConfigError, match=r"Got shape \(3,\)"):
            mask_of(granularity, torch.ones(3), 0.5)
    assert int(mask_of("weight", torch.ones(4), 0.5).sum()) == 2


def holder_of(model: nn.Module, granularity: str) -> MaskHolder:
    names = ("inner.weight", "wide.weight", "fc.weight")
    return MaskHolder({n: mask_of(granularity, model.get_parameter(n).detach().abs(), 0.5) for n in names})


def trained(model: nn.Module, task: Any, steps: int, on_step: Any) -> None:
    context = RecoverContext(
        steps=steps,
        lr=0.05,
        batch_size=64,
        device=torch.device("cpu"),
        dtype=torch.float32,
        generator=torch.Generator().manual_seed(0),
        on_step=on_step,
    )
    fine_tune(model, task, context)


@pytest.mark.parametrize("granularity", MASKED)
def test_masks_hold_through_training_with_momentum(granularity: str) -> None:
    task = make_task()
    model = task.build_model()
    holder = holder_of(model, granularity)
    before = {name: model.get_parameter(name).detach().clone() for name in holder.masks}
    holder.apply(model)
    held: list[bool] = []

    def on_step(net: nn.Module, step: int) -> None:
        moved = not holder.holds(net)
        holder(net, step)
        held.append(moved and holder.holds(net))

    trained(model, task, 20, on_step)
    assert held == [True] * 20
    for name, mask in holder.masks.items():
        weight = model.get_parameter(name)
        assert not weight[~mask].any()
        assert not torch.equal(weight[mask], before[name][mask])
        assert holder.zeros(model)[name] == int((~mask).sum())
        assert pattern_holds(granularity, weight)


def test_without_a_holder_training_brings_masked_weights_back() -> None:
    task = make_task()
    model = task.build_model()
    holder = holder_of(model, "weight")
    holder.apply(model)
    trained(model, task, 3, None)
    assert not holder.holds(model)


def test_applying_changes_nothing_else_and_keeps_the_gradient_graph_out() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    before = {k: v.clone() for k, v in model.state_dict().items()}
    holder = MaskHolder({"0.weight": mask_of("weight", torch.rand(4, 4), 0.5)})
    parameter = model[0].weight
    holder.apply(model)
    assert model[0].weight is parameter
    assert parameter.requires_grad
    assert torch.equal(parameter[holder.masks["0.weight"]], before["0.weight"][holder.masks["0.weight"]])
    assert holder.zeros(model) == {"0.weight": 8}
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items() if k != "0.weight")


def test_weights_that_are_not_finite_are_zeroed_too() -> None:
    model = nn.Sequential(nn.Linear(2, 1, bias=False))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[torch.nan, 1.0]]))
    MaskHolder({"0.weight": torch.tensor([[False, True]])}).apply(model)
    assert model[0].weight.tolist() == [[0.0, 1.0]]


def test_merged_holders_keep_what_both_keep() -> None:
    one = MaskHolder({"a": torch.tensor([True, False, True]), "b": torch.tensor([True])})
    other = MaskHolder({"a": torch.tensor([True, True, False]), "c": torch.tensor([False])})
    merged = one.merged(other)
    assert {k: v.tolist() for k, v in merged.masks.items()} == {"a": [True, False, False], "b": [True], "c": [False]}
    assert one.masks["a"].tolist() == [True, False, True]


def test_a_mask_works_where_the_weights_lie() -> None:
    model = nn.Sequential(nn.Linear(4, 4)).to("meta")
    holder = MaskHolder({"0.weight": mask_of("weight", torch.rand(4, 4), 0.5)})
    holder.apply(model)
    assert model[0].weight.device.type == "meta"
    back = nn.Sequential(nn.Linear(4, 4))
    holder.apply(back)
    assert holder.holds(back)


def test_a_mask_of_another_shape_names_the_weight() -> None:
    with pytest.raises(GroupError, match=r"'0\.weight' has shape \(3, 4\)"):
        MaskHolder({"0.weight": torch.ones(3, 4, dtype=torch.bool)}).apply(nn.Sequential(nn.Linear(4, 4)))
