"""Configurations: precedence, every problem at once with its place, suggestions, digests, what forbids a resume."""

from __future__ import annotations

import hashlib
import json
import random
from pathlib import Path
from typing import Any

import pytest

from autoprune.config import (
    RunConfig,
    compare_configs,
    config_digest,
    dump_config,
    effective_config,
    load_config,
    parse_yaml,
    validate,
)
from autoprune.config.template import config_template
from autoprune.errors import ConfigError

MINIMAL = "task: task.py:make_task\n"


@pytest.fixture
def write(tmp_path: Path) -> Any:
    def write_file(text: str) -> Path:
        path = tmp_path / "run.yaml"
        path.write_text(text)
        return path

    return write_file


def problems_of(path: Path, *overrides: str, **environ: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load_config(path, overrides=overrides, environ=environ)
    return [p.replace(str(path), "run.yaml") for p in caught.value.problems]


def test_a_minimal_file_takes_every_default(write: Any) -> None:
    path = write(MINIMAL)
    loaded = load_config(path, environ={})
    assert loaded.config == RunConfig(task="task.py:make_task")
    assert loaded.base == path.parent
    unlimited = dict.fromkeys(["proxy_evaluations", "minutes", "cpu_seconds"])
    assert loaded.effective["search"]["budget"] == {"evaluations": 60, **unlimited}


def test_set_beats_environment_beats_file_beats_default(write: Any) -> None:
    path = write(MINIMAL + "search: {seed: 1, workers: 2}\n")
    variables = {"AUTOPRUNE_SEARCH__WORKERS": "3", "AUTOPRUNE_SEARCH__SAMPLER": "tpe"}
    search = load_config(path, overrides=["search.sampler=random"], environ=variables).config.search
    assert (search.seed, search.workers, search.sampler, search.budget.evaluations) == (1, 3, "random", 60)


def test_values_given_outside_the_file_are_yaml(write: Any) -> None:
    overrides = [
        "task_args={depth: 8}",
        "task_args.rate=1e-3",
        "task_args.flag=NO",
        "objectives=[accuracy, macs]",
        "search.budget.minutes=2",
        "constraints.max_drop=null",
        "name=a=b",
    ]
    with pytest.raises(ConfigError, match="name"):
        load_config(write(MINIMAL), overrides=overrides, environ={})
    config = load_config(write(MINIMAL), overrides=overrides[:-1], environ={}).config
    assert config.task_args == {"depth": 8, "rate": 1e-3, "flag": "NO"}
    assert config.objectives == ("accuracy", "macs")
    assert config.search.budget.minutes == 2.0


def test_the_last_set_of_a_path_counts(write: Any) -> None:
    loaded = load_config(
        write(MINIMAL), overrides=["search.seed=1", "search={workers: 2}", "search.seed=3"], environ={}
    )
    assert (loaded.config.search.seed, loaded.config.search.workers) == (3, 2)


def test_a_name_is_text_even_when_it_looks_like_a_number(write: Any) -> None:
    assert load_config(write(MINIMAL), name="12", environ={}).config.name == "12"
    with pytest.raises(ConfigError, match=r"^--name \.\./x: name: "):
        load_config(write(MINIMAL), name="../x", environ={})


def test_foreign_variables_are_left_alone_but_a_mistyped_one_is_an_error(write: Any) -> None:
    path = write(MINIMAL)
    load_config(path, environ={"AUTOPRUNE_PORT": "tcp://1", "AUTOPRUNE": "1", "OTHER": "x"})
    assert problems_of(path, AUTOPRUNE_SEACH__SEED="1") == [
        "environment AUTOPRUNE_SEACH__SEED: seach: unknown key; allowed: "
        + ", ".join(RunConfig.model_fields)
        + "; did you mean 'search'?"
    ]


def test_every_problem_is_reported_at_once_with_its_place(write: Any) -> None:
    path = write(
        "task: nothing\n"
        "name: ../x\n"
        "search:\n"
        "  sampler: nsga\n"
        "  budget:\n"
        "    evaluations: '5'\n"
        "    minutes: .inf\n"
        "  worker: 2\n"
        "latency:\n"
        "  targets: [onnxruntime-fp32-b32]\n"
        "objectives: [accuracy]\n"
        "constraints: {require: [accuracy>0.9], max_drop: -1, max_bytes: 0}\n"
        "recovery: {rungs: [0.5, 0.25], reduction: 1}\n"
    )
    found = problems_of(path, "search.budgett=5", "search.seed=-1", "recovery.finalists=[", AUTOPRUNE_SPACE="3")
    expected = {
        "run.yaml:1: task: 'nothing' names no factory; allowed: file.py:factory",
        "run.yaml:2: name: ",
        "run.yaml:4: search.sampler: 'nsga' is not known; allowed: autoprune, random, uniform, nsga2, tpe, gp; did you",
        "run.yaml:6: search.budget.evaluations: must be an integer; got '5'",
        "run.yaml:7: search.budget.minutes: .inf is not a finite number",
        "run.yaml:8: search.worker: unknown key",
        "run.yaml:10: latency.targets: 'onnxruntime-fp32-b32' is no target",
        "run.yaml:11: objectives: must have at least 2 items",
        "run.yaml:12: constraints.require: 'accuracy>0.9' is no requirement",
        "run.yaml:12: constraints.max_drop: must be greater than or equal to 0; got -1",
        "run.yaml:12: constraints.max_bytes: must be greater than 0; got 0",
        "run.yaml:13: recovery.rungs: rungs must rise and lie between 0 and 1",
        "run.yaml:13: recovery.reduction: must be greater than or equal to 2; got 1",
        "--set search.budgett=5: search.budgett: unknown key",
        "--set search.seed=-1: search.seed: must be greater than or equal to 0; got -1",
        "--set recovery.finalists=[: recovery.finalists: not valid YAML",
        "environment AUTOPRUNE_SPACE: space: must be text; got 3",
    }
    missing = [start for start in expected if not any(p.startswith(start) for p in found)]
    assert not missing, found
    assert len(found) == len(expected), found


@pytest.mark.parametrize(
    ("override", "suggestion"),
    [
        ("search.budgett=5", "search.budget"),
        ("serach.seed=5", "search"),
        ("evaluations=5", "search.budget.evaluations"),
        ("search.minutes=5", "search.budget.minutes"),
        ("latency.target=[a]", "latency.targets"),
        ("recovery.final_rounds=5", "latency.final_rounds"),
    ],
)
def test_an_unknown_key_suggests_the_nearest_one(write: Any, override: str, suggestion: str) -> None:
    (problem,) = problems_of(write(MINIMAL), override)
    assert problem.endswith(f"; did you mean '{suggestion}'?")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "run.yaml:1: task: is missing; give file.py:factory"),
        ("- 1\n", "run.yaml:1: must be a mapping"),
        ("name: x\n", "run.yaml:1: task: is missing"),
        (MINIMAL + "search: 5\n", "run.yaml:2: search: must be a mapping of keys; got 5; allowed: sampler"),
        (MINIMAL + "search:\n", "run.yaml:2: search: must be a mapping of keys; got nothing"),
        (MINIMAL + "search: {workers: true}\n", "run.yaml:2: search.workers: must be an integer; got True"),
        (MINIMAL + "search: {workers: 1.0e1}\n", "run.yaml:2: search.workers: must be an integer; got 10.0"),
        (MINIMAL + "groups: {protect: fc}\n", "run.yaml:2: groups.protect: must be a list; got 'fc'"),
        (MINIMAL + "groups:\n  only: [a,\n    5]\n", "run.yaml:4: groups.only.1: must be text; got 5"),
        (MINIMAL + "latency: {targets: []}\n", "run.yaml:2: latency.targets: must have at least 1 item"),
        (MINIMAL + "objectives: [accuracy, accuracy]\n", "run.yaml:2: objectives: objectives must differ"),
        (MINIMAL + 'name: "a\\n"\n', "run.yaml:2: name: "),
        (MINIMAL + "output: ''\n", "run.yaml:2: output: "),
    ],
)
def test_one_problem_names_place_and_remedy(write: Any, text: str, says: str) -> None:
    (problem,) = problems_of(write(text))
    assert problem.startswith(says), problem


