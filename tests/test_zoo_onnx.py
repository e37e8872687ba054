"""Every net of the zoo as ONNX: a pruned one computes what the torch model computes."""

from __future__ import annotations

import copy

import pytest
from zoo import ZOO
from zoo.cases import NO_ONNX, Case, call, case, random_policy, rebatched

from autoprune.errors import CandidateError
from autoprune.runtimes import (
    PARITY_TOLERANCE,
    OnnxSession,
    OnnxTemplate,
    emit_onnx,
    open_onnx,
    open_session,
    parity,
    parse_target,
)

LONG = (
    *("resnet14", "resnet20", "resnet56", "resnet20_pad", "resnet50", "resnext50", "mobilenetv2", "mobilenetv3"),
    *("efficientnet_lite0", "densenet", "vgg", "unet", "yolo", "fcos", "vit", "vit_ti_224", "convnext", "swin"),
    *("llama", "t5", "distilbert", "translation"),
)
"""Nets whose export takes over 2 s of CPU; others stand for each kind of operator in them."""

TEMPLATES = ("resnet14", "mobilenetv3", "vit", "bert", "textcnn", "multi_task")
TARGET = parse_target("onnxruntime-fp32-b2-t1")


def exported() -> list[object]:
    return [pytest.param(name, marks=pytest.mark.slow if name in LONG else ()) for name in ZOO if name not in NO_ONNX]


def pruned_at_random(of: Case) -> object:
    return of.pruner.cut(random_policy(of.groups, 0), seed=0).model


@pytest.mark.parametrize("name", exported())
def test_pruned_net_exported_to_onnx_has_equal_outputs(name: str) -> None:
    of = case(name)
    model, example = pruned_at_random(of), rebatched(of.inputs, 2)
    dense = call(model, example)
    session = open_onnx(emit_onnx(model, example), threads=1, outputs=dense)
    assert parity(dense, session.run(example)) <= PARITY_TOLERANCE
    fresh = of.pruner.task
    other = next(iter(fresh.batches("val", seed=7))).inputs
    other = rebatched(other, 2)
    assert parity(call(model, other), session.run(other)) <= PARITY_TOLERANCE


@pytest.mark.parametrize("name", TEMPLATES)
def test_graph_of_the_dense_net_takes_the_tensors_of_a_pruned_one(name: str) -> None:
    of = case(name)
    example = rebatched(of.inputs, 2)
    template = OnnxTemplate(copy.deepcopy(of.model), example)
    model = pruned_at_random(of)
    session = open_session(model, TARGET, example, template=template)
    assert isinstance(session, OnnxSession)
    assert session.from_template
    assert parity(call(model, example), session.run(example)) <= PARITY_TOLERANCE


@pytest.mark.parametrize("name", NO_ONNX)
def test_net_that_cannot_be_exported_says_so(name: str) -> None:
    of = case(name)
    with pytest.raises(CandidateError) as caught:
        emit_onnx(pruned_at_random(of), of.inputs)
    assert caught.value.stage == "export"
