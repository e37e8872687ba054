from __future__ import annotations

import copy
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn
from zoo import CifarResNet, VisionTransformer

from autoprune.errors import CandidateError, UnknownNameError
from autoprune.runtimes import (
    PARITY_TOLERANCE,
    RUNTIMES,
    OnnxSession,
    OnnxTemplate,
    TorchSession,
    available,
    emit_onnx,
    open_onnx,
    open_session,
    parity,
    parse_target,
)
from autoprune.tasks.protocol import Inputs

ONNX = parse_target("onnxruntime-fp32-b2-t1")


def images(batch: int = 2, size: int = 16) -> Inputs:
    return Inputs((torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(batch)),), {})


def outputs(model: nn.Module, inputs: Inputs) -> Any:
    with torch.no_grad():
        return model.eval()(*inputs.args, **inputs.kwargs)


def seeded(definition: Callable[[], nn.Module], seed: int = 0) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return definition().eval()


class Structured(nn.Module):
    """Keyword inputs, and a dictionary with a nested tuple with None in it as output."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 3)

    def forward(self, x: Tensor, *, offset: Tensor) -> dict[str, Any]:
        y = self.fc(x) + offset
        return {"logits": y, "pair": (y * 2, None)}


class Flattened(nn.Module):
    """The classifier's width is spatial size times channels."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, width, 3, stride=8, padding=1)
        self.norm = nn.BatchNorm2d(width)
        self.fc = nn.Linear(width * 4, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(torch.flatten(torch.relu(self.norm(self.conv(x))), 1))


class Separable(nn.Module):
    """A depthwise convolution: its number of groups follows its width."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.expand = nn.Conv2d(3, width, 1)
        self.depthwise = nn.Conv2d(width, width, 3, groups=width)
        self.project = nn.Conv2d(width, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.project(torch.relu(self.depthwise(self.expand(x)))).mean((2, 3))


class Split(nn.Module):
    """Its graph holds the width as literal bounds of slices."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.width = width
        self.both = nn.Linear(6, 2 * width)
        self.fc = nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.both(x)
        return self.fc(y[:, : self.width] * torch.tanh(y[:, self.width :]))


def vit(heads: int = 4, head_dim: int = 8, dim: int = 32) -> nn.Module:
    """Return a ViT whose attention has `heads` heads of `head_dim`, whatever the width of the residual stream."""
    model = seeded(lambda: VisionTransformer(dim, 1, 4, image_size=16, patch=8, classes=5))
    inner = heads * head_dim
    attention = model.get_submodule("blocks.0.attention")
    attention.query, attention.key, attention.value = (nn.Linear(dim, inner) for _ in range(3))
    attention.out = nn.Linear(inner, dim)
    attention.head_dim = head_dim
    return model.eval()


@pytest.fixture(scope="module")
def resnet_template() -> OnnxTemplate:
    return OnnxTemplate(seeded(lambda: CifarResNet(1, width=8)), images())


@pytest.fixture(scope="module")
def vit_template() -> OnnxTemplate:
    return OnnxTemplate(vit(), images())


def test_a_target_name_is_read_into_its_parts() -> None:
    target = parse_target("torch-eager-fp32-b16-t2")
    assert (target.runtime, target.precision, target.batch, target.threads) == ("torch-eager", "fp32", 16, 2)
    assert target.name == "torch-eager-fp32-b16-t2"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("onnxruntime", "must have the form"),
        ("onnxruntime-fp32-b0-t1", "must have the form"),
        ("onnxruntime-fp32-b1-t1 ", "must have the form"),
        ("onnxruntme-fp32-b1-t1", "Did you mean 'onnxruntime'"),
        ("onnxruntime-fp23-b1-t1", "Did you mean 'fp32'"),
    ],
)
def test_an_unknown_target_is_refused_with_a_remedy(name: str, message: str) -> None:
    with pytest.raises(UnknownNameError, match=message) as caught:
        parse_target(name)
    assert caught.value.hint


def test_every_runtime_is_listed_with_a_description() -> None:
    assert set(available()) == set(RUNTIMES) >= {"torch-eager", "onnxruntime"}
    assert all("fp32" in text for text in available().values())


