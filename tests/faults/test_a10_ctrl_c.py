"""A10: Ctrl-C stops a search in order, with a partial report and the line that resumes it; a second one at once."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest
from interrupted import Search
from page_reader import Page
from stage import Stage
from typer.testing import CliRunner

from autoprune.cli.app import app
from autoprune.report.document import read_front

STATES = {
    "training-in-process": ("short", 1),
    "two-workers": ("short", 2),
    "finalists": ("full", 1),
    "emission": ("test", 1),
}
ORDERLY_S = 20.0


@pytest.mark.parametrize("state", STATES)
def test_ctrl_c_stops_in_order_and_the_same_command_goes_on(stage: Stage, tmp_path: Path, state: str) -> None:
    linger, workers = STATES[state]
    search = Search(stage, tmp_path, linger, workers)
    act = search.start()
    before = {r.id: r.created for r in search.records()}
    status, seconds, said = search.stop(act, signal.SIGINT)
    assert status == 130, said
    assert seconds < ORDERLY_S
    assert "Traceback" not in said
    assert f"Run the same command again to go on:\n  autoprune search {search.config}" in said
    assert f"partial report: {search.directory / 'partial.html'}" in said
    search.assert_left_in_order()
    assert len(search.family) == 1 + (workers if workers > 1 else 0)
    assert {r.id: r.created for r in search.records()} == before
    assert not (search.directory / "front.json").exists()
    shorts = sum(i.endswith("-short") for i in before)
    assert f"interrupted: {shorts} of 4 candidates" in (search.directory / "partial.md").read_text()
    if state == "emission":
        goes_on(search, before)


def goes_on(search: Search, before: dict[str, str]) -> None:
    """The same command ends with a front, repeats nothing and takes the partial report away."""
    search.linger = ""
    assert search.start().wait() == 0
    assert {r.id: r.created for r in search.records() if r.id in before} == before
    assert read_front(search.directory).members
    assert not list(search.directory.glob("partial.*"))


def test_the_partial_report_tells_what_is_known_and_report_makes_it_again(stage: Stage, tmp_path: Path) -> None:
    search = Search(stage, tmp_path, "full")
    search.stop(search.start(), signal.SIGINT)
    written = {name: (search.directory / name).read_text() for name in ("partial.md", "partial.html")}
    shorts = [r for r in search.records() if r.fidelity == "short"]
    assert len(shorts) == 4
    text = written["partial.md"]
    assert "Nothing here is a recovered model" in text
    assert "## Briefly recovered" in text
    assert "dense" in text
    assert f"autoprune search {search.config}" in text
    best = max(shorts, key=lambda r: r.values["accuracy"])
    assert best.id in text
    assert f"{best.values['accuracy']:.4g}" in text
    page = Page(written["partial.html"])
    assert best.id in page.text
    for name in written:
        (search.directory / name).unlink()
    again = CliRunner().invoke(app, ["report", str(search.directory)])
    assert again.exit_code == 5, again.stderr
    assert best.id in again.stdout
    assert {name: (search.directory / name).read_text() for name in written} == written
    document = json.loads(CliRunner().invoke(app, ["report", str(search.directory), "--json"]).stdout)
    assert document["partial"] is True
    assert document["headline"] == "interrupted: 4 of 4 candidates"


def test_a_second_ctrl_c_ends_at_once_what_nothing_else_ends(stage: Stage, tmp_path: Path) -> None:
    search = Search(stage, tmp_path, "short stubborn")
    status, seconds, said = search.stop(search.start(), signal.SIGINT, again_after_s=1.0)
    assert status == 130, said
    assert seconds < 1.0 + 5.0
    search.assert_left_in_order()


def test_a_training_loop_that_swallows_the_interrupt_only_delays_the_end(stage: Stage, tmp_path: Path) -> None:
    search = Search(stage, tmp_path, "short swallow")
    status, _, said = search.stop(search.start(), signal.SIGINT)
    assert status == 130, said
    assert "partial report" in said
    assert len([r for r in search.records() if r.fidelity == "short"]) == 1
    search.assert_left_in_order()


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("linger", ["short", "full", "test"])
def test_ctrl_c_in_every_state_with_any_number_of_workers(
    stage: Stage, tmp_path: Path, linger: str, workers: int
) -> None:
    search = Search(stage, tmp_path, linger, workers)
    act = search.start()
    before = {r.id: r.created for r in search.records()}
    status, seconds, said = search.stop(act, signal.SIGINT)
    assert (status, seconds < ORDERLY_S) == (130, True), said
    search.assert_left_in_order()
    goes_on(search, before)
