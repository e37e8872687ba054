from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tracing_nets import Net
from units import built, equal, run, traced

from autoprune.errors import GroupError
from autoprune.groups import ModelGroups, find_groups, prepare_model, slice_model
from autoprune.groups.comparison import mismatch
from autoprune.groups.tracing import export_program, trace_model
from autoprune.tasks.protocol import Inputs


def without_units(groups: ModelGroups, group: str, removed: list[int]) -> npt.NDArray[np.bool_]:
    alive = np.ones(groups.plan.unit_count, dtype=np.bool_)
    alive[groups[group].start + np.array(removed)] = False
    return alive


class Residual(nn.Module):
    """stem -> (inner -> outer) + stem -> wide -> fc."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.inner = nn.Conv2d(8, 6, 3, padding=1)
        self.outer = nn.Conv2d(6, 8, 3, padding=1)
        self.wide = nn.Conv2d(8, 10, 3)
        self.fc = nn.Linear(10, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.stem(x)))
        x = F.relu(x + self.outer(F.relu(self.inner(x))))
        return self.fc(F.relu(self.wide(x)).mean((2, 3)))


def residual() -> tuple[nn.Module, Inputs]:
    torch.manual_seed(0)
    return Residual().eval(), Inputs((torch.randn(2, 3, 8, 8),), {})


@pytest.mark.parametrize(
    ("name", "groups", "units"),
    [
        ("resnet20", 12, 448),
        ("resnet20_pad", 10, 352),
        ("chunk_se", 5, 144),
        ("fcos", 10, 480),
        ("vit", 7, 1266),
        ("vit_fused", 7, 1266),
        ("llama", 5, 260),
        ("textcnn", 4, 104),
        ("pixel_shuffle", 3, 36),
        ("lstm", 3, 144),
    ],
)
def test_zoo_has_as_many_groups_and_units_as_its_layers_imply(name: str, groups: int, units: int) -> None:
    found = traced(name)
    assert (len(found.groups), found.plan.unit_count) == (groups, units)


class TestDescription:
    def test_groups_are_named_by_their_first_layer_in_forward_order(self) -> None:
        assert [g.name for g in find_groups(*residual()).groups] == ["stem", "inner", "wide"]

    def test_units_are_numbered_group_after_group(self) -> None:
        groups = traced("chunk_se").groups
        ends = np.cumsum([g.width for g in groups])
        assert [g.start for g in groups] == [0, *ends[:-1]]

    def test_residual_group_lists_all_layers_that_make_its_units(self) -> None:
        stem = find_groups(*residual())["stem"]
        assert stem.producers == (("stem.weight", 0), ("outer.weight", 0))
        assert stem.batch_norms == ("norm",)

    def test_granularity_says_what_a_unit_is(self) -> None:
        kinds = {g.name: g.granularity for g in traced("vit").groups}
        assert kinds["blocks.0.attention.query"] == "head"
        assert kinds["patches"] == kinds["blocks.0.fc1"] == "channel"
        assert traced("groupnorm")["conv1"].granularity == "block"

    def test_masking_is_exact_unless_a_norm_runs_over_the_units(self) -> None:
        exact = {g.name: g.exact_masking for g in traced("vit").groups}
        assert exact["blocks.0.attention.query"]
        assert not exact["patches"]

    def test_every_weighted_layer_is_in_a_group_or_protected(self) -> None:
        model, _ = built("lstm")
        found = traced("lstm")
        layers = {layer for g in found.groups for layer in g.layers} | {p.name for p in found.protected}
        weighted = (nn.Linear, nn.Embedding, nn.LSTM)
        assert layers == {path for path, module in model.named_modules() if isinstance(module, weighted)}

    def test_protected_layer_tells_kind_width_and_reason(self) -> None:
        (layer,) = find_groups(*residual()).protected
        assert (layer.name, layer.kind, layer.width) == ("fc", "Linear", 4)
        assert layer.reason == "its output is the model's output"

    def test_operator_that_is_not_understood_is_noted(self) -> None:
        net = Net({"a": nn.Linear(4, 6), "b": nn.Linear(4, 2)}, lambda m, x: m.b(torch.fft.rfft(m.a(x)).abs()))
        (note,) = find_groups(
            nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 4), net), Inputs((torch.randn(2, 4),), {})
        ).notes
        assert "fft_rfft" in note

    def test_tied_output_layer_is_protected_while_the_embedding_is_not(self) -> None:
        found = traced("llama")
        assert found.groups[0].name == "embedding"
        assert ("embedding.weight", 1) in found.groups[0].producers
        assert [(p.name, p.width) for p in found.protected] == [("head", 100)]

    def test_layer_that_is_not_called_is_protected(self) -> None:
        net = Net({"a": nn.Linear(4, 6), "idle": nn.Linear(3, 3), "b": nn.Linear(6, 2)}, lambda m, x: m.b(m.a(x)))
        found = find_groups(net, Inputs((torch.randn(2, 4),), {}))
        assert {p.name: p.reason for p in found.protected}["idle"] == "it is not used in the forward pass"


class StoredHeads(nn.Module):
    """Attention whose number of heads is an attribute, so that a forward pass of the cut model runs and is wrong."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(16, 32) for _ in range(3))
        self.out = nn.Linear(32, 5)
        self.heads = 4
        self.rotary = 8

    def forward(self, x: Tensor) -> Tensor:
        batch, length, _ = x.shape
        q, k, v = (layer(x).view(batch, length, self.heads, -1).transpose(1, 2) for layer in (self.q, self.k, self.v))
        y = F.scaled_dot_product_attention(q, k, v, scale=0.3)
        return self.out(y.transpose(1, 2).reshape(batch, length, -1))


