"""Groups -> groups that were tried: cut them, export again, and compare the graph with the prediction.

A forward pass that runs shows nothing: `view(B, N, heads, -1)` runs and is wrong after a head is cut. So the pruned
model's graph must have the same operators, the same constants, and exactly the shapes that the labels predict. Where
it has not, integer attributes of modules (num_heads, split_size) are patched; what cannot be fixed is protected.

What is tried are samples: some units of every group at once, and where a dimension is cut into pieces also each piece
alone. Source that computes another constant of only some widths can pass them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import combinations, zip_longest

import numpy as np

from autoprune.errors import AutopruneError
from autoprune.groups.assembly import GRANULARITIES, Assembly, RuleSite, assemble
from autoprune.groups.cloning import clone_model, size_attributes
from autoprune.groups.comparison import mismatch
from autoprune.groups.slicing import Slicer
from autoprune.groups.tracing import EXPORT_FAILED, Trace, export_program, partition
from autoprune.groups.tracing.axes import components
from autoprune.groups.tracing.labels import BoolArray, Labels
from autoprune.groups.tracing.tracer import module_path
from autoprune.groups.training import idle_parameters, training_shapes
from autoprune.groups.types import NO_UNIT, IntArray, ModelGroups, PruningGroup
from autoprune.tasks.protocol import Inputs

SIZE_ATTRIBUTES = frozenset(
    {"in_channels", "out_channels", "in_features", "out_features", "num_features", "num_channels", "embedding_dim"}
    | {"num_embeddings", "num_parameters", "groups"}
)
REMOVED = (0.35, 0.55)
MAX_PATCHES = 3
MAX_TRIES = 40
MAX_EXPORTS = 200
MAX_PIECES = 16

Patch = tuple[RuleSite, ...]


def verify(trace: Trace, inputs: Inputs, *, seed: int = 0) -> ModelGroups:
    """Return groups of which any subset of units can be cut; one more export when nothing is wrong.

    Args:
        trace: The walked graph; what must be protected is added to its evidence.
        inputs: Those of the trace.
        seed: Of the units that are cut to try.
    """
    return _Verifier(trace, inputs, np.random.default_rng(seed)).run()


@dataclass
class _Verifier:
    """State of one verification.

    Args:
        rules: Attribute patches found so far.
        sound: Keys of groups that passed.
        known: Names of attributes that helped together, tried first on the next groups.
        hopeless: Kind of group and names of attributes of which no patch helped.
        exports: How many were made; after `MAX_EXPORTS` what still fails is protected without more trials.
    """

    trace: Trace
    inputs: Inputs
    rng: np.random.Generator
    rules: list[RuleSite] = field(default_factory=list)
    sound: set[tuple[str, int, str]] = field(default_factory=set)
    known: list[frozenset[str]] = field(default_factory=list)
    hopeless: set[tuple[str, frozenset[str]]] = field(default_factory=set)
    exports: int = 0

    def run(self) -> ModelGroups:
        """Check all groups at once; where that fails repair one by one, and check again."""
        while True:
            assembly = self._assemble()
            groups = assembly.groups.groups
            if not groups:
                return assembly.groups
            if self._problem(assembly, groups) is None:
                if not self._protect_from_training(assembly):
                    return assembly.groups
            elif not self._repair(assembly):
                self._protect_first_conflict(assembly)

    def _protect_from_training(self, assembly: Assembly) -> bool:
        """Protect the groups without which training fails, in layers that evaluation does not use.

        Where the whole model does not train on the example inputs nothing can be told.

        Returns:
            Whether there are any.
        """
        idle = idle_parameters(self.trace)
        whole = training_shapes(clone_model(self.trace.model, {}), self.inputs) if idle else ""
        if isinstance(whole, str):
            return False
        slicer, groups = Slicer(self.trace.model, assembly.groups.plan), assembly.groups.groups

        def trains(cut: Sequence[PruningGroup]) -> bool:
            return training_shapes(slicer.slice(self._sample(assembly, cut)), self.inputs) == whole

        if trains(groups):
            return False
        failing = [group for group in groups if not trains([group])] or groups
        self.trace.evidence.module = self.trace.evidence.node = ""
        reason = f"training, which uses {idle[0]!r} too, needs all of its outputs"
        for group in failing:
            self.trace.evidence.freeze_atoms(np.flatnonzero(assembly.atoms_of(group)), reason)
        return True

    def _assemble(self, extra: Sequence[RuleSite] = ()) -> Assembly:
        return assemble(self.trace, partition(self.trace.evidence), (*self.rules, *extra))

    def _repair(self, assembly: Assembly) -> bool:
        """Find what fails, kind by kind. Return whether anything changed."""
        changed = False
        for kind in GRANULARITIES:
            groups = [g for g in assembly.groups.groups if g.granularity == kind and _key(g) not in self.sound]
            changed |= self._repair_among(assembly, groups)
        return changed

    def _repair_among(self, assembly: Assembly, groups: Sequence[PruningGroup]) -> bool:
        """Halve groups that fail until a failing one stands alone. Return whether anything changed."""
        problem = self._problem(assembly, groups) if groups else None
        if problem is None:
            self.sound.update(_key(group) for group in groups)
            return False
        if len(groups) == 1:
            self._repair_group(assembly, groups[0], problem)
            return True
        if self.known and self._transfer(assembly, groups):
            return True
        half = len(groups) // 2
        parts = [self._repair_among(assembly, part) for part in (groups[:half], groups[half:])]
        return any(parts)

    def _repair_group(self, assembly: Assembly, group: PruningGroup, problem: str) -> None:
        """Patch a group that fails alone; change its axis or protect it where no patch helps."""
        patch = self._find_patch(assembly, group)
        if patch is None:
            self._give_up(assembly, group, problem)
        else:
            self.rules.extend(patch)
            self.known.append(_names(patch))
            self.sound.add(_key(group))

    def _transfer(self, assembly: Assembly, groups: Sequence[PruningGroup]) -> bool:
        """Patch the same attributes of all the other groups' modules at once, as in the layers of a transformer."""
        alive = self._sample(assembly, groups)
        names = self.known[-1]
        sites = (site for patch in self._candidates(assembly, alive) for site in patch if site.attribute in names)
        first = {(site.module, site.attribute): site for site in reversed(tuple(sites))}
        if self._problem(self._assemble(tuple(first.values())), groups, alive) is not None:
            return False
        self.rules.extend(first.values())
        self.sound.update(_key(group) for group in groups)
        return True

    def _give_up(self, assembly: Assembly, group: PruningGroup, problem: str) -> None:
        """Cut the group's views along another axis next time; protect the group when there is none."""
        evidence = self.trace.evidence
        evidence.module = evidence.node = ""
        reason = f"a size in the source does not follow it: {problem}"
        axes = partition(evidence).axes
        views = [b for b in evidence.blocks if b.kind == "view" and _touches(assembly, group, b.atoms)]
        cut = [(block, axes.axis_of[block]) for block in views]
        if self.exports >= MAX_EXPORTS or not any(axis is not None for _, axis in cut):
            evidence.freeze_atoms(np.flatnonzero(assembly.atoms_of(group)), reason)
        for block, axis in cut:
            if axis is not None:
                evidence.fix(block.axis(axis), reason)

    def _protect_first_conflict(self, assembly: Assembly) -> None:
        """Add groups one by one; the first with which the rest fails is protected."""
        accepted: list[PruningGroup] = []
        for group in assembly.groups.groups:
            problem = self._problem(assembly, [*accepted, group]) if accepted else None
            if problem is not None:
                break
            accepted.append(group)
        self.trace.evidence.module = self.trace.evidence.node = ""
        reason = "it fails together with other groups"
        self.trace.evidence.freeze_atoms(np.flatnonzero(assembly.atoms_of(group)), reason)

    def _find_patch(self, assembly: Assembly, group: PruningGroup) -> Patch | None:
        """Return the smallest set of attributes with which the group can be cut.

        What did not help one group is not tried on another of its kind with the same attributes.
        """
        alive = self._sample(assembly, [group])
        candidates = self._candidates(assembly, alive)
        kind = (group.granularity, frozenset(name for patch in candidates for name in _names(patch)))
        if kind in self.hopeless or self.exports >= MAX_EXPORTS:
            return None
        for patch in self._patches(candidates):
            if self._problem(self._assemble(patch), [group], alive) is None:
                return patch
        self.hopeless.add(kind)
        return None

    def _patches(self, candidates: Sequence[Patch]) -> list[Patch]:
        """Return sets of patches to try, first those by names that helped before, then by size."""
        sets = (p for n in range(1, MAX_PATCHES + 1) for p in combinations(candidates[:MAX_TRIES], n))
        flat = [tuple(site for sites in chosen for site in sites) for chosen in sets]
        return sorted(flat, key=lambda patch: _names(patch) not in self.known)[:MAX_TRIES]

    def _candidates(self, assembly: Assembly, alive: BoolArray) -> list[Patch]:
        """Return integer attributes equal to a size that changes in a tensor made by their module.

        A literal in the graph may come from an attribute, a constant or `x.shape`: the graph cannot tell, so they are
        tried. Equal attributes that change equally in several modules are tried together.
        """
        found: dict[tuple[str, int, int], dict[str, RuleSite]] = {}
        for path, old, new, atoms in _changes(self.trace, assembly.alive_atoms(alive)):
            for name, value in _integer_attributes(self.trace, path).items():
                if value == old:
                    sites = found.setdefault((name, old, new), {})
                    sites.setdefault(path, RuleSite(path, name, atoms))
        return [tuple(sites.values()) for sites in found.values()]

    def _sample(self, assembly: Assembly, groups: Sequence[PruningGroup]) -> BoolArray:
        """Draw living units: somewhat less than half of each group's go, not the same share everywhere.

        Every piece of a dimension that is cut into pieces loses some, which shows a bound that does not follow.
        """
        alive = np.ones(assembly.groups.plan.unit_count, dtype=np.bool_)
        for group in groups:
            removed = max(1, int(self.rng.uniform(*REMOVED) * group.width))
            alive[group.start + self.rng.permutation(group.width)[:removed]] = False
        for region in (region for pieces in self.trace.evidence.regions for region in pieces):
            units = assembly.unit_of[region.ravel()]
            mine = units[[u != NO_UNIT and any(g.start <= u < g.start + g.width for g in groups) for u in units]]
            if len(mine) and alive[mine].all():
                alive[self.rng.choice(mine)] = False
        return _nowhere_empty(assembly, alive)

    def _problem(
        self, assembly: Assembly, groups: Sequence[PruningGroup], alive: BoolArray | None = None
    ) -> str | None:
        """Return the first thing that is wrong when units of `groups` are cut, or None.

        Args:
            assembly: What is cut.
            groups: Those of which units go.
            alive: Living units of the first cut, otherwise drawn; cuts of single pieces follow.
        """
        first = self._sample(assembly, groups) if alive is None else alive
        samples = (first, *(_without(assembly, cut) for cut in _cuts_of_pieces(self.trace, assembly, groups)))
        return next((p for p in (self._problem_of(assembly, sample) for sample in samples) if p is not None), None)

    def _problem_of(self, assembly: Assembly, alive: BoolArray) -> str | None:
        """Return the first thing that is wrong with the model that has the units `alive`, or None."""
        self.exports += 1
        try:
            outline = Slicer(self.trace.model, assembly.groups.plan).outline(alive)
            program = export_program(outline, self.inputs)
        except AutopruneError as error:
            return str(error).removeprefix(EXPORT_FAILED)
        return mismatch(self.trace, program, assembly.alive_atoms(alive))


