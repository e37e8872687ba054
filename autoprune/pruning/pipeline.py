"""Policy -> pruned model: choose what stays, cut the rest out of every tensor, recover what accuracy was lost."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from autoprune.groups import find_groups, prepare_model
from autoprune.groups.cloning import clone_model
from autoprune.groups.edits import apply_edits
from autoprune.groups.pretrained import describe_pretrained
from autoprune.groups.slicing import Slicer
from autoprune.groups.types import ArchitecturePlan, Edit, ModelGroups
from autoprune.policy import Amount, Policy, Strategy
from autoprune.pruning.choosing import Choice, Chooser, Costs
from autoprune.pruning.distilling import distillation_penalty, feature_penalty
from autoprune.pruning.grading import Grader
from autoprune.pruning.masks import MaskHolder
from autoprune.pruning.reconstruction import reconstruct
from autoprune.pruning.recovery import CPU, calibration_loss, fine_tune, placed, recalibrate
from autoprune.pruning.sparsifying import Sparsifier, trains_first
from autoprune.tasks.copying import copied
from autoprune.tasks.protocol import RecoverContext, Task

UNTRAINED = ("recalibrate", "reconstruct")
FIRST_SHARE = 0.5
SHRUNK_TO = 0.1


@dataclass(frozen=True)
class PrunedModel:
    """A smaller model with what made it.

    Args:
        model: The pruned module, in eval mode on the CPU.
        policy: What was asked.
        alive: [unit_count] which units stayed.
        architecture: Kept indices of every tensor, edits and masks; rebuilds the module from the original definition.
        masks: Weight -> [shape of the weight] True where it is not held at zero.
        notes: What a reader should know, such as cuts that were taken back.
    """

    model: nn.Module
    policy: Policy
    alive: npt.NDArray[np.bool_]
    architecture: ArchitecturePlan
    masks: Mapping[str, Tensor] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Recovery:
    """Budget of the recovery of one candidate.

    Args:
        steps: Optimizer steps, those of a training towards the cut included; 0 only recalibrates.
        batch_size: Examples a step, where the policy has no choice of its own.
        calibration: Units that recalibrate BatchNorm.
        distillation: Weight in [0, 1] of the teacher's loss where the policy asks for distillation.
        seed: The candidate's seed.
        on_step: Called after each optimizer step with (model, step).
        on_probe: The same, for steps behind the cut alone: what looks at the model sees the pruned one.
        on_report: Called with (step, loss) behind the cut; False ends the training.
        device: Where it trains; the model comes from the CPU and goes back to it.
        train: Fine-tunes the pruned model in place of this process alone, such as on several GPUs.
    """

    steps: int
    batch_size: int
    calibration: int
    distillation: float = 0.5
    seed: int = 0
    on_step: Callable[[nn.Module, int], None] | None = None
    on_probe: Callable[[nn.Module, int], None] | None = None
    on_report: Callable[[int, float], bool] | None = None
    device: torch.device = CPU
    train: Callable[[PrunedModel, RecoverContext], None] | None = None


class Pruner:
    """Prunes one model by many policies: scores are computed once a criterion, a candidate is a gather.

    Args:
        model: The prepared dense model; never changed.
        groups: Its groups.
        task: The user's task, for criteria that need data and for recovery.
        seed: The run's seed.
        prepared: Module paths that preparation replaced, kept in the architecture plan.
        count: Counts a model's multiply-accumulates, for policies that ask for a share of them.
    """

    def __init__(
        self,
        model: nn.Module,
        groups: ModelGroups,
        task: Task,
        *,
        seed: int = 0,
        prepared: tuple[str, ...] = (),
        count: Callable[[nn.Module], int] | None = None,
    ) -> None:
        self.model = model
        self.groups = groups
        self.task = task
        self.seed = seed
        self.prepared = prepared
        self._slicer = Slicer(model, groups.plan)
        self._grader = Grader(model, groups, task, seed)
        self._count = count

    def scores(self, criterion: str, *, seed: int | None = None) -> npt.NDArray[np.float64]:
        """Return [unit_count] importance by a criterion; a stochastic one draws by `seed`, others are cached."""
        return self._grader.units(criterion, self.model, self.seed if seed is None else seed)

    def chooser(self, policy: Policy, *, seed: int | None = None) -> Chooser:
        """Return what chooses for a policy.

        Raises:
            ConfigError: The policy does not fit the model.
        """
        costs = None
        if self._count is not None and policy.amount is not None and policy.amount.kind == "macs":
            costs = Costs(self._count(self.model), self._macs_of_widths, self._macs_of_edits)
        return Chooser(self.groups, policy, self._grader, seed=self.seed if seed is None else seed, costs=costs)

    def allotment(self, strategy: Strategy, amount: Amount) -> dict[str, float]:
        """Return group or weight -> the sparsity that a scope gives it by the dense model's scores."""
        return self.chooser(Policy({}, strategy, amount=amount)).allotment(self.model)

    def cut(self, policy: Policy, *, seed: int | None = None) -> PrunedModel:
        """Return the model pruned by a policy at once, without any training."""
        return self._carved(policy, self.model, self.chooser(policy, seed=seed).at_once(self.model))

    def prune(self, policy: Policy, recovery: Recovery) -> PrunedModel:
        """Return the model pruned by a policy and recovered, then with BatchNorm estimated anew.

        A policy with a schedule or a regularizer spends half of the steps before the cut. One that removes nothing
        leaves the trained model as it is.

        Raises:
            CandidateError: Recovery diverged, or a criterion or a weight is not finite.
        """
        if not policy.removes:
            return self.cut(policy, seed=recovery.seed)
        method = policy.strategy.recovery
        steps = 0 if method in UNTRAINED else recovery.steps
        pruned, taken = self._pruned(policy, recovery, steps)
        if method == "reconstruct":
            return self._reconstructed(pruned, recovery)
        if steps > taken:
            self._trained(pruned, replace(recovery, steps=steps - taken), taken)
        with placed(pruned.model, recovery.device):
            recalibrate(pruned.model, self.task, limit=recovery.calibration, seed=recovery.seed)
        return pruned

    def _pruned(self, policy: Policy, recovery: Recovery, steps: int) -> tuple[PrunedModel, int]:
        """Return the model as it is after the cut, and how many steps it took to get there."""
        first = round(steps * FIRST_SHARE) if trains_first(policy) else 0
        if first == 0:
            return self.cut(policy, seed=recovery.seed), 0
        chooser = self.chooser(policy, seed=recovery.seed)
        before = Sparsifier(self.model, self.groups, self.task, chooser, calibration=recovery.calibration)
        context = replace(context_of(policy, replace(recovery, steps=first)), on_report=None)
        found = before.train(context)
        return self._carved(policy, found.model, found.choice, found.notes), first

    def _carved(self, policy: Policy, source: nn.Module, choice: Choice, notes: tuple[str, ...] = ()) -> PrunedModel:
        """Return what a choice leaves of a model of full size: the dense one, or a later state of it."""
        slicer = self._slicer if source is self.model else Slicer(source, self.groups.plan)
        model = slicer.slice(choice.alive)
        apply_edits(model, choice.edits)
        MaskHolder(choice.masks).apply(model)
        if choice.shrunk is not None:
            _shrink(model, self.groups, choice.alive, choice.shrunk)
        architecture = replace(
            slicer.architecture(choice.alive, self.prepared),
            edits=choice.edits,
            masks={name: policy.choice(name, "granularity") for name in sorted(choice.masks)},
        )
        notes = (*notes, *self._missed(policy, model))
        return PrunedModel(model.eval(), policy, choice.alive, architecture, dict(choice.masks), notes)

    def _missed(self, policy: Policy, model: nn.Module) -> tuple[str, ...]:
        """Return that a model has more multiply-accumulates than were asked for, where it has."""
        amount = policy.amount
        if self._count is None or amount is None or amount.kind != "macs":
            return ()
        share = self._count(model) / self._count(self.model)
        return () if share <= amount.value else (f"{share:.1%} of the MACs stay; {amount.value:.1%} were asked for.",)

    def _reconstructed(self, pruned: PrunedModel, recovery: Recovery) -> PrunedModel:
        """Solve a pruned model's weights in place; BatchNorm is estimated anew only where that lowers the loss.

        The weights are solved for the dense model's outputs, which its statistics describe already.
        """
        model, limit, seed = pruned.model, recovery.calibration, recovery.seed
        reconstruct(self.model, model, pruned.architecture, self.task, limit=limit, seed=seed)
        MaskHolder(pruned.masks).apply(model)
        before = {name: value.clone() for name, value in model.state_dict().items()}
        loss = calibration_loss(model, self.task, limit=limit, seed=seed)
        recalibrate(model, self.task, limit=limit, seed=seed)
        if calibration_loss(model, self.task, limit=limit, seed=seed) > loss:
            model.load_state_dict(before)
        return pruned

    def _trained(self, pruned: PrunedModel, recovery: Recovery, taken: int) -> None:
        """Fine-tune a pruned model in place; steps are counted from the first of the whole recovery on."""
        with ExitStack() as stack:
            context = recover_context(pruned, recovery, self.task, self.model, stack, taken=taken)
            if recovery.train is None:
                fine_tune(pruned.model, self.task, context)
            else:
                recovery.train(pruned, context)

    def _macs_of_widths(self, widths: Mapping[str, int]) -> int:
        alive = np.ones(self.groups.plan.unit_count, dtype=bool)
        for name, width in widths.items():
            group = self.groups[name]
            alive[group.start + width : group.start + group.width] = False
        assert self._count is not None
        return self._count(self._slicer.slice(alive))

    def _macs_of_edits(self, edits: Sequence[Edit]) -> int:
        model = clone_model(self.model, {})
        apply_edits(model, edits)
        assert self._count is not None
        return self._count(model)


