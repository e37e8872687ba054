"""Before a run: write a configuration, test it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from autoprune.cli.console import note, show, write_json
from autoprune.cli.options import AsJson, ConfigPath, NewName, Overrides


def init(
    path: Annotated[Path, typer.Argument(metavar="FILE", help="Where to write it.")] = Path("autoprune.yaml"),
    task: Annotated[
        str, typer.Option("--task", help="file.py:factory or package.module:factory.")
    ] = "task.py:make_task",
    name: Annotated[str, typer.Option("--name", help="Run name.")] = "run",
) -> None:
    """Write a configuration with every key explained; an existing file is never overwritten."""
    from autoprune.config.load import check_config_text
    from autoprune.config.template import config_template
    from autoprune.errors import OutputError

    given = json.dumps({"name": name, "task": task})
    text = config_template(check_config_text(given, source="autoprune init"))
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError as error:
        raise OutputError(f"{path} exists already.", hint="Give another FILE.") from error
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror}.", hint="Give another FILE.") from error
    note(f"wrote {path}\nnext: autoprune check {path}")


def check_config(config: ConfigPath, name: NewName = None, set_: Overrides = None, as_json: AsJson = False) -> None:
    """Test a run before it costs time: groups, protected layers, baseline, reachable latency, estimate of time."""
    from autoprune.config import load_config

    loaded = load_config(config, overrides=set_ or (), name=name)
    from autoprune.cli.tables import check_tables
    from autoprune.search.check import check

    report = check(loaded)
    if as_json:
        write_json(report.to_json())
    else:
        show(*check_tables(report))
