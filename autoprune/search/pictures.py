"""Members of a front with what they answered -> `pictures.json`: units kept, filters, samples, confusions."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from torch import nn

from autoprune.evaluation import confusion
from autoprune.groups.types import ArchitecturePlan, ModelGroups, PruningGroup
from autoprune.report.pictures import (
    LONGEST_NAME,
    LONGEST_SIDE,
    LONGEST_TEXT,
    MOST_CLASSES,
    MOST_FILTERS,
    MOST_GROUPS,
    MOST_SAMPLES,
    MOST_UNITS,
    Answer,
    Confusions,
    Filters,
    KeptUnits,
    Pictures,
    Raster,
    SampleShown,
)
from autoprune.tasks import class_names_of, samples_of
from autoprune.tasks.protocol import Evaluated, Sample, Task

POOL = 96
TELLING = MOST_SAMPLES // 2

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Shown:
    """A model to draw.

    Args:
        architecture: What it is; None of the dense model.
        val: Its scores on val.
        test: Its scores on test.
    """

    architecture: ArchitecturePlan | None
    val: Evaluated
    test: Evaluated


def pictures_of(
    task: Task, groups: ModelGroups, model: nn.Module, dense: Shown, members: Mapping[str, Shown], *, seed: int
) -> Pictures:
    """Return what the report draws of `members`, by id, beside the dense `model`; parts without means are left out."""
    plans = {name: m.architecture for name, m in members.items() if m.architecture is not None}
    drawn = [group for group in groups.groups if group.width <= MOST_UNITS][:MOST_GROUPS]
    named = list(zip(names_apart([group.name for group in drawn]), drawn, strict=True))
    return Pictures(
        shown=tuple(members),
        groups=tuple(
            _kept(name, {member: kept_units(groups, group, plan) for member, plan in plans.items()})
            for name, group in named
        ),
        groups_left_out=len(groups.groups) - len(drawn),
        filters=_filters(named, model),
        samples=_samples(task, dense.val, {name: m.val for name, m in members.items()}, seed),
        confusion=_confusions(dense.test, {n: m.test for n, m in members.items()}, class_names_of(task)),
    )


def kept_units(groups: ModelGroups, group: PruningGroup, plan: ArchitecturePlan) -> Bools:
    """Return [width] whether each unit of a group is left in a pruned model."""
    name, dim = group.producers[0]
    gone = [edit.path for edit in plan.edits if edit.kind == "remove"]
    if any(name.startswith(f"{path}.") for path in gone):
        return np.zeros(group.width, dtype=np.bool_)
    units = next(d.units for d in groups.plan.dimensions if (d.parameter, d.dim) == (name, dim))
    rows = [row for pair in plan.grouped.get(name, ()) for row in pair[0]] if dim == 0 else []
    stays = plan.kept.get(name, {}).get(dim, rows or range(len(units)))
    left = units[np.asarray(stays, dtype=np.int64)] - group.start
    found = np.zeros(group.width, dtype=np.bool_)
    found[left[(left >= 0) & (left < group.width)]] = True
    return found


def _kept(name: str, bits: Mapping[str, Bools]) -> KeptUnits:
    written = {member: "".join("1" if bit else "0" for bit in found) for member, found in bits.items()}
    return KeptUnits(group=name, members=written)


def names_apart(names: Sequence[str]) -> list[str]:
    """Return names of at most `LONGEST_NAME` characters; those that become equal by that are numbered."""
    found: dict[str, None] = {}
    for name in names:
        told, number = _short(name), 1
        while told in found:
            number += 1
            end = f"… ({number})"
            told = f"{name[: LONGEST_NAME - len(end)]}{end}"
        found[told] = None
    return list(found)


def _filters(named: Sequence[tuple[str, PruningGroup]], model: nn.Module) -> Filters | None:
    """Return the filters of the first layer that sees one or three channels, each of its channels a unit."""
    for told, group in named:
        for name, dim in group.producers:
            weight = model.get_parameter(name).detach()
            if dim != 0 or weight.ndim != 4 or weight.shape[1] not in (1, 3) or len(weight) != group.width:
                continue
            if len(weight) > MOST_FILTERS or not 2 <= min(weight.shape[2:]) <= max(weight.shape[2:]) <= LONGEST_SIDE:
                continue
            images = _spread(weight.cpu().double().movedim(1, 3).numpy())
            return Filters(group=told, filters=tuple(_raster(image) for image in images))
    return None


def _samples(task: Task, dense: Evaluated, members: Mapping[str, Evaluated], seed: int) -> tuple[SampleShown, ...]:
    """Return samples with answers: up to half are such that a model errs or the answers differ, the rest as drawn."""
    names = class_names_of(task)
    told = {name: _answers(scored, names) for name, scored in {"": dense, **members}.items()}
    if not told[""]:
        return ()
    drawn = [s for s in samples_of(task, "val", count=POOL, seed=seed) if s.image is not None or s.text]
    found = [
        _sample(sample, {name: answers[sample.id] for name, answers in told.items()})
        for sample in drawn
        if all(sample.id in answers for answers in told.values())
    ]
    telling = [s for s in found if any(a.right is False or a.text != s.dense.text for a in _all(s))][:TELLING]
    rest = [s for s in found if s not in telling][: MOST_SAMPLES - len(telling)]
    return (*telling, *rest)


def _all(sample: SampleShown) -> list[Answer]:
    return [sample.dense, *sample.members.values()]


def _sample(sample: Sample, answers: Mapping[str, Answer]) -> SampleShown:
    return SampleShown(
        id=_short(sample.id),
        image=None if sample.image is None else _raster(_shrunk(np.asarray(sample.image, dtype=np.float64))),
        text=None if sample.text is None else sample.text[:LONGEST_TEXT],
        label=None if sample.label is None else _short(sample.label),
        dense=answers[""],
        members={name: answer for name, answer in answers.items() if name},
    )


def _answers(scored: Evaluated, names: Sequence[str]) -> dict[str, Answer]:
    """Return unit -> what a model says: the likeliest class, or a regression's number."""
    if scored.outputs is None or scored.outputs.ndim not in (1, 2):
        return {}
    outputs = np.asarray(scored.outputs, dtype=np.float64).reshape(len(scored.outputs), -1)
    if not np.isfinite(outputs).all():
        return {}
    if outputs.shape[1] == 1:
        return {unit: Answer(text=f"{value:.4g}") for unit, value in zip(scored.ids, outputs[:, 0], strict=True)}
    shares = np.exp(outputs - outputs.max(axis=1, keepdims=True))
    shares /= shares.sum(axis=1, keepdims=True)
    best = outputs.argmax(axis=1)
    right = [None] * len(best) if scored.labels is None else (best == scored.labels).tolist()
    return {
        unit: Answer(text=_class(names, int(c)), share=float(min(1.0, share[c])), right=ok)
        for unit, c, share, ok in zip(scored.ids, best, shares, right, strict=True)
    }


