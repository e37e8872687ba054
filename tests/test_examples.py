"""The examples run: they train, cache, pass the contract suite and fit their configs."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest
import torch
from example_data import EXAMPLES, needs
from torch import nn

from autoprune.config import load_config
from autoprune.errors import TaskError
from autoprune.tasks import ClassificationTask, TaskRef, check_task, load_task, trained_once
from autoprune.tasks.cache import cache_directory
from autoprune.tasks.failures import user_code


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("AUTOPRUNE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def digits(**args: Any) -> ClassificationTask:
    task = load_task("digits.py:make_task", args, base=EXAMPLES)
    assert isinstance(task, ClassificationTask)
    return task


def weights(model: nn.Module) -> torch.Tensor:
    return torch.cat([v.double().flatten() for v in model.state_dict().values()])


def test_digits_trains_once_and_every_build_is_equal(empty_cache: Path) -> None:
    first = weights(digits(depth=8, width=8, epochs=4).build_model())
    stored = [p.name for p in empty_cache.iterdir()]
    assert len(stored) == 1
    again = digits(depth=8, width=8, epochs=4)
    assert torch.equal(first, weights(again.build_model()))
    assert [p.name for p in empty_cache.iterdir()] == stored
    model = again.build_model()
    assert again.evaluate(lambda i: model(*i.args), "val").metrics["accuracy"] > 0.85
    assert check_task(again, full=True) == []


def test_digits_has_the_documented_shape() -> None:
    task = digits()
    sizes = [len(task.data.splits[s]) for s in ("train", "val", "test")]
    assert sizes == [1258, 269, 270]
    assert task.example_inputs(batch_size=3).args[0].shape == (3, 1, 8, 8)
    assert task.data.x.mean().abs() < 0.05
    assert task.data.x.std() == pytest.approx(1.0, abs=0.05)


@pytest.mark.parametrize("depth", [8, 14, 20])
def test_digits_networks_have_the_depth_of_their_name(depth: int) -> None:
    network = runpy.run_path(str(EXAMPLES / "digits.py"))["ResNet"](depth)
    layers = [m for n, m in network.named_modules() if isinstance(m, (nn.Conv2d, nn.Linear)) and "shortcut" not in n]
    assert len(layers) == depth
    if depth == 14:
        assert sum(p.numel() for p in network.parameters()) == 174_970


def test_digits_refuses_a_depth_that_does_not_exist(empty_cache: Path) -> None:
    with pytest.raises(TaskError, match="6n"), user_code("building"):
        digits(depth=15).build_model()


def test_the_hand_written_task_passes_the_contract_suite(empty_cache: Path) -> None:
    task = load_task("bring_your_own.py:make_task", {"steps": 300}, base=EXAMPLES)
    assert check_task(task, full=True) == []
    model = task.build_model().eval()
    with torch.no_grad():
        scored = task.evaluate(lambda i: model(**i.kwargs), "val")
    assert scored.metrics["f1"] > 0.85
    half = {k: v[: len(v) // 2] for k, v in scored.per_unit.items()}
    assert 0.75 < task.aggregate(half)["f1"] <= 1.0


@pytest.mark.parametrize("config", sorted(EXAMPLES.glob("*.yaml")), ids=lambda p: p.name)
def test_every_example_config_is_valid_and_names_a_task_that_exists(config: Path) -> None:
    needs(config.stem)
    loaded = load_config(config)
    run = loaded.config
    assert run.name == config.stem
    ref = TaskRef(run.task, run.task_args, loaded.base)
    assert ref.sha256
    task = ref.load()
    assert run.objectives[0] in {m.name for m in task.metrics}


def test_a_damaged_cache_is_trained_anew(empty_cache: Path) -> None:
    calls = []

    def train(model: nn.Module) -> None:
        calls.append(1)
        with torch.no_grad():
            model.weight.add_(torch.randn(3, 4))

    def cached(**recipe: Any) -> torch.Tensor:
        return weights(trained_once(lambda: nn.Linear(4, 3), train, name="linear", recipe={"seed": 0} | recipe))

    first = cached()
    (path,) = empty_cache.iterdir()
    whole = path.read_bytes()
    spoiled = [b"", whole[:-3], b"\xff" * len(whole), whole[:-2] + bytes([whole[-2] ^ 1]) + whole[-1:]]
    for count, content in enumerate(spoiled, start=2):
        path.write_bytes(content)
        assert torch.equal(cached(), first)
        assert len(calls) == count
        assert path.read_bytes() == whole
    assert torch.equal(cached(), first)
    assert len(calls) == 5
    assert not torch.equal(cached(seed=1), first)
    assert [p.suffix for p in empty_cache.iterdir()] == [".safetensors"] * 2


def test_a_cache_that_cannot_be_written_is_no_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("AUTOPRUNE_CACHE", str(tmp_path / "file"))
    model = trained_once(lambda: nn.Linear(2, 2), lambda _: None, name="linear", recipe={})
    assert not model.training


def test_the_cache_lies_in_the_users_home_unless_told_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AUTOPRUNE_CACHE")
    assert cache_directory() == Path.home() / ".cache" / "autoprune"
