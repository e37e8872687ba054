"""What a candidate costs before recovery: choosing units and slicing, beside torch-pruning's own pruner.

    python -m benchmarks.materialise

CPU time of one thread, both in one run and interleaved. Ours: the best units of every group by cached scores, then one
slice. torch-pruning: a copy of the model, its pruner's construction (which traces) and one step by magnitude.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch_pruning
from torch import nn

from autoprune.groups import ModelGroups, find_groups
from autoprune.groups.slicing import Slicer
from autoprune.tasks.protocol import Inputs
from benchmarks.common import interleaved, ratio_interval, rounded, write_result
from tests.zoo import ZOO

MODELS = ("resnet20", "resnet56", "resnet50", "mobilenetv2", "vit_ti_224")
CLASSIFIERS = {"mobilenetv2": "classifier.1", "vit_ti_224": "head"}
SPARSITY = 0.5
# One of three heads, which is what SPARSITY of three rounds down to.
HEAD_SPARSITY = 0.3
SEED = 0


@dataclass(frozen=True)
class Subject:
    """One model with both ways of halving it."""

    name: str
    inputs: Inputs
    ours: Callable[[], nn.Module]
    torch_pruning: Callable[[], nn.Module]


def prepare(name: str) -> Subject:
    model, inputs = ZOO[name]()
    groups = find_groups(model, inputs)
    slicer = Slicer(model, groups.plan)
    scores = magnitudes(model, groups)
    classifier = model.get_submodule(CLASSIFIERS.get(name, "fc"))
    return Subject(
        name,
        inputs,
        ours=lambda: slicer.slice(best_units(groups, scores)),
        torch_pruning=lambda: prune_by_torch_pruning(model, classifier, inputs),
    )


def magnitudes(model: nn.Module, groups: ModelGroups) -> npt.NDArray[np.float64]:
    """Return [unit_count] the sum of absolute weights of every unit's producing rows."""
    scores = np.zeros(groups.plan.unit_count)
    units = {(d.parameter, d.dim): d.units for d in groups.plan.dimensions}
    for group in groups.groups:
        for name, dim in group.producers:
            rows = model.get_parameter(name).detach().abs().transpose(0, dim).flatten(1).sum(1).double().numpy()
            owned = units[name, dim] >= 0
            np.add.at(scores, units[name, dim][owned], rows[owned])
    return scores


def best_units(groups: ModelGroups, scores: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    """Return [unit_count] True for the units of each group that stay at `SPARSITY`."""
    alive = np.ones(groups.plan.unit_count, dtype=np.bool_)
    for group in groups.groups:
        removed = int(group.width * SPARSITY)
        own = scores[group.start : group.start + group.width]
        if removed:
            alive[group.start + np.argpartition(own, removed - 1)[:removed]] = False
    return alive


def prune_by_torch_pruning(model: nn.Module, classifier: nn.Module, inputs: Inputs) -> nn.Module:
    """Copy and prune by torch-pruning's pruner, with fresh dictionaries instead of its shared defaults."""
    memo: dict[int, Any] = {}
    pruned = copy.deepcopy(model, memo)
    projections = [m for n, m in pruned.named_modules() if n.rpartition(".")[2] in {"query", "key", "value"}]
    pruner = torch_pruning.pruner.BasePruner(
        pruned,
        inputs.args,
        importance=torch_pruning.importance.MagnitudeImportance(p=1),
        pruning_ratio=SPARSITY,
        ignored_layers=[memo[id(classifier)]],
        in_channel_groups={},
        out_channel_groups={},
        num_heads=dict.fromkeys(projections, 3),
        prune_num_heads=bool(projections),
        prune_head_dims=False,
        head_pruning_ratio=HEAD_SPARSITY,
        channel_groups={},
        unwrapped_parameters=unwrapped(pruned),
    )
    pruner.step()
    return pruned


def unwrapped(model: nn.Module) -> list[tuple[nn.Parameter, int]] | None:
    """Return the parameters outside standard layers with their channel dimension, which saves a warning each."""
    loose = [p for n, p in model.named_parameters() if "." not in n]
    return [(p, p.dim() - 1) for p in loose] or None


def parameters_of(model: nn.Module, inputs: Inputs) -> int:
    """Return the number of parameters, after a forward pass that proves the model sound."""
    with torch.no_grad():
        model.eval()(*inputs.args, **inputs.kwargs)
    return sum(p.numel() for p in model.parameters())


def measure(subject: Subject, repeats: int) -> dict[str, Any]:
    calls = {"ours": subject.ours, "torch_pruning": subject.torch_pruning}
    sizes = {who: parameters_of(call(), subject.inputs) for who, call in calls.items()}
    samples = interleaved(calls, repeats=repeats, seed=SEED, collect=True)
    return {"model": subject.name, "parameters_after": sizes, "samples_ms": samples}


def summarise(row: dict[str, Any]) -> dict[str, float]:
    ours, theirs = row["samples_ms"]["ours"], row["samples_ms"]["torch_pruning"]
    ratio, low, high = ratio_interval(theirs, ours, seed=SEED)
    figures = {
        "ours_ms": float(np.median(ours)),
        "ours_min_ms": min(ours),
        "torch_pruning_ms": float(np.median(theirs)),
        "torch_pruning_min_ms": min(theirs),
        "ratio": ratio,
        "ratio_low": low,
        "ratio_high": high,
    }
    return {name: rounded(value) for name, value in figures.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=25)
    repeats = parser.parse_args().repeats
    torch.set_num_threads(1)
    rows, summary = [], {}
    for name in MODELS:
        row = measure(prepare(name), repeats)
        summary[name] = summarise(row)
        rows.append({**row, "samples_ms": {k: [rounded(v) for v in s] for k, s in row["samples_ms"].items()}})
        print(name, row["parameters_after"], summary[name])
    command = f"python -m benchmarks.materialise --repeats {repeats}"
    print(write_result("materialise", command=command, seeds=[SEED], rows=rows, summary=summary).name)


if __name__ == "__main__":
    main()