@pytest.mark.parametrize("override", ["", "search.seed", "=5", ".=5", "search..seed=1", "search.seed.x=1", "name.x=1"])
def test_a_malformed_set_is_one_problem(write: Any, override: str) -> None:
    (problem,) = problems_of(write(MINIMAL), override)
    assert problem.startswith(f"--set {override}: ")


def test_terminal_control_characters_never_reach_a_message(write: Any) -> None:
    (problem,) = problems_of(write(MINIMAL + '"\\e[2Jx": 1\n'))
    assert "\x1b" not in problem
    (problem,) = problems_of(write(MINIMAL), 'search.sampler="\\e[2J"')
    assert "\x1b" not in problem


def test_fuzzed_overrides_are_taken_or_refused_but_never_crash(write: Any) -> None:
    path, rng = write(MINIMAL), random.Random(0)
    keys = [
        "name",
        "task",
        "search",
        "search.seed",
        "search.budget",
        "latency.targets",
        "objectives.0",
        "x",
        "groups.only",
    ]
    values = [
        "5",
        "-1",
        "[]",
        "{}",
        "null",
        "1e400",
        "[a, b]",
        "{seed: 1}",
        "&a 1",
        "'",
        "true",
        "9" * 500,
        "1e308",
        "\t",
    ]
    for _ in range(300):
        overrides = [f"{rng.choice(keys)}={rng.choice(values)}" for _ in range(rng.randint(1, 4))]
        problems = ["none"]
        try:
            load_config(path, overrides=overrides, environ={})
        except ConfigError as error:
            problems = list(error.problems)
        assert problems


