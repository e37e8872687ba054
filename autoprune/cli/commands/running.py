"""The run itself: start or resume it, ask where it stands."""

from __future__ import annotations

from typing import Annotated

import typer

from autoprune.cli.console import note, show, write_json, write_text
from autoprune.cli.guard import Settings
from autoprune.cli.options import DEFAULT_OUTPUT, AsJson, ConfigPath, NewName, Output, Overrides, RunName


def search_model(
    ctx: typer.Context,
    config: ConfigPath,
    name: NewName = None,
    set_: Overrides = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the effective configuration and stop.")] = False,
    accept_changes: Annotated[
        bool, typer.Option("--accept-changes", help="Resume although configuration, task or data have changed.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Search, recover, measure and write the front; the same command again resumes."""
    from autoprune.config import dump_config, load_config

    loaded = load_config(config, overrides=set_ or (), name=name)
    if dry_run:
        if as_json:
            write_json({"config": loaded.effective})
        else:
            write_text(dump_config(loaded.config))
        return
    from autoprune.cli.progress import watch
    from autoprune.cli.tables import place_lines
    from autoprune.report import front_table
    from autoprune.search.run import run

    settings: Settings = ctx.obj
    with watch(quiet=settings.verbosity < 0) as watcher:
        result = run(loaded, callbacks=[watcher], accept_changes=accept_changes)
    if as_json:
        write_json(result.front.to_json())
    else:
        show(front_table(result.front), *place_lines(result.directory, result.front))
    note(f"next: autoprune pick {result.directory} --max-latency-ms MS --to DIR")


def status(name: RunName, output: Output = DEFAULT_OUTPUT, as_json: AsJson = False) -> None:
    """Tell where a run stands, from another terminal."""
    from autoprune.cli.locate import locate_run
    from autoprune.cli.tables import status_tables
    from autoprune.search.status import read_status

    found = read_status(locate_run(name, output))
    if as_json:
        write_json(found.to_json())
    else:
        show(*status_tables(found))
