"""Front -> reader: the document behind `front.json`, its tables and files, and the choice of one member."""

from autoprune.report.document import FrontDocument, Member, read_front
from autoprune.report.pick import pick
from autoprune.report.schema import json_schema
from autoprune.report.tables import front_table
from autoprune.report.writers import front_csv, front_markdown, member_rows, write_front

__all__ = [
    "FrontDocument",
    "Member",
    "front_csv",
    "front_markdown",
    "front_table",
    "json_schema",
    "member_rows",
    "pick",
    "read_front",
    "write_front",
]
