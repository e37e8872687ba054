"""Policy + scores -> what stays: units, single weights, modules; at once or as far as a schedule has come."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from autoprune.axes import MASKED
from autoprune.compatibility import check_policy, concerns
from autoprune.errors import ConfigError
from autoprune.groups import mask_model
from autoprune.groups.edits import edits_of
from autoprune.groups.factors import low_rank_edit
from autoprune.groups.types import Edit, ModelGroups, Part, PruningGroup
from autoprune.policy import Amount, Policy
from autoprune.pruning.grading import Grader
from autoprune.pruning.masks import MaskHolder, mask_of, ranked_entries
from autoprune.pruning.schedules import SCHEDULES
from autoprune.pruning.scope import GONE, Scope, Widths
from autoprune.pruning.selection import SELECTIONS, keep_best, width_after

Alive = npt.NDArray[np.bool_]
Scores = npt.NDArray[np.float64]
LEVELS = 200


@dataclass(frozen=True)
class Choice:
    """What stays of a model.

    Args:
        alive: [unit_count] units that are not cut out.
        masks: Weight -> True where it stays.
        edits: Changes of the module tree.
        shrunk: [unit_count] units that stay, scaled down.
    """

    alive: Alive
    masks: Mapping[str, Tensor] = field(default_factory=dict)
    edits: tuple[Edit, ...] = ()
    shrunk: Alive | None = None


@dataclass(frozen=True)
class Costs:
    """How multiply-accumulates are counted.

    Args:
        dense: Those of the whole model.
        of_widths: Units that stay by group -> those of the sliced model.
        of_edits: Edits -> those of the edited model.
    """

    dense: int
    of_widths: Callable[[Mapping[str, int]], int]
    of_edits: Callable[[Sequence[Edit]], int]


class Chooser:
    """Chooses for one policy.

    Args:
        groups: The model's groups.
        policy: What is asked.
        grader: Scores.
        seed: The candidate's seed, for what is drawn.
        costs: Counts multiply-accumulates; None where the policy does not ask for a share of them.

    Raises:
        ConfigError: The policy does not fit the model.
    """

    def __init__(
        self, groups: ModelGroups, policy: Policy, grader: Grader, *, seed: int, costs: Costs | None = None
    ) -> None:
        check_policy(groups, policy)
        self.policy = policy
        self._all = groups
        self._grader = grader
        self._seed = seed
        self._costs = costs
        found: Sequence[PruningGroup | Part]
        if policy.amount is not None:
            found = concerns(groups, policy.strategy)
        else:
            everything: list[PruningGroup | Part] = [*groups.groups, *groups.parts]
            found = [p for p in everything if p.name in policy.sparsity]
        self.groups = tuple(g for g in found if isinstance(g, PruningGroup))
        parts = [p for p in found if isinstance(p, Part)]
        self.tensors = tuple(p for p in parts if p.kind == "tensor" and self._granularity(p.name) in MASKED)
        self.edited = tuple(p for p in parts if p not in self.tensors)

    def choose(self, model: nn.Module, progress: float = 1.0, before: Choice | None = None) -> Choice:
        """Return what stays after a share in (0, 1] of the cuts.

        Args:
            model: What is scored: the dense model, or a later state of it of full size.
            progress: Share of the cuts that are made with this one; at 1 the choice is what the policy asks.
            before: What stayed so far: what is gone stays gone.
        """
        gone = None if before is None else ~before.alive
        alive = self.units(model, progress, gone)
        masks = self.masks(model, progress, {} if before is None else before.masks)
        edits = self._edits() if progress >= 1.0 else ()
        return self._with_scales(Choice(alive, masks, edits))

    def at_once(self, model: nn.Module) -> Choice:
        """Return what the policy asks for without any training; greedy selection scores anew a few times."""
        strategy = self.policy.strategy
        if strategy.selection != "greedy":
            return self.choose(model)
        found: Choice | None = None
        for turn in range(1, strategy.rounds + 1):
            state = model if found is None else masked(model, self._all, found)
            found = self.choose(state, turn / strategy.rounds, found)
        assert found is not None
        return found

    def unit_scores(self, model: nn.Module, gone: Alive | None = None) -> dict[str, Scores]:
        """Return group -> [width] scores, normalised and perturbed as the strategy says; `GONE` for what is gone."""
        strategy, out = self.policy.strategy, {}
        criteria = dict.fromkeys(self.policy.criterion_of(g.name) for g in self.groups)
        found = {name: self._grader.units(name, model, self._seed) for name in criteria}
        for index, g in enumerate(self.groups):
            span = slice(g.start, g.start + g.width)
            values = found[self.policy.criterion_of(g.name)][span].copy()
            present = np.ones(g.width, dtype=bool) if gone is None else ~gone[span]
            if strategy.normalization == "mean" and present.any() and (size := np.abs(values[present]).mean()) > 0.0:
                values = values / size
            rng = np.random.default_rng([self._seed, index])
            values = SELECTIONS[strategy.selection](values, rng)
            out[g.name] = np.where(present, values, GONE)
        return out

    def units(self, model: nn.Module, progress: float, gone: Alive | None) -> Alive:
        """Return [unit_count] the units that stay after a share of the cuts."""
        alive = np.ones(self._all.plan.unit_count, dtype=bool)
        if not self.groups:
            return alive
        scores = self.unit_scores(model, gone)
        for name, width in self.widths(scores, progress).items():
            group = self._all[name]
            alive[group.start : group.start + group.width] = keep_best(scores[name], width)
        return alive

    def widths(self, scores: Mapping[str, Scores], progress: float) -> Widths:
        """Return how many units of every group stay after a share of the cuts."""
        if self.policy.amount is None:
            shares = {g.name: self.policy.sparsity[g.name] * self._part(g.name, progress) for g in self.groups}
            return {g.name: width_after(g, shares[g.name]) for g in self.groups}
        together = self.policy.strategy.scope == "global"
        scope = Scope(self.groups, together)
        if self._costs is not None:
            scope = replace(scope, macs=self._costs.of_widths, dense_macs=self._costs.dense)
        part = self._part("", progress)
        return scope.widths(scores, scaled(self.policy.amount, part), exact=part >= 1.0)

    def allotment(self, model: nn.Module) -> dict[str, float]:
        """Return group or weight -> the sparsity that the policy comes to on a model, at once."""
        out: dict[str, float] = {}
        if self.groups:
            widths = self.widths(self.unit_scores(model), 1.0)
            out |= {name: 1.0 - width / self._all[name].width for name, width in widths.items()}
        for name, mask in self.masks(model, 1.0, {}).items():
            out[name] = 1.0 - float(mask.double().mean())
        return out

    def masks(self, model: nn.Module, progress: float, before: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return weight -> the entries that stay after a share of the cuts."""
        if not self.tensors:
            return {}
        scores: dict[str, Tensor] = {}
        for criterion in dict.fromkeys(self.policy.criterion_of(p.name) for p in self.tensors):
            names = [p.name for p in self.tensors if self.policy.criterion_of(p.name) == criterion]
            scores |= self._grader.weights(criterion, model, self._seed, names)
        scores = {name: self._prepared(index, value) for index, (name, value) in enumerate(sorted(scores.items()))}
        for name, mask in before.items():
            scores[name] = scores[name].masked_fill(~mask, GONE)
        shares = self._shares(scores, progress)
        if progress >= 1.0:  # what hardware knows is 2 of 4: a smaller sparsity is raised to it
            shares |= {n: max(s, 0.5) for n, s in shares.items() if self._granularity(n) == "n_m"}
        return {p.name: mask_of(self._granularity(p.name), scores[p.name], shares[p.name]) for p in self.tensors}

    def _prepared(self, index: int, scores: Tensor) -> Tensor:
        strategy = self.policy.strategy
        if strategy.normalization == "mean" and (size := float(scores.abs().mean())) > 0.0:
            scores = scores / size
        if strategy.selection == "top_k":
            return scores
        drawn = SELECTIONS[strategy.selection](
            scores.double().numpy().ravel(), np.random.default_rng([self._seed, index])
        )
        return torch.from_numpy(drawn).reshape(scores.shape)

    def _shares(self, scores: Mapping[str, Tensor], progress: float) -> dict[str, float]:
        """Return weight -> share of its entries that goes."""
        amount = self.policy.amount
        if amount is None:
            return {p.name: self.policy.sparsity[p.name] * self._part(p.name, progress) for p in self.tensors}
        part = self._part("", progress)
        ranked = {n: ranked_entries(self._ranked_as(n), s) for n, s in scores.items()}
        if amount.kind == "threshold":
            return _below(ranked, amount, part, together=self.policy.strategy.scope == "global")
        if self.policy.strategy.scope == "local":
            return dict.fromkeys(scores, min(amount.value * part, amount.most))
        pooled = torch.cat(list(ranked.values()))
        limit = pooled.kthvalue(max(1, round(amount.value * part * len(pooled)))).values
        return {n: min(float((s <= limit).double().mean()), amount.most) for n, s in ranked.items()}

    def _edits(self) -> tuple[Edit, ...]:
        if not self.edited:
            return ()
        amount = self.policy.amount
        if amount is None:
            return self._edits_at(self.policy.sparsity)
        if amount.kind == "threshold":
            return tuple(e for p in self.edited for e in self._edits_of(p, self._share_below(p, amount)))
        if amount.kind == "sparsity":
            return self._edits_at({p.name: min(amount.value, amount.most) for p in self.edited})
        if self._costs is None:
            raise ConfigError("An amount of MACs needs a model whose MACs are counted.", hint="Ask for a sparsity.")
        of_edits, limit = self._costs.of_edits, amount.value * self._costs.dense
        level = bisect_left(range(LEVELS), True, key=lambda level: of_edits(self._at_level(level)) <= limit)
        return self._at_level(level)

    def _at_level(self, level: int) -> tuple[Edit, ...]:
        assert self.policy.amount is not None
        return self._edits_at({p.name: self.policy.amount.most * level / LEVELS for p in self.edited})

    def _edits_at(self, shares: Mapping[str, float]) -> tuple[Edit, ...]:
        return tuple(e for p in self.edited if shares[p.name] > 0.0 for e in self._edits_of(p, shares[p.name]))

    def _edits_of(self, part: Part, share: float) -> tuple[Edit, ...]:
        if part.kind == "tensor":
            edit = low_rank_edit(part, share)
            return () if edit is None else (edit,)
        scores = self._grader.part(self.policy.criterion_of(part.name), part, self._seed)
        return edits_of(part, share, scores)

    def _share_below(self, part: Part, amount: Amount) -> float:
        scores = self._grader.part(self.policy.criterion_of(part.name), part, self._seed)
        return min(float((scores < amount.value * scores.mean()).mean()), amount.most)

    def _part(self, name: str, progress: float) -> float:
        if self.policy.strategy.selection == "greedy" and self.policy.choice(name, "schedule") == "one_shot":
            return progress
        return SCHEDULES[self.policy.choice(name, "schedule")](progress)

    def _granularity(self, name: str) -> str:
        return self.policy.choice(name, "granularity")

    def _ranked_as(self, name: str) -> str:
        return "block" if self._granularity(name) == "block" else "weight"

    def _with_scales(self, choice: Choice) -> Choice:
        """Let the units of groups that are scaled down stay."""
        shrunk = np.zeros(len(choice.alive), dtype=bool)
        for g in self.groups:
            if self._granularity(g.name) == "scale":
                shrunk[g.start : g.start + g.width] = ~choice.alive[g.start : g.start + g.width]
        return choice if not shrunk.any() else replace(choice, alive=choice.alive | shrunk, shrunk=shrunk)


def masked(model: nn.Module, groups: ModelGroups, choice: Choice) -> nn.Module:
    """Return a clone of full size in which everything that is gone is zero."""
    clone = mask_model(model, groups.plan, choice.alive)
    MaskHolder(choice.masks).apply(clone)
    return clone


def scaled(amount: Amount, part: float) -> Amount:
    """Return a part in (0, 1] of an amount."""
    value = 1.0 - (1.0 - amount.value) * part if amount.kind == "macs" else amount.value * part
    return replace(amount, value=value)


def _below(scores: Mapping[str, Tensor], amount: Amount, part: float, *, together: bool) -> dict[str, float]:
    """Return weight -> share of entries that score below a multiple of their tensor's mean, or of all entries'."""
    present = {name: s[torch.isfinite(s)].double() for name, s in scores.items()}
    everywhere = float(torch.cat(list(present.values())).mean())
    limits = {n: amount.value * part * (everywhere if together else float(p.mean())) for n, p in present.items()}
    return {n: min(float((s < limits[n]).double().mean()), amount.most) for n, s in scores.items()}
