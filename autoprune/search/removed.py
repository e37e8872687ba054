"""A pruned model as it lies -> what is gone of every group, weight and kind of module, and how that is told."""

from __future__ import annotations

from collections import Counter

import numpy as np
import torch
from torch import nn

from autoprune.axes import AXES
from autoprune.axes.presets import USUAL
from autoprune.groups.factors import full_rank
from autoprune.groups.types import ArchitecturePlan, ModelGroups
from autoprune.policy import Strategy
from autoprune.report.document import Warned

KIND_OF_EDIT = {"fold_norm": "@norm", "no_bias": "@bias", "average_pool": "@pooling"}


def removed_of(groups: ModelGroups, architecture: ArchitecturePlan, model: nn.Module) -> dict[str, float]:
    """Return group, weight or `@kind` -> the share in (0, 1] that is gone; what is whole is left out.

    Args:
        groups: What the dense model had.
        architecture: What the pruned model is.
        model: The pruned model, whose zeros count for masked weights.
    """
    out: dict[str, float] = {}
    units = {(d.parameter, d.dim): d.units for d in groups.plan.dimensions}
    for group in groups.groups:
        name, dim = group.producers[0]
        own = (units[name, dim] >= group.start) & (units[name, dim] < group.start + group.width)
        kept = architecture.kept.get(name, {}).get(dim)
        rows = [row for pair in architecture.grouped.get(name, ()) for row in pair[0]] if dim == 0 else []
        stays = np.asarray(kept if kept is not None else rows or np.arange(len(own)), dtype=np.int64)
        out[group.name] = 1.0 - float(own[stays].sum()) / max(int(own.sum()), 1)
    for name in architecture.masks:
        weight = model.get_parameter(name).detach()
        out[name] = 1.0 - int(torch.count_nonzero(weight)) / weight.numel()
    return {name: round(share, 6) for name, share in (out | _edited(groups, architecture)).items() if share > 0.0}


def _edited(groups: ModelGroups, architecture: ArchitecturePlan) -> dict[str, float]:
    parts = {part.name: part for part in groups.parts}
    out: dict[str, float] = {}
    gone: Counter[str] = Counter()
    for edit in architecture.edits:
        if edit.kind == "low_rank":
            name = f"{edit.path}.weight"
            out[name] = 1.0 - edit.value / full_rank(parts[name].shape)
        elif edit.kind == "remove":
            gone["@depth" if "@depth" in parts and edit.path in parts["@depth"].members else "@activation"] += 1
        else:
            gone[KIND_OF_EDIT[edit.kind]] += 1
    return out | {name: count / parts[name].width for name, count in gone.items() if name in parts}


def strategy_words(strategy: Strategy) -> str:
    """Return a strategy in words: its criterion, what is unusual about it, its recovery."""
    middle = [
        getattr(strategy, axis)
        for axis in AXES
        if axis not in {"criterion", "recovery"} and getattr(strategy, axis) not in {USUAL[axis], "per_group"}
    ]
    return ", ".join([strategy.criterion, *middle, strategy.recovery])


def zeros_warning(architecture: ArchitecturePlan) -> tuple[Warned, ...]:
    """Return a warning where weights are zeros that keep their place: nothing gets faster by them here."""
    if not architecture.masks:
        return ()
    kinds = sorted(set(architecture.masks.values()))
    where = "sparse tensor cores (CUDA, 2:4 kernels) alone" if kinds == ["n_m"] else "kernels made for it alone"
    text = (
        f"Weights of {len(architecture.masks)} layers are zeros that keep their place ({', '.join(kinds)}): they take "
        f"less space compressed and run no faster here; a gain in speed needs {where}."
    )
    return (Warned(code="zeros_only", text=text),)
