"""Space + objectives -> refused where nothing that is searched can change a cost."""

from __future__ import annotations

from collections.abc import Sequence

from autoprune.errors import ConfigError
from autoprune.groups.types import PruningGroup
from autoprune.search.objectives import COSTS, Objective
from autoprune.space import BoundSpace

_STORED = frozenset({"nonzero", "compressed_bytes"})
_WEIGHTS = frozenset({"latency_ms", "parameters", "nonzero", "bytes", "compressed_bytes"})
_CHANGED = {
    **dict.fromkeys(("weight", "n_m", "block"), _STORED),
    **dict.fromkeys(("rank", "depth"), frozenset(COSTS)),
    **dict.fromkeys(("norm", "bias"), _WEIGHTS),
    **dict.fromkeys(("activation", "pooling"), frozenset({"latency_ms"})),
}


def refuse_idle(space: BoundSpace, objectives: Sequence[Objective]) -> None:
    """Refuse cost objectives that are the same for every policy of a space.

    Raises:
        ConfigError: Naming them, with the reason.
    """
    changed = changed_costs(space)
    idle = [o.name for o in objectives if o.name in COSTS and o.name not in changed]
    if not idle:
        return
    zeros = "zeros stay in place and make nothing faster or smaller on this target"
    why = zeros if changed and changed <= _STORED else "what is searched leaves it as it is"
    allowed = ", ".join(name for name in COSTS if name in changed)
    raise ConfigError(
        f"objectives: {', '.join(idle)}: no policy of the space {space.spec.name!r} changes it: {why}.",
        hint=f"Take {allowed} in its place, or a space of channels, heads or depth." if allowed else "Take channels.",
    )


def changed_costs(space: BoundSpace) -> frozenset[str]:
    """Return the costs that some policy of a space changes."""
    found: set[str] = set()
    for group in space.groups:
        if not isinstance(group, PruningGroup):
            found |= _CHANGED[space.kind(group)]
        elif set(space.branches.granularities) != {"scale"}:
            found |= set(COSTS)
    return frozenset(found)
