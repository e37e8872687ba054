"""Committed results -> the tables of README.md: every figure there comes from a file that a command remakes.

python -m benchmarks.readme
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
RESULTS = ROOT / "results"
MARK = re.compile(r"(<!-- (?P<name>[a-z_]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def demo() -> str:
    """Return the front of the demo."""
    text = (RESULTS / "reference" / "digits" / "front.md").read_text(encoding="utf-8")
    return text.partition("\n\n")[2]


def materialise() -> str:
    """Return the cost of a candidate beside torch-pruning's own pruner."""
    data = _benchmark("materialise")
    lines = [
        "| model | autoprune, CPU ms | torch-pruning's pruner, CPU ms | cheaper by [95%] |",
        "| --- | ---: | ---: | ---: |",
    ]
    for model, row in data["summary"].items():
        ratio = f"{row['ratio']:.1f}x [{row['ratio_low']:.1f}, {row['ratio_high']:.1f}]"
        ours = f"{row['ours_ms']:.1f} (least {row['ours_min_ms']:.1f})"
        theirs = f"{row['torch_pruning_ms']:.0f} (least {row['torch_pruning_min_ms']:.0f})"
        lines.append(f"| {model} | {ours} | {theirs} | {ratio} |")
    return _with_origin(data, lines)


def latency_noise() -> str:
    """Return the spread of the speed-up by protocol and load."""
    data = _benchmark("latency_noise")
    spread = data["summary"]["cv_of_speedup"]
    protocols = list(next(iter(next(iter(spread.values())).values())))
    lines = [f"| target, busy processes | {' | '.join(protocols)} |", f"| --- |{' ---: |' * len(protocols)}"]
    for target, by_load in spread.items():
        for load, row in by_load.items():
            lines.append(f"| {target}, {load} | {' | '.join(f'{row[p]:.1%}' for p in protocols)} |")
    summary = data["summary"]
    seen = ", ".join(f"{value:.2f}x with {load}" for load, value in summary["measured_slowdown"].items())
    told = (
        f"Coefficient of variation over {summary['repeats']} repeats. A slowdown of {summary['injected_slowdown']:g}x "
        f"that was put in reads {seen}; {summary['flagged_share_quiet']:.0%} of the measurements were flagged without "
        f"busy processes; of a model against itself, {summary['same_model_within_interval']:.0%} of the intervals hold "
        f"1 and the largest error is {summary['same_model_largest_error']:.1%}."
    )
    lines += ["", told]
    return _with_origin(data, lines)


TABLES = {"demo": demo, "materialise": materialise, "latency_noise": latency_noise}


def filled(text: str) -> str:
    """Return the README with every marked section made anew."""
    return MARK.sub(lambda m: f"{m[1]}{TABLES[m['name']]().strip()}\n{m[3]}", text)


def _benchmark(name: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((RESULTS / "benchmarks" / f"{name}.json").read_text(encoding="utf-8"))
    return document


def _with_origin(data: dict[str, Any], lines: list[str]) -> str:
    machine = data["machine"]
    origin = f"`{data['command']}`, {machine['cpu']}, {machine['cores']} cores, torch {data['versions']['torch']}"
    return "\n".join([*lines, "", f"({origin})"])


def main() -> None:
    """Rewrite README.md."""
    README.write_text(filled(README.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
