"""Model -> what can be pruned without slicing: weight tensors, blocks, activations, norms, poolings, biases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from autoprune.groups.blocks import removable_blocks
from autoprune.groups.cloning import sharing_clone
from autoprune.groups.edits import apply_edits, replace_module
from autoprune.groups.factors import can_factor, empty_factors
from autoprune.groups.layers import layer_of, weighted_layers
from autoprune.groups.members import activations, biases, norms, poolings, unshared_parameters
from autoprune.groups.recording import FORWARD_ERRORS, Recording, record, tensors_of
from autoprune.groups.types import Edit, ModelGroups, Part, PartKind
from autoprune.tasks.protocol import Inputs

LEAST_ENTRIES = 16
_EXACT = 1e-3


@dataclass(frozen=True)
class _Found:
    """A model's copy with one recorded pass."""

    model: nn.Module
    inputs: Inputs
    seen: Recording


@dataclass(frozen=True)
class _Patterns:
    """Globs over names: what matches none of `only`, or any of `protect`, stays whole."""

    protect: Sequence[str]
    only: Sequence[str]

    def allow(self, *names: str) -> bool:
        """Tell whether something of these names, all meaning the same, may be pruned."""
        return not _matches(names, self.protect) and _matches(names, self.only)

    def allow_block(self, path: str, layers: Sequence[str]) -> bool:
        """Tell whether a block may go with all the layers in it."""
        if _matches((path, *layers), self.protect):
            return False
        return _matches((path,), self.only) or all(_matches((layer,), self.only) for layer in layers)


def find_parts(
    model: nn.Module, groups: ModelGroups, inputs: Inputs, *, protect: Sequence[str] = (), only: Sequence[str] = ("*",)
) -> tuple[Part, ...]:
    """Return what can be pruned besides the units of groups; `model` is left as it was.

    The edits of a kind were tried all at once, those of blocks each alone too: the model ran, with outputs of the same
    shapes. Takes about seven forward passes where nothing fails, and one a block.

    Args:
        model: Prepared (`prepare_model`).
        groups: All that can be cut in it, patterns aside: what removed blocks have to go with.
        inputs: Arguments of one forward pass.
        protect: Globs over layer names (for modules without weights, over their own); what matches stays whole.
        only: Globs likewise; what matches none stays whole.
    """
    patterns, working = _Patterns(protect, only), sharing_clone(model).eval()
    try:
        found = _Found(working, inputs, record(working, inputs))
    except FORWARD_ERRORS:
        return _tensors(working, frozenset(), patterns)
    blocks = removable_blocks(working, groups, inputs, found.seen)
    layers = weighted_layers(working)
    inside = {edit.path: [layer for layer in layers if layer.startswith(f"{edit.path}.")] for edit in blocks}
    proven = _proven(found, _lone_edits(working, found.seen))
    edits: Mapping[PartKind, list[Edit]] = {
        "depth": [e for e in _proven_blocks(found, blocks) if patterns.allow_block(e.path, inside[e.path])],
        "activation": [e for e in proven if e.kind == "remove" and patterns.allow(e.path)],
        "norm": [e for e in _proven(found, _folds(working, found.seen)) if patterns.allow(e.path, e.other)],
        "pooling": [e for e in proven if e.kind == "average_pool" and patterns.allow(e.path)],
        "bias": [e for e in proven if e.kind == "no_bias" and patterns.allow(layer_of(model, e.path))],
    }
    factored = frozenset(e.path for e in proven if e.kind == "low_rank")
    parts = (_part(kind, members) for kind, members in edits.items() if members)
    return (*_tensors(working, factored, patterns), *parts)


def _matches(names: Sequence[str], patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for name in names for pattern in patterns)


def _part(kind: PartKind, edits: Sequence[Edit]) -> Part:
    partners = tuple(edit.other for edit in edits if edit.other)
    returns = tuple(e.returns for e in edits) if any(e.returns is not None for e in edits) else ()
    members = tuple(edit.path for edit in edits)
    return Part(f"@{kind}", kind, members, len(edits), (), partners, factored=False, returns=returns)


