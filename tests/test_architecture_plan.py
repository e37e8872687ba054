from __future__ import annotations

import copy
import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from units import built, equal, random_alive, run, traced

from autoprune.errors import ArtifactError
from autoprune.groups import ArchitecturePlan, Edit
from autoprune.groups.slicing import (
    architecture_from_json,
    architecture_of,
    architecture_to_json,
    rebuild,
    slice_model,
)

NETS = ("resnet20", "resnext50", "mobilenetv2", "chunk_se", "groupnorm", "vit_fused", "llama", "textcnn")


def document(name: str = "resnext50", seed: int = 0) -> dict[str, Any]:
    alive = random_alive(traced(name), np.random.default_rng(seed))
    return json.loads(json.dumps(architecture_to_json(architecture_of(built(name)[0], traced(name).plan, alive))))


@pytest.mark.parametrize("name", NETS)
def test_architecture_survives_json(name: str) -> None:
    alive = random_alive(traced(name), np.random.default_rng(0))
    architecture = architecture_of(built(name)[0], traced(name).plan, alive, prepared=("attention",))
    assert architecture_from_json(json.loads(json.dumps(architecture_to_json(architecture)))) == architecture


@pytest.mark.parametrize("name", NETS)
def test_rebuilt_model_equals_the_sliced_one(name: str) -> None:
    model, inputs = built(name)
    plan = traced(name).plan
    alive = random_alive(traced(name), np.random.default_rng(1))
    sliced = slice_model(model, plan, alive)
    rebuilt = rebuild(model, architecture_from_json(architecture_to_json(architecture_of(model, plan, alive))))
    assert equal(run(rebuilt, inputs), run(sliced, inputs))


def test_rebuilt_structure_takes_the_sliced_weights() -> None:
    model, inputs = built("mobilenetv2")
    plan = traced("mobilenetv2").plan
    alive = random_alive(traced("mobilenetv2"), np.random.default_rng(2))
    sliced = slice_model(model, plan, alive)
    with torch.no_grad():
        for parameter in sliced.parameters():
            parameter.mul_(1.1)
    rebuilt = rebuild(model, architecture_of(model, plan, alive))
    rebuilt.load_state_dict(sliced.state_dict())
    assert equal(run(rebuilt, inputs), run(sliced, inputs))


def first(mapping: dict[str, Any]) -> str:
    return next(iter(mapping))


def damage(path: tuple[str | int, ...], value: Any) -> Any:
    """Return an edit that sets a place of the document; "first" stands for the first key there."""

    def edit(plan: dict[str, Any]) -> None:
        node: Any = plan
        for step in path[:-1]:
            node = node[first(node) if step == "first" else step]
        last = first(node) if path[-1] == "first" else path[-1]
        node[last] = value

    return edit


