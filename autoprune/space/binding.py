"""Declared space + model -> the groups that are searched, their widths, and the ways along the axes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

from autoprune.axes import AXES, EDITS, STRUCTURED, TENSORS, refusal
from autoprune.errors import ConfigError
from autoprune.groups.types import ModelGroups, Part, PruningGroup
from autoprune.space.branches import Branches
from autoprune.space.conditions import Ranked, Start, start_of
from autoprune.space.spec import OWN_AXES, SearchSpace
from autoprune.space.widths import ROUND_LIMIT, TENSOR_KINDS, Item, Levels, group_levels, part_levels

if TYPE_CHECKING:
    from autoprune.space.bound import BoundSpace


def bound_space(spec: SearchSpace, groups: ModelGroups, device: Literal["cpu", "cuda"]) -> BoundSpace:
    """Return the space of one model.

    Raises:
        ConfigError: A tensor would be pruned in two ways, or nothing is left to choose.
    """
    from autoprune.space.bound import BoundSpace

    levels: dict[str, Levels] = {}
    kinds: dict[str, str] = {}
    items: list[Item] = []
    for group in groups.groups:
        if group.granularity in spec.granularity or (group.feed_forward and "ffn" in spec.granularity):
            levels[group.name] = group_levels(group.width, spec.sparsity, ROUND_LIMIT[device])
            items.append(group)
    items = [item for item in items if len(levels[item.name].widths) > 1]
    cut = _cut_tensors(groups, [item.name for item in items])
    left_out = []
    for part in sorted(groups.parts, key=lambda p: p.kind != "tensor"):
        found = _kinds_of(spec, part)
        if found and part.name in cut:
            left_out.append(part.name)
        elif found:
            levels[part.name], kinds[part.name] = found[0][1], TENSOR_KINDS.get(found[0][0], found[0][0])
            items.append(part)
    if not items:
        raise ConfigError(
            f"The space {spec.name!r} leaves no group with more than one width.",
            hint="Lower sparsity.round_to or sparsity.min_width, raise sparsity.max, or search another granularity.",
        )
    return BoundSpace(
        spec,
        tuple(items),
        {item.name: levels[item.name].widths for item in items},
        shares={name: levels[name].shares for name in kinds},
        kinds=kinds,
        model=groups,
        notes=(*_notes(left_out), *_scope_notes(spec, items, kinds, groups)),
    )


def branches_of(
    spec: SearchSpace, items: Sequence[Item], kinds: Mapping[str, str], model: ModelGroups | None
) -> Branches:
    """Return the ways along the axes of a space on one model.

    Raises:
        ConfigError: No combination of the declared choices is possible.
    """
    strategy = spec.strategy
    choices = {axis: strategy.choice(axis).choices for axis in AXES}
    own = [axis for axis in OWN_AXES if strategy.choice(axis).per_group]
    choices["granularity"] = _granularities(spec, items, kinds)
    starts: dict[tuple[str, str], Start] = {}
    for granularity in choices["granularity"]:
        concerned = {i: item for i, item in enumerate(items) if _works_on(granularity, item)}
        for scope in dict.fromkeys(choices["scope"]):
            others = [] if model is None or scope == "per_group" else _others(granularity, items, model)
            if not concerned or any(_is_free(spec, granularity, other) for other in others):
                continue
            if scope != "per_group" and not _in_one(granularity, items):
                continue
            ranked = {i: _ranked(item, granularity, kinds) for i, item in concerned.items()}
            ranked |= {-1 - i: _ranked(other, granularity, kinds) for i, other in enumerate(others)}
            start = start_of(choices, own, granularity, scope, ranked)
            if start is not None:
                starts[granularity, scope] = start
    if not starts:
        raise ConfigError(
            f"No combination of the choices of the space {spec.name!r} is possible{_why(choices)}.",
            hint="Give one of these axes a further choice.",
        )
    return Branches(starts, [item.name for item in items], choices)


def _kinds_of(spec: SearchSpace, part: Part) -> list[tuple[str, Levels]]:
    """Return the kinds of the space that a part can be searched as, with its levels: at most one."""
    wanted: Sequence[str] = tuple(TENSOR_KINDS) if part.kind == "tensor" else (part.kind,)
    found = [(kind, part_levels(part, kind, spec.sparsity)) for kind in wanted if kind in set[str](spec.granularity)]
    found = [(kind, levels) for kind, levels in found if len(levels.widths) > 1]
    if len(found) > 1:
        raise ConfigError(
            f"The space {spec.name!r} lists {' and '.join(kind for kind, _ in found)}: the weight {part.name!r} can be "
            "pruned in one way only, since its zeros follow one pattern.",
            hint="Leave one of them in granularity, and compare two runs.",
        )
    return found


def _cut_tensors(groups: ModelGroups, names: Sequence[str]) -> set[str]:
    """Return the parameters that units of some groups are cut out of."""
    spans = [(groups[name].start, groups[name].start + groups[name].width) for name in names]
    return {
        dimension.parameter
        for dimension in groups.plan.dimensions
        if any(((dimension.units >= start) & (dimension.units < end)).any() for start, end in spans)
    }


def _notes(left_out: Sequence[str]) -> tuple[str, ...]:
    if not left_out:
        return ()
    more = f" and {len(left_out) - 1} more weights are" if len(left_out) > 1 else " is"
    return (f"{left_out[0]}{more} not pruned as single weights: whole units of searched groups are cut out of them.",)


def _granularities(spec: SearchSpace, items: Sequence[Item], kinds: Mapping[str, str]) -> tuple[str, ...]:
    """Return the granularities that a strategy may have: of units, or the one kind that all parts have."""
    declared = tuple(dict.fromkeys(spec.strategy.granularity.choices))
    if any(isinstance(item, PruningGroup) for item in items):
        found = tuple(g for g in declared if g in STRUCTURED)
        if not found:
            raise ConfigError(
                f"strategy.granularity of the space {spec.name!r} is {', '.join(declared)}, but whole units are "
                "searched.",
                hint=f"Take one of {', '.join(STRUCTURED)}; weights and modules are named under granularity alone.",
            )
        return found
    found = tuple(dict.fromkeys(kinds.values()))
    return found if len(found) == 1 else ("channel",)


def _works_on(granularity: str, item: Item) -> bool:
    """Tell whether a strategy's granularity works on a searched item; parts are pruned by their own."""
    if isinstance(item, Part):
        return True
    if granularity == "head":
        return item.granularity == "head"
    return item.feed_forward if granularity == "ffn" else True


