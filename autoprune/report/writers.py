"""Front document -> front.json, front.csv and front.md, each replaced in one step."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Mapping
from pathlib import Path

from autoprune.markup import escape_code, escape_markdown
from autoprune.report.document import FrontDocument
from autoprune.report.rows import Cell, member_rows, remarks, text_table
from autoprune.storage import write_file

__all__ = ["FRONT_FILES", "front_csv", "front_markdown", "member_rows", "write_front", "write_front_file"]

_FORMULA = re.compile(r"\s*[=+\-@|%\uff1d\uff0b\uff0d\uff20]|[\t\r\n]")


def write_front(front: FrontDocument, directory: Path) -> Path:
    """Write the three files into a run directory and return the path of `front.json`, which comes last.

    Raises:
        StorageError: Disk full, permission, or another failure of the file system.
    """
    for name in FRONT_FILES:
        write_front_file(front, directory, name)
    return directory / "front.json"


def write_front_file(front: FrontDocument, directory: Path, name: str) -> None:
    """Write one of `FRONT_FILES` into a run directory.

    Raises:
        StorageError: Disk full, permission, or another failure of the file system.
    """
    write_file(directory / name, FRONT_FILES[name](front).encode())


def front_csv(front: FrontDocument) -> str:
    """Return the members and the dense model as CSV; text that a spreadsheet would compute is neutralised."""
    rows = member_rows(front, baseline=True)
    columns = list(dict.fromkeys(column for row in rows for column in row))
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)
    writer.writerow([_neutral(column) for column in columns])
    writer.writerows([_neutral(row.get(column)) for column in columns] for row in rows)
    return out.getvalue()


def front_markdown(front: FrontDocument) -> str:
    """Return the front as a Markdown table with a line on how it was measured."""
    headers, rows = text_table(front)
    target = front.targets[front.first_target]
    counts = front.evaluations
    lost = f"{counts.failed} failed" + (f", {counts.stopped} stopped early" if counts.stopped else "")
    made = (
        f"{len(front.members)} models, from {counts.short + counts.proxy} candidates searched and {counts.full} "
        f"recovered in full ({lost}) in {front.wall_seconds:.0f} s."
    )
    measured = (
        f"Latency on `{escape_code(front.first_target)}`: batch {target.batch}, {target.threads} thread(s), "
        f"{escape_markdown(target.device)}. Intervals are 95%."
    )
    lines = [f"# Front of {escape_markdown(front.run)}", "", made, measured, ""]
    lines += [_row([escape_markdown(header) for header in headers]), _row(["---"] + ["---:"] * (len(headers) - 1))]
    lines += [_row([escape_markdown(name), *figures]) for name, *figures in rows]
    lines += ["", *(f"- {escape_markdown(line)}" for line in remarks(front))]
    return "\n".join(lines) + "\n"


FRONT_FILES: Mapping[str, Callable[[FrontDocument], str]] = {
    "front.csv": front_csv,
    "front.md": front_markdown,
    "front.json": lambda front: front.to_bytes().decode(),
}
"""File name -> what it holds, in the order of writing: who finds `front.json` finds the others."""


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _neutral(cell: Cell) -> Cell:
    """Put an apostrophe before text that begins like a formula."""
    if isinstance(cell, str) and _FORMULA.match(cell):
        return f"'{cell}"
    return cell
