"""Groups + edits -> the groups of the edited model: which tensors still hold their units."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from autoprune.groups.edits import effective
from autoprune.groups.types import AttributeRule, DimensionUnits, Edit, GroupedWeight, ModelGroups, PruningGroup

_Key = tuple[str, int]


def groups_after(groups: ModelGroups, edits: Sequence[Edit]) -> ModelGroups:
    """Return the groups as the edited, unsliced model holds them, so that it can be sliced or its cost be told.

    Units keep their numbers. A group whose layers all went keeps its units, which then stand for nothing. Parts are
    left out: they were proven on the whole model.

    Args:
        groups: Of the model before the edits.
        edits: Those that the model had.
    """
    made = effective(edits)
    removed = tuple(edit.path for edit in made if edit.kind == "remove")
    norms = {edit.path: edit.other for edit in made if edit.kind == "fold_norm"}
    gone = {edit.path for edit in made if edit.kind == "no_bias"}
    ranks = {edit.path for edit in made if edit.kind == "low_rank"}

    def new_key(key: _Key) -> _Key | None:
        """Return where a tensor's dimension went; None where it is no more."""
        path, _, leaf = key[0].rpartition(".")
        if _inside(path, removed) or path in norms or key[0] in gone:
            return None
        if path not in ranks:
            return key
        return (f"{path}.0.weight", 1) if leaf == "weight" and key[1] == 1 else (f"{path}.1.{leaf}", key[1])

    kept = {new: d.units for d in groups.plan.dimensions if (new := new_key((d.parameter, d.dim))) is not None}
    for d in groups.plan.dimensions:
        path, _, leaf = d.parameter.rpartition(".")
        if path in norms and leaf == "running_mean":
            other = norms[path]
            kept.setdefault((f"{other}.1.bias" if other in ranks else f"{other}.bias", 0), d.units)
    plan = replace(
        groups.plan,
        dimensions=tuple(DimensionUnits(name, dim, units) for (name, dim), units in kept.items()),
        grouped=tuple(g for g in groups.plan.grouped if not _is_gone(g, removed)),
        rules=tuple(r for r in groups.plan.rules if not _is_gone(r, removed)),
    )

    def moved(group: PruningGroup) -> PruningGroup:
        producers = tuple(new for key in group.producers if (new := new_key(key)) is not None)
        alive = tuple(n for n in group.batch_norms if n not in norms and not _inside(n, removed))
        return replace(group, producers=producers, batch_norms=alive)

    return replace(groups, groups=tuple(moved(g) for g in groups.groups), plan=plan, parts=())


def _inside(path: str, removed: Sequence[str]) -> bool:
    return any(path == above or path.startswith(f"{above}.") for above in removed)


def _is_gone(item: GroupedWeight | AttributeRule, removed: Sequence[str]) -> bool:
    return _inside(item.module, removed)
