"""Members of a front, deployed -> how they fare beyond quality and latency, as parts of the front document."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from autoprune.errors import AutopruneError
from autoprune.evaluation import (
    ClassScore,
    Interval,
    agreement,
    by_class,
    compare,
    conditions_of,
    gap_between,
    gradient_norms,
    intervals,
    score,
    score_conditions,
)
from autoprune.evaluation import Condition as Met
from autoprune.report.document import Warned
from autoprune.report.examined import (
    ROBUSTNESS,
    Agreement,
    ClassQuality,
    Condition,
    Examination,
    Stability,
    TrainingGap,
)
from autoprune.report.parts import Change, Estimate
from autoprune.report.pictures import PICTURES_FILE, digest_of
from autoprune.runtimes import Session
from autoprune.search.losses import Losses, emission_step
from autoprune.search.pictures import Shown, pictures_of
from autoprune.search.workbench import Workbench
from autoprune.storage import write_file
from autoprune.tasks import class_names_of
from autoprune.tasks.protocol import Evaluated, MetricSpec

GRADIENT_UNITS = 64


@dataclass(frozen=True)
class Subject:
    """A model to look into.

    Args:
        name: What losses call it.
        model: The torch module.
        session: Its form on the first target.
        test: Its scores on test, read once through the counted accessor.
        seed: Of its intervals.
    """

    name: str
    model: nn.Module
    session: Session
    test: Evaluated
    seed: int = 0


@dataclass(frozen=True)
class Examined:
    """What was found.

    Args:
        parts: Field of `Member` -> its value.
        warnings: What a user should know of it.
    """

    parts: Mapping[str, Any] = field(default_factory=dict)
    warnings: tuple[Warned, ...] = ()


class Examiner:
    """Looks into the dense model and then into each member beside it; what fails costs only what it would have told.

    Everything is measured on `val`, on a subset of `train` or on one batch of `calibration`, but agreement and classes,
    which the one read of `test` already tells.

    Args:
        bench: The run's workbench; `robustness.units` bounds the units of each measurement.
        dense: The dense model.
        losses: Takes what could not be measured.

    Attributes:
        seconds: Wall seconds spent so far.
        baseline: What was found of the dense model.
    """

    def __init__(self, bench: Workbench, dense: Subject, losses: Losses) -> None:
        self.seconds = 0.0
        self._bench, self._dense, self._losses = bench, dense, losses
        self._units, self._seed = bench.config.robustness.units, bench.config.search.seed
        asked = {o.name for o in bench.objectives}
        self._metrics: tuple[MetricSpec, ...] = tuple(m for m in bench.task.metrics if m.name in asked)
        self._dense_conditions: dict[Met, Evaluated] = {}
        self.baseline = self.examine(dense)

    def examine(self, subject: Subject) -> Examined:
        """Return what is found of the dense model, or of a member, compared with the dense model."""
        parts: dict[str, Any] = {}
        warnings: list[Warned] = []
        with self._timed(), self._noting(subject, "agreement"):
            parts |= self._told_by_test(subject)
        if self._units:
            with self._timed():
                parts["robustness"], warnings = self._robustness(subject)
            with self._timed(), self._noting(subject, "stability"):
                parts["stability"] = self._stability(subject)
        return Examined(parts, tuple(warnings))

    def pictures(self, file: Path, shown: Mapping[str, Shown]) -> Examination:
        """Write what the report draws of members, by id, and return how the models were looked into.

        Nothing is drawn where `robustness.pictures` is false or `robustness.units` is 0.
        """
        bench, digest = self._bench, None
        if self._units and bench.config.robustness.pictures:
            with self._timed(), self._losses.noting(PICTURES_FILE):
                dense = Shown(None, score(bench.task, self._dense.session, "val"), self._dense.test)
                found = pictures_of(bench.task, bench.groups, bench.model, dense, shown, seed=self._seed)
                content = found.to_bytes()
                write_file(file, content)
                digest = digest_of(content)
        return Examination(units=self._units, seconds=self.seconds, pictures_sha256=digest)

    def _told_by_test(self, subject: Subject) -> dict[str, Any]:
        itself = subject is self._dense
        dense = self._dense.test
        agreed = None if itself else agreement(subject.test, dense)
        classes = by_class(subject.test, None if itself else dense)
        names = class_names_of(self._bench.task)
        return {
            "agreement": None if agreed is None else Agreement.model_validate(asdict(agreed)),
            "classes": tuple(_class_quality(one, names) for one in classes),
        }

    def _robustness(self, subject: Subject) -> tuple[dict[str, Condition], list[Warned]]:
        """Return what is known by condition, and why the rest is not."""
        task, itself = self._bench.task, subject is self._dense
        try:
            with emission_step():
                conditions = conditions_of(task)
                found = score_conditions(task, subject.session, conditions, units=self._units, seed=self._seed)
        except AutopruneError as error:
            self._losses.add(f"robustness of {subject.name}", error)
            return {}, [Warned(code=ROBUSTNESS, text=f"Its robustness could not be measured: {error}")]
        if itself:
            self._dense_conditions = found.scored
        told, failed = {}, dict(found.failed)
        for condition, scored in found.scored.items():
            try:
                with emission_step():
                    dense = None if itself else self._dense_conditions.get(condition)
                    told[condition.key] = self._under(condition, scored, dense, subject.seed)
            except AutopruneError as error:
                failed[condition] = str(error)
        warnings = [
            Warned(code=ROBUSTNESS, text=f"It could not be scored under {condition.key}: {reason}")
            for condition, reason in failed.items()
        ]
        return told, warnings

    def _under(self, condition: Met, scored: Evaluated, dense: Evaluated | None, seed: int) -> Condition:
        task, metrics = self._bench.task, self._metrics
        quality = intervals(task, scored, seed=seed, metrics=metrics)
        changes = {} if dense is None else compare(task, scored, dense, seed=seed, metrics=metrics)
        return Condition(
            kind=condition.kind,
            quality={name: _estimate(value) for name, value in quality.items()},
            versus_dense={name: Change(**asdict(change)) for name, change in changes.items()},
        )

    def _stability(self, subject: Subject) -> Stability:
        task, metrics = self._bench.task, self._metrics
        norms = gradient_norms(subject.model, task, units=min(self._units, GRADIENT_UNITS), seed=self._seed)
        scored = score(task, subject.session, "train", limit=self._units, seed=self._seed)
        train = intervals(task, scored, seed=subject.seed, metrics=metrics)
        test = intervals(task, subject.test, seed=subject.seed, metrics=metrics)
        gaps = {}
        for name, known in train.items():
            gap = gap_between(known, test[name])
            gaps[name] = TrainingGap(train=_estimate(known), gap=gap.delta, low=gap.low, high=gap.high)
        return Stability(gradient_norm=norms, training_gap=gaps)

    def _noting(self, subject: Subject, what: str) -> AbstractContextManager[None]:
        return self._losses.noting(f"{what} of {subject.name}")

    @contextmanager
    def _timed(self) -> Iterator[None]:
        started = time.monotonic()
        try:
            yield
        finally:
            self.seconds += time.monotonic() - started


def _class_quality(one: ClassScore, names: tuple[str, ...]) -> ClassQuality:
    name = names[one.number] if one.number < len(names) else str(one.number)
    change = None if one.change is None else Change(**asdict(one.change))
    return ClassQuality(number=one.number, name=name, accuracy=_estimate(one.accuracy), change=change)


def _estimate(interval: Interval) -> Estimate:
    return Estimate(**asdict(interval))