def context_of(policy: Policy, recovery: Recovery) -> RecoverContext:
    """Return the budget of a policy's training, without the policy's own hooks."""
    return RecoverContext(
        steps=recovery.steps,
        lr=policy.strategy.learning_rate,
        batch_size=policy.strategy.batch_size or recovery.batch_size,
        device=recovery.device,
        dtype=torch.float32,
        generator=torch.Generator().manual_seed(recovery.seed),
        seed=recovery.seed,
        on_step=recovery.on_step,
        on_report=recovery.on_report,
        optimizer=policy.strategy.optimizer,
    )


def recover_context(
    pruned: PrunedModel, recovery: Recovery, task: Task, dense: nn.Module, stack: ExitStack, *, taken: int = 0
) -> RecoverContext:
    """Return the budget and the hooks of a pruned model's recovery.

    Args:
        pruned: What will train.
        recovery: The budget.
        task: The user's task.
        dense: The teacher, where the policy wants one.
        stack: Ends what the hooks need; close it after the training.
        taken: Steps that were taken before the cut.
    """
    policy, holder = pruned.policy, MaskHolder(pruned.masks)
    context = context_of(policy, recovery)
    if policy.strategy.recovery == "distillation":
        context.teacher = dense
        context.penalty = distillation_penalty(task, dense, recovery.distillation)
    elif policy.strategy.recovery == "feature_distillation":
        context.teacher = dense
        weight = recovery.distillation
        context.penalty = stack.enter_context(feature_penalty(task, dense, pruned.model, pruned.architecture, weight))

    def after_step(model: nn.Module, step: int) -> None:
        holder.apply(model)
        for hook in (recovery.on_step, recovery.on_probe):
            if hook is not None:
                hook(model, step + taken)

    context.on_step = after_step
    return context


