"""Task -> warnings, or the first fatal problem: what would spoil a search is found before it starts."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from autoprune.errors import AutopruneError, TaskError
from autoprune.tasks.access import GuardedTask
from autoprune.tasks.base import tensors_of
from autoprune.tasks.contract_optional import check_optional
from autoprune.tasks.copying import copied
from autoprune.tasks.failures import user_code
from autoprune.tasks.optional import signal_of
from autoprune.tasks.protocol import SPLITS, Evaluated, Inputs, MetricSpec, RecoverContext, Split, Task

BATCH_UNITS = 64
SCORED_UNITS = 256
RECOVER_STEPS = 2
REDRAWS = 200


def check_task(task: Task, *, full: bool = False) -> list[str]:
    """Return warnings about a task that a search can nevertheless use.

    Model, inputs, batches, loss and evaluation are tried on a few units; torch's random state is left as it was.

    Args:
        task: The task.
        full: Also run `recover` for two steps and demand that it calls every hook of its context.

    Raises:
        TaskError: The first fatal problem.
    """
    with torch.random.fork_rng(devices=[]):
        _check_metrics(task)
        model, warnings = _check_model(task)
        for size in (1, 2):
            with user_code(f"task.example_inputs(batch_size={size})"):
                inputs = task.example_inputs(batch_size=size)
            _forward(task, model, inputs, f"the example inputs of batch size {size}")
        state = torch.get_rng_state()
        warnings += _check_batches(task)
        warnings += _check_evaluation(task, model)
        if not torch.equal(state, torch.get_rng_state()):
            warnings.append("Loading data changes torch's global random state: give the shuffling a torch.Generator.")
        _check_loss(task, model)
        check_optional(task, model)
        if full:
            _check_recovery(task, copied(model))
    return warnings


def _check_metrics(task: Task) -> None:
    with user_code("task.metrics"):
        specs = list(task.metrics)
    if not specs or len({s.name for s in specs}) != len(specs):
        raise TaskError("task.metrics must name at least one metric, each once.", hint="The first is the objective.")
    for spec in specs:
        if spec.direction not in ("min", "max") or not spec.bounds[0] < spec.bounds[1]:
            raise TaskError(
                f"task.metrics: {spec.name!r} must have direction min or max and bounds (lowest, highest). Got {spec}."
            )
    _check_signal(specs, signal_of(task))


def _check_signal(specs: Sequence[MetricSpec], signal: object) -> None:
    minimised = [s.name for s in specs if s.direction == "min"]
    if signal is not None and signal not in minimised:
        raise TaskError(
            f"task.signal must be None or a metric of direction min. Got {signal!r}.",
            hint=f"Such metrics of the task: {', '.join(minimised) or 'none'}.",
        )


def _check_model(task: Task) -> tuple[nn.Module, list[str]]:
    with user_code("task.build_model()"):
        first, second = task.build_model(), task.build_model()
    for built in (first, second):
        if not isinstance(built, nn.Module):
            raise TaskError(f"task.build_model() must return a torch.nn.Module. Got {type(built).__name__}.")
    one, other = first.state_dict(), second.state_dict()
    if not list(first.parameters()):
        raise TaskError("task.build_model() returned a model without parameters.", hint="There is nothing to prune.")
    for name, value in one.items():
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise TaskError(
                f"The model's {name!r} holds NaN or infinity.", hint="Check the checkpoint and its loading."
            )
        if name not in other or not torch.equal(value, other[name]):
            raise TaskError(
                f"Two calls of task.build_model() give different weights ({name!r}).",
                hint="Load trained weights, or train with a fixed seed; workers build the model for themselves.",
            )
        if value.numel() and value.data_ptr() == other[name].data_ptr():
            raise TaskError(
                f"Two calls of task.build_model() share the tensor {name!r}.", hint="Return copy.deepcopy(model)."
            )
    first.eval()
    if any(p.requires_grad for p in first.parameters()):
        return first, []
    return first, ["All parameters are frozen (requires_grad=False): recovery cannot train this model."]


def _forward(task: Task, model: nn.Module, inputs: Inputs, what: str) -> Any:
    if not isinstance(inputs, tuple) or len(inputs) != 2:
        raise TaskError(f"Inputs must be Inputs(args, kwargs). Got {type(inputs).__name__} for {what}.")
    with user_code(f"The model on {what}"), torch.no_grad():
        outputs = task.structure(model(*inputs[0], **inputs[1]))
    _demand_finite(outputs, f"The model's outputs on {what}")
    return outputs


def _demand_finite(value: Any, what: str) -> None:
    if not all(bool(torch.isfinite(t).all()) for t in tensors_of(value) if t.is_floating_point()):
        raise TaskError(f"{what} hold NaN or infinity.", hint="Clean the data, or check the model.")


def _check_batches(task: Task) -> list[str]:
    warnings = []
    for split in SPLITS:
        if split == "test" and isinstance(task, GuardedTask):
            continue
        batches = _take(task, split, seed=0)
        for number, batch in enumerate(batches):
            _demand_finite(batch, f"The tensors of batch {number} of {split!r}")
        if not _same(batches[0], _take(task, split, seed=0)[0]):
            raise TaskError(
                f"task.batches({split!r}, seed=0) begins differently at every call.",
                hint="Draw order and augmentation from a generator made from `seed`.",
            )
        labels = _labels(batches)
        if labels is not None and len(labels) > 1 and len(torch.unique(labels)) == 1:
            warnings.append(f"All labels drawn from {split!r} are {int(labels[0])}: one class only, or a sorted file.")
    if _same(_take(task, "train", seed=0), _take(task, "train", seed=1)):
        warnings.append("task.batches('train') does not depend on its seed: is the training data shuffled?")
    return warnings


def _take(task: Task, split: Split, *, seed: int) -> list[Any]:
    """Return the batches of a small subset; a loader that goes on longer than the subset is an error."""
    with user_code(f"task.batches({split!r})"):
        batches = list(islice(task.batches(split, seed=seed, limit=BATCH_UNITS), BATCH_UNITS + 1))
    if not batches:
        raise TaskError(f"task.batches({split!r}) yields nothing: the split is empty.", hint="Give every split data.")
    if len(batches) > BATCH_UNITS:
        raise TaskError(
            f"task.batches({split!r}, limit={BATCH_UNITS}) yields more than {BATCH_UNITS} batches: it never ends, or "
            "it ignores `limit`.",
            hint="Yield one pass over at most `limit` units.",
        )
    return batches


def _labels(batches: list[Any]) -> Tensor | None:
    """Return all labels where batches are (inputs, [n] integers) pairs, or mappings with [n] integers as `labels`."""
    found = [_labels_of(batch) for batch in batches]
    if any(not isinstance(f, Tensor) or f.is_floating_point() or f.ndim != 1 for f in found):
        return None
    return torch.cat(found)


def _labels_of(batch: Any) -> Any:
    if isinstance(batch, Mapping):
        return batch.get("labels")
    return batch[1] if isinstance(batch, (tuple, list)) and len(batch) == 2 else None


def _same(one: Any, other: Any) -> bool:
    first, second = tensors_of(one), tensors_of(other)
    return len(first) == len(second) and all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def _check_loss(task: Task, model: nn.Module) -> None:
    batch = _take(task, "train", seed=0)[0]
    trained = copied(model).train()
    parameters = [p.requires_grad_() for p in trained.parameters() if p.is_floating_point()]
    with user_code("task.loss() on a training batch"):
        args, kwargs = task.inputs(batch)
        loss = task.loss(task.structure(trained(*args, **kwargs)), batch)
    if not isinstance(loss, Tensor) or loss.ndim != 0:
        found = f"shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
        raise TaskError(
            f"task.loss() must return a scalar tensor. Got {found}.", hint="Return the mean over the batch."
        )
    if not math.isfinite(float(loss.detach())):
        raise TaskError(f"task.loss() is {float(loss.detach())} on the first training batch.")
    if not loss.requires_grad:
        raise TaskError(
            "task.loss() is not differentiable: it has no gradient.", hint="Compute it by torch operations."
        )
    with user_code("The gradient of task.loss()"):
        gradients = [g for g in torch.autograd.grad(loss, parameters, allow_unused=True) if g is not None]
    if not all(bool(torch.isfinite(g).all()) for g in gradients):
        raise TaskError("The gradient of task.loss() holds NaN or infinity on the first training batch.")
    if not any(bool(g.any()) for g in gradients):
        raise TaskError("The gradient of task.loss() is 0 everywhere.", hint="Do not detach the outputs in loss().")


def _check_evaluation(task: Task, model: nn.Module) -> list[str]:
    recorded: list[Any] = []

    def predict(inputs: Inputs) -> Any:
        with torch.no_grad():
            outputs = model(*inputs[0], **inputs[1])
        recorded.append(task.structure(outputs))
        return outputs

    first = _evaluate(task, predict)
    outputs = list(recorded)
    second = _evaluate(task, predict)
    _check_evaluated(task, first)
    warnings = []
    if first.ids != second.ids or first.metrics != second.metrics:
        warnings.append(
            f"Evaluation is not deterministic: the same model scored {first.metrics}, then {second.metrics}. "
            "Differences of that size mean nothing."
        )
    if len(first.ids) > SCORED_UNITS:
        warnings.append(f"task.evaluate(limit={SCORED_UNITS}) scored {len(first.ids)} units: it ignores `limit`.")
    return warnings + _check_chance(task, first, outputs)


def _evaluate(task: Task, predict: Any) -> Evaluated:
    with user_code("task.evaluate(split='val')"):
        evaluated = task.evaluate(predict, "val", limit=SCORED_UNITS, seed=0)
    if not isinstance(evaluated, Evaluated):
        raise TaskError(f"task.evaluate() must return an Evaluated. Got {type(evaluated).__name__}.")
    return evaluated


def _check_evaluated(task: Task, evaluated: Evaluated) -> None:
    wanted = {s.name for s in task.metrics}
    if set(evaluated.metrics) != wanted:
        raise TaskError(
            f"task.evaluate() returns the metrics {sorted(evaluated.metrics)}, but task.metrics names {sorted(wanted)}."
        )
    for spec in task.metrics:
        value = evaluated.metrics[spec.name]
        if not math.isfinite(value) or not spec.bounds[0] <= value <= spec.bounds[1]:
            raise TaskError(
                f"The dense model's {spec.name} is {value}, outside {spec.bounds}.",
                hint="Mend evaluate() or the bounds.",
            )
    count = len(evaluated.ids)
    if count == 0 or len(set(evaluated.ids)) != count:
        raise TaskError(
            f"task.evaluate() must name every unit once. Got {count} ids, {len(set(evaluated.ids))} distinct."
        )
    parts = {**evaluated.per_unit, "outputs": evaluated.outputs, "labels": evaluated.labels}
    for name, size in ((name, len(values)) for name, values in parts.items() if values is not None):
        if size != count:
            raise TaskError(f"task.evaluate(): {name!r} has {size} rows for {count} units.")
    with user_code("task.aggregate()"):
        again = task.aggregate(evaluated.per_unit)
    for name in wanted:
        if not math.isclose(again.get(name, math.nan), evaluated.metrics[name], rel_tol=1e-6, abs_tol=1e-9):
            raise TaskError(
                f"task.aggregate(per_unit) gives {name} {again.get(name)}, evaluate() gave {evaluated.metrics[name]}.",
                hint="Compute metrics by aggregate(), so that intervals describe the same number.",
            )


def _check_chance(task: Task, dense: Evaluated, outputs: list[Any]) -> list[str]:
    """Compare the model with one that gives the mean output whatever the input; silent where outputs are no logits."""
    if not outputs or not all(isinstance(o, Tensor) and o.ndim >= 2 and o.is_floating_point() for o in outputs):
        return []
    if len({o.shape[-1] for o in outputs}) != 1:
        return []
    mean = torch.cat([o.flatten(0, -2) for o in outputs]).mean(dim=0)
    answers: Iterator[Tensor] = (mean.expand(o.shape).clone() for o in outputs)
    try:
        constant = _evaluate(task, lambda _: next(answers))
        spec = task.metrics[0]
        sign = 1.0 if spec.direction == "max" else -1.0
        gain = sign * (dense.metrics[spec.name] - constant.metrics[spec.name])
    except (AutopruneError, KeyError):
        return []
    if gain > 2.0 * _standard_error(task, dense, constant, spec.name):
        return []
    warning = (
        f"The model is at chance level: its {spec.name} on val is {dense.metrics[spec.name]:.4g}, that of a constant "
        f"answer {constant.metrics[spec.name]:.4g}. Is it trained, and is its data preprocessed as in training?"
    )
    return [warning]


def _standard_error(task: Task, one: Evaluated, other: Evaluated, metric: str) -> float:
    """Return the standard error of the paired difference of a metric, by redrawing units where it is no mean of them.

    0 where the two were not scored on the same units.
    """
    if one.ids != other.ids:
        return 0.0
    first, second = one.per_unit.get(metric), other.per_unit.get(metric)
    if first is not None and second is not None and first.ndim == 1 and first.shape == second.shape:
        return float(np.std(first - second) / math.sqrt(len(first)))
    rng = np.random.default_rng(0)
    differences = []
    for _ in range(REDRAWS):
        drawn = rng.integers(len(one.ids), size=len(one.ids))
        left, right = (task.aggregate({k: v[drawn] for k, v in e.per_unit.items()})[metric] for e in (one, other))
        differences.append(left - right)
    finite = [d for d in differences if math.isfinite(d)]
    return float(np.std(finite)) if finite else 0.0


def _check_recovery(task: Task, model: nn.Module) -> None:
    """Run two steps and look at every hook: a loop that skips one would train without its penalty, mask or limit."""
    probe = torch.zeros((), requires_grad=True)
    before = copy.deepcopy(model.state_dict())
    ctx = RecoverContext(
        steps=RECOVER_STEPS,
        lr=1e-3,
        batch_size=16,
        device=torch.device("cpu"),
        dtype=torch.float32,
        generator=torch.Generator().manual_seed(0),
        penalty=lambda _model, _outputs, _batch: probe * 1.0,
    )
    with user_code("task.recover()"):
        task.recover(model, ctx)
    for hook, call in (("extra_loss", "extra_loss(model, outputs, batch)"), ("after_step", "after_step(model, step)")):
        if ctx.calls.get(hook, 0) != RECOVER_STEPS:
            raise TaskError(
                f"task.recover() called ctx.{hook} {ctx.calls.get(hook, 0)} times in {RECOVER_STEPS} steps.",
                hint=f"Take exactly ctx.steps optimizer steps and call ctx.{call} once in each.",
            )
    if not ctx.calls.get("report"):
        raise TaskError("task.recover() never called ctx.report.", hint="Call ctx.report(step, loss); stop when False.")
    if probe.grad is None:
        raise TaskError("task.recover() does not add ctx.extra_loss(...) to the loss.", hint="loss = loss + extra.")
    after = model.state_dict()
    if not any(not torch.equal(before[k], after[k]) for k in before):
        raise TaskError("task.recover() changed no weight.", hint="Train the model that is handed over, in place.")