def test_the_template_is_the_defaults_explained(write: Any) -> None:
    config = RunConfig(name="null", task="my task.py:make_task")
    text = config_template(config)
    assert load_config(write(text), environ={}).config == config
    fields = [line for line in text.splitlines() if not line.startswith("#")]
    assert all("#" in line for line in fields)


def test_a_space_is_validated_by_the_same_rules() -> None:
    with pytest.raises(ConfigError, match=r"s:2: constraints\.max_dropp: unknown key.*mean 'constraints\.max_drop'"):
        validate(RunConfig, parse_yaml("task: a.py:b\nconstraints: {max_dropp: 1}", source="s"))


def test_equal_configurations_have_equal_digests(write: Any) -> None:
    one = load_config(write(MINIMAL + "search: {seed: 0}\n"), environ={}).config
    two = load_config(write("search: {seed: 0x0}\n" + MINIMAL), environ={}).config
    assert config_digest(one) == config_digest(two) == config_digest(RunConfig(task="task.py:make_task"))
    assert config_digest(one) != config_digest(
        load_config(write(MINIMAL), overrides=["search.seed=1"], environ={}).config
    )
    assert len(config_digest(one)) == 64


def test_the_digest_of_a_configuration_that_is_older_than_a_section_stays_what_it_was() -> None:
    config = RunConfig(task="a.py:b")
    older = {key: value for key, value in effective_config(config).items() if key != "robustness"}
    older["groups"] = {key: value for key, value in older["groups"].items() if key != "query_heads"}
    text = json.dumps(older, sort_keys=True, separators=(",", ":"))
    assert config_digest(config) == hashlib.sha256(text.encode()).hexdigest()
    off = RunConfig.model_validate({"task": "a.py:b", "robustness": {"units": 0}})
    known = json.dumps(older | {"robustness": {"units": 0}}, sort_keys=True, separators=(",", ":"))
    assert config_digest(off) == hashlib.sha256(known.encode()).hexdigest()
    for change in ({"robustness": {"pictures": False}}, {"groups": {"query_heads": True}}):
        changed = RunConfig.model_validate({"task": "a.py:b"} | change)
        assert config_digest(changed) != config_digest(config)


