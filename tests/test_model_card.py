"""The model card: measured numbers, how to load, limits; names are shown literally."""

from __future__ import annotations

from typing import Any

from front_factory import TARGET, front_json, member

from autoprune.artifacts import CardFacts, render_card

HOSTILE = "<script>alert(1)</script>|`x`\n# [a](javascript:b)"


def facts(**changes: Any) -> CardFacts:
    document = front_json()
    plain: dict[str, Any] = {
        "run": "digits",
        "task": "digits",
        "member": document["members"][1] | {"warnings": [{"code": "x", "text": "few samples"}]},
        "baseline": document["baseline"],
        "targets": document["targets"],
        "policy": {"sparsity": {"layer1.conv1": 0.5}},
        "provenance": document["provenance"],
    }
    return CardFacts(**{**plain, **changes})


def test_the_card_tells_measured_numbers_how_to_load_and_limits() -> None:
    card = render_card(facts())
    for part in [
        "| accuracy (test) | 0.9700 [0.9600, 0.9800], n = 450 | 0.9850",
        "2.00x [1.90, 2.10]",
        "| parameters | 20,000 | 40,000 | 2.00x |",
        'autoprune.load("path/to/this/directory", model)',
        "`model.pt2` runs without the source of the model. **It can execute code when it is opened",
        "| layer1.conv1 | 0.500 |",
        "## Limits",
        "few samples",
        TARGET,
    ]:
        assert part in card


def test_the_card_speaks_only_of_the_forms_that_are_there() -> None:
    card = render_card(facts(formats=("onnx",)))
    assert "`model.onnx` runs" in card
    assert "pt2" not in card


def test_the_card_shows_names_literally() -> None:
    hostile = member("a", 0.9, 1.0, name=HOSTILE, strategy=HOSTILE, warnings=[{"code": "x", "text": HOSTILE}])
    card = render_card(facts(run=HOSTILE, task=HOSTILE, member=hostile, policy={"sparsity": {HOSTILE: 0.5}}))
    assert "<script" not in card
    assert "\n# [" not in card
    assert "](javascript" not in card.replace("\\](", "")


def test_the_card_tells_the_spread_over_seeds_and_the_prediction() -> None:
    told = member(
        "a",
        0.9,
        1.0,
        warnings=[],
        seed_spread={"accuracy": {"values": [0.97, 0.98, 0.96], "std": 0.01}},
        predicted={"accuracy": {"mean": 0.95, "std": 0.02, "at_evaluation": 40}},
    )
    card = render_card(facts(member=told))
    assert "accuracy on val over 3 recovery seeds: 0.97, 0.98, 0.96 (standard deviation 0.01)" in card
    assert "accuracy was predicted as 0.95 ± 0.02 before evaluation 40: for the brief recovery" in card
