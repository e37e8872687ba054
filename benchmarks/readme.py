"""Committed results -> the tables of README.md and docs: every figure there comes from a file that a command remakes.

python -m benchmarks.readme
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.readme_examples import example_lines
from benchmarks.readme_scaling import latency_load_lines, promises_lines, scaling_lines
from benchmarks.readme_strategies import axis_lines, claim_lines, missing_lines, preset_lines, strategy_lines
from benchmarks.readme_zoo import zoo_lines

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
DOCUMENTS = (README, ROOT / "docs" / "search.md", ROOT / "docs" / "strategies.md")
RESULTS = ROOT / "results"
MARK = re.compile(r"(<!-- (?P<name>[a-z_]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def demo() -> str:
    """Return the front of the demo."""
    text = (RESULTS / "reference" / "digits" / "front.md").read_text(encoding="utf-8")
    return text.partition("\n\n")[2]


def examples() -> str:
    """Return what every example's front gives."""
    return "\n".join(example_lines(RESULTS / "reference", ROOT / "examples"))


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


def large() -> str:
    """Return what large models cost before any training."""
    data = _benchmark("large")
    told = {"trace": "trace", "verify": "prove", "parts": "parts", "find_groups": "all three", "candidate": "candidate"}
    lines = [
        f"| model | parameters | weights, MiB | {' | '.join(f'{t}: CPU s / MiB' for t in told.values())} |",
        f"| --- | ---: | ---: |{' ---: |' * len(told)}",
    ]
    for model, row in data["summary"]["models"].items():
        cells = [f"{row['steps'][s]['cpu_seconds']:.3g} / {row['steps'][s]['peak_mib']:.0f}" for s in told]
        sizes = f"{row['mib']['dense']:.0f} (candidate {row['mib']['candidate']:.0f})"
        lines.append(f"| {model} | {row['parameters'] / 1e6:.1f} M | {sizes} | {' | '.join(cells)} |")
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


def search_quality() -> str:
    """Return how many evaluations each sampler needs, and what it has found by then."""
    data = _benchmark("search_quality")
    told = data["summary"]
    first = {name: part for name, part in told.items() if part["fidelity"] == "proxy"}
    lines = ["Evaluations to the hypervolume of NSGA-II at 1,000: median (worst) over the seeds, – where never.", ""]
    lines += _by_sampler(first, "evaluations", lambda part, s: _reached(part["evaluations_to_nsga2_1000"].get(s)))
    lines += [
        "",
        "Hypervolume after 100 evaluations, mean ± standard deviation (at the end of shorter searches).",
        "",
    ]
    lines += _by_sampler(first, "hypervolume", lambda part, s: _volume(part["hypervolume"].get(s), "100"))
    lines += ["", "CPU seconds to the same hypervolume, evaluations and sampler: median (worst).", ""]
    lines += _by_sampler(first, "CPU seconds", lambda part, s: _reached(part["cpu_seconds_to_nsga2_1000"].get(s)))
    for name, part in told.items():
        if part["fidelity"] == "short":
            lines += ["", *_recovered(name, part)]
    return _with_origin(data, lines)


