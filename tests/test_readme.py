"""The README says what the committed results say."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from benchmarks.readme import DOCUMENTS, MARK, README, TABLES, filled

ROOT = Path(__file__).resolve().parent.parent


def test_every_table_is_made_from_the_committed_results() -> None:
    texts = [document.read_text(encoding="utf-8") for document in DOCUMENTS]
    assert {match["name"] for text in texts for match in MARK.finditer(text)} == set(TABLES)
    for document in DOCUMENTS:
        text = document.read_text(encoding="utf-8")
        assert filled(text) == text, "run: python -m benchmarks.readme"


def test_python_examples_of_the_readme_are_valid() -> None:
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) >= 2
    assert all(ast.parse(block).body for block in blocks)


def test_files_that_the_readme_links_exist() -> None:
    links = re.findall(r"\]\((?!http)([^)#]+)\)", README.read_text(encoding="utf-8"))
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []
