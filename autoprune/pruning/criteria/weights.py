"""Model -> importance of single weights: one score per entry of a tensor, higher = keep.

The criteria are those of the criterion axis whose level is `weight`; each is the unit criterion of that name, taken for
one entry instead of a unit's. Unstructured, N:M and block masks are made of these scores.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from autoprune.errors import CandidateError, ConfigError
from autoprune.pruning.criteria.activations import Place, by_channel, look_at
from autoprune.pruning.criteria.base import CriterionContext, calibration
from autoprune.pruning.criteria.gradients import curvatures_of, gradients_of, leaves_of, loss_of, places_of
from autoprune.pruning.criteria.magnitude import layer_adaptive
from autoprune.registry import Registry

Importance = dict[str, Tensor]
WeightCriterion = Callable[[CriterionContext, Sequence[str]], Importance]
WEIGHT_CRITERIA: Registry[WeightCriterion] = Registry("criterion of single weights")

_LAYERS = (nn.Linear, _ConvNd, nn.Embedding)


def weight_importance(name: str, context: CriterionContext, parameters: Sequence[str]) -> dict[str, Tensor]:
    """Return parameter -> float64 scores of its shape on the CPU, checked: also a third party's has to fit.

    Args:
        name: Name on the criterion axis, of level `weight`.
        context: Model, groups, task and seed; `only` is not looked at.
        parameters: Dotted names of the tensors to score.

    Raises:
        UnknownNameError: No criterion of that name ranks single weights.
        ConfigError: The model has no such parameter, the criterion needs a task or the inputs of a layer that are not
            there, or it returns another shape.
        CandidateError: A score is not finite; the message names the tensor.
    """
    criterion = WEIGHT_CRITERIA[name]
    known = dict(context.model.named_parameters(remove_duplicate=False))
    for missing in (p for p in parameters if p not in known):
        raise ConfigError(f"The model has no parameter {missing!r}.", hint="Name weights as named_parameters() does.")
    wanted = set(parameters)
    scores = criterion(context, [p for p in known if p in wanted]) if wanted else {}
    return {p: _checked(scores.get(p), known[p], name, p) for p in parameters}


@WEIGHT_CRITERIA.register("l1")
def l1(context: CriterionContext, parameters: Sequence[str]) -> Importance:
    """Return |w| (Han et al., NeurIPS 2015)."""
    return {p: w.abs() for p, w in _weights(context, parameters).items()}


@WEIGHT_CRITERIA.register("l2")
def l2(context: CriterionContext, parameters: Sequence[str]) -> Importance:
    """Return w^2: the order of l1, other distances (Han et al., NeurIPS 2015)."""
    return {p: w.square() for p, w in _weights(context, parameters).items()}


@WEIGHT_CRITERIA.register("lamp")
def lamp(context: CriterionContext, parameters: Sequence[str]) -> Importance:
    """Return w^2 over the sum of all squares of its tensor that are no smaller (Lee et al., LAMP, ICLR 2021).

    The order within a tensor is that of l1; between tensors the scores compare, and the largest weight of each has 1.
    """
    out = {}
    for p, w in _weights(context, parameters).items():
        squares = w.square().cpu()
        shares = torch.from_numpy(layer_adaptive(squares.reshape(-1).numpy())).reshape(w.shape)
        out[p] = shares.where(squares.isfinite(), squares)
    return out


@WEIGHT_CRITERIA.register("gradient")
def gradient(context: CriterionContext, parameters: Sequence[str]) -> Importance:
    """Return |g|, a mean over calibration batches (the other half of SNIP's |w g|; Lee et al., ICLR 2019).

    Raises:
        ConfigError: There is no task or no calibration data.
    """
    return _over_batches(context, "gradient", parameters, lambda _, g: g.abs())


@WEIGHT_CRITERIA.register("taylor")
def taylor(context: CriterionContext, parameters: Sequence[str]) -> Importance:
    """Return |w g|, a mean over calibration batches: the loss's first-order change (Molchanov et al., CVPR 2019).

    Raises:
        ConfigError: There is no task or no calibration data.
    """
    return _over_batches(context, "taylor", parameters, lambda w, g: (w * g).abs())


@WEIGHT_CRITERIA.register("hessian")
def hessian(context: CriterionContext, parameters: Sequence[str]) -> Importance:
    """Return 0.5 h w^2, the loss's second-order change; negative where it curves down (LeCun et al., OBD, NIPS 1989).

    h is the Hessian's diagonal over the asked tensors, estimated as the mean of z * Hz over random signs z (Bekas et
    al., 2007): exact where that Hessian is diagonal, else unbiased, with a noise that depends on which tensors are
    asked for together. Signs go with the units in the order of their norms, so that the scores follow a reordering of
    channels. Eight Hessian-vector products a batch.

    Raises:
        ConfigError: There is no task or no calibration data.
    """
    places, weights = places_of(context), _weights(context, parameters)
    generator = torch.Generator().manual_seed(context.seed)
    total = {p: torch.zeros_like(w) for p, w in weights.items()}
    count = 0
    for drawn in calibration(context, "hessian"):
        for products in curvatures_of(context, leaves_of(context, parameters), drawn, places, generator):
            count += 1
            for p, product in products.items():
                total[p] += product
    return {p: 0.5 * total[p] / count * w.square() for p, w in weights.items()}


@WEIGHT_CRITERIA.register("activation")
def activation(context: CriterionContext, parameters: Sequence[str]) -> Importance:
    """Return |w| times the root mean square of the input that it multiplies (Sun et al., Wanda, ICLR 2024).

    The mean runs over the calibration batches and, for convolutions, over the positions of the input channel. A row of
    an embedding counts by the root of how often it is read, as a linear layer on one-hot vectors would have it. What is
    never called scores 0. Of a weight that several layers share, the inputs of the layer it is named after count.

    Raises:
        ConfigError: There is no task or no calibration data, or a tensor is not the weight of a linear layer, a
            convolution or an embedding.
    """
    owners = {p: _owner(context.model, p) for p in parameters}
    squares: dict[str, Tensor] = {}
    counts = dict.fromkeys(parameters, 0)

    def add(place: Place, x: Tensor) -> None:
        found = _input_squares(owners[place.key[0]], x)
        squares[place.key[0]] = squares.get(place.key[0], torch.zeros_like(found)) + found
        counts[place.key[0]] += _positions(owners[place.key[0]], x)

    look_at(context, [Place(p.rpartition(".")[0], (p, 1), True) for p in parameters], add)
    out = {}
    for p, w in _weights(context, parameters).items():
        size = (squares[p] / counts[p]).sqrt() if counts[p] else None
        out[p] = torch.zeros_like(w) if size is None else w.abs() * _as_weight(owners[p], w, size)
    return out


@WEIGHT_CRITERIA.register("random")
def random(context: CriterionContext, parameters: Sequence[str]) -> Importance:
    """Return a uniform draw in [0, 1), by the seed and the tensor's name: the control."""
    return {
        p: torch.from_numpy(np.random.default_rng([context.seed, zlib.crc32(p.encode())]).random(tuple(w.shape)))
        for p, w in _weights(context, parameters).items()
    }


