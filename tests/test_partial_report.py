"""An unfinished run in words: what the partial report says, that it is escaped, and that it loads nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from page_reader import Page
from run_factory import OBJECTIVES, failed, measured, stopped

from autoprune.cli.tables import partial_tables
from autoprune.config import RunConfig
from autoprune.policy import Policy
from autoprune.records import CandidateRecord, Fidelity
from autoprune.report.partial import PartialRun, PartialTable, partial_html, partial_markdown, remove_partial
from autoprune.report.partial import write_partial as write
from autoprune.search.executors.base import Job
from autoprune.search.partial import MOST_ROWS, partial_of

HOSTILE = "<script>alert(1)</script>|`*_[x](javascript:y)\x1b[2J"


def job(number: int, sparsity: float, fidelity: Fidelity = "short") -> Job:
    policy = Policy({} if number == 0 else {"layer0": sparsity})
    return Job(number, policy, fidelity)


DENSE = measured(job(0, 0.0, "full"))
assert DENSE.evaluation
DENSE.evaluation["quality"]["val"]["accuracy"].update(low=0.93, high=0.97)
CONFIG = RunConfig(task="a.py:b", name="tiny", search={"budget": {"evaluations": 9}})


def told(records: list[CandidateRecord], config: RunConfig = CONFIG) -> PartialRun:
    return partial_of(config, OBJECTIVES, records, command="autoprune search a.yaml")


def test_the_best_candidates_stand_below_the_dense_model_with_their_picks() -> None:
    part = told([DENSE, *(measured(job(i, i / 10)) for i in range(1, 6))])
    assert part.headline == "interrupted: 5 of 9 candidates"
    assert "Nothing here is a recovered model." in part.lines[0]
    (table,) = part.tables
    assert table.columns == ("candidate", "pick", "accuracy", "latency_ms", "parameters", "macs")
    assert table.rows[0][:2] == ("dense", "")
    assert {row[1] for row in table.rows} >= {"most accurate", "fastest"}
    assert table.rows[0][2:] == ("0.95 [0.93, 0.97]", "2", "1,000", "1,010,000")
    assert "full recovery changes these figures" in table.note


def test_finalists_come_first_and_are_not_called_finished() -> None:
    part = told([DENSE, measured(job(1, 0.3)), replace(measured(job(1, 0.3, "full")), fidelity="full")])
    assert [t.title for t in part.tables] == ["Recovered in full", "Briefly recovered"]
    assert "Nothing here is a recovered model" not in part.lines[0]
    assert "Recoveries in full: 1; none of these models is exported" in part.lines[0]


def test_the_front_of_an_earlier_call_is_not_denied() -> None:
    assert told([DENSE]).lines[0].startswith("This run has no front yet.")
    assert "earlier call still stands" in partial_of(CONFIG, OBJECTIVES, [DENSE], fronted=True).lines[0]


def test_untrained_stopped_and_failed_candidates_are_counted() -> None:
    records = [measured(job(1, 0.1, "proxy")), stopped(job(2, 0.2), (3, 0.4)), failed(job(3, 0.3))]
    part = told([DENSE, *records])
    assert part.headline == "interrupted: 2 of 9 candidates"
    assert "Among the finished: untrained 1, stopped early 1, failed (diverged) 1." in part.lines
    assert [t.title for t in part.tables] == ["Not trained"]


def test_a_run_without_candidates_says_so() -> None:
    part = told([DENSE])
    assert part.headline == "interrupted: 0 of 9 candidates"
    assert part.tables == ()
    assert "No candidate has been measured yet." in part.lines


def test_constraints_that_are_not_applied_are_named() -> None:
    config = CONFIG.model_copy(update={"constraints": CONFIG.constraints.model_copy(update={"max_drop": 0.01})})
    assert any("(max_drop) are not applied" in line for line in told([DENSE, measured(job(1, 0.1))], config).lines)


def test_a_long_front_is_thinned_with_its_ends_kept() -> None:
    part = told([DENSE, *(measured(job(i, i / 100)) for i in range(1, 60))])
    (table,) = part.tables
    assert len(table.rows) == 1 + MOST_ROWS
    assert "39 more lie between them" in table.note


@pytest.fixture
def hostile() -> PartialRun:
    table = PartialTable(HOSTILE, HOSTILE, (HOSTILE, "b"), ((HOSTILE, "1"),))
    return PartialRun(HOSTILE, HOSTILE, (HOSTILE,), HOSTILE, (table,))


def test_names_are_shown_literally_and_the_page_loads_nothing(hostile: PartialRun) -> None:
    text = partial_html(hostile)
    page = Page(text)
    assert page.scripts == []
    assert page.text.count("<script>alert(1)</script>") == 9
    assert "\x1b" not in text
    assert "default-src 'none'" in page.meta("Content-Security-Policy")
    assert not [a for _, a in page.elements if {"src", "href"} & set(a)]


def test_marks_of_names_are_literal_in_markdown_and_on_the_terminal(hostile: PartialRun) -> None:
    text = partial_markdown(hostile)
    assert "<script>" not in text.replace(f"    {HOSTILE[:25]}", "")
    assert "\x1b" not in text
    assert "[x](javascript" not in "\n".join(line for line in text.splitlines() if not line.startswith("    "))
    assert partial_tables(hostile)


def test_what_is_written_is_removed_again(tmp_path: Path) -> None:
    part = told([DENSE, measured(job(1, 0.1))])
    assert write(part, tmp_path) == tmp_path / "partial.html"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["partial.html", "partial.md"]
    remove_partial(tmp_path)
    remove_partial(tmp_path)
    assert list(tmp_path.iterdir()) == []
