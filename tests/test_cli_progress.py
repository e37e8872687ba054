"""Progress on stderr: when a live table is drawn, what the lines say."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import Any

import pytest
from rich.console import Console

from autoprune.cli import progress
from autoprune.records import CandidateRecord
from autoprune.search.callbacks import Progress, RunInfo


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("stream", "environ", "live"),
    [
        (Terminal(), {"TERM": "xterm"}, True),
        (Terminal(), {"TERM": "xterm", "NO_COLOR": "1"}, True),
        (Terminal(), {"TERM": "dumb"}, False),
        (Terminal(), {"TERM": "xterm", "CI": "true"}, False),
        (io.StringIO(), {"TERM": "xterm"}, False),
    ],
)
def test_a_live_table_is_drawn_only_on_a_terminal(stream: io.StringIO, environ: dict[str, str], live: bool) -> None:
    assert progress.is_live(stream, environ) is live


FRONT = (("c1", {"accuracy": 0.9, "latency_ms": 1.0}), ("c2", {"accuracy": 0.95, "latency_ms": 2.0}))
INFO = RunInfo("digits", "results/digits", {"accuracy": "max"}, 60, 10, {"accuracy": 0.98})


def record(number: int, **changes: Any) -> CandidateRecord:
    given = {
        "id": f"c{number}",
        "number": number,
        "state": "complete",
        "policy": {},
        "digest": "0" * 64,
        "fidelity": "short",
    }
    return CandidateRecord(**(given | {"seed": 0} | changes))


def at(done: int, **changes: Any) -> Progress:
    given = {
        "stage": "search",
        "done": done,
        "total": 60,
        "failed": 0,
        "elapsed_s": 65.0,
        "remaining_s": 9.0,
        "front": FRONT,
    }
    return Progress(**(given | changes))


def test_lines_come_now_and_then_and_at_the_end_of_a_stage(capsys: pytest.CaptureFixture[str]) -> None:
    clock = iter([0.0, 1.0, 6.0, 7.0])
    watcher = progress.LineProgress(every_s=5.0, clock=lambda: next(clock))
    watcher.on_search_start(INFO)
    for done in (1, 2, 3, 60):
        watcher.on_candidate_end(record(done), at(done))
    captured = capsys.readouterr()
    lines = captured.err.splitlines()
    assert captured.out == ""
    assert [line.split(",")[0] for line in lines[1:]] == ["search 1/60", "search 3/60", "search 60/60"]
    assert "60 candidates, 10 done before" in lines[0]
    assert (
        "1 min 05 s, about 9 s left; front of 2: accuracy=0.9 latency_ms=1 ... accuracy=0.95 latency_ms=2" in lines[1]
    )


def test_a_failed_candidate_is_told_with_its_reason(capsys: pytest.CaptureFixture[str]) -> None:
    watcher = progress.LineProgress(every_s=1e9, clock=lambda: 0.0)
    watcher.on_candidate_end(
        record(1, state="failed", failure={"reason": "nonfinite", "stage": "recover", "message": "x"}), at(1)
    )
    assert "candidate c1 failed (nonfinite, recover): x" in capsys.readouterr().err


def test_a_line_tells_what_the_predictor_is_worth_and_how_many_were_stopped(capsys: pytest.CaptureFixture[str]) -> None:
    watcher = progress.LineProgress(every_s=0.0, clock=lambda: 0.0)
    watcher.on_search_start(replace(INFO, proxy_evaluations=100, sampler="autoprune"))
    watcher.on_candidate_end(record(1), at(7, stage="proxy", stopped=3, rank_correlation=0.816))
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("digits: 100 untrained, then 60 candidates, 10 done before; sampler autoprune;")
    assert second.startswith(
        "proxy 7/60, 3 stopped early, predictor's rank correlation 0.82, 1 min 05 s, about 9 s left"
    )


def test_the_live_table_names_the_best_picks() -> None:
    drawn: list[Any] = []
    watcher = progress.LiveProgress(drawn.append)
    watcher.on_front_update(at(9, picks={"most_accurate": "c2", "fastest": "c1"}))
    page = io.StringIO()
    Console(file=page, width=200).print(drawn[-1])
    rows = [line.split() for line in page.getvalue().splitlines()]
    assert ["most", "accurate", "c2", "0.95", "2"] in rows
    assert ["fastest", "c1", "0.9", "1"] in rows


def test_the_live_table_shows_the_front_so_far() -> None:
    drawn: list[Any] = []
    watcher = progress.LiveProgress(drawn.append)
    watcher.on_search_start(INFO)
    watcher.on_candidate_end(record(1), at(1, front=()))
    many = tuple((f"c{i}", {"accuracy": i / 100, "latency_ms": float(i)}) for i in range(50))
    watcher.on_front_update(at(50, front=many))
    page = io.StringIO()
    screen = Console(file=page, width=200)
    for part in drawn:
        screen.print(part)
    text = page.getvalue()
    assert "no front yet" in text
    assert "search 50/60" in text
    rows = [
        line.split()[0] for line in text.splitlines() if line.strip().startswith("c") and line.split()[0] != "candidate"
    ]
    assert len(rows) == progress.FRONT_ROWS
    assert (rows[0], rows[-1]) == ("c0", "c49")


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.2, "0 s"), (59.4, "59 s"), (60, "1 min 00 s"), (7620, "2 h 07 min"), (-3, "0 s")]
)
def test_durations_read_naturally(seconds: float, text: str) -> None:
    assert progress.duration(seconds) == text
