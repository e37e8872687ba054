"""Figures of the scaling benchmarks -> the lines of their tables."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

Summary = Mapping[str, Any]

ENGINES = {
    "ours": "autoprune, engine `ray`",
    "tune_class_reused": "Ray Tune, class API, reused actors",
    "tune_function": "Ray Tune, function API",
}


def scaling_lines(summary: Summary) -> list[str]:
    """Return the tables of the parts that were measured: simulated clusters, two workers, Ray Tune."""
    lines = _simulated(summary["simulated"], summary["goals"])
    if "workers" in summary:
        lines += ["", *_workers(summary["workers"], summary["goals"])]
    if "tune" in summary:
        lines += ["", *_engines(summary["tune"], summary["goals"])]
    return lines


def _simulated(simulated: Summary, goals: Summary) -> list[str]:
    columns = ["simulated workers", "candidates a second", "utilisation", "in synchronous batches"]
    columns += ["driver, CPU ms a candidate", "driver's memory, MiB"]
    columns += ["hypervolume at half and full time", "in synchronous batches"]
    lines = [f"| {' | '.join(columns)} |", f"|{' ---: |' * len(columns)}"]
    for workers, row in simulated.items():
        batches = row.get("synchronous")
        figures = [
            f"{row['candidates_per_s']:.3g}",
            f"{row['utilisation']:.1%}",
            f"{batches['utilisation']:.1%}" if batches else "–",
            f"{row['driver_cpu_ms_a_candidate']:.1f}",
            f"{row['driver_peak_mib']:.0f}",
            _two_volumes(row["hypervolume"].get("asynchronous")),
            _two_volumes(row["hypervolume"].get("synchronous")),
        ]
        lines.append(f"| {int(workers):,} | {' | '.join(figures)} |")
    told = ", ".join(sorted({f"{row['mean_s']:g} s" for row in simulated.values()}))
    early = [
        f"{row['synchronous']['reached_asynchronously_at']:.0%} of the time with {int(workers):,}"
        for workers, row in simulated.items()
        if row.get("synchronous", {}).get("reached_asynchronously_at") is not None
    ]
    lines += ["", f"Evaluations sleep {told} in the mean; goal {goals['utilisation']:.0%}."]
    if early:
        lines[-1] += f" What batches find at last is found without them after {', '.join(early)}."
    return lines


def _two_volumes(volumes: Summary | None) -> str:
    return f"{volumes['50%']:.3f}, {volumes['100%']:.3f}" if volumes else "–"


def _workers(workers: Summary, goals: Summary) -> list[str]:
    lines = ["| one thread each | one, per second | two, per second | gain | processors busy |"]
    lines.append(f"| --- |{' ---: |' * 4}")
    for key, name in (("executor", "candidates, engine `local`"), ("plain_training", "the same training without us")):
        row = workers[key]
        one, two = (row["candidates_per_s"][count] for count in ("1", "2"))
        busy = row["machine_busy_share"]["2"]
        lines.append(f"| {name} | {one:.3f} | {two:.3f} | {row['gain']:.2f}x | {busy:.0%} |")
    return [*lines, "", f"Best of {workers['rounds']} rounds in turns; goal {goals['two_workers']:g}x."]


def _engines(engines: Summary, goals: Summary) -> list[str]:
    lines = [
        "| engine | ms a candidate beside evaluation and record | times ours | start, s |",
        "| --- | ---: | ---: | ---: |",
    ]
    for key, name in ENGINES.items():
        row = engines.get(key)
        if row is not None:
            times = f"{row['times_ours']:.1f}" if "times_ours" in row else "–"
            runs = [f"{value:.1f}" for value in row["of_all_runs"]]
            spread = f" ({runs[0]} to {runs[-1]})" if len(runs) > 1 else ""
            lines.append(f"| {name} | {row['overhead_ms_a_candidate']:.1f}{spread} | {times} | {row['start_s']:.1f} |")
    told = (
        "Medians (least to most) of runs of 100 candidates, two workers, a running Ray session; the ratio is that of "
        f"the medians; goal {goals['tune_over_ours']:g}. With the start-up counted, the class API takes "
        f"{engines['tune_class_reused']['times_ours_with_start']:.1f} times ours."
        if "tune_class_reused" in engines
        else f"Medians of runs of 100 candidates, two workers; goal {goals['tune_over_ours']:g}."
    )
    return [*lines, "", told]


def latency_load_lines(summary: Summary) -> list[str]:
    """Return the table of latencies beside load."""
    lines = [
        "| beside | ms within 5% | or flagged | speed-up within 5% | or flagged | flagged |",
        f"| --- |{' ---: |' * 5}",
    ]
    for name, row in summary["conditions"].items():
        shares = _shares(row, ("ms", "speedup"))
        lines.append(f"| {name} | {' | '.join(shares)} | {row['flagged']:.0%} |")
    flagged = summary["flagged_beside_own"]
    told = f"{summary['repeats']} repeats on `{summary['target']}`, against the median of the quiet ones"
    if flagged is not None:
        told += f"; beside our own workers {flagged:.0%} are flagged, goal {summary['goals']['flagged_beside_own']:.0%}"
    return [*lines, "", f"{told}. A run states a model's latency as the dense model's over the speed-up."]


def _shares(row: Summary, values: Sequence[str]) -> list[str]:
    return [f"{row[value][key]:.0%}" for value in values for key in ("within_5%", "within_5%_or_flagged")]


def promises_lines(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the table of what was tried for each promise."""
    lines = ["| promise | what was tried | cases passed | minutes |", "| --- | --- | ---: | ---: |"]
    for row in rows:
        cases = row["passed"] + row["failed"]
        told = f"{row['passed']} of {cases}" if cases else "skipped"
        name = re.sub(rf"^{row['promise'].lower()}_", "", row["test"]).replace("_", " ")
        lines.append(f"| {row['promise']} | {name} | {told} | {row['seconds'] / 60:.1f} |")
    return lines