def _folds(model: nn.Module, seen: Recording) -> list[Edit]:
    return [Edit("fold_norm", norm, other=layer) for norm, layer in norms(model, seen)]


def _lone_edits(model: nn.Module, seen: Recording) -> list[Edit]:
    """Return the edits of single modules that change what a model computes but not where its tensors go."""
    once = unshared_parameters(model)
    return [
        *(Edit("remove", path) for path in activations(model, seen)),
        *(Edit("average_pool", path) for path in poolings(model, seen)),
        *(Edit("no_bias", name) for name in biases(model, seen)),
        *(
            Edit("low_rank", path, 1)
            for path, module in model.named_modules()
            if path and can_factor(module) and id(module.weight) in once and _takes_one(seen, path)
        ),
    ]


def _takes_one(seen: Recording, path: str) -> bool:
    calls = seen.calls.get(path, [])
    return bool(calls) and all(call.source is not None for call in calls)


def _proven(found: _Found, edits: Sequence[Edit]) -> Sequence[Edit]:
    """Return the edits with which the model runs: all at once, or else those of a kind, or those that do alone."""
    if not edits or _works(found, edits):
        return edits
    kinds = dict.fromkeys(edit.kind for edit in edits)
    if len(kinds) > 1:
        return [edit for kind in kinds for edit in _proven(found, [e for e in edits if e.kind == kind])]
    return [edit for edit in edits if _works(found, [edit])] if len(edits) > 1 else []


def _proven_blocks(found: _Found, edits: Sequence[Edit]) -> Sequence[Edit]:
    """Return the blocks without each of which the model runs, and without all of which: one may need another."""
    alone = [edit for edit in edits if _works(found, [edit])]
    if len(alone) < 2 or _works(found, alone):
        return alone
    kept: list[Edit] = []
    for edit in alone:
        if _works(found, [*kept, edit]):
            kept.append(edit)
    return kept


def _works(found: _Found, edits: Sequence[Edit]) -> bool:
    """Tell whether an edited model runs with outputs of the same shapes, and equal ones where norms are folded."""
    written = {id(p) for e in edits if e.other for p in found.model.get_submodule(e.other).parameters()}
    model = sharing_clone(found.model, written)
    apply_edits(model, [edit for edit in edits if edit.kind != "low_rank"])
    for edit in edits:
        if edit.kind == "low_rank":
            layer = model.get_submodule(edit.path)
            replace_module(model, layer, empty_factors(layer, edit.value))
    try:
        with torch.no_grad():
            outputs = tensors_of(model(*found.inputs.args, **found.inputs.kwargs))
    except FORWARD_ERRORS:
        return False
    if [t.shape for t in outputs] != [t.shape for t in found.seen.returned]:
        return False
    exact = all(edit.kind == "fold_norm" for edit in edits)
    return not exact or all(_close(a, b) for a, b in zip(outputs, found.seen.returned, strict=True))


def _close(left: Tensor, right: Tensor) -> bool:
    scale = float(right.abs().max()) if right.numel() else 0.0
    return bool(torch.allclose(left, right, rtol=_EXACT, atol=_EXACT * scale))


def _tensors(model: nn.Module, factored: frozenset[str], patterns: _Patterns) -> tuple[Part, ...]:
    """Return the weights of convolution and linear layers, shared ones once and those of embeddings never."""
    taken = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding | nn.EmbeddingBag)}
    out = []
    for path, module in model.named_modules():
        weight = module.__dict__["_parameters"].get("weight") if isinstance(module, _ConvNd | nn.Linear) else None
        if weight is None or weight.numel() < LEAST_ENTRIES or id(weight) in taken:
            continue
        taken.add(id(weight))
        name = f"{path}.weight".lstrip(".")
        if patterns.allow(layer_of(model, name)):
            out.append(Part(name, "tensor", (name,), weight.numel(), tuple(weight.shape), factored=path in factored))
    return tuple(out)
