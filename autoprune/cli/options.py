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
DEFAULT_OUTPUT = Path("results")
