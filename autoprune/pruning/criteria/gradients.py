"""Criteria from derivatives of the loss or of the outputs; the model runs in eval mode.

In training mode BatchNorm makes weight and gradient of a unit orthogonal: every score would be about zero.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from autoprune.groups.recording import tensors_of
from autoprune.groups.types import NO_UNIT
from autoprune.pruning.criteria.base import (
    CRITERIA,
    CriterionContext,
    Drawn,
    Key,
    Scores,
    calibration,
    eval_mode,
    over_groups,
    reduce,
    require_finite,
)
from autoprune.pruning.criteria.magnitude import l2
from autoprune.tasks.protocol import Inputs

PROBES = 8
STEP = 1e-3

Keys = Mapping[str, tuple[Key, ...]]
Leaves = dict[str, Tensor]
Scalar = Callable[[Any], Tensor]


@CRITERIA.register("gradient")
def gradient(context: CriterionContext) -> Scores:
    """Return the mean absolute gradient of a unit's weights, averaged over calibration batches and producers.

    It tells where the loss is steepest (the other half of SNIP's |weight x gradient|; Lee et al., ICLR 2019). One
    backward pass a batch.

    Raises:
        ConfigError: There is no task or no calibration data.
        CandidateError: Loss or gradient is not finite.
    """

    def score(keys: Keys, found: Leaves) -> Scores:
        means = {k: s / n for k, (s, n) in reduce(context, keys, lambda _, g: g.abs(), other=found).items()}
        return over_groups(context, keys, means)

    return _over_batches(context, "gradient", score)


@CRITERIA.register("taylor")
def taylor(context: CriterionContext) -> Scores:
    """Return |sum of weight times gradient| of a unit, averaged over calibration batches (Molchanov et al., CVPR 2019).

    The sum runs over all of a group's producers, for they leave together: it is the loss's first-order change. One
    backward pass a batch.

    Raises:
        ConfigError: There is no task or no calibration data.
        CandidateError: Loss or gradient is not finite.
    """

    def score(keys: Keys, found: Leaves) -> Scores:
        sums = {k: s for k, (s, _) in reduce(context, keys, torch.mul, other=found).items()}
        return np.abs(over_groups(context, keys, sums, average=False))

    return _over_batches(context, "taylor", score)


@CRITERIA.register("hessian")
def hessian(context: CriterionContext) -> Scores:
    """Return half the sum of h w^2 over a unit's weights: the loss's second-order change (LeCun et al., OBD, 1990).

    h is the Hessian's diagonal, estimated as the mean of z * Hz over random signs z (Bekas et al., 2007): exact where
    the Hessian is diagonal, else unbiased. Signs go with the units in the order of their norms, so that the scores
    follow a reordering of channels. Eight Hessian-vector products a batch.

    Raises:
        ConfigError: There is no task or no calibration data.
        CandidateError: Loss or a derivative is not finite.
    """
    keys = {g.name: g.producers for g in context.groups.groups}
    places = places_of(context)
    generator = torch.Generator().manual_seed(context.seed)
    rounds = []
    for drawn in calibration(context, "hessian"):
        for products in curvatures_of(context, leaves_of(context, _names(keys)), drawn, places, generator):
            sums = {k: s for k, (s, _) in reduce(context, keys, lambda w, h: w * w * h, other=products).items()}
            rounds.append(0.5 * over_groups(context, keys, sums, average=False))
    return require_finite(np.mean(rounds, axis=0), "hessian", context)


@CRITERIA.register("noise")
def noise(context: CriterionContext) -> Scores:
    """Return the expected squared change of the outputs when noise of a unit's own scale is added to its weights.

    The noise is Gaussian with the unit's root mean square weight as deviation; to first order its effect is that
    variance times the summed squares of the outputs' derivatives, which a random-sign projection of the outputs
    estimates without bias (sensitivity to perturbation as in Mozer and Smolensky, NIPS 1988; Jacobian by Hutchinson's
    estimator). A mean over output elements. Eight backward passes a batch.

    Raises:
        ConfigError: There is no task or no calibration data.
        CandidateError: An output or a derivative is not finite.
    """
    keys = _producers(context)
    squares = {k: total / count for k, (total, count) in reduce(context, keys, torch.square).items()}
    generator = torch.Generator().manual_seed(context.seed)
    rounds = []
    for drawn in calibration(context, "noise"):
        for _ in range(PROBES):
            found = gradients_of(
                context, leaves_of(context, _names(keys)), drawn.inputs, lambda y: _projection(y, generator)
            )
            sums = reduce(context, keys, lambda _, g: g * g, other=found)
            changes = {key: np.nan_to_num(squares[key]) * total for key, (total, _) in sums.items()}
            rounds.append(over_groups(context, keys, changes, average=False))
    return require_finite(np.mean(rounds, axis=0), "noise", context)


def _over_batches(context: CriterionContext, name: str, score: Callable[[Keys, Leaves], Scores]) -> Scores:
    """Return the mean over calibration batches of a score of the loss's gradients."""
    keys, rounds = _producers(context), []
    for drawn in calibration(context, name):
        found = gradients_of(context, leaves_of(context, _names(keys)), drawn.inputs, loss_of(context, drawn.batch))
        rounds.append(score(keys, found))
    return require_finite(np.mean(rounds, axis=0), name, context)


def _producers(context: CriterionContext) -> dict[str, tuple[Key, ...]]:
    return {g.name: g.producers for g in context.wanted}


def _names(keys: Keys) -> list[str]:
    """Return the parameters of all groups, each once."""
    return list(dict.fromkeys(name for group in keys.values() for name, _ in group))


def leaves_of(context: CriterionContext, names: Sequence[str]) -> Leaves:
    """Return parameters as leaves of a graph of their own."""
    return {name: context.model.get_parameter(name).detach().requires_grad_() for name in names}


def loss_of(context: CriterionContext, batch: Any) -> Scalar:
    """Return the task's loss of a model's outputs on a batch."""
    task = context.task
    assert task is not None
    return lambda outputs: task.loss(task.structure(outputs), batch)


def _projection(outputs: Any, generator: torch.Generator) -> Tensor:
    """Return the outputs times random signs, over the root of their number."""
    found = [t for t in tensors_of(outputs) if t.is_floating_point()]
    count = sum(t.numel() for t in found)
    return torch.stack([(t * _signs(t, generator)).sum() for t in found]).sum() / math.sqrt(count)


def _signs(like: Tensor, generator: torch.Generator) -> Tensor:
    drawn = torch.randint(0, 2, like.shape, generator=generator).to(like.device, like.dtype)
    return drawn.mul(2.0).sub(1.0)


def gradients_of(context: CriterionContext, leaves: Leaves, inputs: Inputs, scalar: Scalar) -> Leaves:
    """Return a scalar's gradient by parameter, 0 where it does not depend on it."""
    with eval_mode(context.model), torch.enable_grad():
        value = scalar(functional_call(context.model, leaves, inputs.args, inputs.kwargs))
        found = torch.autograd.grad(value, list(leaves.values()), allow_unused=True)
    return {n: torch.zeros_like(p) if g is None else g for (n, p), g in zip(leaves.items(), found, strict=True)}


def curvatures_of(
    context: CriterionContext,
    leaves: Leaves,
    drawn: Drawn,
    places: Mapping[Key, Tensor],
    generator: torch.Generator,
) -> list[Leaves]:
    """Return z * Hz by parameter for each of the random z.

    Hz comes from second derivatives; where torch has none for an operator (such as hardsigmoid), from differences of
    gradients.
    """
    probes = [{n: _placed(n, _signs(p, generator), places) for n, p in leaves.items()} for _ in range(PROBES)]
    loss = loss_of(context, drawn.batch)
    with sdpa_kernel(SDPBackend.MATH):
        try:
            found = _by_second_derivatives(context, leaves, drawn.inputs, loss, probes)
        except RuntimeError as error:
            if "not implemented" not in str(error):
                raise
            found = [_by_differences(context, leaves, drawn.inputs, loss, signs) for signs in probes]
    return [
        {name: z * products[name] for name, z in signs.items()} for signs, products in zip(probes, found, strict=True)
    ]


def _by_second_derivatives(
    context: CriterionContext, leaves: Leaves, inputs: Inputs, loss: Scalar, probes: Sequence[Leaves]
) -> list[Leaves]:
    """Return Hz by parameter for each z, by differentiating the gradients."""
    parameters, out = list(leaves.values()), []
    with eval_mode(context.model), torch.enable_grad():
        value = loss(functional_call(context.model, leaves, inputs.args, inputs.kwargs))
        slopes = torch.autograd.grad(value, parameters, create_graph=True, allow_unused=True)
        used = [s for s in slopes if s is not None and s.requires_grad]
        for signs in probes:
            kept = [z for z, s in zip(signs.values(), slopes, strict=True) if s is not None and s.requires_grad]
            none = [None] * len(parameters)
            found = torch.autograd.grad(used, parameters, kept, retain_graph=True, allow_unused=True) if used else none
            pairs = zip(leaves.items(), found, strict=True)
            out.append({name: torch.zeros_like(p) if h is None else h.detach() for (name, p), h in pairs})
    return out


def _by_differences(context: CriterionContext, leaves: Leaves, inputs: Inputs, loss: Scalar, signs: Leaves) -> Leaves:
    """Return Hz by parameter: the change of the gradients along z, by a step that is small beside the weights."""
    squares = sum(float(p.detach().square().sum()) for p in leaves.values())
    size = math.sqrt(squares / sum(p.numel() for p in leaves.values()))
    step = STEP * (size or 1.0)
    moved = [
        gradients_of(
            context,
            {name: (p.detach() + way * step * signs[name]).requires_grad_() for name, p in leaves.items()},
            inputs,
            loss,
        )
        for way in (1.0, -1.0)
    ]
    return {name: (moved[0][name] - moved[1][name]) / (2.0 * step) for name in leaves}


def places_of(context: CriterionContext) -> dict[Key, Tensor]:
    """Return where in a dimension an index stands when the units are ordered by their norms."""
    rank: npt.NDArray[np.int64] = np.zeros(context.groups.plan.unit_count, dtype=np.int64)
    norms = l2(CriterionContext(context.model, context.groups, None, context.seed))
    for group in context.groups.groups:
        order = np.argsort(norms[group.start : group.start + group.width], kind="stable")
        rank[group.start + order] = group.start + np.arange(group.width)
    last = context.groups.plan.unit_count
    places = {}
    for dimension in context.groups.plan.dimensions:
        key = np.where(dimension.units == NO_UNIT, last, rank[dimension.units])
        place = np.empty(len(key), dtype=np.int64)
        place[np.argsort(key, kind="stable")] = np.arange(len(key))
        places[dimension.parameter, dimension.dim] = torch.from_numpy(place)
    return places


def _placed(name: str, drawn: Tensor, places: Mapping[Key, Tensor]) -> Tensor:
    for dim in range(drawn.ndim):
        if (name, dim) in places:
            drawn = drawn.index_select(dim, places[name, dim].to(drawn.device))
    return drawn