class TestPatterns:
    def test_any_layer_of_a_group_protects_the_whole_group(self) -> None:
        found = find_groups(*residual(), protect=["oute?"])
        assert [g.name for g in found.groups] == ["inner", "wide"]
        reasons = {p.name: p.reason for p in found.protected}
        assert reasons["stem"] == reasons["outer"] == "protected by the pattern 'oute?'"

    def test_only_selected_groups_stay_and_are_numbered_from_zero(self) -> None:
        model, inputs = residual()
        found = find_groups(model, inputs, only=["inner", "w*"])
        assert [(g.name, g.start, g.width) for g in found.groups] == [("inner", 0, 6), ("wide", 6, 10)]
        assert {p.name: p.reason for p in found.protected}["stem"] == "not selected by 'inner', 'w*'"
        sliced = slice_model(model, found.plan, without_units(found, "wide", [0, 5]))
        assert sliced.get_submodule("wide").get_parameter("weight").shape == (8, 8, 3, 3)
        assert run(sliced, inputs)[0].shape == run(model, inputs)[0].shape

    def test_protected_layer_of_the_output_may_be_named(self) -> None:
        assert len(find_groups(*residual(), protect=["fc"]).groups) == 3

    def test_rules_survive_the_numbering(self) -> None:
        model, inputs = (
            nn.Sequential(StoredHeads(), nn.Linear(5, 16), StoredHeads()),
            Inputs((torch.randn(2, 6, 16),), {}),
        )
        found = find_groups(model, inputs, only=["2.*"])
        sliced = slice_model(model, found.plan, without_units(found, "2.q", [0]))
        assert [rule.module for rule in found.plan.rules] == ["2"]
        assert (sliced.get_submodule("0").heads, sliced.get_submodule("2").heads) == (4, 3)

    def test_pattern_without_layer_is_an_error_with_the_five_nearest(self) -> None:
        with pytest.raises(GroupError, match=r"'outr' matches no layer") as error:
            find_groups(*residual(), protect=["fc", "outr"])
        assert error.value.hint.endswith("The nearest: outer, stem, inner, wide, fc.")


class TestErrors:
    def test_model_without_prunable_layer_names_kinds_and_reasons(self) -> None:
        net = nn.Sequential(nn.ReLU(), nn.Linear(4, 3))
        with pytest.raises(GroupError, match="1 ReLU, 1 Linear") as error:
            find_groups(net, Inputs((torch.randn(2, 4),), {}))
        assert "Conv1d" in str(error.value)
        assert "1 (Linear): its output is the model's output" in error.value.hint

    def test_protecting_everything_is_an_error(self) -> None:
        with pytest.raises(GroupError, match="nothing that can be pruned") as error:
            find_groups(*built("mlp"), protect=["*"])
        assert "protected by the pattern '*'" in error.value.hint

    def test_model_that_fails_on_its_inputs_is_an_error_with_the_cause(self) -> None:
        with pytest.raises(GroupError, match="fails on its example inputs: RuntimeError"):
            find_groups(nn.Linear(4, 3), Inputs((torch.randn(2, 5),), {}))


class TestModelIsLeftAlone:
    def test_training_flags_frozen_parameters_and_weights_are_kept(self) -> None:
        model, inputs = residual()
        model.train()
        model.get_submodule("norm").eval()
        for parameter in model.parameters():
            parameter.requires_grad_(requires_grad=False)
        before = copy.deepcopy(model.state_dict())
        found = find_groups(model, inputs)
        assert found.plan.unit_count == 8 + 6 + 10
        assert model.training
        assert not model.get_submodule("norm").training
        assert not any(p.requires_grad for p in model.parameters())
        assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())

    def test_failing_export_says_nothing_on_stderr(self, capfd: pytest.CaptureFixture[str]) -> None:
        model, inputs = built("data_dependent")
        found = find_groups(model, inputs, protect=["conv2"])
        assert found.tracer == "torch-pruning"
        assert [g.name for g in found.groups] == ["conv1"]
        assert any("cannot be exported" in note for note in found.notes)
        assert capfd.readouterr().err == ""