@pytest.mark.parametrize("runtime", list(RUNTIMES))
def test_a_session_returns_what_the_model_returns_in_its_structure(runtime: str) -> None:
    model = seeded(Structured)
    example = Inputs((torch.randn(2, 4),), {"offset": torch.randn(2, 3)})
    session = open_session(model, parse_target(f"{runtime}-fp32-b2-t1"), example)
    for batch in (2, 5):
        inputs = Inputs((torch.randn(batch, 4),), {"offset": torch.randn(batch, 3)})
        expected, given = outputs(model, inputs), session.run(inputs)
        assert set(given) == {"logits", "pair"}
        assert given["pair"][1] is None
        torch.testing.assert_close(given["logits"], expected["logits"], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(given["pair"][0], expected["pair"][0], atol=1e-5, rtol=1e-4)
        assert session.call(inputs)() is None
    assert session.runtime_version


def test_eager_threads_hold_for_the_call_only() -> None:
    seen = []

    class Spy(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            seen.append((torch.get_num_threads(), self.training, torch.is_grad_enabled()))
            return x

    session = TorchSession(Spy().train(), threads=2)
    before = torch.get_num_threads()
    session.run(images())
    session.call(images())()
    assert seen == [(2, False, False)] * 2
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("by_template", [False, True])
def test_an_emitted_file_stands_alone_with_any_batch(by_template: bool) -> None:
    dense, model = seeded(lambda: CifarResNet(1, width=16)), seeded(lambda: CifarResNet(1, width=8))
    payload = emit_onnx(model, images(1), template=OnnxTemplate(dense, images(1)) if by_template else None)
    onnx.checker.check_model(payload, full_check=True)
    assert b".py" not in payload, "paths of the machine"
    assert "BatchNormalization" not in {node.op_type for node in onnx.load_from_string(payload).graph.node}
    session = open_onnx(payload, threads=1)
    for batch in (1, 2, 7):
        assert parity(outputs(model, images(batch)), session.run(images(batch))) <= PARITY_TOLERANCE


def test_outputs_of_a_dictionary_keep_their_names() -> None:
    class Named(nn.Module):
        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return {"aux": x.mean((2, 3)), "logits": x.amax((2, 3))}

    graph = onnx.load_from_string(emit_onnx(Named(), images(2))).graph
    assert [output.name for output in graph.output] == ["aux", "logits"]
    single = onnx.load_from_string(emit_onnx(nn.Conv2d(3, 4, 1), images(2))).graph
    assert [output.name for output in single.output] == ["output"]


def test_a_model_bound_to_its_batch_is_exported_for_that_batch() -> None:
    class Bound(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.view(2, 3, 16, 16).mean((2, 3)) + 1

    session = open_onnx(emit_onnx(Bound(), images(2)), threads=1)
    assert parity(outputs(Bound(), images(2)), session.run(images(2))) <= PARITY_TOLERANCE
    with pytest.raises(CandidateError, match="cannot run") as caught:
        session.run(images(5))
    assert "[2, 3, 16, 16]" in caught.value.hint


def test_a_model_that_cannot_be_exported_fails_at_stage_export() -> None:
    class Branching(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * 2 if x.sum() > 0 else x

    with pytest.raises(CandidateError, match="cannot be exported") as caught:
        emit_onnx(Branching(), images())
    assert caught.value.stage == "export"


def test_outputs_that_are_not_finite_are_named(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 2))
    nn.init.constant_(model[1].bias, float("nan"))
    with pytest.raises(CandidateError, match="not finite") as caught:
        open_session(model, ONNX, images())
    assert (caught.value.reason, caught.value.stage) == ("nonfinite", "export")


def test_parity_is_relative_to_the_scale_and_infinite_for_other_shapes() -> None:
    reference = torch.tensor([100.0, -50.0])
    assert parity(reference, reference + 0.001) == pytest.approx(1e-5, rel=0.1)
    assert parity(reference, reference[:1]) == float("inf")
    assert parity(reference, torch.tensor([100.0, float("nan")])) == float("inf")
    assert parity((reference, reference), reference) == float("inf")


def test_a_narrower_cnn_is_bound_from_the_template(resnet_template: OnnxTemplate) -> None:
    candidate = seeded(lambda: CifarResNet(1, width=5), seed=1)
    session = open_session(candidate, ONNX, images(), template=resnet_template)
    assert isinstance(session, OnnxSession)
    assert session.from_template
    for batch in (1, 6):
        assert parity(outputs(candidate, images(batch)), session.run(images(batch))) <= PARITY_TOLERANCE


def test_binding_leaves_the_template_as_it_was(resnet_template: OnnxTemplate) -> None:
    dense = seeded(lambda: CifarResNet(1, width=8))
    before = resnet_template.bind(dense)
    resnet_template.bind(seeded(lambda: CifarResNet(1, width=3)))
    assert resnet_template.bind(dense) == before


def test_a_bound_graph_is_optimised_like_an_exported_one(resnet_template: OnnxTemplate, tmp_path: Path) -> None:
    candidate = seeded(lambda: CifarResNet(1, width=5), seed=1)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    onnxruntime.InferenceSession(resnet_template.bind(candidate), options, providers=["CPUExecutionProvider"])
    operators = Counter(node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node)
    assert operators["Conv"] + operators["FusedConv"] == 9
    assert not {"BatchNormalization", "Expand", "Cast", "Shape"} & set(operators)


@pytest.mark.parametrize(("heads", "head_dim"), [(4, 8), (3, 8), (4, 5)])
def test_fewer_or_narrower_heads_are_bound_from_the_template(
    vit_template: OnnxTemplate, heads: int, head_dim: int
) -> None:
    candidate = vit(heads, head_dim)
    session = open_session(candidate, ONNX, images(), template=vit_template)
    assert isinstance(session, OnnxSession)
    assert session.from_template
    assert parity(outputs(candidate, images(3)), session.run(images(3))) <= PARITY_TOLERANCE


def test_a_narrower_residual_stream_is_bound_from_the_template(vit_template: OnnxTemplate) -> None:
    candidate = seeded(lambda: VisionTransformer(24, 1, 3, image_size=16, patch=8, classes=5))
    session = open_session(candidate, ONNX, images(), template=vit_template)
    assert isinstance(session, OnnxSession)
    assert session.from_template


@pytest.mark.parametrize("definition", [Flattened, Separable])
def test_flattened_and_depthwise_channels_are_bound_from_the_template(definition: Callable[..., nn.Module]) -> None:
    template = OnnxTemplate(seeded(definition), images())
    candidate = seeded(lambda: definition(5))
    session = open_session(candidate, ONNX, images(), template=template)
    assert isinstance(session, OnnxSession)
    assert session.from_template


def test_a_candidate_that_does_not_fit_the_template_is_exported_instead() -> None:
    example = Inputs((torch.randn(2, 6),), {})
    template = OnnxTemplate(seeded(Split), example)
    candidate = seeded(lambda: Split(5))
    session = open_session(candidate, ONNX, example, template=template)
    assert isinstance(session, OnnxSession)
    assert not session.from_template
    assert parity(outputs(candidate, example), session.run(example)) <= PARITY_TOLERANCE


def test_binding_costs_a_small_part_of_an_export(resnet_template: OnnxTemplate) -> None:
    def cpu_seconds(template: OnnxTemplate | None) -> float:
        start = time.process_time()
        open_session(candidate, ONNX, images(), template=template)
        return time.process_time() - start

    candidate = seeded(lambda: CifarResNet(1, width=6))
    assert min(cpu_seconds(resnet_template) for _ in range(3)) < cpu_seconds(None) / 5


class Harmless(nn.Module):
    """Its activation changes nothing on the example, whose hidden values are all positive."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.conv(x)).mean((2, 3))


def test_a_candidate_without_an_activation_is_never_bound_even_where_the_example_shows_no_difference() -> None:
    dense = seeded(Harmless)
    with torch.no_grad():
        dense.get_parameter("conv.bias").fill_(100.0)
    template, candidate = OnnxTemplate(dense, images()), copy.deepcopy(dense)
    candidate.act = nn.Identity()
    low = Inputs((images().args[0] - 1000.0,), {})
    session = open_session(candidate, ONNX, images(), template=template)
    assert isinstance(session, OnnxSession)
    assert not session.from_template
    assert parity(outputs(candidate, low), session.run(low)) <= PARITY_TOLERANCE
    assert parity(outputs(dense, low), session.run(low)) > PARITY_TOLERANCE
    emitted = open_onnx(emit_onnx(candidate, images(), template=template), threads=1)
    assert parity(outputs(candidate, low), emitted.run(low)) <= PARITY_TOLERANCE


def test_a_candidate_without_a_bias_is_exported_instead() -> None:
    dense = seeded(Harmless)
    template, candidate = OnnxTemplate(dense, images()), copy.deepcopy(dense)
    candidate.get_submodule("conv").register_parameter("bias", None)
    session = open_session(candidate, ONNX, images(), template=template)
    assert isinstance(session, OnnxSession)
    assert not session.from_template
    assert parity(outputs(candidate, images()), session.run(images())) <= PARITY_TOLERANCE
