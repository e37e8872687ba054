"""Arguments that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

ConfigPath = Annotated[Path, typer.Argument(metavar="CONFIG", help="YAML file; `autoprune init` writes one.")]
RunName = Annotated[str, typer.Argument(metavar="NAME", help="Run name, run directory or path of a front.json.")]
Output = Annotated[Path, typer.Option("--output", help="Directory of all runs.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of tables.")]
NewName = Annotated[str | None, typer.Option("--name", help="Run name that replaces the file's.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="a.b=c", help="Replace one value of the file; the value is YAML. Repeatable."),
]
Workers = Annotated[
    int | None, typer.Option("--workers", min=1, max=4096, help="Candidates evaluated at the same time.")
]
CpusPerWorker = Annotated[
    float | None, typer.Option("--cpus-per-worker", min=0.001, help="Cores that a worker reserves of a cluster.")
]
GpusPerWorker = Annotated[
    float | None,
    typer.Option("--gpus-per-worker", min=0.0, help="GPUs that a worker reserves of a cluster; 0.5 = two share one."),
]
Cluster = Annotated[
    str | None,
    typer.Option(
        "--cluster", metavar="auto|ADDRESS", help="Evaluate on this Ray cluster; auto = the one that is found."
    ),
]
DEFAULT_OUTPUT = Path("results")
