"""The phases of a whole run: untrained, briefly recovered, controls, finalists with several seeds, one front."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import optuna
import pytest

from autoprune.config import LoadedConfig, RunConfig, load_config, read_yaml
from autoprune.config.model import RecoveryConfig
from autoprune.errors import ConfigError
from autoprune.records import CandidateRecord, RecordStore
from autoprune.report.document import FrontDocument
from autoprune.search import SilentCallback, read_status
from autoprune.search.callbacks import Progress, RunInfo
from autoprune.search.check import check
from autoprune.search.directory import EVENTS_FILE, RunDirectory, read_events
from autoprune.search.run import run

TESTS = Path(__file__).parent
CONFIG = """
name: tiny
task: {tests}/tiny.py:make_task
search:
  sampler: autoprune
  controls: 1
  plateau: false
  budget: {{evaluations: 8, proxy_evaluations: 10}}
recovery: {{short_steps: 8, full_steps: 8, finalists: 2, seeds: 2, rungs: [0.5], proxy_images: 64}}
latency: {{targets: [torch-eager-fp32-b4-t1], rounds: 5, final_rounds: 5}}
executor: {{threads: 1}}
output: {output}
"""


def load(folder: Path, *overrides: str) -> LoadedConfig:
    path = folder / "tiny.yaml"
    path.write_text(CONFIG.format(tests=TESTS, output=folder / "results"))
    return load_config(path, overrides=overrides, environ={})


class Watcher(SilentCallback):
    def __init__(self) -> None:
        self.started: list[RunInfo] = []
        self.progress: list[Progress] = []

    def on_search_start(self, info: RunInfo) -> None:
        self.started.append(info)

    def on_candidate_end(self, record: CandidateRecord, progress: Progress) -> None:
        self.progress.append(progress)


Finished = tuple[Path, FrontDocument, Watcher, list[CandidateRecord]]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    folder = tmp_path_factory.mktemp("learned")
    watcher = Watcher()
    front = run(load(folder), callbacks=[watcher]).front
    directory = folder / "results" / "tiny"
    return directory, front, watcher, RecordStore(directory).load_all()


def test_every_phase_spends_its_own_budget(finished: Finished) -> None:
    _, front, watcher, records = finished
    own = [r for r in records if r.number > 0 and not r.is_control]
    assert Counter(r.fidelity for r in own) == {"proxy": 10, "short": 8, "full": 4}
    stages = list(dict.fromkeys(p.stage for p in watcher.progress))
    assert [s for s in stages if s != "controls"] == ["proxy", "search", "finalists"]
    assert watcher.started[0].proxy_evaluations == 10
    assert front.evaluations.proxy == 10
    assert front.evaluations.short + front.evaluations.stopped == 8
    assert front.ended_because == "evaluations"


def test_untrained_candidates_are_recalibrated_and_timed_but_not_trained(finished: Finished) -> None:
    *_, records = finished
    proxies = [r for r in records if r.fidelity == "proxy"]
    assert {r.policy["strategy"]["recovery"] for r in proxies} == {"recalibrate"}
    assert all(r.values["latency_ms"] > 0 for r in proxies if r.state == "complete")
    assert all(not r.reports for r in proxies)


def test_numbers_are_unique_over_phases_and_origins_are_known(finished: Finished) -> None:
    *_, records = finished
    first = [r for r in records if r.number > 0 and r.fidelity != "full"]
    assert sorted(r.number for r in first) == list(range(1, len(first) + 1))
    assert all(r.origin for r in first)
    assert {r.origin for r in records if r.fidelity == "full" and r.number > 0 and not r.is_control} == {"finalist"}


def test_briefly_recovered_candidates_report_at_their_rung(finished: Finished) -> None:
    *_, records = finished
    shorts = [r for r in records if r.fidelity == "short" and not r.is_control and r.policy["sparsity"]]
    assert all([p.step for p in r.reports] == [4] for r in shorts if r.state != "failed")
    for record in shorts:
        if record.state == "stopped":
            assert record.values == {}
            assert set(record.evaluation or {}) == {"cost"}


def test_finalists_recover_with_several_seeds_and_only_they_reach_the_front(finished: Finished) -> None:
    _, front, _, records = finished
    full = [r for r in records if r.fidelity == "full" and r.number > 0 and not r.is_control]
    assert Counter(r.repeat for r in full) == {0: 2, 1: 2}
    assert len({r.seed for r in full}) == 4
    assert len({r.digest for r in full}) == 2
    assert {m.id for m in front.members} <= {r.id for r in full}
    for member in front.members:
        spread = member.seed_spread["accuracy"]
        values = sorted(r.values["accuracy"] for r in full if r.digest == member.policy_digest)
        assert sorted(spread.values) == values
        chosen = next(r for r in full if r.id == member.id)
        assert chosen.values["accuracy"] == values[0]


def test_controls_are_measured_apart_from_the_search(finished: Finished) -> None:
    directory, front, _, records = finished
    controls = [r for r in records if r.is_control]
    assert controls
    assert front.evaluations.controls == sum(r.state == "complete" for r in controls)
    study = optuna.load_study(study_name="tiny", storage=f"sqlite:///{directory / 'study.db'}")
    shorts = [r for r in records if r.fidelity == "short" and not r.is_control]
    assert {t.user_attrs["candidate_id"] for t in study.trials} == {r.id for r in shorts}
    assert not {m.id for m in front.members} & {r.id for r in controls}


def test_status_tells_of_every_stage(finished: Finished) -> None:
    directory, _, _, records = finished
    status = read_status(directory)
    assert (status.stage, status.state) == ("finalists", "finished")
    assert status.controls == sum(r.is_control and r.state == "complete" for r in records)
    assert set(status.picks.values()) <= {i for i, _ in status.front}


def test_events_tell_why_each_phase_ended(finished: Finished) -> None:
    directory, *_ = finished
    ended = [e for e in read_events(directory / EVENTS_FILE) if e["event"] == "phase_ended"]
    assert [(e["fidelity"], e["because"]) for e in ended] == [("proxy", "evaluations"), ("short", "evaluations")]


def test_a_larger_budget_and_more_seeds_continue_a_finished_run(finished: Finished, tmp_path: Path) -> None:
    directory, _, _, before = finished
    budget = ["search.budget.evaluations=9", "recovery.seeds=3"]
    run(load(directory.parent.parent, *budget))
    after = RecordStore(directory).load_all()
    assert {r.id: r.created for r in after if r.id in {b.id for b in before}} == {b.id: b.created for b in before}
    own = [r for r in after if not r.is_control]
    assert Counter(r.fidelity for r in own)["short"] == 9
    assert Counter(r.fidelity for r in own)["proxy"] == 10
    assert max(r.repeat for r in own) == 2
    with pytest.raises(ConfigError, match=r"recovery\.rungs"):
        run(load(directory.parent.parent, *budget, "recovery.rungs=[0.25]"))


def test_a_run_whose_saved_configuration_lacks_newer_keys_may_be_continued(tmp_path: Path) -> None:
    directory, config = RunDirectory(tmp_path / "old"), RunConfig(task="a.py:b")
    directory.create()
    directory.prepare(config, {"identity": {}}, accept_changes=False)
    saved = read_yaml(directory.path / "config.yaml").data
    del saved["search"]["controls"], saved["recovery"]["seeds"], saved["search"]["budget"]["cpu_seconds"]
    (directory.path / "config.yaml").write_text(json.dumps(saved))
    directory.prepare(config, {"identity": {}}, accept_changes=False)
    changed = config.model_copy(update={"recovery": RecoveryConfig(rungs=(0.5,))})
    with pytest.raises(ConfigError, match=r"recovery\.rungs"):
        directory.prepare(changed, {"identity": {}}, accept_changes=False)


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["constraints.max_parameters=10"], "parameters<=10 cannot be reached: parameters range from"),
        (["constraints.max_bytes=10"], "bytes<=10 cannot be reached"),
        (["constraints.require=['accuracy>=1.5']"], "accuracy>=1.5 cannot be reached: accuracy lies between 0 and 1"),
        (["constraints.require=['macs<=1']"], "macs<=1 cannot be reached"),
        (["constraints.require=['latency_ms<=1e-6']"], "latency_ms<=1e-06 cannot be reached: on torch-eager"),
        (["constraints.require=['cross_entropy<=-1']"], "lies between 0 and inf"),
    ],
)
def test_a_constraint_that_no_policy_can_meet_is_refused_with_the_reachable_range(
    tmp_path: Path, overrides: list[str], says: str
) -> None:
    for act in (run, check):
        with pytest.raises(ConfigError) as raised:
            act(load(tmp_path, *overrides))
        assert says in str(raised.value)
        assert raised.value.exit_code == 2
    assert not (tmp_path / "results").exists()
