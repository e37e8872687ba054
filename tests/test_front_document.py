"""front.json and what is made of it: valid by its schema, harmless in spreadsheets, pages and terminals."""

from __future__ import annotations

import csv
import io
import json
import math
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from front_factory import OTHER, estimate, front, front_json, member
from rich.console import Console

from autoprune.errors import ConfigError, StorageError, UnknownNameError, UnmetConstraintError
from autoprune.markup import interval_text
from autoprune.report import (
    FrontDocument,
    front_csv,
    front_markdown,
    front_table,
    json_schema,
    member_rows,
    pick,
    read_front,
    write_front,
)
from autoprune.report.rows import remarks, text_table

FORMULAS = ["=1+1", "+1", "-1+cmd|' /C calc'!A0", "@SUM(A1)", "\t=1", "\r=1", "  =1", "|x", "＝1+1", "%0a=1"]
HOSTILE = "<script>alert(1)</script>|`x`\n# [a](javascript:b) \x1b[31m"


def shown(document: FrontDocument) -> str:
    console = Console(width=240, file=io.StringIO(), force_terminal=True, color_system=None)
    console.print(front_table(document))
    file = console.file
    assert isinstance(file, io.StringIO)
    return file.getvalue()


def test_the_written_document_is_valid_by_the_published_schema_and_reads_back_equal(tmp_path: Path) -> None:
    document = front()
    path = write_front(document, tmp_path)
    schema = json_schema("front")
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(json.loads(path.read_text()), schema)
    assert read_front(path) == read_front(tmp_path) == document
    assert sorted(p.name for p in tmp_path.iterdir()) == ["front.csv", "front.json", "front.md"]


@pytest.mark.parametrize("name", ["front", "config", "record"])
def test_every_schema_is_a_valid_schema(name: str) -> None:
    jsonschema.Draft202012Validator.check_schema(json_schema(name))


def test_an_unknown_schema_names_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'front'"):
        json_schema("frnt")


def test_the_documented_keys_are_all_there() -> None:
    document = front().to_json()
    assert set(document) == {
        "schema_version", "run", "objectives", "constraints", "targets", "provenance", "predictor", "evaluations",
        "wall_seconds", "cpu_seconds", "gpu_seconds", "hypervolume", "picks", "baseline", "controls",
        "gain_over_best_control", "members", "history", "importance", "ended_because",
        "examination",
    }  # fmt: skip
    assert set(document["members"][0]) == {
        "id", "name", "directory", "policy_digest", "strategy", "recovery_seed", "fidelity", "feasible", "parameters",
        "nonzero", "macs", "bytes", "compressed_bytes", "peak_memory_bytes", "deployments", "predicted", "warnings",
        "seed_spread", "sparsity", "robustness", "stability", "agreement", "classes",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"schema_version": "2.0"}, "schema_version"),
        ({"extra": 1}, "extra"),
        ({"wall_seconds": "long"}, "wall_seconds"),
        ({"wall_seconds": -1}, "wall_seconds"),
        ({"members": [member("a", 0.9, 1.0), member("a", 0.9, 2.0)]}, "same id"),
        ({"picks": {"fastest": "nobody"}}, "nobody"),
        ({"members": [member("a", 0.9, 1.0, deployments={})], "picks": {}}, "no value of accuracy"),
        ({"members": [member("a", 0.9, 1.0, directory="../../etc")], "picks": {}}, "directory"),
        ({"members": [member("a", 0.9, 1.0, directory="/etc")], "picks": {}}, "directory"),
        ({"members": [member("a", 0.9, 1.0, directory="a\\..\\b")], "picks": {}}, "directory"),
        ({"targets": {}}, "targets"),
        ({"members": 3}, "members"),
    ],
)
def test_a_document_that_is_not_ours_is_refused_and_the_place_named(
    tmp_path: Path, changes: dict[str, Any], where: str
) -> None:
    path = tmp_path / "front.json"
    path.write_text(json.dumps(front_json(**changes)))
    with pytest.raises(StorageError, match=where) as caught:
        read_front(path)
    assert caught.value.hint


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\xff", b"[" * 100_000, b'{"wall_seconds": NaN}', b"null"])
def test_a_file_that_is_no_document_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "front.json").write_bytes(content)
    with pytest.raises(StorageError, match="no front document"):
        read_front(tmp_path)


