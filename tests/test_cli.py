"""The command line: start-up cost, streams, exit codes, messages, one JSON document, and what commands print."""

from __future__ import annotations

import errno
import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import get_args

import jsonschema
import pytest
import typer
from typer.testing import CliRunner, Result

from autoprune.axes import AXES, PRESETS, refusal
from autoprune.cli import console, guard
from autoprune.cli.app import app
from autoprune.cli.commands import catalog
from autoprune.cli.guard import TerminatedError, explain
from autoprune.config import RunConfig, load_config
from autoprune.config.model import SearchConfig
from autoprune.errors import ConfigError, OutputError, RunLockedError, StorageError, UnmetConstraintError
from autoprune.policy import Strategy

HELP_SECONDS = 0.5
AXIS_LISTS = {
    "criterion": "criteria",
    "normalization": "normalizations",
    "granularity": "granularities",
    "scope": "scopes",
    "selection": "selections",
    "schedule": "schedules",
    "regularizer": "regularizers",
    "regrowth": "regrowths",
    "recovery": "recoveries",
    "optimizer": "optimizers",
}
HEAVY = ("torch", "ray", "optuna", "sklearn", "numpy", "onnxruntime", "pandas")


def call(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(a) for a in arguments])


def in_process(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "run.yaml"
    path.write_text("task: task.py:make_task\n")
    return path


def test_help_is_quick_and_loads_nothing_heavy() -> None:
    code = (
        "import resource, sys\n"
        "from autoprune.cli import main\n"
        "sys.argv = ['autoprune', '--help']\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code, end.code\n"
        "usage = resource.getrusage(resource.RUSAGE_SELF)\n"
        f"heavy = [m for m in {HEAVY!r} if m in sys.modules]\n"
        "print(usage.ru_utime + usage.ru_stime, heavy, file=sys.stderr)\n"
    )
    seconds, heavy = min(
        (in_process(code).stderr.split(maxsplit=1) for _ in range(3)), key=lambda found: float(found[0])
    )
    assert heavy.strip() == "[]"
    assert float(seconds) < HELP_SECONDS


def test_every_command_explains_itself() -> None:
    names = [command.name for command in app.registered_commands]
    wanted = ["init", "check", "search", "prune", "status", "report", "pick", "verify", "list", "schema", "doctor"]
    assert names == wanted
    listing = call("--help").stdout
    for name in wanted:
        assert f"  {name} " in listing
        assert call(name, "--help").exit_code == 0


@pytest.mark.parametrize(
    "arguments",
    [["frobnicate"], ["search"], ["search", "--nonsense"], ["list", "nothing"], ["pick", "x", "--max-drop", "y"]],
)
def test_bad_usage_is_exit_2_on_stderr(arguments: list[str]) -> None:
    result = call(*arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr
    assert "Traceback" not in result.stderr


def test_an_unknown_key_is_exit_2_and_suggests_the_nearest(config: Path) -> None:
    result = call("search", config, "--name", "typo", "--set", "search.budgett=5")
    assert result.exit_code == 2
    assert result.stdout == ""
    assert "--set search.budgett=5: search.budgett: unknown key" in result.stderr
    assert "did you mean 'search.budget'?" in result.stderr
    assert sorted(p.name for p in config.parent.iterdir()) == ["run.yaml"]


def test_every_problem_of_a_configuration_is_a_line_of_its_own(config: Path) -> None:
    config.write_text("task: nothing\nspace: 3\n")
    result = call("check", config)
    lines = result.stderr.splitlines()
    assert result.exit_code == 2
    assert lines[0] == "error: 2 problems"
    assert lines[1].startswith(f"{config}:1: task: ")
    assert lines[2].startswith(f"{config}:2: space: ")
    assert lines[3].startswith("hint: ")


def test_a_traceback_comes_only_with_debug(config: Path) -> None:
    missing = config.with_name("none.yaml")
    assert "Traceback" not in call("search", missing).stderr
    result = call("--debug", "search", missing)
    assert "Traceback" in result.stderr
    assert result.exit_code == 2


def test_debug_may_stand_behind_the_command() -> None:
    result = in_process("from autoprune.cli import main; main()", "search", "none.yaml", "--debug")
    assert result.returncode == 2
    assert "Traceback" in result.stderr


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [
        (ConfigError("bad", hint="do"), 2, "error: bad\nhint: do"),
        (UnmetConstraintError("none"), 4, "error: none"),
        (OutputError("no"), 73, "error: no"),
        (StorageError("full"), 74, "error: full"),
        (
            OSError(errno.ENOSPC, "No space left on device", "results/x"),
            74,
            "error: results/x: No space left on device",
        ),
        (RunLockedError("locked"), 75, "error: locked"),
        (ValueError("odd\nsecond line"), 1, "error: unexpected ValueError: odd\nhint: Run with --debug for more."),
        (ConfigError("\x1b[2Jlayer"), 2, "error: ?[2Jlayer"),
        (KeyboardInterrupt(), 130, "stopped; what is finished is kept"),
        (TerminatedError(), 143, "stopped; what is finished is kept"),
    ],
)
def test_an_error_has_its_exit_code_and_one_message(
    error: BaseException, code: int, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert explain(error) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(says)


def test_the_guard_lets_exits_pass_and_turns_errors_into_them() -> None:
    small = typer.Typer()

    def act(kind: str) -> None:
        raise {"exit": typer.Exit(7), "error": StorageError("full"), "stop": TerminatedError()}[kind]

    small.command(cls=guard.GuardedCommand)(act)
    assert [CliRunner().invoke(small, [kind]).exit_code for kind in ("exit", "error", "stop")] == [7, 74, 143]


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_a_search_in_order(config: Path, sent: signal.Signals, code: int) -> None:
    mark = config.with_name("started")
    task = f"import pathlib, time\npathlib.Path({str(mark)!r}).touch()\ntime.sleep(120)\n"
    config.with_name("task.py").write_text(task)
    terminal = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"  # CI may start us ignoring it
    command = [sys.executable, "-c", f"{terminal}; from autoprune.cli import main; main()", "search", str(config)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=config.parent
    ) as child:
        limit = time.monotonic() + 120
        while not mark.exists() and child.poll() is None and time.monotonic() < limit:
            time.sleep(0.05)
        child.send_signal(sent)
        out, err = child.communicate(timeout=60)
    assert child.returncode == code, err
    assert out == ""
    assert "Run the same command again to go on" in err
    assert "Traceback" not in err


def test_dry_run_prints_the_effective_configuration(config: Path) -> None:
    overrides = ["--set", "search.seed=3", "--name", "other", "--dry-run"]
    again = config.with_name("again.yaml")
    again.write_text(call("search", config, *overrides).stdout)
    effective = load_config(again, environ={}).config
    assert (effective.search.seed, effective.name) == (3, "other")
    document = json.loads(call("search", config, *overrides, "--json").stdout)
    assert document["schema_version"] == "1.0"
    assert RunConfig.model_validate(document["config"]) == effective


def test_init_writes_a_valid_explained_file_and_never_overwrites(tmp_path: Path) -> None:
    path = tmp_path / "new.yaml"
    result = call("init", path, "--task", "my.py:make", "--name", "mine")
    assert result.exit_code == 0
    assert result.stdout == ""
    assert load_config(path, environ={}).config == RunConfig(task="my.py:make", name="mine")
    before = path.read_text()
    assert call("init", path).exit_code == 73
    assert path.read_text() == before
    assert call("init", tmp_path / "none" / "new.yaml").exit_code == 73
    assert call("init", tmp_path / "x.yaml", "--name", "../x").exit_code == 2
    assert not (tmp_path / "x.yaml").exists()


@pytest.mark.parametrize("kind", [k.value for k in catalog.Kind])
def test_each_list_is_one_json_document_and_a_table(kind: str) -> None:
    document = json.loads(call("list", kind, "--json").stdout)
    assert document["schema_version"] == "1.0"
    rows = document[kind]
    assert rows
    assert all(row["name"] and row["summary"] for row in rows)
    table = call("list", kind).stdout
    assert all(row["name"] in table for row in rows)


def test_lists_name_what_the_package_knows() -> None:
    def names(kind: str) -> set[str]:
        return {row["name"] for row in json.loads(call("list", kind, "--json").stdout)[kind]}

    for axis, kind in AXIS_LISTS.items():
        assert names(kind) == set(AXES[axis])
    assert names("strategies") == set(PRESETS)
    assert names("samplers") == set(get_args(SearchConfig.model_fields["sampler"].annotation)) == set(catalog.SAMPLERS)
    for target in names("targets"):
        RunConfig(task="a.py:b", latency={"targets": [target.format(batch=8, threads=2)]})


def test_every_strategy_is_listed_as_its_point_on_the_axes() -> None:
    rows = {row["name"]: row for row in json.loads(call("list", "strategies", "--json").stdout)["strategies"]}
    for name, preset in PRESETS.items():
        row = rows[name]
        assert row["axes"] == dict(preset.axes)
        assert set(row["axes"]) == set(AXES)
        assert Strategy.from_json({**row["axes"], **row["settings"]}) == Strategy.of_preset(name)
        assert (row["same_as"], row["source"], row["summary"]) == (preset.same_as, preset.source, preset.summary)
    table = " ".join(call("list", "strategies").stdout.split())
    assert "axes: criterion l2, normalization mean, scope global source: Fang et al., DepGraph, CVPR 2023" in table
    assert "same as: magnitude_l1" in table
    assert "Axes that a strategy does not name: criterion l1, normalization none, granularity channel," in table


@pytest.mark.parametrize(("axis", "kind"), AXIS_LISTS.items())
def test_the_values_of_every_axis_are_listed_with_needs_exclusions_and_source(axis: str, kind: str) -> None:
    rows = json.loads(call("list", kind, "--json").stdout)[kind]
    text = " ".join(call("list", kind).stdout.split())
    for row in rows:
        value = AXES[axis][row["name"]]
        assert (row["requires"], row["source"]) == (list(value.requires), value.source)
        assert set(row["excludes"]) >= set(value.excludes)
        for excluded, why in row["excludes"].items():
            other, _, name = excluded.partition("=")
            assert refusal({axis: row["name"], other: name}) == why
        assert value.source == "-" or f"source: {value.source}" in text


def test_an_exclusion_is_listed_on_both_sides() -> None:
    rows = {row["name"]: row for row in json.loads(call("list", "schedules", "--json").stdout)["schedules"]}
    assert "regularizer=growing_l2" in rows["dynamic"]["excludes"]
    assert "what will go is chosen anew" in rows["dynamic"]["excludes"]["regularizer=growing_l2"]
    text = " ".join(call("list", "criteria").stdout.split())
    assert "ranks: units, weights" in text
    assert "needs: batch_norm not with: granularity depth, weight, n_m, block, rank," in text


@pytest.mark.parametrize("kind", [k.value for k in catalog.Kind])
def test_lists_fit_a_terminal_of_80_columns(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from rich.console import Console

    narrow = Console(highlight=False, width=80, file=io.StringIO())
    monkeypatch.setattr(console, "output_console", lambda: narrow)
    assert call("list", kind).exit_code == 0
    assert isinstance(narrow.file, io.StringIO)
    lines = narrow.file.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    names = {row["name"] for row in json.loads(call("list", kind, "--json").stdout)[kind]}
    assert names <= {line.split()[0] for line in lines if line.strip()}
    assert len(lines) <= 12 * len(names) + 6


@pytest.mark.parametrize("name", ["front", "config", "record"])
def test_each_schema_is_a_json_schema(name: str) -> None:
    schema = json.loads(call("schema", name).stdout)
    jsonschema.Draft202012Validator.check_schema(schema)
    assert schema["type"] == "object"


def test_doctor_tells_versions_machine_and_disk(tmp_path: Path) -> None:
    document = json.loads(call("doctor", "--output", tmp_path / "new" / "results", "--json").stdout)
    assert document["versions"]["torch"]
    assert document["machine"]["memory_mib"] > 0
    assert document["disk"]["free_mib"] > 0
    assert not (tmp_path / "new").exists()
    assert "versions.python" in call("doctor").stdout


def test_values_json_cannot_hold_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="JSON"):
        console.write_json({"a": float("inf")})
    assert capsys.readouterr().out == ""


def test_a_closed_pipe_ends_quietly() -> None:
    command = f"{sys.executable} -c 'from autoprune.cli import main; main()' schema front | head -n 1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False, env=dict(os.environ))
    assert done.stdout == "{\n"
    assert "Traceback" not in done.stderr
