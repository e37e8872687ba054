from __future__ import annotations

import pytest
import torch_pruning_oracle
from units import built, traced, traced_by_torch_pruning

CLASSIFIERS = {
    "resnet20": "fc",
    "resnet56": "fc",
    "mobilenetv2": "classifier.1",
    "densenet": "fc",
    "vgg": "classifier.3",
}


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_traced_units_are_the_couplings_of_torch_pruning(name: str) -> None:
    expected = torch_pruning_oracle.coupled(*built(name))
    classifier = {indices for indices in expected if any(p == f"{CLASSIFIERS[name]}.bias" for p, _, _ in indices)}
    assert classifier
    assert torch_pruning_oracle.coupled_by(traced(name)) == expected - classifier


@pytest.mark.parametrize("name", ["resnet20", "densenet", "vgg"])
def test_fall_back_finds_the_same_units_as_the_tracer(name: str) -> None:
    fallback = torch_pruning_oracle.coupled_by(traced_by_torch_pruning(name))
    assert fallback == torch_pruning_oracle.coupled_by(traced(name))


@pytest.mark.parametrize("name", ["resnet20", "densenet", "vgg"])
def test_fall_back_names_groups_like_the_tracer(name: str) -> None:
    names = [(g.name, g.width, g.batch_norms) for g in traced_by_torch_pruning(name).groups]
    assert sorted(names) == sorted((g.name, g.width, g.batch_norms) for g in traced(name).groups)
