"""`autoprune prune`: one named strategy, without a search."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import make_task
from typer.testing import CliRunner, Result

import autoprune
from autoprune.cli.app import app
from autoprune.errors import OutputError
from autoprune.groups import find_groups
from autoprune.groups.types import ArchitecturePlan, Edit
from autoprune.policy import Policy, Strategy
from autoprune.pruning import Pruner
from autoprune.search.removed import removed_of, strategy_words, zeros_warning

TESTS = Path(__file__).parent
CONFIG = """
name: tiny
task: {tests}/tiny.py:make_task
space: channels
recovery: {{short_steps: 4, full_steps: 8, proxy_images: 64}}
latency: {{targets: [onnxruntime-fp32-b4-t1], rounds: 5, final_rounds: 5}}
output: {output}
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(CONFIG.format(tests=TESTS, output=tmp_path / "results"))
    return path


def call(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(a) for a in arguments])


def pruned(config: Path, *arguments: str) -> dict[str, Any]:
    result = call("prune", config, *arguments, "--to", config.parent / "model", "--json")
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def test_a_strategy_gives_a_smaller_model_that_verifies_and_loads(config: Path) -> None:
    found = pruned(config, "--strategy", "slimming", "--sparsity", "0.5")
    assert found["member"]["parameters"] < found["baseline"]["parameters"]
    assert found["policy"]["strategy"]["regularizer"] == "bn_l1"
    assert any(share > 0.3 for share in found["member"]["sparsity"].values())
    assert call("verify", config.parent / "model").exit_code == 0
    task = make_task()
    model = autoprune.load(config.parent / "model", task.build_model())
    assert sum(p.numel() for p in model.parameters()) == found["member"]["parameters"]
    assert not (config.parent / "results").exists()


def test_a_share_of_macs_is_used_up_and_told(config: Path) -> None:
    found = pruned(config, "--strategy", "magnitude_l1", "--macs", "0.5", "--round-to", "1")
    share = found["member"]["macs"] / found["baseline"]["macs"]
    assert 0.48 <= share <= 0.5
    assert found["notes"] == [f"{share:.1%} of the multiply-accumulates stay; asked for at most 50.0%."]


def test_zeros_in_place_are_warned_of_and_survive_the_directory(config: Path) -> None:
    found = pruned(config, "--strategy", "nm_2_4", "--sparsity", "0.25")  # 2 of 4 is the least
    assert "zeros_only" in {w["code"] for w in found["member"]["warnings"]}
    assert found["member"]["macs"] == found["baseline"]["macs"]
    assert found["member"]["nonzero"] < 0.6 * found["baseline"]["nonzero"]
    model = autoprune.load(config.parent / "model", make_task().build_model())
    assert sum(int(torch.count_nonzero(p)) for p in model.parameters()) == found["member"]["nonzero"]


def test_one_axis_of_a_strategy_can_be_changed(config: Path) -> None:
    found = pruned(
        config,
        "--strategy",
        "magnitude_l1",
        "--threshold",
        "0.9",
        "--with",
        "scope=global",
        "--with",
        "learning_rate=0.01",
    )
    assert found["policy"]["strategy"]["scope"] == "global"
    assert found["policy"]["strategy"]["learning_rate"] == 0.01
    assert found["policy"]["amount"]["kind"] == "threshold"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--strategy", "slimming"], "One of --sparsity, --macs and --threshold"),
        (["--strategy", "slimming", "--sparsity", "0.5", "--macs", "0.5"], "Got --sparsity and --macs"),
        (["--strategy", "sliming", "--sparsity", "0.5"], "Did you mean 'slimming'"),
        (["--strategy", "slimming", "--sparsity", "0.5", "--with", "scop=local"], "unknown key 'scop'"),
        (["--strategy", "slimming", "--sparsity", "0.5", "--with", "scope"], "FIELD=VALUE"),
        (["--strategy", "heads", "--sparsity", "0.5"], "nothing of granularity 'head'"),
        (["--strategy", "nm_2_4", "--sparsity", "0.5", "--with", "criterion=angle"], "ranked by"),
        (["--strategy", "unstructured", "--macs", "0.5"], "multiply-accumulates"),
    ],
)
def test_what_cannot_be_is_refused_with_the_reason(config: Path, arguments: list[str], told: str) -> None:
    result = call("prune", config, *arguments, "--to", config.parent / "model")
    assert result.exit_code == 2
    assert told in result.output
    assert not (config.parent / "model").exists()


def test_a_directory_that_holds_something_is_left_alone(config: Path) -> None:
    target = config.parent / "model"
    target.mkdir()
    (target / "mine.txt").write_text("mine")
    result = call("prune", config, "--strategy", "magnitude_l1", "--sparsity", "0.5", "--to", target)
    assert result.exit_code == OutputError.exit_code
    assert "is not empty" in result.output
    assert [p.name for p in target.iterdir()] == ["mine.txt"]


def test_what_is_gone_is_told_from_the_model() -> None:
    task = make_task()
    model = task.build_model().eval()
    groups = find_groups(model, task.example_inputs())
    first = groups.groups[0].name
    cut = Pruner(model, groups, task).cut(Policy({first: 0.5}))
    assert removed_of(groups, cut.architecture, cut.model) == {first: pytest.approx(0.5)}
    tensor = next(p for p in groups.parts if p.kind == "tensor" and p.factored)
    masked = Pruner(model, groups, task).cut(Policy({tensor.name: 0.25}, Strategy(granularity="weight")))
    assert removed_of(groups, masked.architecture, masked.model) == {tensor.name: pytest.approx(0.25, abs=0.01)}
    biases = next((p for p in groups.parts if p.kind == "bias"), None)
    assert biases is not None
    plan = ArchitecturePlan({}, edits=(Edit("no_bias", biases.members[0]),))
    assert removed_of(groups, plan, model) == {"@bias": pytest.approx(1 / biases.width)}


def test_a_strategy_in_words_says_what_is_unusual() -> None:
    assert strategy_words(Strategy()) == "l1, fine_tune"
    assert strategy_words(Strategy.of_preset("slimming")) == "bn_scale, global, bn_l1, fine_tune"
    assert zeros_warning(ArchitecturePlan({})) == ()
    assert "2:4" in zeros_warning(ArchitecturePlan({}, masks={"a.weight": "n_m"}))[0].text
