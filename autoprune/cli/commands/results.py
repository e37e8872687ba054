"""After a run: rebuild its reports, pick a model, verify it."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from autoprune.cli.console import note, show, write_json, write_text
from autoprune.cli.options import DEFAULT_OUTPUT, AsJson, Output, RunName

FRONT_FILE = "front.json"


def rebuild_report(name: RunName, output: Output = DEFAULT_OUTPUT, as_json: AsJson = False) -> None:
    """Rebuild report.html, front.csv and front.md and show the front; exit 5 and partial.html where there is none."""
    from autoprune.cli.locate import locate_run

    directory = locate_run(name, output)
    if not (directory / FRONT_FILE).is_file():
        _report_unfinished(directory, as_json=as_json)
    from autoprune.report import front_table, read_front, write_front
    from autoprune.report.html import write_report

    front = read_front(directory)
    write_front(front, directory)
    write_report(directory)
    if as_json:
        write_json(front.to_json())
    else:
        show(front_table(front))


def _report_unfinished(directory: Path, *, as_json: bool) -> NoReturn:
    """Write and show what is known of a run without a front, and exit."""
    from autoprune.cli.tables import partial_tables
    from autoprune.errors import PartialResultError
    from autoprune.report.partial import PARTIAL_HTML
    from autoprune.search.partial import report_unfinished

    part = report_unfinished(directory)
    if as_json:
        write_json({"partial": True, **asdict(part)})
    else:
        show(*partial_tables(part))
    note(f"partial report: {directory / PARTIAL_HTML}")
    raise typer.Exit(PartialResultError.exit_code)


def pick(
    name: RunName,
    max_latency_ms: Annotated[float | None, typer.Option(min=0.0, help="Highest latency on the first target.")] = None,
    require: Annotated[
        list[str] | None, typer.Option(metavar="METRIC>=VALUE", help="Such as accuracy>=0.93. Repeatable.")
    ] = None,
    max_drop: Annotated[float | None, typer.Option(help="Largest loss of the first metric, in its own unit.")] = None,
    to: Annotated[Path | None, typer.Option("--to", metavar="DIR", help="Copy the model to this directory.")] = None,
    output: Output = DEFAULT_OUTPUT,
    as_json: AsJson = False,
) -> None:
    """Print the best model that satisfies the demands, and copy it with --to; exit 4 when none does."""
    from autoprune.cli.copying import copy_member
    from autoprune.cli.locate import locate_run
    from autoprune.cli.tables import member_tables
    from autoprune.report import pick as pick_member
    from autoprune.report import read_front

    run = locate_run(name, output)
    front = read_front(run)
    member = pick_member(front, max_latency_ms=max_latency_ms, require=require or (), max_drop=max_drop)
    directory = copy_member(run, member, to)
    if as_json:
        write_json({"run": front.run, "directory": str(directory), "member": member.model_dump(mode="json")})
    else:
        show(*member_tables(front, member))
        write_text(str(directory))


def verify(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Directory of one model.")], as_json: AsJson = False
) -> None:
    """Prove in a fresh process that a model is whole and gives its recorded outputs; exit 1 when it does not."""
    from autoprune.cli.fresh import verify_in_fresh_process
    from autoprune.cli.tables import verify_tables
    from autoprune.errors import ArtifactError

    report = verify_in_fresh_process(directory)
    if as_json:
        write_json(report.to_json())
    else:
        show(*verify_tables(report))
    if not report.ok:
        raise typer.Exit(ArtifactError.exit_code)