def test_a_missing_document_is_named(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"front\.json: No such file"):
        read_front(tmp_path)


@pytest.mark.parametrize("name", FORMULAS)
def test_no_cell_of_the_csv_begins_like_a_formula(name: str) -> None:
    document = front(members=[member("a", 0.9, 1.0, name=name, strategy=name)], picks={})
    rows = list(csv.DictReader(io.StringIO(front_csv(document))))
    assert rows[1]["name"] == rows[1]["strategy"] == f"'{name}"
    assert float(rows[1]["accuracy_delta"]) < 0


def test_the_csv_has_the_dense_model_first_and_a_column_a_figure() -> None:
    rows = list(csv.DictReader(io.StringIO(front_csv(front()))))
    assert [r["id"] for r in rows] == ["dense", "a", "b", "c"]
    assert float(rows[2]["accuracy_test"]) == 0.97
    assert float(rows[2]["latency_ms"]) == 2.0
    assert float(rows[2]["speedup_low"]) == pytest.approx(1.9)
    assert float(rows[2][f"latency_ms@{OTHER}"]) == 2.0


def test_text_is_quoted_so_that_no_separator_splits_it() -> None:
    document = front(members=[member("a", 0.9, 1.0, name="a;=1+1")], picks={})
    assert '"a;=1+1"' in front_csv(document)


def test_markdown_shows_names_literally_in_one_table_row() -> None:
    document = front(members=[member("a", 0.9, 1.0, name=HOSTILE)], run=HOSTILE, picks={"fastest": "a"})
    text = front_markdown(document)
    assert "<script>" not in text
    assert "\x1b" not in text
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len(rows) == 4
    assert len({line.replace("\\|", "").count("|") for line in rows}) == 1


def test_the_terminal_table_shows_markup_and_control_codes_as_text() -> None:
    document = front(members=[member("a", 0.9, 1.0, name="[red]x[/red]\x1b[2J")], picks={})
    assert "[red]x[/red]?[2J" in shown(document)


def test_the_terminal_table_tells_accuracy_latency_and_size() -> None:
    text = shown(front())
    for figure in ["accuracy test", "0.9700 [0.9600, 0.9800]", "2.00x [1.90, 2.10]", "20,000", "2,000,000", "80,000"]:
        assert figure in text


def test_remarks_tell_picks_gain_and_predictor() -> None:
    predictor = {
        "kendall_tau": 0.86,
        "same_cost_concordance": 0.79,
        "cost_only": {"kendall_tau": 0.78, "concordance": None},
        "coverage_90": 0.91,
        "n": 120,
        "fallback_used": False,
    }
    gain = {"control": "global_magnitude", "value": 0.05, "low": 0.02, "high": 0.08}
    document = front(predictor=predictor, gain_over_best_control=gain)
    for text in (front_markdown(document).replace("\\", ""), " ".join(shown(document).split())):
        for told in (
            "most accurate: model-a; balanced: model-b; fastest: model-c; smallest: model-c",
            "over the best control, global magnitude: +0.050 [+0.020, +0.080]",
            "on 120 candidates it had not seen: rank correlation 0.86 (cost alone 0.78)",
            "same-cost concordance 0.79 (cost alone –), 91% inside",
        ):
            assert told in text
    document = front(predictor=predictor | {"fallback_used": True, "fallback_reason": "the prior orders better"})
    assert "set aside: the prior orders better" in " ".join(shown(document).split())


def test_the_table_tells_where_no_loss_was_shown() -> None:
    headers, rows = text_table(front(members=[member("a", 0.983, 3.0), member("b", 0.9, 1.0)], picks={}))
    column = headers.index("no loss")
    assert [row[column] for row in rows[1:]] == ["yes", "not shown"]
    assert any("at most 0.005 worse" in line for line in remarks(front()))