def effective(**changes: Any) -> dict[str, Any]:
    budget = {"minutes": 5, "cpu_seconds": 60, "proxy_evaluations": 10}
    plain = effective_config(RunConfig(task="a.py:b", task_args={"depth": 2}, search={"budget": budget}))
    for dotted, value in changes.items():
        *parents, key = dotted.split("__")
        node = plain
        for parent in parents:
            node = node[parent]
        node[key] = value
    return plain


@pytest.mark.parametrize(
    "changes",
    [
        {"search__budget__evaluations": 600},
        {"search__budget__minutes": 6.0},
        {"search__budget__minutes": None},
        {"search__budget__cpu_seconds": 90.0},
        {"search__budget__proxy_evaluations": None},
        {"search__budget__proxy_evaluations": 20},
        {"search__workers": 4},
        {"search__plateau": False},
        {"search__controls": 8},
        {"recovery__seeds": 5},
        {"output": "elsewhere"},
        {"name": "other"},
        {"executor__kind": "ray"},
    ],
)
def test_a_larger_budget_and_other_means_may_resume(changes: dict[str, Any]) -> None:
    assert compare_configs(effective(), effective(**changes)) == []


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"search__budget__evaluations": 5}, "search.budget.evaluations: was 60, is 5"),
        ({"search__budget__minutes": 4.0}, "search.budget.minutes: was 5.0, is 4.0"),
        ({"search__budget__cpu_seconds": 30.0}, "search.budget.cpu_seconds: was 60.0, is 30.0"),
        ({"search__budget__proxy_evaluations": 0}, "search.budget.proxy_evaluations: was 10, is 0"),
        ({"recovery__seeds": 1}, "recovery.seeds: was 3, is 1"),
        ({"search__seed": 1}, "search.seed: was 0, is 1"),
        ({"search__sampler": "tpe"}, "search.sampler: was autoprune, is tpe"),
        ({"task": "c.py:d"}, "task: was a.py:b, is c.py:d"),
        ({"task_args": {"depth": 3}}, "task_args.depth: was 2, is 3"),
        ({"task_args": {}}, "task_args.depth: was 2, is null"),
        ({"space": "mixed"}, "space: was channels, is mixed"),
        ({"groups__protect": ["fc"]}, "groups.protect: was [], is ['fc']"),
        ({"recovery__short_steps": 1}, "recovery.short_steps: was 60, is 1"),
        ({"objectives": ["accuracy", "macs"]}, "objectives: was ['accuracy', 'latency_ms'], is ['accuracy', 'macs']"),
        ({"latency__targets": ["torch-eager-fp32-b1-t1"]}, "latency.targets: was"),
        ({"latency__rounds": 31}, "latency.rounds: was 30, is 31"),
        ({"constraints__max_drop": 0.1}, "constraints.max_drop: was null, is 0.1"),
    ],
)
def test_another_experiment_may_not_resume(changes: dict[str, Any], says: str) -> None:
    (difference,) = compare_configs(effective(), effective(**changes))
    assert difference.startswith(says)


def test_a_saved_configuration_does_not_differ_from_itself() -> None:
    config = RunConfig(task="a.py:b", task_args={"x": [1e-7, "1e-7", None, {"y": "NO"}]})
    saved = parse_yaml(dump_config(config), source="s").data
    assert compare_configs(saved, effective_config(config)) == []
    assert json.dumps(saved) == json.dumps(effective_config(config))
