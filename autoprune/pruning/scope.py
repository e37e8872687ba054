"""Amount + scores -> how many units of every group stay: one sparsity, share of MACs or threshold for many groups."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from autoprune.errors import ConfigError
from autoprune.groups.types import PruningGroup
from autoprune.policy import Amount
from autoprune.space import ROUND_LIMIT, SparsitySpec, group_levels

Scores = npt.NDArray[np.float64]
Widths = dict[str, int]
Macs = Callable[[Mapping[str, int]], int]
GONE = -np.inf
FILLS = 12


@dataclass(frozen=True)
class Scope:
    """Groups that share one amount.

    Args:
        groups: The groups.
        together: Whether their units are ranked under one threshold (global), or group by group (local).
        macs: Units that stay by group -> multiply-accumulates; needed for amounts of MACs alone.
        dense_macs: Those of the whole model.
    """

    groups: Sequence[PruningGroup]
    together: bool
    macs: Macs | None = None
    dense_macs: int = 0

    def widths(self, scores: Mapping[str, Scores], amount: Amount, *, exact: bool = True) -> Widths:
        """Return how many units of every group stay.

        Args:
            scores: Group -> [width] importance, higher stays; `GONE` for what is gone already.
            amount: How much goes.
            exact: Whether an amount of MACs is kept to, and used up as far as the widths permit. In between the cuts of
                a schedule a little more stays: what went too early could not come back.

        Raises:
            ConfigError: The amount is one of MACs, and nothing counts them.
        """
        grids = {g.name: _grid(g, amount, scores[g.name]) for g in self.groups}
        if amount.kind == "macs":
            return self._by_macs(scores, grids, amount.value, exact)
        if amount.kind == "threshold":
            return self._snapped(self._above(scores, amount.value), grids)
        return self._at(scores, grids, amount.value)

    def _at(self, scores: Mapping[str, Scores], grids: Mapping[str, Scores], share: float) -> Widths:
        if not self.together:
            return self._snapped({g.name: g.width * (1.0 - share) for g in self.groups}, grids)
        pooled = np.concatenate([_removable(scores[g.name], int(grids[g.name][-1])) for g in self.groups])
        owner = np.repeat(np.arange(len(self.groups)), [g.width - int(grids[g.name][-1]) for g in self.groups])
        count = min(round(share * sum(g.width for g in self.groups)), len(pooled))
        first = np.argsort(pooled, kind="stable")[:count]
        removed = np.bincount(owner[first], minlength=len(self.groups))
        return self._snapped({g.name: g.width - int(n) for g, n in zip(self.groups, removed, strict=True)}, grids)

    def _above(self, scores: Mapping[str, Scores], threshold: float) -> dict[str, float]:
        """Return how many units score at least `threshold` times the mean of their group, or of all."""
        present = {name: s[np.isfinite(s)] for name, s in scores.items()}
        everywhere = float(np.concatenate([present[g.name] for g in self.groups]).mean())
        means = {g.name: everywhere if self.together else float(present[g.name].mean()) for g in self.groups}
        return {g.name: float((scores[g.name] >= threshold * means[g.name]).sum()) for g in self.groups}

    def _by_macs(self, scores: Mapping[str, Scores], grids: Mapping[str, Scores], share: float, exact: bool) -> Widths:
        """Return the largest widths within a share of the MACs: bisection over the sparsity, then single steps back."""
        if self.macs is None:
            raise ConfigError(
                "An amount of MACs needs a model whose MACs are counted.",
                hint="Give Pruner a `count`, or ask for a sparsity.",
            )
        limit = share * self.dense_macs
        low, high = 0.0, 1.0
        above = {g.name: int(grids[g.name][0]) for g in self.groups}
        best = {g.name: int(grids[g.name][-1]) for g in self.groups}
        for _ in range(14):
            middle = (low + high) / 2
            widths = self._at(scores, grids, middle)
            if self.macs(widths) <= limit:
                best, high = widths, middle
            else:
                above, low = widths, middle
        return self._filled(best, grids, limit) if exact else above

    def _filled(self, widths: Widths, grids: Mapping[str, Scores], limit: float) -> Widths:
        """Give single groups a step back, the largest that still fits first, until none fits."""
        assert self.macs is not None
        for _ in range(FILLS):
            options = []
            for g in self.groups:
                wider = grids[g.name][grids[g.name] > widths[g.name]]
                if len(wider):
                    option = {**widths, g.name: int(wider[-1])}
                    options.append((self.macs(option), option))
            fitting = [(cost, o) for cost, o in options if cost <= limit]
            if not fitting:
                break
            widths = max(fitting, key=lambda found: found[0])[1]
        return widths

    def _snapped(self, wanted: Mapping[str, float], grids: Mapping[str, Scores]) -> Widths:
        return {name: int(grids[name][np.argmin(np.abs(grids[name] - width))]) for name, width in wanted.items()}


def _grid(group: PruningGroup, amount: Amount, scores: Scores) -> Scores:
    """Return the widths that a group may keep, descending: none that would need a unit that is gone."""
    spec = SparsitySpec(max=amount.most, round_to=amount.round_to)
    present = int((scores > GONE).sum())
    fitting = [w for w in group_levels(group.width, spec, ROUND_LIMIT["cpu"]).widths if w <= present]
    return np.array(fitting or [present], dtype=np.float64)


def _removable(scores: Scores, least: int) -> Scores:
    """Return the scores of all units but the `least` best."""
    return np.sort(scores)[: len(scores) - least]
