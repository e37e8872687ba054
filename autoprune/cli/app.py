"""The application: global options and the table of commands. Nothing heavy is imported before a command runs."""

from __future__ import annotations

import logging
import sys
from typing import Annotated

import typer

from autoprune.cli.commands import catalog, doctor, pruning, results, running, setup
from autoprune.cli.console import write_text
from autoprune.cli.guard import GuardedCommand, Settings
from autoprune.cli.interrupt import Interruption

app = typer.Typer(
    name="autoprune",
    help="Search pruning policies of a trained PyTorch model: smaller, measurably faster, verified models.",
    epilog="Start with: autoprune init, then check, then search.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

for _command, _name in (
    (setup.init, "init"),
    (setup.check_config, "check"),
    (running.search_model, "search"),
    (pruning.prune_model, "prune"),
    (running.status, "status"),
    (results.rebuild_report, "report"),
    (results.pick, "pick"),
    (results.verify, "verify"),
    (catalog.list_names, "list"),
    (catalog.schema, "schema"),
    (doctor.doctor, "doctor"),
):
    app.command(_name, cls=GuardedCommand)(_command)


def main() -> None:
    """Run the command line of this process."""
    with Interruption() as interruption:
        arguments = sys.argv[1:]
        if "--debug" in arguments:
            arguments = ["--debug", *(a for a in arguments if a != "--debug")]
        app(arguments, obj=interruption)


def _version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        write_text(f"autoprune {version('autoprune')}")
        raise typer.Exit


@app.callback()
def _options(
    ctx: typer.Context,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of errors.")] = False,
    verbose: Annotated[
        int, typer.Option("--verbose", "-v", count=True, show_default=False, help="Tell more (-vv: all).")
    ] = 0,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress, only warnings and errors.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    del version
    interruption = ctx.obj if isinstance(ctx.obj, Interruption) else None
    settings = Settings(debug=debug, verbosity=-1 if quiet else verbose, interruption=interruption)
    ctx.obj = settings
    level = {-1: logging.ERROR, 0: logging.WARNING, 1: logging.INFO}.get(settings.verbosity, logging.DEBUG)
    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s", level=max(level, logging.WARNING))
    logging.getLogger("autoprune").setLevel(level)
    logging.captureWarnings(settings.verbosity <= 0)
    logging.getLogger("py.warnings").setLevel(logging.ERROR)