def _confusions(dense: Evaluated, members: Mapping[str, Evaluated], names: Sequence[str]) -> Confusions | None:
    before = confusion(dense)
    found = {name: counts for name, scored in members.items() if (counts := confusion(scored)) is not None}
    if before is None or len(before) > MOST_CLASSES or len(found) != len(members):
        return None
    return Confusions(
        names=tuple(_class(names, i) for i in range(len(before))),
        dense=tuple(map(tuple, before.tolist())),
        members={name: tuple(map(tuple, counts.tolist())) for name, counts in found.items()},
    )


def _class(names: Sequence[str], number: int) -> str:
    return _short(names[number]) if number < len(names) else str(number)


def _short(name: str) -> str:
    return name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 1]}…"


def _spread(values: Floats) -> Floats:
    """Return values between 0 and 1, all by one scale."""
    low, high = float(values.min()), float(values.max())
    return (values - low) / max(high - low, float(np.finfo(np.float64).tiny))


def _shrunk(image: Floats) -> Floats:
    """Return an image whose sides are at most `LONGEST_SIDE`, means of equal blocks of it."""
    block = -(-max(image.shape[:2]) // LONGEST_SIDE)
    height, width = (max(1, size // block) for size in image.shape[:2])
    cut = image[: height * block, : width * block] if min(image.shape[:2]) >= block else image
    if block == 1 or cut.shape[:2] != (height * block, width * block):
        return image[:LONGEST_SIDE, :LONGEST_SIDE]
    return np.asarray(cut.reshape(height, block, width, block, *image.shape[2:]).mean(axis=(1, 3)), dtype=np.float64)


def _raster(image: Floats) -> Raster:
    """Return a [h, w] or [h, w, channels] image of values in 0..1."""
    if image.ndim == 3 and image.shape[2] == 1:
        image = image[:, :, 0]
    data = (np.clip(image, 0.0, 1.0) * 255.0).round().astype(np.uint8)
    channels = 3 if data.ndim == 3 else 1
    text = base64.b64encode(np.ascontiguousarray(data).tobytes()).decode("ascii")
    return Raster(height=data.shape[0], width=data.shape[1], channels=channels, data=text)
