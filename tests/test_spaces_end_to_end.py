"""Every ready-made space in one whole small search: configuration -> front, on the net that it is meant for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from autoprune.compatibility import check_policy
from autoprune.config import load_config
from autoprune.errors import ConfigError
from autoprune.policy import Policy
from autoprune.records import RecordStore
from autoprune.search.check import load_checked_task, setup_of
from autoprune.search.run import run
from autoprune.search.workbench import Workbench
from autoprune.space import list_spaces

TESTS = Path(__file__).parent
CONFIG = """
name: small
task: {tests}/{task}.py:make_task
space: {space}
objectives: [accuracy, {cost}]
search: {{sampler: {sampler}, seed: 0, budget: {{evaluations: 4, proxy_evaluations: 0}}, warm_start: 1, controls: 0}}
recovery: {{short_steps: 4, full_steps: 6, finalists: 2, seeds: 1, proxy_images: 64}}
latency: {{targets: [torch-eager-fp32-b4-t1], rounds: 5, final_rounds: 5}}
output: {output}
"""


@dataclass(frozen=True)
class Case:
    """The net that a space is meant for, and the cost that it lowers.

    Args:
        task: Module of the tests that makes the task.
        cost: An objective that the space changes.
        refused: One that it does not.
    """

    task: str
    cost: str
    refused: str | None = None


CASES = {
    "quickstart": Case("tiny", "macs"),
    "channels": Case("tiny", "macs"),
    "mixed": Case("tiny", "macs"),
    "heads_and_ffn": Case("vit_task", "parameters"),
    "depth": Case("vit_task", "macs"),
    "unstructured": Case("tiny", "nonzero", refused="latency_ms"),
    "nm_2_4": Case("tiny", "nonzero", refused="macs"),
}


def config_file(folder: Path, space: str, *, cost: str | None = None, sampler: str = "random") -> Path:
    case, path = CASES[space], folder / "small.yaml"
    text = CONFIG.format(
        tests=TESTS, task=case.task, space=space, cost=cost or case.cost, sampler=sampler, output=folder / "results"
    )
    path.write_text(text)
    return path


def test_every_ready_made_space_is_searched_here() -> None:
    assert set(CASES) == set(list_spaces())


@pytest.mark.parametrize("sampler", [pytest.param("random", marks=pytest.mark.slow), "autoprune"])
@pytest.mark.parametrize("space", sorted(CASES))
def test_a_ready_made_space_is_searched_to_its_front(space: str, sampler: str, tmp_path: Path) -> None:
    loaded = load_config(config_file(tmp_path, space, sampler=sampler), environ={})
    front = run(loaded).front
    case = CASES[space]
    bench = Workbench(setup_of(loaded, load_checked_task(loaded)[0]))
    records = [r for r in RecordStore(tmp_path / "results" / "small").load_all() if r.number > 0]
    short = [r for r in records if r.fidelity == "short"]
    assert len(short) == 4
    assert {r.state for r in records} == {"complete"}
    assert len({r.digest for r in short}) == 4
    for record in records:
        check_policy(bench.groups, Policy.from_json(record.policy))
    assert front.members
    assert min(getattr(member, case.cost) for member in front.members) < getattr(front.baseline, case.cost)


@pytest.mark.parametrize("space", [name for name, case in CASES.items() if case.refused])
def test_a_cost_that_zeros_in_place_do_not_change_is_refused_before_any_time_is_spent(
    space: str, tmp_path: Path
) -> None:
    loaded = load_config(config_file(tmp_path, space, cost=CASES[space].refused), environ={})
    with pytest.raises(ConfigError, match="zeros stay in place and make nothing faster"):
        run(loaded)
    assert not (tmp_path / "results").exists()