def predictor() -> str:
    """Return how far predictions were right, by number of true evaluations."""
    data = _benchmark("predictor")
    lines = [
        "| task | predictor | evaluations | Kendall tau | same-cost concordance | absolute error | 90% covers |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for task, by_model in data["summary"].items():
        for model, by_count in by_model.items():
            for count, row in by_count.items():
                figures = [_number(row[key], ".2f") for key in ("kendall_tau", "same_cost_concordance")]
                figures += [_number(row["mean_absolute_error"], ".3f"), _number(row["coverage_90"], ".0%")]
                lines.append(f"| {task} | {model.replace('_', ' ')} | {count} | {' | '.join(figures)} |")
    return _with_origin(data, lines)


def overhead() -> str:
    """Return what proposing and recording a candidate costs."""
    data = _benchmark("overhead")
    lines = [
        "| sampler | records | propose | write the record | both and tell | study index | records' memory, MiB |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    keys = ("propose_cpu_ms", "write_record_cpu_ms", "propose_and_record_cpu_ms", "add_to_index_cpu_ms")
    for sampler, by_records in data["summary"]["candidate"].items():
        for records, row in by_records.items():
            figures = [*(_number(row[key], ".1f") for key in keys), _number(row["peak_mib_of_the_records"], ".0f")]
            lines.append(f"| {sampler} | {int(records):,} | {' | '.join(figures)} |")
    lines += [
        "",
        f"CPU milliseconds a candidate, its share of a refit included; goal {data['summary']['goal_ms']:g}.",
    ]
    return _with_origin(data, lines)


def scaling() -> str:
    """Return utilisation of simulated clusters, the gain by a second worker, and the cost beside Ray Tune."""
    data = _benchmark("scaling")
    return _with_origin(data, scaling_lines(data["summary"]))


def latency_load() -> str:
    """Return how right latencies are beside load."""
    data = _benchmark("latency_load")
    return _with_origin(data, latency_load_lines(data["summary"]))


def promises() -> str:
    """Return what was tried for each promise, and what became of it."""
    data = _benchmark("promises")
    order = list(data["summary"])
    return _with_origin(data, promises_lines(sorted(data["rows"], key=lambda row: order.index(row["promise"]))))


def zoo() -> str:
    """Return what can be pruned in every architecture of the tests, and how far that was checked."""
    data = _benchmark("zoo")
    return _with_origin(data, zoo_lines(data["rows"]))


def strategies() -> str:
    """Return the structured strategies at half the MACs, and what articles claim."""
    data = _benchmark("strategies")
    lines = strategy_lines(data["summary"], short=True)
    return _with_origin(data, [*lines, "", *claim_lines(data["summary"])])


def all_strategies() -> str:
    """Return every strategy, and those that the network has nothing for."""
    data = _benchmark("strategies")
    lines = strategy_lines(data["summary"], short=False)
    return _with_origin(data, [*lines, "", *missing_lines(data["rows"]), "", *claim_lines(data["summary"])])


TABLES = {
    "strategies": strategies,
    "all_strategies": all_strategies,
    "presets": lambda: "\n".join(preset_lines()),
    "axes": lambda: "\n".join(axis_lines()),
    "demo": demo,
    "examples": examples,
    "materialise": materialise,
    "large": large,
    "latency_noise": latency_noise,
    "search_quality": search_quality,
    "predictor": predictor,
    "overhead": overhead,
    "scaling": scaling,
    "latency_load": latency_load,
    "promises": promises,
    "zoo": zoo,
}


def filled(text: str) -> str:
    """Return a document with every marked section made anew."""
    return MARK.sub(lambda m: f"{m[1]}{_table(m['name']).strip()}\n{m[3]}", text)


def _table(name: str) -> str:
    """Return a marked section; that of a benchmark without a result file says so."""
    try:
        return TABLES[name]()
    except FileNotFoundError:
        return f"Not measured yet: `python -m benchmarks.{name}`."


def _by_sampler(told: Mapping[str, Any], unit: str, cell: Callable[[Any, str], str]) -> list[str]:
    """Return a table with a row a sampler and a column a task."""
    samplers = dict.fromkeys(s for part in told.values() for s in part["hypervolume"])
    rows = [f"| {s.replace('_', ' ')} | {' | '.join(cell(p, s) for p in told.values())} |" for s in samplers]
    return [f"| {unit} | {' | '.join(told)} |", f"| --- |{' ---: |' * len(told)}", *rows]


def _recovered(name: str, part: Mapping[str, Any]) -> list[str]:
    """Return the table of a task whose candidates are fine-tuned."""
    key = next(k for k in part if k.startswith("evaluations_to_"))
    counts = sorted({int(n) for row in part["hypervolume"].values() for n in row if n.isdigit()})
    lines = [
        f"{name}: an evaluation is a fine-tuning; the target is NSGA-II at {key.rpartition('_')[2]}; hypervolumes.",
        "",
        f"| sampler | fine-tunings: median (worst) | {' | '.join(f'at {n}' for n in counts)} |",
        f"| --- | ---: |{' ---: |' * len(counts)}",
    ]
    for sampler, row in part["hypervolume"].items():
        found = [f"{row[str(n)]['mean']:.3f}" if str(n) in row else "" for n in counts]
        lines.append(f"| {sampler.replace('_', ' ')} | {_reached(part[key][sampler])} | {' | '.join(found)} |")
    return lines


def _reached(row: Mapping[str, Any] | None) -> str:
    return "" if row is None else f"{_number(row['median'], '.0f')} ({_number(row['max'], '.0f')})"


def _volume(row: Mapping[str, Any] | None, count: str) -> str:
    if row is None:
        return ""
    found = row.get(count, row["final"])
    return f"{found['mean']:.3f} ± {found['sd']:.3f}"


def _number(value: float | None, form: str) -> str:
    return "–" if value is None else f"{value:{form}}"


def _benchmark(name: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((RESULTS / "benchmarks" / f"{name}.json").read_text(encoding="utf-8"))
    return document


def _with_origin(data: dict[str, Any], lines: list[str]) -> str:
    machine = data["machine"]
    origin = f"`{data['command']}`, {machine['cpu']}, {machine['cores']} cores, torch {data['versions']['torch']}"
    return "\n".join([*lines, "", f"({origin})"])


def main() -> None:
    """Rewrite README.md and the documents."""
    for document in DOCUMENTS:
        document.write_text(filled(document.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
