"""Edits: every kind runs, does what its mathematics says, survives slicing, a file and the runtimes."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from edit_cases import BLOCKS, residual, seeded
from torch import Tensor, nn
from units import built, equal, random_alive, run, traced
from zoo import image

from autoprune.artifacts import Member, load, save_member, verify, verify_with_model
from autoprune.errors import ArtifactError, CandidateError, GroupError
from autoprune.evaluation import measure_cost
from autoprune.groups import Edit, ModelGroups, Part, apply_edits, edits_of, low_rank_edit, rebuild
from autoprune.groups.architecture import architecture_from_json, architecture_to_json
from autoprune.groups.cloning import clone_model
from autoprune.groups.factors import factors_of, full_rank
from autoprune.groups.following import groups_after
from autoprune.groups.slicing import architecture_of, slice_model
from autoprune.predictor import CostModel
from autoprune.runtimes import OnnxSession, OnnxTemplate, open_session, parse_target
from autoprune.tasks.protocol import Inputs

ONNX = parse_target("onnxruntime-fp32-b2-t1")
KINDS = ("depth", "activation", "norm", "pooling", "bias", "rank")


def part(groups: ModelGroups, kind: str) -> Part:
    return next(p for p in groups.parts if p.name == f"@{kind}")


def half_of(groups: ModelGroups, kind: str) -> tuple[Edit, ...]:
    """Return the edits that take away half of a kind, or halve the rank of every layer."""
    if kind == "rank":
        edits = [low_rank_edit(p, 0.6) for p in groups.parts if p.kind == "tensor"]
        return tuple(edit for edit in edits if edit is not None)
    found = part(groups, kind)
    return edits_of(found, 0.5 if found.width > 1 else 0.9, np.random.default_rng(0).random(found.width))


def case(name: str) -> tuple[nn.Module, Inputs, ModelGroups]:
    return residual() if name == "residual" else (*built(name), traced(name))


def edited(model: nn.Module, *edits: Edit) -> nn.Module:
    clone = clone_model(model, {}).eval()
    apply_edits(clone, edits)
    return clone


def close(left: list[Tensor], right: list[Tensor], tolerance: float = 1e-5) -> bool:
    return all(
        a.shape == b.shape and float((a - b).abs().max()) <= tolerance * float(b.abs().max())
        for a, b in zip(left, right, strict=True)
    )


CASES = [*(("residual", kind) for kind in KINDS), ("vit", "depth"), ("vit", "bias"), ("vit", "rank")]


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_every_edit_of_a_sliced_model_survives_json_a_file_and_onnx_runtime(
    name: str, kind: str, tmp_path: Path
) -> None:
    model, inputs, groups = case(name)
    alive = random_alive(groups, np.random.default_rng(1)) if kind != "rank" else np.ones(groups.plan.unit_count, bool)
    sliced = slice_model(model, groups.plan, alive).eval()
    edits = half_of(groups, kind)
    assert edits
    made = edited(sliced, *edits)
    assert [t.shape for t in run(made, inputs)] == [t.shape for t in run(model, inputs)]
    assert len(list(made.parameters())) < len(list(sliced.parameters())) or kind in ("activation", "pooling", "rank")
    if kind in ("depth", "norm", "bias", "rank"):
        assert sum(p.numel() for p in made.parameters()) < sum(p.numel() for p in sliced.parameters())
    architecture = replace(architecture_of(model, groups.plan, alive), edits=edits)
    assert architecture_from_json(architecture_to_json(architecture)) == architecture
    assert close(run(rebuild(model, architecture), inputs), run(made, inputs))
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.mul_(0.9)
    member = Member(made, inputs, {"sparsity": {}}, architecture, {}, "# card\n", formats=("onnx",))
    directory = save_member(tmp_path / "member", member)
    assert verify(directory).ok, verify(directory)
    assert verify_with_model(directory, model).ok
    assert close(run(load(directory, model), inputs), run(made, inputs))


@pytest.mark.parametrize("kind", KINDS)
def test_an_edited_model_is_deployed_from_an_export_of_its_own(kind: str) -> None:
    model, inputs, groups = residual()
    template = OnnxTemplate(model, inputs)
    made = edited(model, *half_of(groups, kind))
    assert not list(template.bindings(made))
    with pytest.raises(CandidateError, match="modules are not those"):
        template.bind(made)
    session = open_session(made, ONNX, inputs, template=template)
    assert isinstance(session, OnnxSession)
    assert not session.from_template
    assert close([session.run(inputs)], run(made, inputs), 1e-4)
    whole = open_session(clone_model(model, {}).eval(), ONNX, inputs, template=template)
    assert isinstance(whole, OnnxSession)
    assert whole.from_template


def test_all_edits_together_in_any_order_give_one_model() -> None:
    model, inputs, groups = residual()
    edits = [
        edit for kind in ("depth", "activation", "norm", "pooling", "bias", "rank") for edit in all_of(groups, kind)
    ]
    first, second = edited(model, *edits), edited(model, *reversed(edits))
    assert equal(run(first, inputs), run(second, inputs))
    assert first.state_dict().keys() == second.state_dict().keys()
    kinds = {type(module) for module in first.modules()}
    assert not kinds & {nn.BatchNorm2d, nn.ReLU, nn.GELU, nn.MaxPool2d}
    assert {n for n, _ in first.named_parameters() if n.startswith("stem")} == {
        "stem.0.weight",
        "stem.1.weight",
        "stem.1.bias",
    }


def all_of(groups: ModelGroups, kind: str) -> tuple[Edit, ...]:
    if kind == "rank":
        return half_of(groups, kind)
    found = part(groups, kind)
    everything = edits_of(found, 0.999, np.zeros(found.width))
    return everything if kind != "activation" else (*everything, Edit("remove", found.members[0]))


def test_what_a_removed_block_takes_along_needs_no_other_edit() -> None:
    model, inputs, _ = residual()
    block = BLOCKS[0]
    inner = (
        Edit("fold_norm", f"{block}.norm1", other=f"{block}.conv1"),
        Edit("no_bias", f"{block}.conv1.bias"),
        Edit("remove", f"{block}.act1"),
        Edit("low_rank", f"{block}.conv2", 3),
    )
    alone = edited(model, Edit("remove", block))
    assert equal(run(edited(model, *inner, Edit("remove", block)), inputs), run(alone, inputs))


def test_a_removed_block_equals_one_whose_branch_is_zero() -> None:
    model, inputs, _ = residual()
    zeroed = clone_model(model, {}).eval()
    norm = zeroed.get_submodule(f"{BLOCKS[2]}.norm2")
    assert isinstance(norm, nn.BatchNorm2d)
    with torch.no_grad():
        norm.weight.zero_()
        norm.bias.zero_()
    removed = edited(model, Edit("remove", BLOCKS[2]))
    assert equal(run(removed, inputs), run(zeroed, inputs))
    assert not close(run(removed, inputs), run(model, inputs), 1e-3)


@pytest.mark.parametrize("name", ["residual", "resnet14", "mobilenetv2", "mlp", "chunk_se"])
def test_folded_norms_compute_the_same(name: str) -> None:
    model, inputs, groups = case(name)
    folded = edited(model, *all_of(groups, "norm"))
    assert close(run(folded, inputs), run(model, inputs), 1e-4)
    assert sum(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in folded.modules()) == 0


@pytest.mark.parametrize(("groups", "affine"), [(1, True), (1, False), (2, True), (4, True)])
def test_norms_fold_into_transposed_convolutions(groups: int, affine: bool) -> None:
    net = seeded(nn.Sequential(nn.ConvTranspose2d(8, 12, 3, groups=groups), nn.BatchNorm2d(12, affine=affine)))
    with torch.no_grad():
        net.get_buffer("1.running_mean").copy_(torch.arange(12.0) / 10)
        net.get_buffer("1.running_var").copy_(torch.arange(1.0, 13.0))
    inputs = Inputs((torch.randn(2, 8, 5, 5, generator=torch.Generator().manual_seed(0)),), {})
    assert close(run(edited(net, Edit("fold_norm", "1", other="0")), inputs), run(net, inputs), 1e-5)


def test_average_pooling_takes_the_mean_of_the_windows_of_the_maximum() -> None:
    net = nn.Sequential(nn.MaxPool2d(3, 2, padding=1, ceil_mode=True))
    x = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    found = run(edited(net, Edit("average_pool", "0")), Inputs((x,), {}))[0]
    assert found.shape == net(x).shape
    assert torch.allclose(found[:, :, 0, 0], x[:, :, :2, :2].mean((2, 3)), atol=1e-6), "padding does not count"
    assert torch.allclose(found[:, :, 1, 1], x[:, :, 1:4, 1:4].mean((2, 3)), atol=1e-6)


def test_a_bias_that_goes_is_as_one_of_zeros() -> None:
    model, inputs, _ = residual()
    zeroed = clone_model(model, {}).eval()
    with torch.no_grad():
        zeroed.get_parameter("fc1.bias").zero_()
    made = edited(model, Edit("no_bias", "fc1.bias"))
    assert "fc1.bias" not in made.state_dict()
    assert close(run(made, inputs), run(zeroed, inputs), 1e-6)


LAYERS: dict[str, tuple[Any, tuple[int, ...]]] = {
    "linear": (lambda: nn.Linear(12, 7), (3, 12)),
    "linear without bias": (lambda: nn.Linear(6, 9, bias=False), (2, 4, 6)),
    "conv1d": (lambda: nn.Conv1d(5, 8, 3, padding=1, dilation=2), (2, 5, 11)),
    "conv2d": (lambda: nn.Conv2d(4, 10, 3, stride=2, padding=1), (2, 4, 9, 9)),
    "conv2d, reflected": (lambda: nn.Conv2d(4, 6, (3, 1), padding=(1, 0), padding_mode="reflect"), (2, 4, 8, 8)),
    "conv2d, same": (lambda: nn.Conv2d(4, 6, 3, padding="same", bias=False), (2, 4, 8, 8)),
    "conv3d": (lambda: nn.Conv3d(2, 5, 2), (1, 2, 4, 4, 4)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_factors_are_the_truncated_decomposition_and_the_layer_itself_at_full_rank(name: str) -> None:
    definition, shape = LAYERS[name]
    layer = seeded(definition())
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    matrix = layer.weight.detach().reshape(len(layer.weight), -1)
    left, values, right = np.linalg.svd(matrix.numpy(), full_matrices=False)
    most = full_rank(tuple(layer.weight.shape))
    for rank in (1, 2, most):
        made = factors_of(layer, rank)
        first, second = made[0].weight.detach(), made[1].weight.detach()
        product = second.reshape(len(second), -1) @ first.reshape(rank, -1)
        expected = left[:, :rank] * values[:rank] @ right[:rank]
        np.testing.assert_allclose(product.numpy(), expected, atol=1e-5)
        truncated = copy.deepcopy(layer)
        with torch.no_grad():
            truncated.weight.copy_(torch.from_numpy(expected).reshape(layer.weight.shape))
            assert torch.allclose(made(x), truncated(x), atol=1e-4)
    assert torch.allclose(made(x), layer(x), atol=1e-4)


def test_factors_keep_the_mode_the_bias_and_what_is_frozen() -> None:
    layer = nn.Linear(8, 8).double().train()
    layer.weight.requires_grad_(False)
    made = factors_of(layer, 2)
    assert made.training
    assert torch.equal(made[1].bias, layer.bias)
    assert [p.requires_grad for p in made.parameters()] == [False, False, True]
    assert all(p.dtype == torch.float64 for p in made.parameters())


def test_factoring_leaves_the_global_generator_alone() -> None:
    layer = seeded(nn.Conv2d(4, 8, 3))
    before = torch.get_rng_state()
    factors_of(layer, 1)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(
    ("shape", "sparsity", "rank"),
    [
        ((64, 64), 0.75, 16),
        ((64, 64), 0.999, 1),
        ((64, 64), 0.5, None),
        ((64, 64), 0.4, None),
        ((64, 64), 0.52, 31),
        ((32, 16, 3, 3), 0.25, 24),
    ],
)
def test_a_rank_is_a_share_of_the_full_one_where_that_makes_the_layer_smaller(
    shape: tuple[int, ...], sparsity: float, rank: int | None
) -> None:
    edit = low_rank_edit(Part("layer.weight", "tensor", ("layer.weight",), int(np.prod(shape)), shape), sparsity)
    assert (edit.value if edit else None) == rank
    assert edit is None or (edit.kind, edit.path) == ("low_rank", "layer")


def test_a_grouped_convolution_has_no_rank_edit_and_refuses_one() -> None:
    model, _, groups = residual()
    grouped = next(p for p in groups.parts if p.name == "grouped.weight")
    assert low_rank_edit(grouped, 0.9) is None
    with pytest.raises(ArtifactError, match=r"'grouped'.*cannot be factored"):
        edited(model, Edit("low_rank", "grouped", 1))


def test_the_lowest_scored_members_go_and_of_equal_ones_the_later() -> None:
    found = part(residual()[2], "depth")
    assert [e.path for e in edits_of(found, 0.25, np.array([3.0, 1.0, 2.0, 4.0]))] == [BLOCKS[1]]
    assert [e.path for e in edits_of(found, 0.5, np.ones(4))] == list(BLOCKS[2:])
    assert edits_of(found, 0.0, np.ones(4)) == ()
    assert [e.path for e in edits_of(found, 0.999, np.array([1.0, 1.0, 5.0, 1.0]))] == [
        b for b in BLOCKS if b != BLOCKS[2]
    ]


@pytest.mark.parametrize(("kind", "stay"), [("depth", 1), ("activation", 1), ("norm", 0), ("pooling", 0), ("bias", 0)])
def test_one_block_and_one_activation_stay_and_nothing_else_has_to(kind: str, stay: int) -> None:
    found = part(residual()[2], kind)
    assert len(edits_of(found, 0.999, np.zeros(found.width))) == found.width - stay


def test_edits_of_tensors_and_scores_of_another_length_are_refused() -> None:
    groups = residual()[2]
    tensor = next(p for p in groups.parts if p.kind == "tensor")
    with pytest.raises(GroupError, match="no edit of the module tree"):
        edits_of(tensor, 0.5, np.zeros(tensor.width))
    with pytest.raises(GroupError, match=r"needs \[4\] scores"):
        edits_of(part(groups, "depth"), 0.5, np.zeros(3))


MISFITS = {
    "no such block": Edit("remove", "third"),
    "the whole model": Edit("remove", ""),
    "no norm there": Edit("fold_norm", "act", other="stem"),
    "no layer before": Edit("fold_norm", "norm", other="pool"),
    "layer of another width": Edit("fold_norm", "norm", other="fc1"),
    "layer that is nowhere": Edit("fold_norm", "norm", other="stem2"),
    "no bias": Edit("no_bias", f"{BLOCKS[0]}.conv2.bias"),
    "a weight": Edit("no_bias", "fc1.weight"),
    "a norm's bias": Edit("no_bias", "norm.bias"),
    "no pooling": Edit("average_pool", "act"),
    "no layer to factor": Edit("low_rank", "norm", 2),
    "rank above the full one": Edit("low_rank", "fc2", 6),
    "rank of nothing": Edit("low_rank", "fc2", 0),
}


@pytest.mark.parametrize("name", MISFITS)
def test_an_edit_that_does_not_fit_is_refused_by_its_path(name: str) -> None:
    model, _, groups = residual()
    edit = MISFITS[name]
    with pytest.raises(ArtifactError, match=f"'{edit.path}'"):
        edited(model, edit)
    whole = architecture_of(model, groups.plan, np.ones(groups.plan.unit_count, bool))
    with pytest.raises(ArtifactError):
        rebuild(model, replace(whole, edits=(edit,)))


def test_a_weight_that_is_not_finite_cannot_be_factored() -> None:
    layer = nn.Linear(4, 4)
    layer.weight.data[0, 0] = float("nan")
    with pytest.raises(CandidateError) as caught:
        factors_of(layer, 1)
    assert (caught.value.reason, caught.value.stage) == ("nonfinite", "prune")


def test_costs_of_edited_models_count_what_is_left() -> None:
    model, _, _ = residual()
    one = image(16, batch=1)
    dense = measure_cost(model, one)
    block = 2 * 16 * 16 * 9 + 16 + 4 * 16
    removed = measure_cost(edited(model, Edit("remove", BLOCKS[2])), one)
    assert removed.parameters == dense.parameters - block
    assert removed.macs == dense.macs - 2 * 16 * 16 * 9 * 4 * 4
    folded = measure_cost(edited(model, Edit("fold_norm", f"{BLOCKS[0]}.norm2", other=f"{BLOCKS[0]}.conv2")), one)
    assert folded.parameters == dense.parameters - 16
    assert folded.bytes == dense.bytes - 4 * (16 + 2 * 16) - 8
    ranked = measure_cost(edited(model, Edit("low_rank", "fc1", 2)), one)
    assert ranked.parameters == dense.parameters - 16 * 24 + 2 * (16 + 24)
    assert ranked.macs == dense.macs - 16 * 24 + 2 * (16 + 24)
    assert measure_cost(edited(model, Edit("remove", "act")), one).macs == dense.macs
    assert measure_cost(edited(model, Edit("no_bias", "fc1.bias")), one).parameters == dense.parameters - 24


@pytest.mark.parametrize(("name", "kind"), [*CASES, ("residual", "all")])
def test_the_cost_of_any_widths_of_an_edited_model_is_that_of_the_sliced_and_edited_one(name: str, kind: str) -> None:
    model, inputs, groups = case(name)
    one = Inputs(tuple(tensor[:1] for tensor in inputs.args), {})
    names = [group.name for group in groups.groups]
    edits = [e for k in KINDS for e in half_of(groups, k)] if kind == "all" else [*half_of(groups, kind)]
    after, made = groups_after(groups, edits), edited(model, *edits)
    costs, rng = CostModel.of(made, after, one, names), np.random.default_rng(0)
    for _ in range(3):
        widths = np.array([rng.integers((group.width + 1) // 2, group.width + 1) for group in groups.groups])
        alive = np.ones(groups.plan.unit_count, bool)
        for group, width in zip(groups.groups, widths, strict=True):
            alive[group.start + width : group.start + group.width] = False
        measured = measure_cost(slice_model(made, after.plan, alive), one)
        assert costs.parameters(widths[None])[0] == measured.parameters
        assert costs.bytes(widths[None])[0] == measured.bytes
        assert costs.macs(widths[None])[0] == measured.macs
        if "low_rank" not in {edit.kind for edit in edits}:
            other = edited(slice_model(model, groups.plan, alive), *edits)
            assert measure_cost(other, one) == replace(
                measured, compressed_bytes=measure_cost(other, one).compressed_bytes
            )
            assert close(run(slice_model(made, after.plan, alive), inputs), run(other, inputs), 1e-4)


def test_edits_leave_modes_and_the_rest_of_the_model_alone() -> None:
    model, inputs, groups = residual()
    clone = clone_model(model, {}).train()
    apply_edits(clone, [e for kind in ("depth", "norm", "pooling", "rank") for e in half_of(groups, kind)])
    assert all(module.training for module in clone.modules())
    loss = clone(*inputs.args).square().mean()
    loss.backward()
    assert all(p.grad is not None for p in clone.parameters() if p.requires_grad)
