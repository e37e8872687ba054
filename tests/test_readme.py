"""The README says what the committed results say."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from benchmarks.readme import DOCUMENTS, MARK, README, TABLES, filled
from benchmarks.readme_examples import example_lines, subject

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


@pytest.mark.parametrize("config", sorted((ROOT / "examples").glob("*.yaml")), ids=lambda p: p.name)
def test_every_example_config_opens_with_what_it_prunes_and_its_command(config: Path) -> None:
    model, _, data = subject(config).partition(" on ")
    assert model
    assert data


def test_an_example_without_its_opening_line_is_refused(tmp_path: Path) -> None:
    config = tmp_path / "mine.yaml"
    config.write_text("name: mine\n")
    with pytest.raises(ValueError, match=r"mine\.yaml must open with"):
        subject(config)


def test_every_reference_front_has_a_row() -> None:
    fronts = [file.parent.name for file in (ROOT / "results" / "reference").glob("*/front.json")]
    rows = example_lines(ROOT / "results" / "reference", ROOT / "examples")[2:]
    assert [row[3 : row.index("]")] for row in rows] == sorted(fronts)
