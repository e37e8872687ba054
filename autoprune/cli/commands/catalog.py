"""What exists: names that configurations and spaces may use, and the schemas of what autoprune reads and writes."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Annotated, Any, get_args

import typer

from autoprune.cli.console import show, write_json, write_text
from autoprune.cli.options import AsJson

Row = dict[str, Any]

SAMPLERS: Mapping[str, str] = {
    "autoprune": "The learned search: sensitivities, an additive front, then infill by a predictor of quality.",
    "random": "Draws every dimension at random: the control.",
    "uniform": "The same sparsity in every group, swept: the control.",
    "nsga2": "Optuna's NSGA-II: evolves a population along the front.",
    "tpe": "Optuna's multi-objective tree-structured Parzen estimator.",
    "gp": "Optuna's Gaussian process with expected hypervolume improvement; slow beyond a few hundred candidates.",
}
RUNTIMES: Mapping[str, str] = {
    "torch-eager-fp32-b{batch}-t{threads}": "PyTorch, eager mode, 32-bit floats.",
    "onnxruntime-fp32-b{batch}-t{threads}": "ONNX Runtime on the CPU, 32-bit floats.",
}


class Kind(StrEnum):
    """What can be listed."""

    strategies = "strategies"
    criteria = "criteria"
    normalizations = "normalizations"
    granularities = "granularities"
    scopes = "scopes"
    selections = "selections"
    schedules = "schedules"
    regularizers = "regularizers"
    regrowths = "regrowths"
    recoveries = "recoveries"
    optimizers = "optimizers"
    spaces = "spaces"
    targets = "targets"
    samplers = "samplers"


class SchemaName(StrEnum):
    """What has a JSON Schema."""

    front = "front"
    config = "config"
    record = "record"


def list_names(kind: Annotated[Kind, typer.Argument(help="What to list.")], as_json: AsJson = False) -> None:
    """List the names that exist of one kind."""
    rows = _ROWS[kind]()
    if as_json:
        write_json({kind.value: rows})
    else:
        from autoprune.cli.tables import literal, plain_table

        table = plain_table(("name", "summary"), [cells for row in rows for cells in _cells(row)])
        show(table, *(map(literal, _notes(kind))))


def schema(name: Annotated[SchemaName, typer.Argument(help="Whose schema.")] = SchemaName.config) -> None:
    """Print a JSON Schema: of the configuration, of front.json or of a candidate's record."""
    from autoprune.report.schema import json_schema

    write_text(json.dumps(json_schema(name.value), indent=2))


def _cells(row: Row) -> list[tuple[str, str]]:
    """Return a row's lines in two columns, for terminals of 80: what it is, then one line a fact."""
    facts = {"axes": _unusual(row), "settings": row.get("settings"), "same as": row.get("same_as")}
    facts |= {"ranks": row.get("ranks"), "needs": row.get("requires"), "not with": _by_axis(row.get("excludes", {}))}
    facts |= {"source": row.get("source")}
    lines = [f"{name}: {_listed(value)}" for name, value in facts.items() if value and value != "-"]
    return [(row["name"], row["summary"]), *(("", line) for line in lines)]


def _notes(kind: Kind) -> list[str]:
    """Return what is to be said below a list."""
    if kind is not Kind.strategies:
        return []
    from autoprune.axes.presets import USUAL

    return [f"Axes that a strategy does not name: {_listed(dict(USUAL))}."]


def _listed(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{k} {v}" for k, v in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _unusual(row: Row) -> dict[str, str]:
    """Return the axes of a strategy that are not what a strategy has that says nothing."""
    from autoprune.axes.presets import USUAL

    return {axis: name for axis, name in row.get("axes", {}).items() if name != USUAL[axis]}


def _by_axis(excludes: Mapping[str, str]) -> str:
    """Return excluded values, those of an axis together."""
    found: dict[str, list[str]] = {}
    for value in excludes:
        axis, _, name = value.partition("=")
        found.setdefault(axis, []).append(name)
    return "; ".join(f"{axis} {', '.join(names)}" for axis, names in found.items())


def _strategies() -> list[Row]:
    from autoprune.axes import PRESETS

    return [
        {
            "name": p.name,
            "summary": p.summary,
            "axes": dict(p.axes),
            "settings": dict(p.settings),
            "same_as": p.same_as,
            "source": p.source,
        }
        for p in PRESETS.values()
    ]


def _axis(axis: str) -> Callable[[], list[Row]]:
    def rows() -> list[Row]:
        from autoprune.axes import AXES, exclusions

        return [
            {
                "name": v.name,
                "summary": v.summary,
                **({"ranks": [f"{level}s" for level in v.levels]} if axis == "criterion" else {}),
                "requires": list(v.requires),
                "excludes": exclusions(axis, v.name),
                "source": v.source,
            }
            for v in AXES[axis].values()
        ]

    return rows


def _spaces() -> list[Row]:
    from autoprune.space import list_spaces

    return [{"name": name, "summary": summary} for name, summary in list_spaces().items()]


def _samplers() -> list[Row]:
    from autoprune.config.model import SearchConfig

    names = get_args(SearchConfig.model_fields["sampler"].annotation)
    return [{"name": name, "summary": SAMPLERS[name]} for name in names]


def _targets() -> list[Row]:
    return [{"name": name, "summary": summary} for name, summary in RUNTIMES.items()]


_ROWS: Mapping[Kind, Callable[[], list[Row]]] = {
    Kind.strategies: _strategies,
    Kind.criteria: _axis("criterion"),
    Kind.normalizations: _axis("normalization"),
    Kind.granularities: _axis("granularity"),
    Kind.scopes: _axis("scope"),
    Kind.selections: _axis("selection"),
    Kind.schedules: _axis("schedule"),
    Kind.regularizers: _axis("regularizer"),
    Kind.regrowths: _axis("regrowth"),
    Kind.recoveries: _axis("recovery"),
    Kind.optimizers: _axis("optimizer"),
    Kind.spaces: _spaces,
    Kind.targets: _targets,
    Kind.samplers: _samplers,
}
