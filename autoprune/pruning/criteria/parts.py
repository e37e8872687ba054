"""Model and part -> importance of its members: blocks, activations, norms, poolings, biases. Higher = keep."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from autoprune.axes import EDITS, refusal
from autoprune.errors import CandidateError, ConfigError
from autoprune.groups.bypass import argument, main_argument, main_output
from autoprune.groups.cloning import clone_model
from autoprune.groups.edits import apply_edits, edit_of
from autoprune.groups.types import Argument, Part
from autoprune.pruning.criteria.base import CriterionContext, Drawn, Scores, calibration, eval_mode
from autoprune.pruning.criteria.contribution import mean_loss

PartCriterion = Callable[[CriterionContext, Part], Scores]


def part_importance(criterion: str, context: CriterionContext, part: Part) -> Scores:
    """Return [width] scores of a part's members, in their order.

    contribution: by how much the calibration loss rises when that member alone is edited, statistics as they are, in
    eval mode and on the same batches for all (as in Veit et al., NeurIPS 2016); one forward pass a batch and member.
    random: a uniform draw in [0, 1), by `context.seed`.
    Of blocks also angle: 1 - the mean cosine between a block's input and output, its block influence (Men et al.,
    ShortGPT, 2024), in [0, 2]; one forward pass a batch. And l1 and l2: the mean absolute and the root mean square
    weight of its layers.

    Raises:
        ConfigError: The part is a tensor, the criterion cannot rank it, or it needs data that the task has not.
        CandidateError: A score is not finite.
    """
    why = refusal({"granularity": part.kind, "criterion": criterion}) if part.kind in EDITS else "it is a tensor"
    if why or criterion not in _CRITERIA:
        raise ConfigError(f"The criterion {criterion!r} cannot rank {part.name}: {why or 'no such criterion'}.")
    scores = _CRITERIA[criterion](context, part)
    if not np.isfinite(scores).all():
        bad = part.members[int(np.flatnonzero(~np.isfinite(scores))[0])]
        raise CandidateError(
            f"The criterion {criterion!r} is not finite for {bad!r}.",
            reason="nonfinite",
            stage="prune",
            hint="Check the model's weights for NaN or infinity.",
        )
    return scores


def _contribution(context: CriterionContext, part: Part) -> Scores:
    batches = list(calibration(context, "contribution"))
    whole = mean_loss(context, context.model, batches)

    def loss_without(member: int) -> float:
        model = clone_model(context.model, {})
        apply_edits(model, [edit_of(part, member)])
        return mean_loss(context, model, batches)

    return np.array([loss_without(member) - whole for member in range(part.width)])


def _random(context: CriterionContext, part: Part) -> Scores:
    return np.random.default_rng(context.seed).random(part.width)


def _angle(context: CriterionContext, part: Part) -> Scores:
    sources = [main_argument(returns) for returns in part.returns or (None,) * part.width]
    cosines = _cosines(context, dict(zip(part.members, sources, strict=True)), list(calibration(context, "angle")))
    return np.array([1.0 - cosines[path] for path in part.members])


def _cosines(context: CriterionContext, sources: Mapping[str, Argument], batches: Sequence[Drawn]) -> dict[str, float]:
    """Return block -> mean cosine of input and output over the places (pixels, tokens) where neither is zero.

    Args:
        context: The dense model.
        sources: Block -> which of its arguments is the input.
        batches: Calibration data.
    """
    total, count = dict.fromkeys(sources, 0.0), dict.fromkeys(sources, 0)

    def watching(path: str, dim: int) -> Callable[[nn.Module, Any, Any], None]:
        def add(_: nn.Module, __: Any, output: Any) -> None:
            before, after = saved.pop(path), main_output(output).double()
            present = (before.norm(dim=dim) * after.norm(dim=dim)) != 0
            found = torch.cosine_similarity(before, after, dim=dim)[present]
            total[path] += float(found.sum())
            count[path] += found.numel()

        return add

    def saving(path: str) -> Callable[[nn.Module, Any, Any], None]:
        source = sources[path]
        return lambda _, args, kwargs: saved.update({path: argument(source, args, kwargs).to(torch.float64, copy=True)})

    saved: dict[str, Tensor] = {}
    with ExitStack() as hooks, eval_mode(context.model), torch.no_grad():
        for path in sources:
            block = context.model.get_submodule(path)
            hooks.callback(block.register_forward_pre_hook(saving(path), with_kwargs=True).remove)
            hooks.callback(block.register_forward_hook(watching(path, _channel_dim(block))).remove)
        for drawn in batches:
            context.model(*drawn.inputs.args, **drawn.inputs.kwargs)
    return {path: total[path] / count[path] if count[path] else 1.0 for path in sources}


def _channel_dim(block: nn.Module) -> int:
    """Return the dimension of a block's features: 1 among convolutions, else the last."""
    return 1 if any(isinstance(module, _ConvNd) for module in block.modules()) else -1


def _l1(context: CriterionContext, part: Part) -> Scores:
    return np.array([float(_weights(context, path).abs().mean()) for path in part.members])


def _l2(context: CriterionContext, part: Part) -> Scores:
    return np.array([math.sqrt(float(_weights(context, path).square().mean())) for path in part.members])


def _weights(context: CriterionContext, path: str) -> Tensor:
    """Return all weights of a block's layers in one dimension."""
    found = [p.detach().double().reshape(-1) for p in context.model.get_submodule(path).parameters() if p.dim() > 1]
    return torch.cat(found)


_CRITERIA: dict[str, PartCriterion] = {
    "contribution": _contribution,
    "random": _random,
    "angle": _angle,
    "l1": _l1,
    "l2": _l2,
}
