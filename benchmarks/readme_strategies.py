"""The strategies' result file -> tables of README.md and docs/strategies.md, and the articles' claims as found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from autoprune.axes import AXES, PRESETS
from autoprune.axes.presets import USUAL

Entry = Mapping[str, Any]
SHORT = 12


def strategy_lines(summary: Mapping[str, Any], *, short: bool) -> list[str]:
    """Return the table of all strategies and of torch-pruning's pruners, the most accurate first.

    Args:
        summary: `summary` of the result file.
        short: Whether only structured strategies at half the MACs are told, a dozen of them, and the control.
    """
    found: Mapping[str, Entry] = summary["strategies"]
    ranked = sorted(found, key=lambda name: -found[name]["accuracy"])
    if short:
        even = [n for n in ranked if found[n]["macs_share"] <= summary["settings"]["share"] + 1e-9]
        best = even[:SHORT]
        peers = [n for n in even if found[n]["by"] != "autoprune"][:3]
        ranked = [n for n in even if n in best or n in peers or n == "random_local"]
    lines = [
        (
            "| strategy | test accuracy [95%] | seeds | MACs | non-zeros | over random [95%] | criterion, CPU s "
            "| steps/s, first half and second | all, CPU s |"
        ),
        f"| --- |{' ---: |' * 8}",
    ]
    costs = summary.get("criterion_cpu_seconds", {})
    return [*lines, *(_row(name, found[name], costs) for name in ranked)]


def missing_lines(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the strategies that this network has nothing for, with the reason, and cuts that were taken back."""
    failed = {row["name"]: row["failure"] for row in rows if "failure" in row}
    return [f"- `{name}`: {reason}" for name, reason in sorted(failed.items())]


def claim_lines(summary: Mapping[str, Any]) -> list[str]:
    """Return what articles claim, beside what was measured."""
    found: Mapping[str, Entry] = summary["strategies"]
    cost, steps = summary.get("criterion_cpu_seconds", {}), summary.get("regularizer_step", {})
    size = _best(found, ("magnitude_l1", "magnitude_l2"))
    slope = _best(found, ("gradient", "taylor"))
    lines = [_against_random(summary)]
    if size and slope and cost:
        dear = ", ".join(f"{cost[name]:.2g} s by `{name}`" for name in ("gradient", "taylor", "hessian"))
        lines.append(
            f'- *"Size for speed, gradient for accuracy."* Scoring the network costs {cost["l1"]:.2g} s by `l1`, '
            f"{dear} (CPU): the first half holds. After recovery `{slope}` has {_interval(found[slope])} and `{size}` "
            f"{_interval(found[size])}: {_verdict(found[slope], found[size])}."
        )
    if steps:
        told = ", ".join(f"`{name}` {ratio:.2f}x" for name, ratio in steps.items() if name != "none")
        slow = [name for name in ("l1", "l2") if steps[name] > 1.05]
        holds = "holds" if not slow else f"does not hold for {' and '.join(slow)}"
        claim = '*"L1 and L2 slow nothing."*'
        lines.append(f"- {claim} CPU time of a training step over that without a penalty: {told}. It {holds}.")
    return lines


def _against_random(summary: Mapping[str, Any]) -> str:
    """Return how many strategies at half the MACs are better than random channels, and how many worse."""
    share = summary["settings"]["share"] + 1e-9
    even = {n: e for n, e in summary["strategies"].items() if "over_random" in e and e["macs_share"] <= share}
    better = [f"`{name}`" for name, entry in even.items() if entry["beats_random"]]
    worse = [name for name, entry in even.items() if entry["over_random_high"] < 0.0]
    who = ", ".join(better) if better else "none"
    return (
        f"- Of {len(even)} strategies and pruners at half the MACs, {len(better)} beat random channels beyond the "
        f"interval ({who}), and {len(worse)} are worse: with 200 steps in all, what is spent before the cut is missing "
        f"after it."
    )


def preset_lines() -> list[str]:
    """Return every preset with its point on the axes, as far as it is not the usual one, and its source."""
    lines = ["| strategy | what it does | axes | source |", "| --- | --- | --- | --- |"]
    for preset in PRESETS.values():
        own = ", ".join(f"{axis} `{value}`" for axis, value in preset.axes.items() if value != USUAL[axis])
        lines.append(f"| `{preset.name}` | {preset.summary} | {own or 'the usual ones'} | {preset.source} |")
    return lines


def axis_lines() -> list[str]:
    """Return every axis with its values."""
    lines = ["| axis | value | what it does | source |", "| --- | --- | --- | --- |"]
    for axis, values in AXES.items():
        lines += [f"| {axis} | `{value.name}` | {value.summary} | {value.source} |" for value in values.values()]
    return lines


def _row(name: str, entry: Entry, costs: Mapping[str, float]) -> str:
    over = "the control"
    if "over_random" in entry:
        over = f"{entry['over_random']:+.2%} [{entry['over_random_low']:+.2%}, {entry['over_random_high']:+.2%}]"
        over += "" if entry["beats_random"] or _is_control(name) else " **no better**"
    scoring = f"{costs[PRESETS[name].axes['criterion']]:.2g}" if name in PRESETS and costs else ""
    known = [rate for rate in entry["steps_per_second"] if rate is not None]
    steps = ", ".join(f"{rate:.0f}" for rate in known)
    by = "" if entry["by"] == "autoprune" else " (torch-pruning)"
    return (
        f"| `{name}`{by} | {_interval(entry)} | {entry['seeds']} | {entry['macs_share']:.1%} | "
        f"{entry['nonzero_share']:.1%} | {over} | {scoring} | {steps} | {entry['cpu_seconds']:.0f} |"
    )


def _is_control(name: str) -> bool:
    return name.startswith(("random", "tp_random"))


def _interval(entry: Entry) -> str:
    return f"{entry['accuracy']:.2%} [{entry['accuracy_low']:.2%}, {entry['accuracy_high']:.2%}]"


def _best(found: Mapping[str, Entry], names: Sequence[str]) -> str | None:
    known = [name for name in names if name in found]
    return max(known, key=lambda name: found[name]["accuracy"]) if known else None


def _verdict(better: Entry, other: Entry) -> str:
    if better["accuracy_low"] > other["accuracy_high"]:
        return "the second half holds too"
    if better["accuracy_high"] < other["accuracy_low"]:
        return "the contrary of the second half was found"
    return "within the intervals of each other, so the second half is not seen here"
