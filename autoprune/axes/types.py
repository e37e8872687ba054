"""What an axis value and a preset are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Axis = Literal[
    "criterion",
    "normalization",
    "granularity",
    "scope",
    "selection",
    "schedule",
    "regularizer",
    "regrowth",
    "recovery",
    "optimizer",
]
Capability = Literal["batch_norm", "linear"]
Level = Literal["unit", "weight"]


@dataclass(frozen=True)
class AxisValue:
    """One named value of one axis.

    Args:
        name: Its name in configs, spaces and policies.
        axis: The axis it belongs to.
        summary: What it does, one sentence.
        source: The paper or work that it comes from.
        requires: What a group must have for it.
        excludes: Values of other axes (`axis=name`) that make no sense together with it, and why.
        stochastic: Whether it draws anew for every candidate.
        levels: What a criterion can rank: whole units, single weights.
    """

    name: str
    axis: Axis
    summary: str
    source: str
    requires: tuple[Capability, ...] = ()
    excludes: Mapping[str, str] = field(default_factory=dict)
    stochastic: bool = False
    levels: tuple[Level, ...] = ("unit",)


@dataclass(frozen=True)
class Preset:
    """A named pruning system: a point in the product of the axes.

    Args:
        name: Its name on the command line.
        summary: What it does, one sentence.
        source: The paper or work that it comes from.
        axes: Axis -> value, every axis.
        settings: Numbers that belong to it, by field of `Strategy`.
        same_as: The preset that keeps the same units, where one does; they differ in what happens to the rest.
    """

    name: str
    summary: str
    source: str
    axes: Mapping[str, str]
    settings: Mapping[str, Any] = field(default_factory=dict)
    same_as: str | None = None
