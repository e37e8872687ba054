"""The run itself: start or resume it, ask where it stands."""

from __future__ import annotations

from typing import Annotated

import typer

from autoprune.cli.console import note, show, write_json, write_text
from autoprune.cli.engine import Engine, load_with
from autoprune.cli.guard import Settings, command_line
from autoprune.cli.options import (
    DEFAULT_OUTPUT,
    AsJson,
    Cluster,
    ConfigPath,
    CpusPerWorker,
    GpusPerWorker,
    NewName,
    Output,
    Overrides,
    RunName,
    Workers,
)


def search_model(
    ctx: typer.Context,
    config: ConfigPath,
    name: NewName = None,
    set_: Overrides = None,
    workers: Workers = None,
    cpus_per_worker: CpusPerWorker = None,
    gpus_per_worker: GpusPerWorker = None,
    cluster: Cluster = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the effective configuration and stop.")] = False,
    accept_changes: Annotated[
        bool, typer.Option("--accept-changes", help="Resume although configuration, task or data have changed.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Search, recover, measure and write the front; the same command again resumes."""
    from autoprune.config import dump_config

    engine = Engine(workers, cpus_per_worker, gpus_per_worker, cluster)
    loaded = load_with(engine, config, overrides=set_ or (), name=name)
    if dry_run:
        if as_json:
            write_json({"config": loaded.effective})
        else:
            write_text(dump_config(loaded.config))
        return
    from autoprune.cli.progress import Reminder, watch
    from autoprune.cli.tables import place_lines
    from autoprune.report import front_table
    from autoprune.search.run import run

    settings: Settings = ctx.obj
    with watch(quiet=settings.verbosity < 0) as watcher:
        watchers = [watcher] if settings.interruption is None else [watcher, Reminder(settings.interruption)]
        result = run(loaded, callbacks=watchers, accept_changes=accept_changes, command=command_line())
    if as_json:
        write_json(result.front.to_json())
    else:
        show(front_table(result.front), *place_lines(result.directory, result.front))
    note(f"next: autoprune pick {result.directory} --max-latency-ms MS --to DIR")


def status(
    name: RunName,
    output: Output = DEFAULT_OUTPUT,
    as_json: AsJson = False,
    watch: Annotated[bool, typer.Option("--watch", help="Show it again and again until the run ends.")] = False,
) -> None:
    """Tell where a run stands, from another terminal."""
    from autoprune.cli.locate import locate_run
    from autoprune.cli.tables import status_tables
    from autoprune.cli.watching import watch_status
    from autoprune.errors import ConfigError
    from autoprune.search.status import read_status

    if watch and as_json:
        raise ConfigError("--json prints one document, --watch one after the other.", hint="Give one of them.")
    directory = locate_run(name, output)
    found = watch_status(directory) if watch else read_status(directory)
    if as_json:
        write_json(found.to_json())
    else:
        show(*status_tables(found))