def _shrink(model: nn.Module, groups: ModelGroups, alive: npt.NDArray[np.bool_], shrunk: npt.NDArray[np.bool_]) -> None:
    """Multiply the units' weights, or their BatchNorms' scale and shift, by a tenth; what is not alive is cut out."""
    units = {(d.parameter, d.dim): d.units for d in groups.plan.dimensions}
    factors = np.append(np.where(shrunk, SHRUNK_TO, 1.0), 1.0)
    there = np.append(alive, True)
    for group in groups.groups:
        norms = [(f"{norm}.{name}", 0) for norm in group.batch_norms for name in ("weight", "bias")]
        for name, dim in norms or group.producers:
            weight = model.get_parameter(name)
            shape = [1] * weight.ndim
            shape[dim] = -1
            kept = units[name, dim][there[units[name, dim]]]
            factor = torch.from_numpy(factors[kept]).to(weight.dtype)
            with torch.no_grad():
                weight.mul_(factor.reshape(shape))


def prune(
    model: nn.Module, policy: Policy, task: Task, *, recovery: Recovery | None = None, query_heads: bool = False
) -> PrunedModel:
    """Prune one model: find its groups, cut it to a policy, recover it.

    Args:
        model: The trained model; it is not changed.
        policy: Sparsity per group name and strategy.
        task: Gives example inputs, data and loss.
        recovery: Budget; None only recalibrates BatchNorm.
        query_heads: As in the run that the policy comes from (`groups.query_heads`).

    Raises:
        ConfigError: The policy names a group that the model does not have.
        GroupError: The model has nothing to prune.
        CandidateError: Recovery diverged, or a criterion is not finite.
    """
    dense, prepared = prepare_model(copied(model).eval())
    example = task.example_inputs()
    groups = find_groups(dense, example, protect=task.protect, query_heads=query_heads)
    budget = recovery or Recovery(steps=0, batch_size=64, calibration=256)
    pruned = Pruner(dense, groups, task, seed=budget.seed, prepared=prepared).prune(policy, budget)
    describe_pretrained(pruned.model, example)
    return pruned
