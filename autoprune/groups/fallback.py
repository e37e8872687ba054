"""Model -> groups where torch.export fails: torch-pruning traces, and every group has to survive being pruned alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from autoprune.groups.cloning import clone_model
from autoprune.groups.depgraph import Coupling, RootGroup, couple, tensors_in, unreached_layers
from autoprune.groups.layers import layer_kind, output_dim, weighted_layers
from autoprune.groups.recording import FORWARD_ERRORS
from autoprune.groups.slicing import Slicer
from autoprune.groups.types import (
    NO_UNIT,
    DimensionUnits,
    GroupedWeight,
    IntArray,
    ModelGroups,
    ProtectedLayer,
    PruningGroup,
    SlicingPlan,
)
from autoprune.tasks.protocol import Inputs

NOTE = (
    "torch.export could not take this model: torch-pruning traced the branch that the example inputs take, "
    "and every group was pruned alone as a check."
)
_PROBE_SEED = 0
_PROBE_SHARE = 0.45


@dataclass(frozen=True)
class _Candidate:
    """A group before it has its numbers: the classes that are its units, in order of the first producer."""

    name: str
    classes: IntArray
    producers: tuple[tuple[str, int], ...]
    batch_norms: tuple[str, ...]


def find_groups_fallback(model: nn.Module, inputs: Inputs) -> ModelGroups:
    """Find groups without torch.export; `model` is left as it was.

    Without a graph nothing shows that zeroing a unit equals removing it, on the branches not taken least of all, so
    no group's masking is called exact.

    Raises:
        GroupError: torch-pruning cannot trace the model either.
    """
    working = clone_model(model, {})
    coupling, roots = couple(working, inputs)
    classes = coupling.classes()
    reasons: dict[str, str] = {}
    candidates = _candidates(coupling, roots, classes, reasons)
    working.eval()
    unreached = unreached_layers(working, inputs)
    reasons.update(dict.fromkeys(unreached, "the example inputs do not reach it"))
    probe = _Probe(working, inputs)
    passed = []
    for candidate in candidates:
        problem = _may_meet(coupling, classes, candidate, unreached)
        problem = problem or probe.alone(_plan(coupling, classes, [candidate]))
        if problem:
            reasons.update(dict.fromkeys(_layers(candidate), problem))
        else:
            passed.append(candidate)
    passed = _together(probe, coupling, classes, passed, reasons)
    groups = _number(passed, coupling, classes)
    return ModelGroups(
        groups=groups,
        protected=_protected(model, groups, reasons),
        plan=_plan(coupling, classes, passed),
        tracer="torch-pruning",
        notes=(NOTE,),
    )


def _candidates(
    coupling: Coupling, roots: Sequence[RootGroup], classes: IntArray, reasons: dict[str, str]
) -> list[_Candidate]:
    """Merge the groups that share a class, drop refused classes, and order by the forward pass."""
    refused = {int(c): reason for atoms, reason in coupling.refused for c in classes[atoms]}
    order = {path: position for position, path in enumerate(coupling.modules)}
    found = []
    for members in _merged(roots, classes):
        producers = list(dict.fromkeys(p for group in members for p in group.producers))
        producers.sort(key=lambda p: order[_path(p[0])])
        own = np.concatenate([classes[group.roots] for group in members])
        problems = [refused[int(c)] for c in own if int(c) in refused]
        rows = [classes[coupling.dimension(*producer)] for producer in producers]
        mine = set(own.tolist()) - refused.keys()
        units = [c for c in dict.fromkeys(np.concatenate(rows).tolist()) if c in mine]
        if len(units) < 2:
            reason = problems[0] if problems else "its outputs form a single unit"
            reasons.update({_path(parameter): reason for parameter, _ in producers})
            continue
        norms = sorted({norm for group in members for norm in group.batch_norms}, key=order.__getitem__)
        found.append(_Candidate(_path(producers[0][0]), np.array(units), tuple(producers), tuple(norms)))
    return sorted(found, key=lambda c: order[c.name])


def _may_meet(
    coupling: Coupling, classes: IntArray, candidate: _Candidate, unreached: Mapping[str, frozenset[int]]
) -> str:
    """Return which unreached layer may read or join a group's outputs on another branch, or an empty text.

    No trace shows what that branch does, so any layer counts one of whose dimensions is a multiple (as after flatten)
    of one of the group's.
    """
    sizes = {len(a) for a in coupling.dimensions.values() if np.isin(classes[a], candidate.classes).any()}
    for path, dimensions in unreached.items():
        if any(dimension % size == 0 for dimension in dimensions for size in sizes if size > 1):
            return f"{path!r}, which the example inputs do not reach, may read or join its outputs"
    return ""


def _merged(roots: Sequence[RootGroup], classes: IntArray) -> list[list[RootGroup]]:
    owners: dict[int, int] = {}
    edges = [
        (owners.setdefault(cls, number), number)
        for number, group in enumerate(roots)
        for cls in classes[group.roots].tolist()
    ]
    left, right = np.array(edges, dtype=np.int64).reshape(-1, 2).T
    graph = coo_matrix((np.ones(len(edges), np.int8), (left, right)), shape=(len(roots), len(roots)))
    count, labels = connected_components(graph, directed=False)
    return [[roots[i] for i in np.flatnonzero(labels == label).tolist()] for label in range(count)]


def _plan(coupling: Coupling, classes: IntArray, candidates: Sequence[_Candidate]) -> SlicingPlan:
    units = np.full(int(classes.max(initial=-1)) + 1, NO_UNIT, dtype=np.int64)
    count = 0
    for candidate in candidates:
        units[candidate.classes] = np.arange(count, count + len(candidate.classes))
        count += len(candidate.classes)
    grouped = []
    for path, atoms in coupling.inputs.items():
        module = coupling.modules[path]
        assert isinstance(module, _ConvNd)
        weight = f"{path}.weight".lstrip(".")
        in_units = units[classes[atoms]].reshape(module.groups, -1)
        rows = units[classes[coupling.dimension(weight, 0)]]
        if (in_units != NO_UNIT).any() or (rows != NO_UNIT).any():
            grouped.append(GroupedWeight(weight, path, module.groups, in_units))
    dimensions = []
    for (name, dim), atoms in coupling.dimensions.items():
        touched = units[classes[atoms]]
        if (touched != NO_UNIT).any():
            dimensions.append(DimensionUnits(name, dim, touched))
    return SlicingPlan(count, tuple(dimensions), tuple(grouped))


def _number(candidates: Sequence[_Candidate], coupling: Coupling, classes: IntArray) -> tuple[PruningGroup, ...]:
    groups = []
    start = 0
    for candidate in candidates:
        width = len(candidate.classes)
        rows = classes[coupling.dimension(*candidate.producers[0])]
        single = len(np.unique(rows)) == len(rows)
        groups.append(
            PruningGroup(
                name=candidate.name,
                start=start,
                width=width,
                granularity="channel" if single else "block",
                producers=candidate.producers,
                batch_norms=candidate.batch_norms,
                exact_masking=False,
            )
        )
        start += width
    return tuple(groups)


class _Probe:
    """Runs pruned copies of one model on one input."""

    def __init__(self, model: nn.Module, inputs: Inputs) -> None:
        self._model = model
        self._inputs = inputs
        self._shapes = [tuple(t.shape) for t in self._run(model)]
        self._rng = np.random.default_rng(_PROBE_SEED)

    def alone(self, plan: SlicingPlan) -> str:
        """Prune one group; return the problem, or "".

        Removing a single unit breaks every layer that needs a multiple of something, such as attention heads; removing
        many at random breaks layers that need fixed ones.
        """
        slicer = Slicer(self._model, plan)
        counts = (1, max(1, int(plan.unit_count * _PROBE_SHARE)))
        problems = (self._try(slicer, self._remove(plan.unit_count, count)) for count in counts)
        return next((problem for problem in problems if problem), "")

    def together(self, plan: SlicingPlan, groups: Sequence[PruningGroup]) -> str:
        """Prune some of every group at once; return the problem, or ""."""
        alive = [self._remove(group.width, max(1, group.width // 3)) for group in groups]
        return self._try(Slicer(self._model, plan), np.concatenate(alive))

    def _remove(self, width: int, count: int) -> npt.NDArray[np.bool_]:
        alive = np.ones(width, dtype=np.bool_)
        alive[self._rng.choice(width, count, replace=False)] = False
        return alive

    def _try(self, slicer: Slicer, alive: npt.NDArray[np.bool_]) -> str:
        try:
            outputs = self._run(slicer.slice(alive))
        except FORWARD_ERRORS as error:
            return f"the model does not run without some of its outputs ({type(error).__name__})"
        return "its output is the model's output" if [tuple(t.shape) for t in outputs] != self._shapes else ""

    def _run(self, model: nn.Module) -> list[Tensor]:
        with torch.no_grad():
            return tensors_in(model(*self._inputs.args, **self._inputs.kwargs))


def _together(
    probe: _Probe, coupling: Coupling, classes: IntArray, passed: list[_Candidate], reasons: dict[str, str]
) -> list[_Candidate]:
    """Drop the groups that fail beside others, adding one after the other only when all at once fail."""

    def problem(candidates: list[_Candidate]) -> str:
        return probe.together(_plan(coupling, classes, candidates), _number(candidates, coupling, classes))

    if not passed or not problem(passed):
        return passed
    kept: list[_Candidate] = []
    for candidate in passed:
        if problem([*kept, candidate]):
            reasons.update(dict.fromkeys(_layers(candidate), "the model does not run when it is pruned beside others"))
        else:
            kept.append(candidate)
    return kept


def _protected(model: nn.Module, groups: Sequence[PruningGroup], reasons: dict[str, str]) -> tuple[ProtectedLayer, ...]:
    prunable = {layer for group in groups for layer in group.layers}
    protected = []
    for layer, weight in weighted_layers(model).items():
        if layer not in prunable:
            width = int(model.get_parameter(weight).shape[output_dim(model, weight)])
            reason = reasons.get(layer, "torch-pruning found no outputs that can be removed")
            protected.append(ProtectedLayer(layer, layer_kind(model, layer), width, reason))
    return tuple(protected)


def _layers(candidate: _Candidate) -> list[str]:
    return [_path(parameter) for parameter, _ in candidate.producers]


def _path(parameter: str) -> str:
    return parameter.rpartition(".")[0]
