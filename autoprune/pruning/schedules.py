"""Progress -> how much of the target is pruned: a schedule is one registered function."""

from __future__ import annotations

from collections.abc import Callable

from autoprune.registry import Registry

Schedule = Callable[[float], float]
SCHEDULES: Registry[Schedule] = Registry("schedule")
"""Name -> function of the share in (0, 1] of the cuts that are made -> share in (0, 1] of the target, never falling."""


@SCHEDULES.register("one_shot")
def one_shot(progress: float) -> float:
    """Return 1: everything goes at the first cut."""
    del progress
    return 1.0


@SCHEDULES.register("iterative")
def iterative(progress: float) -> float:
    """Return equal parts: t (Han et al., Learning both Weights and Connections, NeurIPS 2015)."""
    return progress


@SCHEDULES.register("cubic")
def cubic(progress: float) -> float:
    """Return 1 - (1 - t)^3: fast while much is redundant (Zhu and Gupta, To Prune, or Not to Prune, 2017)."""
    return 1.0 - (1.0 - progress) ** 3


@SCHEDULES.register("dynamic")
def dynamic(progress: float) -> float:
    """Return equal parts, of which the training takes back what loses too much (after Guo et al., NeurIPS 2016)."""
    return progress


def cut_steps(steps: int, rounds: int) -> list[int]:
    """Return the optimizer steps before which cuts are made, ascending, the first 0: at most one cut a step.

    Fewer steps than rounds make fewer cuts, one before each step: they are then larger, and the target stays.
    """
    count = min(rounds, max(steps, 1))
    return [steps * i // count for i in range(count)]
