"""Front document -> rich table for the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from autoprune.markup import printable
from autoprune.report.document import FrontDocument
from autoprune.report.rows import remarks, text_table

if TYPE_CHECKING:
    from rich.table import Table


def front_table(front: FrontDocument) -> Table:
    """Return the front with the dense model first, remarks below it; names are shown literally."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    headers, rows = text_table(front)
    caption = Text("\n".join(map(printable, remarks(front))))
    table = Table(box=SIMPLE_HEAD, show_edge=False, caption=caption or None, caption_justify="left")
    for index, header in enumerate(headers):
        table.add_column(Text(printable(header)), justify="right" if index else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(printable(cell)) for cell in row))
    return table
