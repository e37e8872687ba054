"""What has to hold of a run's directory at any moment, and what makes two runs the same."""

from __future__ import annotations

import json
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from acts import write_config
from stage import Act, Stage

from autoprune.config import RunConfig, read_yaml, validate
from autoprune.records import RecordStore
from autoprune.records.store import QUARANTINE
from autoprune.report.document import read_front
from autoprune.storage import verify_directory

HIDDEN = "."
TIMES = ("seconds", "cpu_seconds", "created", "host")
KNOWN = {
    "candidates",
    "config.yaml",
    "environment.json",
    "events.jsonl",
    "front",
    "front.csv",
    "front.json",
    "front.md",
    "pictures.json",
    "report.html",
    "run.lock",
    "study.db",
    "study.db-journal",
}


def assert_whole(run: Path) -> None:
    """Nothing visible is half written; call it between a kill and the next call of the run."""
    if not run.exists():
        return
    names = {p.name for p in run.iterdir() if not p.name.startswith(HIDDEN)}
    assert names <= KNOWN
    for folder in ("candidates", "front"):
        for entry in (run / folder).iterdir() if folder in names else ():
            assert entry.name.startswith(HIDDEN) or verify_directory(entry) == [], entry
    if "config.yaml" in names:
        validate(RunConfig, read_yaml(run / "config.yaml"))
    if "environment.json" in names:
        assert json.loads((run / "environment.json").read_bytes())["identity"]
    if "front.json" in names:
        front = read_front(run)
        assert front.members
    if "report.html" in names:
        assert (run / "report.html").read_text().rstrip().endswith("</html>")


def finished_records(run: Path) -> dict[str, bytes]:
    """Return id -> content of every finished candidate, read without touching anything."""
    found = (p for p in (run / "candidates").glob("*/record.json") if not p.parent.name.startswith("."))
    return {path.parent.name: path.read_bytes() for path in found}


@dataclass
class Watched:
    """A run of the command line whose calls are held to the promises: what is finished stays and is not begun again."""

    stage: Stage
    folder: Path
    overrides: tuple[str, ...] = ()
    settings: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.config = write_config(self.folder)
        self.journal = self.folder / "journal"
        self.directory = self.folder / "results" / "tiny"

    def begun(self) -> Counter[str]:
        return Counter(self.journal.read_text().split()) if self.journal.exists() else Counter()

    def start(self, fault: str = "", **settings: Any) -> Act:
        usual = {"journal": str(self.journal), "overrides": self.overrides, "fault": fault}
        return self.stage.start("search", config=str(self.config), **usual | self.settings | settings)

    def call(self, fault: str = "", *, kill_after_s: float | None = None, **settings: Any) -> tuple[int, str]:
        """Call the run once and return its exit status and its stderr."""
        finished, before = finished_records(self.directory), self.begun()
        act = self.start(fault, **settings)
        if kill_after_s is not None:
            time.sleep(kill_after_s)
            act.kill()
        status, said = act.wait(), act.err.read_text()
        assert "Traceback" not in said, said
        after, begun = finished_records(self.directory), self.begun()
        assert {name: after.get(name) for name in finished} == finished
        assert all(begun[name] == before[name] for name in finished)
        assert all(times - before[name] <= 1 for name, times in begun.items())
        assert_whole(self.directory)
        assert not (self.directory / "candidates" / QUARANTINE).exists()
        return status, said

    def finish(self) -> dict[str, Any]:
        """Call the run to its end and return its essence."""
        self.end()
        numbers = [r.number for r in RecordStore(self.directory).load_all() if r.fidelity != "full"]
        assert numbers == list(range(1, len(numbers) + 1))
        assert set(self.begun()) == set(finished_records(self.directory))
        return essence(self.directory)

    def end(self) -> None:
        """Call the run to its end, wherever its candidates are evaluated."""
        status, said = self.call()
        assert status == 0, said
        records = RecordStore(self.directory).load_all()
        assert {r.id for r in records} == set(finished_records(self.directory))
        assert max(Counter((r.digest, r.fidelity, r.repeat) for r in records).values()) == 1
        numbers = [r.number for r in records if r.fidelity != "full"]
        assert len(numbers) == len(set(numbers))
        assert read_front(self.directory).members


def essence(run: Path) -> dict[str, Any]:
    """Return everything of a run that its seed decides: candidates in order with all that is known, and the front."""
    records = [r.to_json() for r in RecordStore(run).load_all()]
    for record in records:
        for name in TIMES:
            del record[name]
        if record["evaluation"]:
            record["evaluation"].pop("seconds", None)
    front = read_front(run).to_json()
    for name in ("wall_seconds", "cpu_seconds", "examination", "created"):
        front.pop(name, None)
    for name in ("test_reads", "config_sha256"):  # an interrupted emission reads again; the output has another path
        front["provenance"].pop(name)
    weights = {p.parent.name: p.read_bytes() for p in sorted((run / "front").glob("*/model.safetensors"))}
    return {"records": records, "front": front, "weights": weights}


def differences(one: Any, other: Any, where: str = "") -> list[str]:
    """Return where two plain values differ, and how."""
    if isinstance(one, dict) and isinstance(other, dict):
        keys = sorted(one.keys() | other.keys())
        return [d for k in keys for d in differences(one.get(k), other.get(k), f"{where}.{k}")]
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        return [d for i, pair in enumerate(zip(one, other, strict=True)) for d in differences(*pair, f"{where}[{i}]")]
    return [] if one == other else [f"{where}: {one!r:.80} is not {other!r:.80}"]