class TestHandWrittenReferences:
    def test_head_of_a_fused_projection(self) -> None:
        model, inputs = built("vit_fused")
        found = traced("vit_fused")
        attention = copy.deepcopy(model).get_submodule("blocks.0.attention")
        heads = attention.qkv.out_features // 3 // attention.head_dim
        kept = [head for head in range(heads) if head != 1]
        expected = copy.deepcopy(model)
        target = expected.get_submodule("blocks.0.attention")
        for name in ("weight", "bias"):
            rows = getattr(attention.qkv, name).detach().view(3, heads, attention.head_dim, -1)[:, kept]
            setattr(target.qkv, name, nn.Parameter(rows.reshape(-1, *getattr(attention.qkv, name).shape[1:])))
        columns = attention.out.weight.detach().view(len(attention.out.weight), heads, -1)[:, kept].flatten(1)
        target.out.weight = nn.Parameter(columns)
        sliced = slice_model(model, found.plan, without_units(found, "blocks.0.attention.qkv", [1]))
        assert equal(run(sliced, inputs), run(expected, inputs))

    def test_key_head_with_the_query_heads_that_share_it(self) -> None:
        model, inputs = built("llama")
        found = traced("llama")
        expected = copy.deepcopy(model)
        attention = expected.get_submodule("blocks.1.attention")
        dim = attention.head_dim
        for layer in (attention.key, attention.value):
            layer.weight = nn.Parameter(layer.weight.detach()[dim:])
        attention.query.weight = nn.Parameter(attention.query.weight.detach()[4 * dim :])
        attention.out.weight = nn.Parameter(attention.out.weight.detach()[:, 4 * dim :])
        attention.num_heads, attention.num_kv_heads = 4, 1
        sliced = slice_model(model, found.plan, without_units(found, "blocks.1.attention.query", [0]))
        assert equal(run(sliced, inputs), run(expected, inputs))


class TestVerification:
    def test_attribute_that_counts_heads_is_patched(self) -> None:
        model, inputs = StoredHeads().eval(), Inputs((torch.randn(2, 6, 16),), {})
        found = find_groups(model, inputs)
        assert [(g.name, g.width, g.granularity) for g in found.groups] == [("q", 4, "head")]
        assert [(rule.module, rule.attribute) for rule in found.plan.rules] == [("", "heads")]
        sliced = slice_model(model, found.plan, without_units(found, "q", [2]))
        assert (sliced.heads, sliced.rotary, model.heads) == (3, 8, 4)

    def test_shapes_catch_what_a_forward_pass_does_not(self) -> None:
        model, inputs = StoredHeads().eval(), Inputs((torch.randn(2, 6, 16),), {})
        found = find_groups(model, inputs)
        alive = without_units(found, "q", [2])
        unpatched = slice_model(model, replace(found.plan, rules=()), alive)
        patched = slice_model(model, found.plan, alive)
        assert run(unpatched, inputs)[0].shape == run(patched, inputs)[0].shape
        assert not torch.allclose(run(unpatched, inputs)[0], run(patched, inputs)[0])
        trace = trace_model(model, inputs)
        rows = trace.weights.labels["q.weight"].at(0)
        assert rows is not None
        whole = np.ones(trace.evidence.atoms, dtype=np.bool_)
        assert mismatch(trace, export_program(model, inputs), whole) is None
        assert "has shape" in str(mismatch(trace, export_program(unpatched, inputs), whole))

    def test_changed_constant_is_caught(self) -> None:
        def scaled(m: Net, x: Tensor) -> Tensor:
            y = m.a(x)
            return m.b(y * y.shape[1] ** -0.5)

        net = Net({"a": nn.Linear(4, 6), "b": nn.Linear(6, 2)}, scaled)
        with pytest.raises(GroupError, match="nothing that can be pruned") as error:
            find_groups(net, Inputs((torch.randn(3, 4),), {}))
        assert "a constant of mul changed" in error.value.hint


ATTENTIONS = {
    "batch first": {"batch_first": True},
    "length first": {},
    "without bias": {"bias": False, "batch_first": True},
    "other key and value widths": {"kdim": 12, "vdim": 20, "batch_first": True},
}


