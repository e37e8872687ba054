"""`autoprune search --cluster` on two nodes: the same run directory, front and report as on one machine."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from cluster_nodes import FIRST, ROOT, SECOND, TwoNodes, missing

from autoprune.records import RecordStore
from autoprune.report.document import read_front

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing())

CONFIG = """
name: tiny
task: {tests}/tiny.py:make_task
search: {{sampler: autoprune, controls: 1, plateau: false, budget: {{evaluations: 6, proxy_evaluations: 8}}}}
recovery: {{short_steps: 4, full_steps: 4, finalists: 2, seeds: 1, proxy_images: 64}}
latency: {{targets: [torch-eager-fp32-b4-t1], rounds: 5, final_rounds: 5}}
executor: {{threads: 1}}
output: {output}
"""
FILES = {"config.yaml", "environment.json", "events.jsonl", "study.db", "front.json", "front.csv", "report.html"}


def test_a_search_uses_both_nodes_and_leaves_the_run_directory_of_a_local_one(tmp_path: Path) -> None:
    config = tmp_path / "tiny.yaml"
    config.write_text(CONFIG.format(tests=ROOT / "tests", output=tmp_path / "results"))
    run = tmp_path / "results" / "tiny"
    nodes = TwoNodes.up(tmp_path / "nodes")
    try:
        given = ["search", str(config), "--cluster", nodes.address, "--workers", "2"]
        command = nodes.command(sys.executable, "-m", "autoprune", *given)
        searched = subprocess.run(command, capture_output=True, text=True, check=False, timeout=280)
        assert searched.returncode == 0, searched.stderr[-3000:]
    finally:
        nodes.down()
    assert {path.name for path in run.iterdir()} >= FILES
    records = RecordStore(run).load_all()
    hosts = Counter(record.host for record in records if record.number)
    assert set(hosts) == {FIRST, SECOND}
    assert {record.state for record in records} <= {"complete", "stopped"}
    front = read_front(run)
    assert front.members
    for member in front.members:
        verify = ["-m", "autoprune", "verify", str(run / member.directory)]
        assert subprocess.run([sys.executable, *verify], check=False, timeout=120).returncode == 0
