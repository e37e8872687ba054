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
    schedules = "schedules"
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
        from autoprune.cli.tables import plain_table

        columns = [c for c in rows[0] if c != "axes"]
        show(plain_table(columns, [[_cell(row[c]) for c in columns] for row in rows]))


def schema(name: Annotated[SchemaName, typer.Argument(help="Whose schema.")] = SchemaName.config) -> None:
    """Print a JSON Schema: of the configuration, of front.json or of a candidate's record."""
    from autoprune.report.schema import json_schema

    write_text(json.dumps(json_schema(name.value), indent=2))


def _cell(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _strategies() -> list[Row]:
    from autoprune.axes import PRESETS

    return [{"name": p.name, "summary": p.summary, "axes": dict(p.axes), "source": p.source} for p in PRESETS.values()]


def _axis(axis: str) -> Callable[[], list[Row]]:
    def rows() -> list[Row]:
        from autoprune.axes import AXES

        return [
            {"name": v.name, "summary": v.summary, "requires": list(v.requires), "source": v.source}
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
    Kind.schedules: _axis("schedule"),
    Kind.spaces: _spaces,
    Kind.targets: _targets,
    Kind.samplers: _samplers,
}
