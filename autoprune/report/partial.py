"""Run that is not finished -> partial.md and partial.html: what a person may know before there is a front."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from autoprune.markup import escape_code, escape_markdown, printable
from autoprune.report.html.assets import content_policy, style, template
from autoprune.storage import write_file

PARTIAL_MARKDOWN = "partial.md"
PARTIAL_HTML = "partial.html"

_TEMPLATE = "partial.html.j2"


@dataclass(frozen=True)
class PartialTable:
    """Candidates of one kind, in words.

    Args:
        title: What they are.
        note: How far their figures can be trusted.
        columns: Headers; the first column names the candidate.
        rows: One cell a column.
    """

    title: str
    note: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class PartialRun:
    """What is known of an unfinished run, in words.

    Args:
        run: Its name.
        headline: Where it stands, in one line.
        lines: What to know before reading the tables.
        command: What goes on with it; empty where nobody noted it.
        tables: Its best candidates so far, the furthest recovered first.
    """

    run: str
    headline: str
    lines: tuple[str, ...]
    command: str
    tables: tuple[PartialTable, ...]


def write_partial(part: PartialRun, directory: Path) -> Path:
    """Write both files into a run directory and return the path of `partial.html`.

    Raises:
        StorageError: Disk full, permission, or another failure of the file system.
    """
    write_file(directory / PARTIAL_MARKDOWN, partial_markdown(part).encode())
    write_file(directory / PARTIAL_HTML, partial_html(part).encode())
    return directory / PARTIAL_HTML


def remove_partial(directory: Path) -> None:
    """Delete what `write_partial` wrote, where it did."""
    for name in (PARTIAL_MARKDOWN, PARTIAL_HTML):
        (directory / name).unlink(missing_ok=True)


def partial_markdown(part: PartialRun) -> str:
    """Return the report as Markdown; names in it are shown literally."""
    lines = [f"# {escape_markdown(part.run)}: partial report", "", f"**{escape_markdown(part.headline)}**"]
    for text in part.lines:
        lines += ["", escape_markdown(text)]
    if part.command:
        lines += ["", "To go on:", "", f"    {escape_code(part.command)}"]
    for table in part.tables:
        lines += ["", f"## {escape_markdown(table.title)}", "", escape_markdown(table.note), ""]
        lines += [_row([*map(escape_markdown, table.columns)]), _row(["---"] + ["---:"] * (len(table.columns) - 1))]
        lines += [_row([*map(escape_markdown, row)]) for row in table.rows]
    return "\n".join(lines) + "\n"


def partial_html(part: PartialRun) -> str:
    """Return the report as a page without scripts that loads nothing."""
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    def literal(value: object) -> object:
        return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, finalize=literal)
    page = environment.from_string(template(_TEMPLATE))
    return page.render(part=part, policy=content_policy([], [style()]), style=style())


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