def test_the_table_leaves_out_metrics_that_nobody_asked_for() -> None:
    document = front_json()
    for one in (document["baseline"], *document["members"]):
        for deployment in one["deployments"].values():
            deployment["quality"]["test"] |= {"cross_entropy": estimate(0.1), "recall": estimate(0.9)}
    document["constraints"] = [{"expression": "recall>=0.8", "satisfied_by": []}]
    headers, _ = text_table(FrontDocument.model_validate(document))
    assert headers[1:4] == ["accuracy test [95%]", "recall test [95%]", "no loss"]


def test_rows_hold_the_members_only_unless_asked() -> None:
    assert [r["id"] for r in member_rows(front())] == ["a", "b", "c"]


def test_pick_gives_the_most_accurate_member_that_fits() -> None:
    assert pick(front()).id == "a"
    assert pick(front(), max_latency_ms=2.0).id == "b"
    assert pick(front(), max_latency_ms=2.5, require=["accuracy>=0.9", "parameters<=15000"]).id == "c"
    assert pick(front(), max_drop=0.005).id == "a"
    assert pick(front(), require=["speedup >= 4"]).id == "c"


def test_pick_minimises_a_metric_that_is_minimised() -> None:
    objectives = front_json()["objectives"]
    objectives[0]["direction"] = "min"
    assert pick(front(objectives=objectives)).id == "c"


def test_pick_breaks_ties_by_latency() -> None:
    members = [member("slow", 0.97, 3.0), member("fast", 0.97, 1.0)]
    assert pick(front(members=members, picks={})).id == "fast"


@pytest.mark.parametrize(
    ("demand", "told"),
    [
        ({"max_latency_ms": 1e-6}, "latency_ms from 1 to 3"),
        ({"require": ["accuracy>=0.999"]}, "accuracy from 0.94 to 0.98"),
        ({"max_drop": 0.001}, "drop from 0.005 to 0.045"),
        ({"max_latency_ms": 1.5, "require": ["accuracy>=0.975"]}, "accuracy from 0.94 to 0.98; latency_ms from 1 to 3"),
    ],
)
def test_an_unmet_demand_tells_what_is_reachable(demand: dict[str, Any], told: str) -> None:
    with pytest.raises(UnmetConstraintError) as caught:
        pick(front(), **demand)
    assert caught.value.exit_code == 4
    assert told in caught.value.hint


def test_pick_takes_feasible_members_only() -> None:
    members = [member("a", 0.98, 3.0, feasible=False), member("b", 0.97, 2.0)]
    assert pick(front(members=members, picks={})).id == "b"
    with pytest.raises(UnmetConstraintError, match="own constraints"):
        pick(front(members=members[:1], picks={}))


def test_a_demand_on_an_unknown_figure_names_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'accuracy'"):
        pick(front(), require=["acuracy>=0.9"])


@pytest.mark.parametrize(
    "text", ["accuracy", "accuracy>0.9", "accuracy==1", ">=1", "a>=b", "a>=1; import os", "a>=nan", ""]
)
def test_a_demand_of_another_form_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="no requirement"):
        pick(front(), require=[text])


@pytest.mark.parametrize(
    ("numbers", "text"),
    [
        ((0.97, 0.96, 0.98), "0.9700 [0.9600, 0.9800]"),
        ((1.0, 0.99, 1.0), "1.0000 [0.9900, 1.0000]"),
        ((0.0, 0.0, 0.01), "0.0000 [0.0000, 0.0100]"),
        ((56.88029, 48.2575, 64.8483), "56.88 [48.26, 64.85]"),
        ((0.00975, 0.00901, 0.01048), "0.009750 [0.009010, 0.010480]"),
        ((-0.0257, -0.1, 0.05), "-0.02570 [-0.10000, 0.05000]"),
        ((24813.4, 20000.0, 30000.0), "24813 [20000, 30000]"),
        ((math.nan, math.nan, math.nan), "nan [nan, nan]"),
    ],
)
def test_figures_of_any_size_keep_four_digits(numbers: tuple[float, float, float], text: str) -> None:
    assert interval_text(*numbers) == text
