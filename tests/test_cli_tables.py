"""Tables of reports: what a user reads before, during and after a run; hostile names do no harm."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from rich.console import Console

from autoprune.artifacts import Check, VerifyReport
from autoprune.cli.tables import check_tables, status_tables, verify_tables
from autoprune.evaluation.types import Interval, Latency
from autoprune.search.check import CheckReport, GroupRow, ProtectedRow
from autoprune.search.status import RunStatus

TARGET = "onnxruntime-fp32-b32-t1"
DENSE = Latency(3.2, 3.1, 3.3, 30, 1.0, 1.0, 1.0, clean=True, polluted_share=0.0, dense_ms=3.2)
FLOOR = replace(DENSE, ms=0.8, speedup=4.1, speedup_low=3.9, speedup_high=4.3, clean=False, polluted_share=0.25)
REPORT = CheckReport(
    name="digits",
    tracer="exact",
    groups=(GroupRow("layer1.conv", "channel", 16, (16, 14, 12, 10, 8, 6, 4, 2), ("layer1.conv", "layer1.bn")),),
    protected=(ProtectedRow("fc", "Linear", 10, "its units are the model's outputs"),),
    space_size_log10=12.34,
    parameters=178_000,
    macs=12_345_678,
    baseline={"accuracy": Interval(0.985, 0.97, 0.99, 360, "image", "wilson")},
    latency={TARGET: DENSE},
    floor={TARGET: FLOOR},
    estimate_seconds=170.0,
    warnings=("the classes are unbalanced",),
    bytes=712_000,
    floor_parameters=2_345,
    floor_macs=67_890,
    floor_bytes=9_380,
    parts={"tensor": 7, "depth": 4},
)
STATUS = RunStatus(
    name="digits",
    state="running",
    owner={"host": "node", "pid": 321},
    evaluations={"short": 20, "full": 3},
    failed={"nonfinite": 2},
    total=60,
    wall_seconds=75.0,
    front=(("c7", {"accuracy": 0.91, "latency_ms": 1.5}),),
    members=0,
)


def rendered(parts: Sequence[Any]) -> str:
    page = io.StringIO()
    console = Console(file=page, width=200)
    for part in parts:
        console.print(part)
    return page.getvalue()


def test_check_shows_groups_protection_baseline_floor_and_estimate() -> None:
    text = rendered(check_tables(REPORT))
    for shown in (
        "layer1.conv, layer1.bn",
        "2 4 6 ... 16 (8)",
        "its units are the model's outputs",
        "0.97 - 0.99",
        "360 image",
        "4.10x (3.90 - 4.30)",
        "no: 25% disturbed",
        "10^12.3 policies",
        "about 2 min 50 s",
        "2,345",
        "67,890",
        "9,380",
        "warning: the classes are unbalanced",
    ):
        assert shown in text


def test_status_shows_owner_counts_and_front() -> None:
    text = rendered(status_tables(STATUS))
    for shown in ("running by pid 321 on node", "20 short, 3 full of 60", "2 nonfinite", "c7", "0.91", "1 min 15 s"):
        assert shown in text


def test_status_shows_the_stage_what_was_stopped_and_the_predictor() -> None:
    text = rendered(
        status_tables(
            replace(STATUS, stage="search", stopped=5, controls=7, rank_correlation=0.734, picks={"fastest": "c7"})
        )
    )
    for shown in ("stage: search", "stopped early: 5", "of controls: 7", "rank correlation: 0.73", "fastest"):
        assert shown in text
    assert "stage" not in rendered(status_tables(replace(STATUS, stage="finalists", state="finished")))


def test_verify_shows_each_check_and_the_verdict() -> None:
    whole = VerifyReport("d", (Check("files", ok=True, detail="9 files"),))
    assert rendered(verify_tables(whole)).splitlines()[-1] == "verified"
    broken = VerifyReport("d", (*whole.checks, Check("onnx", ok=False, detail="outputs differ")))
    lines = rendered(verify_tables(broken)).splitlines()
    assert lines[-1] == "NOT verified"
    assert any("FAILED" in line and "outputs differ" in line for line in lines)


@pytest.mark.parametrize("name", ["[red]x[/red]", "[/]", "\x1b[2Jx", "a\nb", "<script>", "x" * 300])
def test_names_are_shown_literally_and_control_characters_never(name: str) -> None:
    group = replace(REPORT.groups[0], name=name, layers=(name,))
    text = rendered(check_tables(replace(REPORT, groups=(group,), warnings=(name,))))
    text += rendered(status_tables(replace(STATUS, name=name, owner={"host": name, "pid": 1})))
    assert "\x1b" not in text
    if name.isprintable() and len(name) < 100:
        assert name in text


def test_check_counts_what_can_be_pruned_without_slicing() -> None:
    lines = [line.split() for line in rendered(check_tables(REPORT)).splitlines()]
    assert ["tensor", "7"] in lines
    assert ["depth", "4"] in lines
    assert "Prunable without slicing" not in rendered(check_tables(replace(REPORT, parts={})))
