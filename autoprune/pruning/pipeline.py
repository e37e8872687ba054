"""Policy -> pruned model: rank the units, cut the rest out of every tensor, recover what accuracy was lost."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from autoprune.axes import AXES
from autoprune.compatibility import can_rank
from autoprune.groups import find_groups, prepare_model
from autoprune.groups.slicing import Slicer
from autoprune.groups.types import ArchitecturePlan, ModelGroups
from autoprune.policy import Policy
from autoprune.pruning.criteria import CriterionContext, importance
from autoprune.pruning.recovery import CPU, distillation_penalty, fine_tune, placed, recalibrate
from autoprune.pruning.selection import select
from autoprune.tasks.protocol import RecoverContext, Task


@dataclass(frozen=True)
class PrunedModel:
    """A smaller model with what made it.

    Args:
        model: The pruned module, in eval mode on the CPU.
        policy: What was asked.
        alive: [unit_count] which units stayed.
        architecture: Kept indices of every tensor; rebuilds the module from the original definition.
    """

    model: nn.Module
    policy: Policy
    alive: npt.NDArray[np.bool_]
    architecture: ArchitecturePlan


@dataclass(frozen=True)
class Recovery:
    """Budget of the recovery of one candidate.

    Args:
        steps: Optimizer steps; 0 only recalibrates.
        batch_size: Examples a step.
        calibration: Units that recalibrate BatchNorm.
        distillation: Weight in [0, 1] of the teacher's loss where the policy asks for distillation.
        seed: The candidate's seed.
        on_step: Called after each optimizer step with (model, step).
        on_report: Called with (step, loss); False ends the training.
        device: Where it trains; the model comes from the CPU and goes back to it.
        train: Fine-tunes the pruned model in place of this process alone, such as on several GPUs.
    """

    steps: int
    batch_size: int
    calibration: int
    distillation: float = 0.5
    seed: int = 0
    on_step: Callable[[nn.Module, int], None] | None = None
    on_report: Callable[[int, float], bool] | None = None
    device: torch.device = CPU
    train: Callable[[PrunedModel, RecoverContext], None] | None = None


class Pruner:
    """Cuts many candidates out of one model: scores are computed once a criterion, a candidate is a gather.

    Args:
        model: The prepared dense model; never changed.
        groups: Its groups.
        task: The user's task, for criteria that need gradients and for recovery.
        seed: The run's seed.
        prepared: Module paths that preparation replaced, kept in the architecture plan.
    """

    def __init__(
        self, model: nn.Module, groups: ModelGroups, task: Task, *, seed: int = 0, prepared: tuple[str, ...] = ()
    ) -> None:
        self.model = model
        self.groups = groups
        self.task = task
        self.seed = seed
        self.prepared = prepared
        self._slicer = Slicer(model, groups.plan)
        self._scores: dict[str, npt.NDArray[np.float64]] = {}

    def scores(self, criterion: str, *, seed: int | None = None) -> npt.NDArray[np.float64]:
        """Return [unit_count] importance by a criterion; a stochastic one draws by `seed`, others are cached."""
        stochastic = AXES["criterion"][criterion].stochastic
        if not stochastic and criterion in self._scores:
            return self._scores[criterion]
        drawn = self.seed if seed is None or not stochastic else seed
        able = tuple(g.name for g in self.groups.groups if can_rank(g, criterion))
        values = importance(criterion, CriterionContext(self.model, self.groups, self.task, drawn, only=able))
        if not stochastic:
            self._scores[criterion] = values
        return values

    def cut(self, policy: Policy, *, seed: int | None = None) -> PrunedModel:
        """Return the model sliced to a policy, without any recovery."""
        alive = select(self.groups, policy, lambda name: self.scores(name, seed=seed))
        return PrunedModel(self._slicer.slice(alive), policy, alive, self._slicer.architecture(alive, self.prepared))

    def prune(self, policy: Policy, recovery: Recovery) -> PrunedModel:
        """Return the model sliced to a policy and recovered: fine-tuned, then with BatchNorm estimated anew.

        A policy that removes nothing leaves the trained model as it is.

        Raises:
            CandidateError: Recovery diverged, or a criterion or a weight is not finite.
        """
        pruned = self.cut(policy, seed=recovery.seed)
        if not policy.sparsity:
            return pruned
        if recovery.steps > 0 and policy.strategy.recovery != "recalibrate":
            context = recover_context(policy, recovery, self.task, self.model)
            if recovery.train is None:
                fine_tune(pruned.model, self.task, context)
            else:
                recovery.train(pruned, context)
        with placed(pruned.model, recovery.device):
            recalibrate(pruned.model, self.task, limit=recovery.calibration, seed=recovery.seed)
        return pruned


def recover_context(policy: Policy, recovery: Recovery, task: Task, dense: nn.Module) -> RecoverContext:
    """Return the budget and the hooks of a policy's recovery; `dense` is the teacher where the policy wants one."""
    context = RecoverContext(
        steps=recovery.steps,
        lr=policy.strategy.learning_rate,
        batch_size=recovery.batch_size,
        device=recovery.device,
        dtype=torch.float32,
        generator=torch.Generator().manual_seed(recovery.seed),
        seed=recovery.seed,
        on_step=recovery.on_step,
        on_report=recovery.on_report,
    )
    if policy.strategy.recovery == "distillation":
        context.teacher = dense
        context.penalty = distillation_penalty(task, dense, recovery.distillation)
    return context


def prune(model: nn.Module, policy: Policy, task: Task, *, recovery: Recovery | None = None) -> PrunedModel:
    """Prune one model: find its groups, cut it to a policy, recover it.

    Args:
        model: The trained model; it is not changed.
        policy: Sparsity per group name and strategy.
        task: Gives example inputs, data and loss.
        recovery: Budget; None only recalibrates BatchNorm.

    Raises:
        ConfigError: The policy names a group that the model does not have.
        GroupError: The model has nothing to prune.
        CandidateError: Recovery diverged, or a criterion is not finite.
    """
    dense, prepared = prepare_model(copy.deepcopy(model).eval())
    groups = find_groups(dense, task.example_inputs(), protect=task.protect)
    budget = recovery or Recovery(steps=0, batch_size=64, calibration=256)
    return Pruner(dense, groups, task, seed=budget.seed, prepared=prepared).prune(policy, budget)