class TestPreparation:
    @pytest.mark.parametrize("need_weights", [True, False])
    @pytest.mark.parametrize("options", ATTENTIONS.values(), ids=ATTENTIONS)
    def test_prepared_attention_equals_the_original(self, options: dict[str, int], need_weights: bool) -> None:
        torch.manual_seed(0)
        original = nn.MultiheadAttention(16, 4, **options).eval()
        if original.in_proj_bias is not None:
            nn.init.normal_(original.in_proj_bias)
        prepared, replaced = prepare_model(original)
        assert replaced == ("",)
        query, key, value = (torch.randn(5, 5, width) for width in (16, original.kdim, original.vdim))
        padding = torch.zeros(5, 5, dtype=torch.bool)
        padding[1, 3:] = True
        for masks in (
            {},
            {"key_padding_mask": padding},
            {"attn_mask": torch.randn(5, 5), "key_padding_mask": padding.float()},
            {"attn_mask": torch.ones(5, 5, dtype=torch.bool).triu(1), "average_attn_weights": False},
            {"attn_mask": torch.randn(20, 5, 5)},
        ):
            expected = original(query, key, value, need_weights=need_weights, **masks)
            output = prepared(query, key, value, need_weights=need_weights, **masks)
            assert (output[0] - expected[0]).abs().max() <= 1e-6
            if need_weights:
                assert (output[1] - expected[1]).abs().max() <= 1e-6

    def test_unbatched_inputs_work(self) -> None:
        original = nn.MultiheadAttention(16, 4).eval()
        prepared, _ = prepare_model(original)
        x = torch.randn(7, 16)
        for output, expected in zip(prepared(x, x, x), original(x, x, x), strict=True):
            assert output.shape == expected.shape
            assert (output - expected).abs().max() <= 1e-6

    def test_encoder_is_replaced_in_place_and_its_heads_are_prunable(self) -> None:
        torch.manual_seed(0)
        layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)
        model = nn.Sequential(nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), nn.Linear(32, 5)).eval()
        inputs = Inputs((torch.randn(2, 5, 32),), {})
        expected = run(model, inputs)[0]
        prepared, replaced = prepare_model(model)
        assert prepared is model
        assert replaced == ("0.layers.0.self_attn", "0.layers.1.self_attn")
        assert (run(model, inputs)[0] - expected).abs().max() <= 1e-6
        found = find_groups(model, inputs)
        widths = {g.name: (g.width, g.granularity) for g in found.groups}
        assert widths == {
            "0.layers.0.self_attn.q_proj": (4, "head"),
            "0.layers.0.linear1": (64, "channel"),
            "0.layers.1.self_attn.q_proj": (4, "head"),
            "0.layers.1.linear1": (64, "channel"),
        }

    def test_shared_attention_stays_shared(self) -> None:
        attention = nn.MultiheadAttention(8, 2)
        model, replaced = prepare_model(nn.ModuleDict({"x": attention, "y": attention}))
        assert replaced == ("x", "y")
        assert model.get_submodule("x") is model.get_submodule("y")

    def test_frozen_parameters_and_training_flag_are_kept(self) -> None:
        attention = nn.MultiheadAttention(8, 2, dropout=0.5).eval()
        attention.in_proj_weight.requires_grad_(requires_grad=False)
        prepared, _ = prepare_model(attention)
        frozen = {name for name, parameter in prepared.named_parameters() if not parameter.requires_grad}
        assert frozen == {"q_proj.weight", "k_proj.weight", "v_proj.weight"}
        assert not any(module.training for module in prepared.modules())

    @pytest.mark.parametrize("options", [{"add_bias_kv": True}, {"add_zero_attn": True}])
    def test_attention_that_projections_cannot_represent_is_left_alone(self, options: dict[str, bool]) -> None:
        model = nn.Sequential(nn.MultiheadAttention(8, 2, **options))
        assert prepare_model(model) == (model, ())
        assert type(model[0]) is nn.MultiheadAttention

    def test_unprepared_attention_is_protected(self) -> None:
        class Direct(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.first = nn.Linear(8, 16)
                self.attention = nn.MultiheadAttention(16, 4, batch_first=True)
                self.hidden = nn.Linear(16, 12)
                self.last = nn.Linear(12, 3)

            def forward(self, x: Tensor) -> Tensor:
                x = self.first(x)
                return self.last(self.hidden(self.attention(x, x, x, need_weights=False)[0]))

        found = find_groups(Direct().eval(), Inputs((torch.randn(2, 5, 8),), {}))
        assert [g.name for g in found.groups] == ["attention.out_proj", "hidden"]
        assert {"first", "attention"} <= {p.name for p in found.protected}