def _cuts_of_pieces(trace: Trace, assembly: Assembly, groups: Sequence[PruningGroup]) -> list[IntArray]:
    """Return sets of units, each of one piece only of every dimension that is cut into pieces: one unit, and all.

    A bound that does not follow, as `width // 2`, can be right by chance where several pieces lose units. Dimensions
    that share no unit are cut in the same set.
    """
    mine = np.zeros(assembly.groups.plan.unit_count + 1, dtype=np.bool_)
    for group in groups:
        mine[group.start : group.start + group.width] = True
    member: dict[int, list[int]] = {}
    edges: list[IntArray] = []
    for number, region in enumerate(region for regions in trace.evidence.regions for region in regions):
        units = np.unique(assembly.unit_of[region.ravel()])
        for unit in units[mine[units]].tolist():
            member.setdefault(unit, []).append(number)
    for regions in trace.evidence.regions:
        units = assembly.unit_of[np.concatenate([region.ravel() for region in regions])]
        units = units[mine[units]]
        edges.extend([np.stack([np.full(len(units), units[0]), units])] if len(units) else [])
    component = components(len(mine), edges)
    pieces: dict[int, dict[tuple[int, ...], list[int]]] = {}
    for unit, where in sorted(member.items()):
        pieces.setdefault(int(component[unit]), {}).setdefault(tuple(where), []).append(unit)
    cuts = []
    for together in zip_longest(*(list(own.values())[:MAX_PIECES] for own in pieces.values()), fillvalue=()):
        cuts.append(np.array([unit for units in together for unit in units[:1]], dtype=np.int64))
        cuts.append(np.array([unit for units in together for unit in units], dtype=np.int64))
    return cuts