def _others(granularity: str, items: Sequence[Item], model: ModelGroups) -> list[Item]:
    """Return what the scopes local and global work on beside the searched items."""
    known = {item.name for item in items}
    found: Sequence[Item]
    if granularity in EDITS:
        found = [p for p in model.parts if p.kind == granularity]
    elif granularity in TENSORS:
        found = [p for p in model.parts if p.kind == "tensor"]
    else:
        found = [g for g in model.groups if _works_on(granularity, g)]
    return [item for item in found if item.name not in known]


def _is_free(spec: SearchSpace, granularity: str, other: Item) -> bool:
    """Tell whether something that is not searched has widths to choose from, so that a scope would cut it too."""
    if isinstance(other, PruningGroup):
        return len(group_levels(other.width, spec.sparsity, ROUND_LIMIT["cpu"]).widths) > 1
    kind = next((k for k, g in TENSOR_KINDS.items() if g == granularity), granularity)
    return len(part_levels(other, kind, spec.sparsity).widths) > 1


def _in_one(granularity: str, items: Sequence[Item]) -> bool:
    """Tell whether one granularity works on all searched items, parts included."""
    structural = granularity in STRUCTURED
    return all(isinstance(item, PruningGroup) == structural for item in items)


def _scope_notes(
    spec: SearchSpace, items: Sequence[Item], kinds: Mapping[str, str], model: ModelGroups
) -> tuple[str, ...]:
    scopes = [s for s in dict.fromkeys(spec.strategy.scope.choices) if s != "per_group"]
    found = []
    for granularity in _granularities(spec, items, kinds) if scopes else ():
        if not _in_one(granularity, items):
            found.append(
                f"Scope {' and '.join(scopes)}: left out, since the space mixes units with weights or modules."
            )
        else:
            free = [o.name for o in _others(granularity, items, model) if _is_free(spec, granularity, o)]
            if free:
                found.append(
                    f"Scope {' and '.join(scopes)}: left out for granularity {granularity}, since it would prune "
                    f"{free[0]} too, which the space leaves whole."
                )
    return tuple(dict.fromkeys(found))


def _ranked(item: Item, granularity: str, kinds: Mapping[str, str]) -> Ranked:
    if isinstance(item, PruningGroup):
        return Ranked(granularity, bool(item.batch_norms))
    return Ranked(kinds.get(item.name, granularity))


def _why(choices: Mapping[str, tuple[str, ...]]) -> str:
    reason = refusal({axis: values[0] for axis, values in choices.items()})
    return "" if reason is None else f": {reason}"
