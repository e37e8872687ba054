"""Parts of the front document on robustness, stability and agreement; each is there where the task gives the means."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, NonNegativeFloat

from autoprune.report.parts import Change, Count, Estimate, Part, Sha256

ROBUSTNESS = "robustness"


class Condition(Part):
    """A model's metrics under one condition, with the paired change against the dense model under the same one.

    `clean` is val as it is, on the same units as the corruptions of it; a `shift` is other data.
    """

    kind: Literal["clean", "corruption", "shift"]
    quality: dict[str, Estimate]
    versus_dense: dict[str, Change] = Field(default_factory=dict)


class TrainingGap(Part):
    """A metric on a subset of train, and by how much it exceeds the same on test (train - test)."""

    train: Estimate
    gap: float
    low: float
    high: float


class Stability(Part):
    """How steady a model is: L2 norm of the loss's gradient by layer, and what it does better on training data."""

    gradient_norm: dict[str, NonNegativeFloat] = Field(default_factory=dict)
    training_gap: dict[str, TrainingGap] = Field(default_factory=dict)


class Agreement(Part):
    """How far a model answers as the dense model does, on test: equal predictions, divergence, or RMSE of outputs.

    `kl` is the mean divergence of softened outputs from the dense model's, nats.
    """

    same: Estimate | None = None
    kl: NonNegativeFloat | None = None
    rmse: NonNegativeFloat | None = None


class ClassQuality(Part):
    """Accuracy on the test units of one class, and its paired change against the dense model.

    `number` is the class's own; fronts of before it was written have none.
    """

    number: Count | None = None
    name: str
    accuracy: Estimate
    change: Change | None = None


class Examination(Part):
    """How the members were looked into: units a measurement, wall seconds of all, digest of `pictures.json`."""

    units: Count
    seconds: NonNegativeFloat
    pictures_sha256: Sha256 | None = None