def _without(assembly: Assembly, units: IntArray) -> BoolArray:
    """Return [unit_count] all units alive but some."""
    alive = np.ones(assembly.groups.plan.unit_count, dtype=np.bool_)
    alive[units] = False
    return _nowhere_empty(assembly, alive)


def _nowhere_empty(assembly: Assembly, alive: BoolArray) -> BoolArray:
    """Bring the first unit back wherever a dimension would be left without any."""
    for dimension in assembly.groups.plan.dimensions:
        if not np.append(alive, True)[dimension.units].any():
            alive[dimension.units[0]] = True
    return alive


def _key(group: PruningGroup) -> tuple[str, int, str]:
    return group.name, group.width, group.granularity


def _names(patch: Patch) -> frozenset[str]:
    return frozenset(site.attribute for site in patch)


def _touches(assembly: Assembly, group: PruningGroup, atoms: IntArray) -> bool:
    return bool(assembly.atoms_of(group)[atoms.ravel()].any())


def _changes(trace: Trace, alive: BoolArray) -> Iterator[tuple[str, int, int, IntArray]]:
    """Yield (module path, old size, new size, atoms) of every dimension that gets shorter, of all tensors."""
    for node, result in trace.labels.items():
        for labels in [result] if isinstance(result, Labels) else result:
            cuts = labels.pruned_dims(alive)
            yield from ((module_path(node), labels.shape[d], n, a) for d, n, a in cuts if n != labels.shape[d])


def _integer_attributes(trace: Trace, path: str) -> dict[str, int]:
    values = size_attributes(trace.model.get_submodule(path))
    return {name: value for name, value in values.items() if name not in SIZE_ATTRIBUTES}
