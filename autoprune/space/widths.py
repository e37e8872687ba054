"""Group or part -> the widths that it may keep, and the sparsity that a policy states for each of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from autoprune.groups.types import Part, PruningGroup
from autoprune.space.spec import SparsitySpec

ROUND_LIMIT = {"cpu": 16, "cuda": 8}
SPARSITY_STEP = 0.05
RANK_STEPS = 10
BLOCK = 4
TENSOR_KINDS = {"weight": "weight", "n_m": "n_m", "weight_block": "block", "rank": "rank"}
"""Kind of a space -> granularity of a policy: a space calls blocks of structural groups `block` already."""
MASKS = ("weight", "n_m", "weight_block")
"""Kinds that keep zeros in place."""

Item = PruningGroup | Part


@dataclass(frozen=True)
class Levels:
    """What may be kept of a group or part.

    Args:
        widths: Kept units, descending; the first is all of them. Of low rank: the entries of both factors.
        shares: The sparsity that a policy states for each of them.
    """

    widths: tuple[int, ...]
    shares: tuple[float, ...]


def group_levels(width: int, spec: SparsitySpec, limit: int) -> Levels:
    """Return the widths that a structural group of `width` units may keep: multiples that the hardware likes."""
    automatic = min(limit, 2 ** int(math.log2(max(width // 8, 1))))
    step = automatic if spec.round_to == "auto" else spec.round_to
    least = max(spec.min_width, _least(width, spec), 1)
    kept = [w for w in range(step, width, step) if w >= least]
    return _levels([(w, 1.0 - w / width) for w in (width, *reversed(kept))], spec)


def part_levels(part: Part, kind: str, spec: SparsitySpec) -> Levels:
    """Return the widths that a part may keep when it is searched as one of the kinds of a space."""
    makers = {"weight": _weights, "n_m": _two_of_four, "weight_block": _blocks, "rank": _ranks}
    maker = makers.get(kind, _members)
    found = [(w, share) for w, share in maker(part, spec) if share <= spec.max + 1e-9]
    return _levels([(part.width, 0.0), *found], spec)


def _levels(pairs: Sequence[tuple[int, float]], spec: SparsitySpec) -> Levels:
    """Return levels of (width, share) pairs, one for each width, at most as many as the spec allows."""
    first: dict[int, float] = {}
    for width, share in pairs:
        first.setdefault(width, share)
    found = list(first.items())
    if spec.max_levels is not None and len(found) > spec.max_levels:
        last = len(found) - 1
        found = [found[round(i * last / (spec.max_levels - 1))] for i in range(spec.max_levels)]
    return Levels(tuple(w for w, _ in found), tuple(share for _, share in found))


def _least(width: int, spec: SparsitySpec) -> int:
    return math.ceil(round(width * (1.0 - spec.max), 6))


def _steps(spec: SparsitySpec) -> list[float]:
    return [round(SPARSITY_STEP * n, 6) for n in range(1, math.floor(spec.max / SPARSITY_STEP + 1e-9) + 1)]


def _weights(part: Part, spec: SparsitySpec) -> list[tuple[int, float]]:
    return [(max(1, round(part.width * (1.0 - share))), share) for share in _steps(spec)]


def _two_of_four(part: Part, spec: SparsitySpec) -> list[tuple[int, float]]:
    """Return 2 of 4; what a row has beyond a multiple of four stays."""
    del spec
    if len(part.shape) < 2 or math.prod(part.shape[1:]) < 4:
        return []
    fours = part.shape[0] * (math.prod(part.shape[1:]) // 4)
    return [(part.width - 2 * fours, 0.5)]


def _blocks(part: Part, spec: SparsitySpec) -> list[tuple[int, float]]:
    if len(part.shape) < 2:
        return []
    count = -(-part.shape[0] // BLOCK) * -(-part.shape[1] // BLOCK) * math.prod(part.shape[2:])
    kept = [max(1, round(count * (1.0 - share))) for share in _steps(spec)]
    return [(max(1, round(part.width * k / count)), share) for k, share in zip(kept, _steps(spec), strict=True)]


def _ranks(part: Part, spec: SparsitySpec) -> list[tuple[int, float]]:
    """Return about ten ranks whose two factors hold fewer entries than the weight, the largest first."""
    if len(part.shape) < 2 or not part.factored:
        return []
    outputs, inputs = part.shape[0], math.prod(part.shape[1:])
    full = min(outputs, inputs)
    ranks = [r for r in range(full - 1, 0, -1) if r * (outputs + inputs) < outputs * inputs and r >= _least(full, spec)]
    last = len(ranks) - 1
    if last >= RANK_STEPS:
        ranks = [ranks[round(i * last / (RANK_STEPS - 1))] for i in range(RANK_STEPS)]
    return [(r * (outputs + inputs), 1.0 - r / full) for r in ranks]


def _members(part: Part, spec: SparsitySpec) -> list[tuple[int, float]]:
    least = max(_least(part.width, spec), 1)
    return [(w, 1.0 - w / part.width) for w in range(part.width - 1, least - 1, -1)]
