"""Model -> ModelGroups: what can be pruned, and why the rest cannot."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import nn

from autoprune.errors import GroupError
from autoprune.groups.layers import PRUNABLE_KINDS
from autoprune.groups.parts import find_parts
from autoprune.groups.patterns import apply_patterns
from autoprune.groups.tracing import ExportError, trace_model
from autoprune.groups.types import NO_UNIT, ModelGroups
from autoprune.groups.verification import verify
from autoprune.tasks.protocol import Inputs

SHOWN = 8


def find_groups(
    model: nn.Module,
    inputs: Inputs,
    *,
    protect: Sequence[str] = (),
    only: Sequence[str] = ("*",),
    query_heads: bool = False,
) -> ModelGroups:
    """Return the prunable groups of a model and its protected layers with the reason.

    The model comes back as it was: weights, training flags and `requires_grad` are untouched.

    Args:
        model: Prepared (`prepare_model`).
        inputs: Arguments of one forward pass; sizes of batch, space and time hold for all that follows.
        protect: Globs over layer names; a group that any of its producing layers matches stays whole.
        only: Globs over layer names; a group that none of its producing layers matches stays whole.
        query_heads: In attention whose query heads share key heads, cut one query head of every key head (all key heads
            stay) rather than key heads with all their query heads.

    Raises:
        GroupError: The model fails on the inputs, a pattern matches no layer, or nothing can be pruned.
    """
    try:
        found = verify(trace_model(model, inputs, query_heads=query_heads), inputs)
    except ExportError as error:
        found = _fall_back(model, inputs, error)
    whole = found
    found = apply_patterns(model, found, protect=protect, only=only)
    if not found.groups:
        raise _nothing_to_prune(model, found)
    parts = find_parts(model, whole, inputs, protect=protect, only=only)
    return replace(_with_feed_forward(model, found), parts=parts)


def _with_feed_forward(model: nn.Module, found: ModelGroups) -> ModelGroups:
    """Mark the groups of channels that linear layers alone touch."""
    units = found.unit_group()
    others: set[int] = set()
    for dimension in found.plan.dimensions:
        if not isinstance(model.get_submodule(dimension.parameter.rpartition(".")[0]), nn.Linear):
            others |= set(units[dimension.units[dimension.units != NO_UNIT]].tolist())
    groups = [
        replace(g, feed_forward=g.granularity == "channel" and index not in others)
        for index, g in enumerate(found.groups)
    ]
    return replace(found, groups=tuple(groups))


def _fall_back(model: nn.Module, inputs: Inputs, error: ExportError) -> ModelGroups:
    """Trace by running the model, for Python that depends on data."""
    from autoprune.groups.fallback import find_groups_fallback

    _check_runs(model, inputs)
    try:
        found = find_groups_fallback(model, inputs)
    except GroupError as failed:
        raise GroupError(f"{error}. {failed}", hint=failed.hint) from failed
    return replace(found, notes=(*found.notes, str(error)))


def _check_runs(model: nn.Module, inputs: Inputs) -> None:
    training = {module: module.training for module in model.modules()}
    try:
        model.eval()
        with torch.no_grad():
            model(*inputs.args, **inputs.kwargs)
    except Exception as error:
        raise GroupError(
            f"The model fails on its example inputs: {type(error).__name__}: {error}",
            hint="Give example inputs with which `model(*args, **kwargs)` runs.",
        ) from error
    finally:
        for module, flag in training.items():
            module.training = flag


def _nothing_to_prune(model: nn.Module, found: ModelGroups) -> GroupError:
    kinds = Counter(type(module).__name__ for module in model.modules() if not any(True for _ in module.children()))
    have = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common(SHOWN)) or "none"
    why = [f"{layer.name or 'the model'} ({layer.kind}): {layer.reason}" for layer in found.protected]
    more = [f"and {len(why) - SHOWN} more"] if len(why) > SHOWN else []
    return GroupError(
        f"The model has nothing that can be pruned. Prunable are: {PRUNABLE_KINDS}. Its modules: {have}.",
        hint="Protected: " + "; ".join([*why[:SHOWN], *more]) + "." if why else "It has no layer with weights.",
    )