DAMAGES = {
    "unknown key": damage(("extra",), 1),
    "other version": damage(("schema_version",), "9"),
    "kept is a list": damage(("kept",), []),
    "index is a string": damage(("kept", "first", "first", 0), "0"),
    "index is a boolean": damage(("kept", "first", "first", 0), True),
    "index is a float": damage(("kept", "first", "first", 0), 0.0),
    "negative index": damage(("kept", "first", "first", 0), -1),
    "index beyond the size": damage(("kept", "first", "first", -1), 10**6),
    "repeated index": damage(("kept", "first", "first"), [1, 1]),
    "descending indices": damage(("kept", "first", "first"), [2, 1]),
    "nothing kept": damage(("kept", "first", "first"), []),
    "dimension beyond the rank": damage(("kept", "first", "9"), [0]),
    "dimension is a word": damage(("kept", "first", "rows"), [0]),
    "tensor without shape": damage(("kept", "absent.weight"), {"0": [0]}),
    "shape without tensor": damage(("shapes", "absent.weight"), [4]),
    "huge shape": damage(("shapes", "first"), [2**40]),
    "many dimensions": damage(("shapes", "first"), [1] * 100),
    "long name": damage(("shapes", "x" * 5000), [4]),
    "group without columns": damage(("grouped", "first", 0), {"rows": [0]}),
    "uneven groups": damage(("grouped", "first", 0, "rows"), [0, 1, 2, 3, 4, 5, 6, 7, 8]),
    "no groups": damage(("grouped", "first"), []),
    "attribute is a string": damage(("attributes", "first", "groups"), "__import__('os')"),
    "attribute is zero": damage(("attributes", "first", "groups"), 0),
    "prepared is a string": damage(("prepared",), "attention"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_damaged_document_is_refused(name: str) -> None:
    plan = document()
    DAMAGES[name](plan)
    with pytest.raises(ArtifactError, match=r"plan\.json is not valid"):
        architecture_from_json(plan)


@pytest.mark.parametrize("value", [None, [], "plan", 3, {}, {1: 2}])
def test_other_documents_are_refused(value: object) -> None:
    with pytest.raises(ArtifactError):
        architecture_from_json(value)


MISFITS = {
    "tensor the model has not": lambda p: (p["kept"].update(other={"0": [0]}), p["shapes"].update(other=[4])),
    "other shape": lambda p: p["shapes"].update({first(p["kept"]): [500, 500, 1, 1]}),
    "attribute the model has not": lambda p: p["attributes"].update({"conv1": {"speed": 1}}),
    "module the model has not": lambda p: p["attributes"].update({"conv9": {"groups": 1}}),
    "attribute that is no size": lambda p: p["attributes"].update({"conv1": {"training": 1}}),
    "attribute that grows": lambda p: p["attributes"].update({"conv1": {"out_channels": 65}}),
    "method": lambda p: p["attributes"].update({"conv1": {"forward": 1}}),
    "other number of groups": lambda p: p["attributes"][p["grouped"] and first(p["attributes"])].update(groups=1),
}


@pytest.mark.parametrize("name", MISFITS)
def test_architecture_of_another_model_is_refused(name: str) -> None:
    plan = document()
    MISFITS[name](plan)
    with pytest.raises(ArtifactError):
        rebuild(built("resnext50")[0], architecture_from_json(plan))


def test_misfit_names_the_tensor() -> None:
    with pytest.raises(ArtifactError, match=r"needs '.*' of shape .*; the model has"):
        rebuild(built("resnet20")[0], architecture_from_json(document("mobilenetv2")))


def leaves(node: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    children = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    return [path, *(leaf for key, child in children for leaf in leaves(child, (*path, key)))]


def test_randomly_mutated_documents_are_refused_or_read_as_a_plan() -> None:
    original = document("groupnorm")
    rng = np.random.default_rng(0)
    places = [path for path in leaves(original) if path]
    junk: list[Any] = [None, -1, 10**30, 1.5, True, "x", [], {}, [[]], [0, 0], {"0": None}, float("nan")]
    refused = 0
    for _ in range(400):
        plan = copy.deepcopy(original)
        path = places[rng.integers(len(places))]
        node = plan
        for step in path[:-1]:
            node = node[step]
        node[path[-1]] = junk[rng.integers(len(junk))]
        try:
            assert architecture_from_json(plan).shapes
        except ArtifactError:
            refused += 1
    assert refused > 300


EDITS = (
    Edit("remove", "layers.0"),
    Edit("fold_norm", "bn1", other="conv1"),
    Edit("no_bias", "fc.bias"),
    Edit("low_rank", "layers.1.conv1", 2),
)
MASKS = {"fc.weight": "n_m", "layers.1.conv2.weight": "weight", "layers.3.conv1.weight": "block"}


def with_edits() -> dict[str, Any]:
    return json.loads(json.dumps(architecture_to_json(ArchitecturePlan({}, edits=EDITS, masks=MASKS))))


def test_edits_and_masks_survive_json() -> None:
    assert architecture_from_json(with_edits()) == ArchitecturePlan({}, edits=EDITS, masks=MASKS)


def test_a_plan_without_edits_and_masks_is_written_as_before_there_were_any() -> None:
    keys = {"schema_version", "kept", "grouped", "attributes", "shapes", "prepared"}
    assert set(document()) == keys
    assert set(with_edits()) == {*keys, "edits", "masks"}


def of_edit(number: int, **changes: Any) -> Any:
    """Return an edit of the document that sets keys of one of its edits; None takes a key out."""

    def change(plan: dict[str, Any]) -> None:
        merged = {**plan["edits"][number], **changes}
        plan["edits"][number] = {key: value for key, value in merged.items() if value is not None}

    return change


EDIT_DAMAGES = {
    "edits are an object": damage(("edits",), {}),
    "edit is a string": damage(("edits", 0), "remove"),
    "unknown kind": of_edit(0, kind="execute"),
    "kind is a list": of_edit(0, kind=["remove"]),
    "no kind": of_edit(0, kind=None),
    "no path": of_edit(0, path=None),
    "path is a number": of_edit(0, path=3),
    "path is empty": of_edit(0, path=""),
    "long path": of_edit(0, path="x" * 5000),
    "extra key": of_edit(0, code="import os"),
    "value where there is none": of_edit(0, value=1),
    "other where there is none": of_edit(0, other="conv1"),
    "norm without its layer": of_edit(1, other=None),
    "norm of an empty layer": of_edit(1, other=""),
    "rank is missing": of_edit(3, value=None),
    "rank is zero": of_edit(3, value=0),
    "rank is true": of_edit(3, value=True),
    "rank is huge": of_edit(3, value=2**40),
    "rank is a fraction": of_edit(3, value=1.5),
    "one path twice": of_edit(3, path="layers.0"),
    "masks are a list": damage(("masks",), ["fc.weight"]),
    "unknown mask": damage(("masks", "fc.weight"), "channel"),
    "mask is a list": damage(("masks", "fc.weight"), ["n_m"]),
    "long mask name": damage(("masks", "x" * 5000), "n_m"),
    "third extra": damage(("more",), []),
}


@pytest.mark.parametrize("name", EDIT_DAMAGES)
def test_damaged_edits_and_masks_are_refused(name: str) -> None:
    plan = with_edits()
    EDIT_DAMAGES[name](plan)
    with pytest.raises(ArtifactError, match=r"plan\.json is not valid"):
        architecture_from_json(plan)


def test_edits_and_masks_of_another_model_are_refused_by_name() -> None:
    model, _ = built("resnet14")
    assert rebuild(model, architecture_from_json(with_edits()))
    for masks in ({"fc.scale": "n_m"}, {"bn1.running_mean": "n_m"}):
        with pytest.raises(ArtifactError, match=first(masks)):
            rebuild(model, ArchitecturePlan({}, masks=masks))
    with pytest.raises(ArtifactError, match=r"'layers\.9'"):
        rebuild(model, ArchitecturePlan({}, edits=(Edit("remove", "layers.9"),)))


def test_a_tensor_that_is_cut_cannot_be_masked_too() -> None:
    model, _ = built("resnet14")
    plan = traced("resnet14").plan
    cut = architecture_of(model, plan, random_alive(traced("resnet14"), np.random.default_rng(0)))
    with pytest.raises(ArtifactError, match="the plan cuts it too"):
        rebuild(model, replace(cut, masks={first(dict(cut.shapes)): "weight"}))
