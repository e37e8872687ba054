"""Schedules, regularizers and gates -> a model of full size, trained towards what the policy asks, and a choice.

One training by the task's own loop: what is gone is held at zero after every step, cuts are made in between, and a
penalty or gates act meanwhile. The cut in shape comes afterwards, from the weights as they have become.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from autoprune.groups import mask_model
from autoprune.groups.cloning import clone_model
from autoprune.groups.types import ModelGroups
from autoprune.policy import Policy
from autoprune.pruning.choosing import Choice, Chooser
from autoprune.pruning.criteria import CriterionContext
from autoprune.pruning.gates import Gates
from autoprune.pruning.masks import MaskHolder
from autoprune.pruning.recovery import as_recalibrated, fine_tune, placed
from autoprune.pruning.regrowth import REGROWTHS, RegrowthContext, exchanged
from autoprune.pruning.regularizers import REGULARIZERS, RegularizerContext
from autoprune.pruning.schedules import cut_steps
from autoprune.pruning.selection import keep_best
from autoprune.tasks.base import map_tensors
from autoprune.tasks.protocol import Inputs, RecoverContext, Task

Step = Callable[[nn.Module, int], None]
TUNE_UNITS = 512


@dataclass(frozen=True)
class Sparsified:
    """A model of full size after its training, and what stays of it.

    Args:
        model: On the CPU in eval mode.
        choice: What stays.
        notes: What a reader should know, such as cuts that were taken back.
        reached: Share in [0, 1] of the cuts that were made and not taken back.
    """

    model: nn.Module
    choice: Choice
    notes: tuple[str, ...] = ()
    reached: float = 1.0


def trains_first(policy: Policy) -> bool:
    """Tell whether a policy is trained towards before it is cut."""
    strategy = policy.strategy
    schedules = {strategy.schedule, *(c["schedule"] for c in policy.overrides.values() if "schedule" in c)}
    return schedules != {"one_shot"} or strategy.regularizer != "none"


class Sparsifier:
    """Trains one model towards one policy.

    Args:
        dense: The dense model; never changed.
        groups: Its groups.
        task: The user's task.
        chooser: Of the policy.
        calibration: Units on which BatchNorm is estimated anew before a loss is taken.
    """

    def __init__(
        self, dense: nn.Module, groups: ModelGroups, task: Task, chooser: Chooser, *, calibration: int = 256
    ) -> None:
        self._dense = dense
        self._groups = groups
        self._task = task
        self._chooser = chooser
        self._policy = chooser.policy
        self._calibration = calibration

    def train(self, context: RecoverContext) -> Sparsified:
        """Return the trained model and what stays of it.

        Args:
            context: Steps, batch size, seed and hooks; hooks of the policy come on top of its own.

        Raises:
            CandidateError: Training diverged, or a score is not finite.
        """
        model = copy.deepcopy(self._dense)
        if self._policy.strategy.regularizer == "hard_concrete":
            return self._gated(model, context)
        scheduled = _Scheduled(self._dense, self._groups, self._task, self._chooser, self._calibration)
        one_shot = not scheduled.cuts_while_training
        project = self._regularizer(context.steps)

        def after(step_model: nn.Module, step: int) -> None:
            if project is not None:
                project(step_model, step)
            if not one_shot:
                scheduled.after_step(step_model, step, context.steps)
            if context.on_step is not None:
                context.on_step(step_model, step)

        with placed(model, context.device):
            if not one_shot:
                scheduled.begin(model, context)
        fine_tune(model, self._task, replace(context, on_step=after))
        if one_shot:
            return Sparsified(model, self._chooser.at_once(model))
        with placed(model, context.device):
            scheduled.end(model)
        return Sparsified(model, scheduled.choice, scheduled.notes(), scheduled.progress)

    def _regularizer(self, steps: int) -> Step | None:
        strategy = self._policy.strategy
        tensors, searched = self._chooser.tensors, self._chooser.groups
        alive = np.ones(self._groups.plan.unit_count, dtype=bool)
        if strategy.regularizer == "growing_l2":
            choice = self._chooser.at_once(self._dense)
            alive = choice.alive if choice.shrunk is None else choice.alive & ~choice.shrunk
        context = RegularizerContext(
            self._dense, self._groups, searched, tensors, strategy.strength, max(steps, 1), alive
        )
        return REGULARIZERS[strategy.regularizer](context)

    def _gated(self, model: nn.Module, context: RecoverContext) -> Sparsified:
        """Train with a gate on every unit, and keep those whose gates are likeliest to be open."""
        searched, policy = self._chooser.groups, self._policy
        share = {g.name: 1.0 - policy.sparsity.get(g.name, 0.0) for g in searched}
        if policy.amount is not None:
            value = policy.amount.value
            share = dict.fromkeys(share, np.sqrt(value) if policy.amount.kind == "macs" else 1.0 - value)
        model.to(context.device)
        gates = Gates(
            model,
            self._groups,
            [searched] if policy.strategy.scope == "global" else [[g] for g in searched],
            open_share=share,
            steps=max(context.steps, 1),
            seed=context.seed,
        )

        def after(step_model: nn.Module, step: int) -> None:
            gates.after_step(step_model, step)
            if context.on_step is not None:
                context.on_step(step_model, step)

        fine_tune(model, self._task, replace(context, on_step=after))
        found = gates.scores()
        gates.bake()
        scores = {g.name: found[g.start : g.start + g.width] for g in searched}
        alive = np.ones(self._groups.plan.unit_count, dtype=bool)
        for name, width in self._chooser.widths(scores, 1.0).items():
            group = self._groups[name]
            alive[group.start : group.start + group.width] = keep_best(scores[name], width)
        opened = float(
            gates.open_chance()[np.concatenate([np.arange(g.start, g.start + g.width) for g in searched])].mean()
        )
        return Sparsified(model, Choice(alive), (f"Expected share of open gates: {opened:.1%}.",))


class _Scheduled:
    """Cuts in turns while a model trains: masks, regrowth, and for a dynamic schedule what is taken back."""

    def __init__(self, dense: nn.Module, groups: ModelGroups, task: Task, chooser: Chooser, calibration: int) -> None:
        self._groups = groups
        self._task = task
        self._chooser = chooser
        self._strategy = chooser.policy.strategy
        self._calibration = calibration
        self._ones = clone_model(dense, {id(t): torch.ones_like(t) for t in (*dense.parameters(), *dense.buffers())})
        self._choice = Choice(np.ones(groups.plan.unit_count, dtype=bool))
        self._holder = MaskHolder({})
        self._memory: dict[str, Tensor] = {}
        self._dynamic = self._strategy.schedule == "dynamic"
        self._safe: tuple[dict[str, Tensor], Choice, float, float] | None = None
        self._stride = 1.0 / self._strategy.rounds
        self._taken_back = 0
        self._seed = 0
        self.progress = 0.0

    @property
    def cuts_while_training(self) -> bool:
        """Whether anything is cut before the training ends."""
        policy = self._chooser.policy
        names = [*(g.name for g in self._chooser.groups), *(p.name for p in self._chooser.tensors)]
        schedules = {policy.choice(name, "schedule") for name in names}
        return schedules != {"one_shot"}

    def begin(self, model: nn.Module, context: RecoverContext) -> None:
        """Make the first cut, before any step."""
        self._seed = context.seed
        self._cuts = set(cut_steps(context.steps, self._strategy.rounds))
        self._stride = 1.0 / len(self._cuts)
        self._next(model)

    def after_step(self, model: nn.Module, step: int, steps: int) -> None:
        """Hold what is gone at zero; before the steps where cuts fall, cut on."""
        self._holder.apply(model)
        if step + 1 in self._cuts and step + 1 < steps:
            self._next(model)

    def end(self, model: nn.Module) -> None:
        """Judge the last cut of a dynamic schedule."""
        if self._dynamic:
            self._judge(model)

    @property
    def choice(self) -> Choice:
        """What stays: the policy's target where no cut was taken back."""
        return self._choice

    def notes(self) -> tuple[str, ...]:
        """Return what was taken back, if anything."""
        if not self._taken_back:
            return ()
        return (
            f"{self._taken_back} cuts lost more than the tolerance and were taken back: {self.progress:.0%} is cut.",
        )

    def _next(self, model: nn.Module) -> None:
        if self._dynamic:
            self._judge(model)
            self._safe = self._state(model)
        if self.progress >= 1.0:
            return
        self._cut(model, min(1.0, self.progress + self._stride))

    def _cut(self, model: nn.Module, progress: float) -> None:
        before = self._choice
        if progress > 1.0 - 1e-9:
            progress = 1.0
        choice = self._chooser.choose(model, progress, before)
        if self._strategy.regrowth != "none" and self.progress > 0.0:
            choice = self._regrown(model, choice, before)
        self._remember(model)
        self._choice, self.progress = choice, progress
        self._hold()
        self._holder.apply(model)

    def _hold(self) -> None:
        """Take the masks of the choice: of all tensors that lose units, and of masked weights."""
        held: dict[str, Tensor] = {}
        if not self._choice.alive.all():
            zeroed = mask_model(self._ones, self._groups.plan, self._choice.alive)
            held = {n: p.detach() != 0 for n, p in zeroed.named_parameters() if not bool((p != 0).all())}
        for name, mask in self._choice.masks.items():
            held[name] = held[name] & mask if name in held else mask
        self._holder = MaskHolder(held)

    def _remember(self, model: nn.Module) -> None:
        """Keep the values of everything that is still there, so that it can come back as it was."""
        if self._strategy.regrowth == "none":
            return
        held = self._holder.masks
        for name, parameter in model.named_parameters():
            now = parameter.detach().cpu()
            self._memory[name] = torch.where(held[name], now, self._memory[name]) if name in held else now.clone()

    def _regrown(self, model: nn.Module, choice: Choice, before: Choice) -> Choice:
        """Return the choice with some of what was gone before it in the place of the weakest that would stay."""
        self._remember(model)
        scoring = CriterionContext(
            model, self._groups, self._task, self._seed, only=tuple(g.name for g in self._chooser.groups)
        )
        context = RegrowthContext(scoring, self._memory, before.alive, before.masks)
        returns = REGROWTHS[self._strategy.regrowth](context)
        if returns is None:
            return choice
        alive, masks = choice.alive.copy(), dict(choice.masks)
        if self._chooser.groups:
            scores = self._chooser.unit_scores(model, ~before.alive)
            for g in self._chooser.groups:
                span = slice(g.start, g.start + g.width)
                alive[span] = exchanged(
                    choice.alive[span], before.alive[span], scores[g.name], returns.units[span], self.progress
                )
            back = alive & ~before.alive
            self._restore(model, back)
        for name, kept in choice.masks.items():
            flat = exchanged(
                kept.numpy().ravel(),
                before.masks[name].numpy().ravel(),
                model.get_parameter(name).detach().abs().double().cpu().numpy().ravel(),
                returns.weights[name].numpy().ravel(),
                self.progress,
            )
            masks[name] = torch.from_numpy(flat).reshape(kept.shape)
        return replace(choice, alive=alive, masks=masks)

    def _restore(self, model: nn.Module, back: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> None:
        """Give the units that come back the weights with which they went."""
        if not back.any():
            return
        marked = mask_model(self._ones, self._groups.plan, ~back)
        with torch.no_grad():
            for (name, parameter), (_, mark) in zip(model.named_parameters(), marked.named_parameters(), strict=True):
                if not bool((mark != 0).all()):
                    parameter.copy_(torch.where(mark == 0, self._memory[name], parameter.cpu()))

    def _state(self, model: nn.Module) -> tuple[dict[str, Tensor], Choice, float, float]:
        weights = {name: value.detach().clone() for name, value in model.state_dict().items()}
        return weights, self._choice, self.progress, self._error(model)

    def _judge(self, model: nn.Module) -> None:
        """Go back to the state before the last cut where it lost more than the tolerance, and cut less from then on."""
        if self._safe is None or self._safe[2] == self.progress:
            return
        weights, choice, progress, before = self._safe
        if self._error(model) <= before + self._strategy.tolerance:
            return
        model.load_state_dict(weights)
        self._choice, self.progress = choice, progress
        self._hold()
        self._stride /= 2.0
        self._taken_back += 1

    def _error(self, model: nn.Module) -> float:
        """Return the first metric on `tune`, lower for better, with BatchNorm estimated anew.

        One that may take any value, such as a perplexity, counts by its logarithm: a rise of the tolerance is then a
        relative one.
        """
        first = self._task.metrics[0]
        device = next(model.parameters()).device

        def predict(inputs: Inputs) -> Any:
            args, kwargs = map_tensors(tuple(inputs), lambda tensor: tensor.to(device))
            with torch.no_grad():
                outputs = self._task.structure(model(*args, **kwargs))
            return map_tensors(outputs, lambda tensor: tensor.cpu())

        with as_recalibrated(model, self._task, limit=self._calibration, seed=self._seed):
            value = self._task.evaluate(predict, "tune", limit=TUNE_UNITS, seed=self._seed).metrics[first.name]
        if not all(map(math.isfinite, first.bounds)) and value > 0.0:
            value = math.log(value)
        return value if first.direction == "min" else -value
