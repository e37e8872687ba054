"""torch-pruning's own pruners, brought to a share of the MACs by bisection over their ratio, then recovered alike."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
import torch_pruning as tp
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

from autoprune.pruning import fine_tune, recalibrate
from autoprune.tasks.protocol import RecoverContext, Task

HALVINGS = 10
HESSIAN_IMAGES = 64


@dataclass(frozen=True)
class Budget:
    """What every pruner is given.

    Args:
        steps: Optimizer steps in all.
        batch: Images a step.
        rate: Peak learning rate.
        calibration: Images that recalibrate BatchNorm.
        share: Largest share of the MACs that may stay.
        round_to: Widths are multiples of this.
        seed: Of data and draws.
    """

    steps: int
    batch: int
    rate: float
    calibration: int
    share: float
    round_to: int
    seed: int


@dataclass(frozen=True)
class Peer:
    """One of torch-pruning's pruners.

    Args:
        kind: Its class.
        importance: Makes its importance.
        together: Whether all layers are ranked together.
        needs: What the importance reads beside the weights.
        trains: Whether the pruner's own regularization runs before the cut, for half of the steps.
    """

    kind: type[Any]
    importance: Callable[[], Any]
    together: bool = False
    needs: str = "weights"
    trains: bool = False


_I, _P = tp.importance, tp.pruner
PEERS: Mapping[str, Peer] = MappingProxyType(
    {
        "tp_magnitude_l1": Peer(_P.BasePruner, lambda: _I.MagnitudeImportance(p=1)),
        "tp_magnitude_l2": Peer(_P.BasePruner, lambda: _I.MagnitudeImportance(p=2)),
        "tp_magnitude_global": Peer(_P.BasePruner, lambda: _I.MagnitudeImportance(p=2), together=True),
        "tp_lamp": Peer(_P.BasePruner, lambda: _I.LAMPImportance(p=2), together=True),
        "tp_fpgm": Peer(_P.BasePruner, _I.FPGMImportance),
        "tp_bn_scale": Peer(_P.BasePruner, _I.BNScaleImportance),
        "tp_taylor": Peer(_P.BasePruner, _I.TaylorImportance, needs="gradient"),
        "tp_hessian": Peer(_P.BasePruner, _I.HessianImportance, needs="hessian"),
        "tp_random": Peer(_P.BasePruner, _I.RandomImportance),
        "tp_bn_scale_pruner": Peer(_P.BNScalePruner, _I.BNScaleImportance, together=True, trains=True),
        "tp_group_norm_pruner": Peer(_P.GroupNormPruner, lambda: _I.GroupMagnitudeImportance(p=2), trains=True),
        "tp_growing_reg_pruner": Peer(_P.GrowingRegPruner, lambda: _I.GroupMagnitudeImportance(p=2), trains=True),
    }
)


def pruned_by_peer(
    name: str, dense: nn.Module, task: Task, count: Callable[[nn.Module], int], budget: Budget
) -> nn.Module:
    """Return the network that a pruner makes within the budget."""
    peer, model, first = PEERS[name], copy.deepcopy(dense), 0
    if peer.trains:
        first = budget.steps // 2
        model = _regularized(peer, model, task, budget, first)
    limit = budget.share * count(dense)
    low, high, best = 0.0, 0.98, None
    for _ in range(HALVINGS):
        ratio = (low + high) / 2
        cut = _cut(peer, model, task, budget, ratio)
        if count(cut) <= limit:
            best, high = cut, ratio
        else:
            low = ratio
    if best is None:
        best = _cut(peer, model, task, budget, high)
    fine_tune(best, task, _context(budget, budget.steps - first))
    recalibrate(best, task, limit=budget.calibration, seed=budget.seed)
    return best


def _cut(peer: Peer, model: nn.Module, task: Task, budget: Budget, ratio: float) -> nn.Module:
    """Return a copy, pruned at a ratio."""
    pruned = copy.deepcopy(model).eval()
    torch.manual_seed(budget.seed)
    importance = peer.importance()
    pruner = _pruner(peer, pruned, importance, task, budget, ratio)
    batch = next(iter(task.batches("calibration", seed=budget.seed)))
    if peer.needs == "gradient":
        torch.autograd.backward(_loss(pruned, task, batch))
    elif peer.needs == "hessian":
        images, labels = batch[0][:HESSIAN_IMAGES], batch[1][:HESSIAN_IMAGES]
        importance.zero_grad()
        for image, label in zip(images, labels, strict=True):
            pruned.zero_grad()
            torch.autograd.backward(_loss(pruned, task, (image[None], label[None])))
            importance.accumulate_grad(pruned)
    pruner.step()
    pruned.zero_grad(set_to_none=True)
    return pruned


def _pruner(peer: Peer, model: nn.Module, importance: Any, task: Task, budget: Budget, ratio: float) -> Any:
    last = [m for m in model.modules() if isinstance(m, nn.Linear)][-1]
    return peer.kind(
        model,
        task.example_inputs().args,
        importance=importance,
        pruning_ratio=ratio,
        max_pruning_ratio=0.95,
        global_pruning=peer.together,
        ignored_layers=[last],
        round_to=budget.round_to,
        in_channel_groups={},
        out_channel_groups={},
        num_heads={},
        channel_groups={},
    )


def _regularized(peer: Peer, model: nn.Module, task: Task, budget: Budget, steps: int) -> nn.Module:
    """Train with the pruner's own regularization, which it adds to the gradients before every optimizer step."""
    pruner = _pruner(peer, model, peer.importance(), task, budget, budget.share)
    pruner.update_regularizer()
    hook = register_optimizer_step_pre_hook(lambda *_: pruner.regularize(model))
    try:
        fine_tune(model, task, _context(budget, steps))
    finally:
        hook.remove()
    return model


def _context(budget: Budget, steps: int) -> RecoverContext:
    return RecoverContext(
        steps=steps,
        lr=budget.rate,
        batch_size=budget.batch,
        device=torch.device("cpu"),
        dtype=torch.float32,
        generator=torch.Generator().manual_seed(budget.seed),
        seed=budget.seed,
    )


def _loss(model: nn.Module, task: Task, batch: Any) -> Tensor:
    args, kwargs = task.inputs(batch)
    return task.loss(task.structure(model(*args, **kwargs)), batch)
