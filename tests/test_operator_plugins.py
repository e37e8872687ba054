"""Handlers from outside: by decorator, by entry point of an installed package, by full and by bare name."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from autoprune.errors import AutopruneError
from autoprune.groups import find_groups, mask_model, slice_model
from autoprune.groups.tracing.labels import Labels
from autoprune.groups.tracing.operators import OPERATORS, Call
from autoprune.groups.tracing.tracer import handler_name
from autoprune.registry import Registry
from autoprune.tasks.protocol import Inputs

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "operators.md"

MODULE = """
import torch
from autoprune.groups.tracing.labels import Labels

@torch.library.custom_op("acme::soften", mutates_args=())
def soften(x: torch.Tensor, by: float = 2.0) -> torch.Tensor:
    return x / by

@soften.register_fake
def _(x, by=2.0):
    return torch.empty_like(x)

def labels(call):
    assert call["by"] == 4.0
    return Labels(call.shape, call.labels("x").factors)
"""
PROGRAM = """
import json, torch
from torch import nn
from acme_pruning import soften
from autoprune.groups import find_groups
from autoprune.tasks import Inputs

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.middle, self.last = nn.Linear(6, 10), nn.Linear(10, 8), nn.Linear(8, 4)
    def forward(self, x):
        return self.last(torch.relu(self.middle(soften(self.first(x), 4.0))))

found = find_groups(Net(), Inputs((torch.rand(3, 6),), {}))
print(json.dumps([{g.name: g.width for g in found.groups}, {p.name: p.reason for p in found.protected}, found.notes]))
"""


def installed(folder: Path, entry_points: str) -> Path:
    """Lay out a package as an installer does."""
    (folder / "acme_pruning.py").write_text(MODULE)
    info = folder / "acme_pruning-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-pruning\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(entry_points)
    return folder


def traced_beside(folder: Path) -> Any:
    """Trace a net with the package's operator in a fresh process that has the package on its path."""
    path = os.pathsep.join([str(folder), str(ROOT)])
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    return json.loads(done.stdout)


def test_installed_package_brings_the_handler_of_its_operator(tmp_path: Path) -> None:
    folder = installed(tmp_path, "[autoprune.operators]\nacme::soften = acme_pruning:labels\n")
    groups, protected, notes = traced_beside(folder)
    assert groups == {"first": 10, "middle": 8}
    assert set(protected) == {"last"}
    assert notes == []


def test_operator_without_handler_protects_what_enters_it_by_its_full_name(tmp_path: Path) -> None:
    groups, protected, notes = traced_beside(installed(tmp_path, ""))
    assert groups == {"middle": 8}
    assert protected["first"] == "unknown operator: acme::soften"
    assert "unknown operator: acme::soften" in notes[0]


def test_page_of_documentation_runs() -> None:
    blocks = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    assert len(blocks) == 3
    namespace: dict[str, Any] = {}
    try:
        for block in blocks:
            exec(compile(block, str(PAGE), "exec"), namespace)
        assert namespace["groups"]["up"].width == 10
    finally:
        OPERATORS._items.pop("acme::swiglu", None)


@torch.library.custom_op("autoprune_tests::add", mutates_args=())
def reversed_add(left: Tensor, right: Tensor) -> Tensor:
    """Share a name with torch's own, and not what it does."""
    return left + right.flip(-1)


@reversed_add.register_fake
def _(left: Tensor, right: Tensor) -> Tensor:
    return torch.empty_like(left)


class Reversed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 10)
        self.second = nn.Linear(6, 10)
        self.middle = nn.Linear(10, 8)
        self.last = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.relu(self.middle(reversed_add(self.first(x), self.second(x)))))


@pytest.fixture
def registered() -> Iterator[Any]:
    """Return what registers handlers for the time of a test."""
    names: list[str] = []

    def register(name: str, handler: Any) -> None:
        names.append(name)
        OPERATORS.register(name)(handler)

    yield register
    for name in names:
        OPERATORS._items.pop(name)


def united_backwards(call: Call) -> Labels:
    left, right = call.labels("left").at(1), call.labels("right").at(1)
    assert left is not None
    assert right is not None
    call.evidence.unite(left.atoms, right.atoms[::-1])
    return Labels(call.shape, call.labels("left").factors)


INPUTS = Inputs((torch.rand(3, 6, generator=torch.Generator().manual_seed(0)),), {})


def test_handler_of_torchs_add_is_not_taken_for_anothers_add() -> None:
    found = find_groups(Reversed(), INPUTS)
    assert [g.name for g in found.groups] == ["middle"]
    assert {p.reason for p in found.protected if p.name in ("first", "second")} == {
        "unknown operator: autoprune_tests::add"
    }


def test_namespaced_handler_cuts_the_right_channels(registered: Any) -> None:
    registered("autoprune_tests::add", united_backwards)
    model = Reversed().eval()
    found = find_groups(model, INPUTS)
    assert [(g.name, g.width) for g in found.groups] == [("first", 10), ("middle", 8)]
    alive = np.arange(18) % 4 > 0
    small, zeroed = slice_model(model, found.plan, alive), mask_model(model, found.plan, alive)
    assert small.second.out_features == 7
    assert torch.allclose(small(*INPUTS.args), zeroed(*INPUTS.args), atol=1e-6)


@pytest.mark.parametrize("error", [AttributeError("no such"), IndexError("x"), KeyError("x"), TypeError("x")])
def test_handler_that_fails_protects(registered: Any, error: Exception) -> None:
    def broken(call: Call) -> Labels:
        raise error

    registered("autoprune_tests::add", broken)
    assert [g.name for g in find_groups(Reversed(), INPUTS).groups] == ["middle"]


def test_full_names_come_first_and_bare_names_only_where_they_mean_one_thing(registered: Any) -> None:
    assert handler_name("relu_") == "relu"
    assert handler_name("acme::relu") is None
    assert handler_name("acme::soften") is None
    registered("soften", united_backwards)
    assert handler_name("acme::soften") == "soften"
    registered("acme::soften", united_backwards)
    assert handler_name("acme::soften") == "acme::soften"
    registered("aten::relu", united_backwards)
    assert handler_name("relu_") == "aten::relu"


def test_plugin_that_cannot_be_imported_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    point = EntryPoint("acme::gone", "no_such_module:labels", "autoprune.operators")
    monkeypatch.setattr("autoprune.registry.entry_points", lambda group: [point])
    registry: Registry[Any] = Registry("operator", group="autoprune.operators")
    for _ in range(2):
        with pytest.raises(AutopruneError, match=r"operator 'acme::gone' \(no_such_module:labels\) cannot be loaded"):
            registry["relu"]