def _weights(context: CriterionContext, parameters: Iterable[str]) -> Importance:
    return {p: context.model.get_parameter(p).detach().double() for p in parameters}


def _over_batches(
    context: CriterionContext, name: str, parameters: Sequence[str], score: Callable[[Tensor, Tensor], Tensor]
) -> Importance:
    """Return the mean over calibration batches of a score of a weight and the loss's gradient by it."""
    weights = _weights(context, parameters)
    total = {p: torch.zeros_like(w) for p, w in weights.items()}
    count = 0
    for drawn in calibration(context, name):
        count += 1
        found = gradients_of(context, leaves_of(context, parameters), drawn.inputs, loss_of(context, drawn.batch))
        for p, g in found.items():
            total[p] += score(weights[p], g.double())
    return {p: values / count for p, values in total.items()}


def _owner(model: nn.Module, parameter: str) -> nn.Module:
    """Return the layer whose inputs a weight multiplies."""
    path, _, kind = parameter.rpartition(".")
    owner = model.get_submodule(path)
    if kind != "weight" or not isinstance(owner, _LAYERS):
        raise ConfigError(
            f"activation needs the inputs that a weight multiplies; {parameter!r} of a {type(owner).__name__} is not "
            "the weight of a linear layer, a convolution or an embedding.",
            hint="Choose l1, l2 or taylor for it.",
        )
    return owner


def _input_squares(owner: nn.Module, x: Tensor) -> Tensor:
    """Return [inputs] the sums of squares of what a layer reads; for an embedding how often each row is."""
    if isinstance(owner, nn.Embedding):
        return torch.bincount(x.reshape(-1), minlength=owner.num_embeddings).double()
    return by_channel(owner, x).square().sum(1)


def _positions(owner: nn.Module, x: Tensor) -> int:
    """Return over how many values an input's squares were summed."""
    if isinstance(owner, nn.Embedding):
        return x.numel()
    return x.numel() // x.shape[-1 if isinstance(owner, nn.Linear) else 1]


def _as_weight(owner: nn.Module, weight: Tensor, inputs: Tensor) -> Tensor:
    """Return [inputs] values, broadcast to the weight's shape: each entry gets that of the input it multiplies."""
    if isinstance(owner, _ConvTransposeNd | nn.Embedding):
        return inputs.reshape(-1, *[1] * (weight.ndim - 1))
    if isinstance(owner, _ConvNd):
        by_group = inputs.reshape(owner.groups, weight.shape[1])
        by_row = by_group.repeat_interleave(weight.shape[0] // owner.groups, dim=0)
        return by_row.reshape(*by_row.shape, *[1] * (weight.ndim - 2))
    return inputs


def _checked(scores: Tensor | None, weight: Tensor, name: str, parameter: str) -> Tensor:
    if scores is None or scores.shape != weight.shape:
        found = "nothing" if scores is None else f"shape {tuple(scores.shape)}"
        raise ConfigError(
            f"The criterion {name!r} must return {tuple(weight.shape)} scores for {parameter!r}. Got {found}."
        )
    scores = scores.detach().double().cpu()
    if not bool(torch.isfinite(scores).all()):
        raise CandidateError(
            f"The criterion {name!r} is not finite in the weight {parameter!r}.",
            reason="nonfinite",
            stage="prune",
            hint="Check the model's weights for NaN or infinity.",
        )
    return scores
