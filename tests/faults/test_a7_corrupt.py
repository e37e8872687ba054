"""A7: every altered file is found, or does no harm; what is found is put aside, told of once and made again.

Records and emitted models are held to their manifests, `front.json` and the events to their own digests, `study.db` to
the records, the configuration to the one that is given. The short form alters 200 files, the slow one 2,000.
"""

from __future__ import annotations

import json
import logging
import random
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from checks import Watched, assert_whole, differences, essence, finished_records
from record_factory import numbered
from stage import Stage
from test_study_index import DIRECTIONS, OBJECTIVES, loaded, proposed

from autoprune.artifacts import load, verify
from autoprune.config import load_config
from autoprune.errors import ArtifactError, ConfigError, StorageError
from autoprune.records import RecordStore
from autoprune.report.document import read_front
from autoprune.search import read_status
from autoprune.search.directory import EVENTS_FILE, EventLog, RunDirectory, ended_well, read_events, total_times
from autoprune.search.study import StudyIndex
from autoprune.storage import verify_directory

KINDS = ("flip", "truncate", "append", "swap", "blank", "repeat", "empty", "delete")


def mutate(path: Path, rng: random.Random, kinds: tuple[str, ...] = KINDS) -> None:
    """Alter a file in one of the ways in which files go bad; its bytes are others afterwards."""
    before = path.read_bytes()
    while True:
        kind = rng.choice(kinds)
        if kind == "delete":
            path.unlink()
            return
        data = altered(bytearray(before), kind, rng)
        if data != before:
            path.write_bytes(data)
            return


def altered(data: bytearray, kind: str, rng: random.Random) -> bytes:
    spot = rng.randrange(len(data))
    if kind == "flip":
        data[spot] ^= 1 << rng.randrange(8)
    elif kind == "truncate":
        del data[spot:]
    elif kind == "append":
        data += rng.randbytes(rng.randint(1, 9))
    elif kind == "swap":
        other = rng.randrange(len(data))
        data[spot], data[other] = data[other], data[spot]
    elif kind == "blank":
        data[spot : spot + 512] = bytes(len(data[spot : spot + 512]))
    elif kind == "repeat":
        data[spot:spot] = data[spot : spot + 64]
    else:
        data.clear()
    return bytes(data)


def copies(source: Path, folder: Path, count: int) -> Iterator[Path]:
    """Yield fresh copies of a file or a directory, one at a time at the same path."""
    target = folder / source.name
    for _ in range(count):
        if source.is_dir():
            shutil.copytree(source, target)
            yield target
            shutil.rmtree(target)
        else:
            shutil.copy(source, target)
            yield target
            target.unlink(missing_ok=True)


def check_records(folder: Path, count: int, rng: random.Random, caplog: pytest.LogCaptureFixture) -> None:
    store = RecordStore(folder)
    files = {"plan.json": b"[1, 2]", "model.safetensors": rng.randbytes(2000)}
    for number in range(count + 10):
        directory = store.write(numbered(number), files)
        if number % 7 == 6 and number < count:
            (directory / f"new{number}").write_bytes(b"")
        elif number < count:
            mutate(rng.choice(sorted(directory.iterdir())), rng)
    with caplog.at_level(logging.WARNING, logger="autoprune"):
        assert [r.number for r in store.load_all()] == list(range(count, count + 10))
        assert len(caplog.records) == count
        caplog.clear()
        assert len(store.load_all()) == 10
        assert not caplog.records
    assert len(list((store.directory / ".quarantine").iterdir())) == count


def check_members(run: Path, folder: Path, count: int, rng: random.Random) -> None:
    source, dense = min((run / "front").iterdir()), tiny.TinyNet()
    whole = load(source, dense).state_dict()
    for member in copies(source, folder, count):
        mutate(rng.choice(sorted(member.iterdir())), rng)
        with suppress(ArtifactError):
            assert not verify(member).ok
        with suppress(ArtifactError):  # the card is not needed
            assert all(torch.equal(value, whole[name]) for name, value in load(member, dense).state_dict().items())


def check_front(run: Path, folder: Path, count: int, rng: random.Random) -> None:
    before = read_front(run)
    for file in copies(run / "front.json", folder, count):
        mutate(file, rng)
        with suppress(StorageError):
            assert read_front(file) == before  # a blank more or less


def check_events(run: Path, folder: Path, count: int, rng: random.Random) -> None:
    before = read_events(run / EVENTS_FILE)
    for file in copies(run / EVENTS_FILE, folder, count):
        mutate(file, rng)
        strange = [event for event in read_events(file) if event not in before]
        assert strange in ([], strange[:1])  # a line before the first checksum is that of an earlier version
        assert all(before[0].items() <= event.items() for event in strange)
        assert ended_well(file) in (True, False)
        assert all(0.0 <= seconds < 600.0 for seconds in total_times(file))
        log = EventLog(file)
        log.add("test_read", id="x")
        assert read_events(file)[-1]["id"] == "x"


def check_index(folder: Path, count: int, rng: random.Random) -> None:
    records = [proposed(number) for number in range(4)]
    sound = folder / "sound" / "study.db"
    index = StudyIndex(sound, "digits", DIRECTIONS, OBJECTIVES)
    index.sync(records[:3])
    index.close()
    expected = [(t.values, t.params, t.user_attrs["candidate_id"]) for t in loaded(sound).trials]
    for file in copies(sound, folder, count):
        mutate(file, rng)
        index = StudyIndex(file, "digits", DIRECTIONS, OBJECTIVES)
        index.sync(records[:3])
        index.close()
        assert [(t.values, t.params, t.user_attrs["candidate_id"]) for t in loaded(file).trials] == expected


def check_configuration(run: Watched, folder: Path, count: int, rng: random.Random) -> None:
    """An altered configuration or description of a run is refused with a message, or changes nothing."""
    config = load_config(run.config, environ={}).config
    identity = json.loads((run.directory / "environment.json").read_bytes())["identity"]
    shutil.copytree(run.directory, folder / "run")
    for number in range(count):
        name = ("config.yaml", "environment.json")[number % 2]
        shutil.copy(run.directory / name, folder / "run" / name)
        mutate(folder / "run" / name, rng, KINDS[:-1])
        with suppress(ConfigError):
            assert read_status(folder / "run").members > 0
        with suppress(ConfigError):
            RunDirectory(folder / "run").prepare(config, {"identity": identity}, accept_changes=False)
        shutil.copy(run.directory / "config.yaml", folder / "run" / "config.yaml")


@dataclass(frozen=True)
class Share:
    """How many files of a kind are altered."""

    records: int
    members: int
    fronts: int
    events: int
    indices: int
    configurations: int

    @property
    def total(self) -> int:
        return sum(vars(self).values())


SHORT = Share(records=110, members=20, fronts=30, events=20, indices=8, configurations=12)
LONG = Share(records=1000, members=250, fronts=300, events=200, indices=100, configurations=150)


def alter_files(share: Share, run: Watched, folder: Path, caplog: pytest.LogCaptureFixture) -> int:
    rng = random.Random(0)
    checks: list[Callable[[Path], Any]] = [
        lambda to: check_records(to, share.records, rng, caplog),
        lambda to: check_members(run.directory, to, share.members, rng),
        lambda to: check_front(run.directory, to, share.fronts, rng),
        lambda to: check_events(run.directory, to, share.events, rng),
        lambda to: check_index(to, share.indices, rng),
        lambda to: check_configuration(run, to, share.configurations, rng),
    ]
    for number, check in enumerate(checks):
        (folder / str(number)).mkdir()
        check(folder / str(number))
    return share.total


def test_each_of_200_altered_files_is_found_or_harmless(
    undisturbed: Watched, ram: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert alter_files(SHORT, undisturbed, ram, caplog) == 200


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_each_of_2000_altered_files_is_found_or_harmless(
    undisturbed: Watched, ram: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert alter_files(LONG, undisturbed, ram, caplog) == 2000


def alter_runs(stage: Stage, undisturbed: Watched, folder: Path, runs: int) -> int:
    """Alter files of finished runs, four at once, and return how many; the same command makes good what is lost."""
    expected, before = essence(undisturbed.directory), finished_records(undisturbed.directory)
    rng, altered = random.Random(1), 0
    for number in range(runs):
        (folder / str(number)).mkdir()
        run = Watched(stage, folder / str(number))
        shutil.copytree(undisturbed.directory, run.directory)
        kept = {"config.yaml", "environment.json", "run.lock"}
        files = [p for p in sorted(run.directory.rglob("*")) if p.is_file() and p.name not in kept]
        for path in rng.sample(files, 4):
            mutate(path, rng)
            altered += 1
        lost = {name for name in before if verify_directory(run.directory / "candidates" / name)}
        status, said = stage.play(
            "search", config=str(undisturbed.config), overrides=[f"output={run.directory.parent}"]
        )
        assert status == 0, said
        assert "Traceback" not in said
        assert_whole(run.directory)
        after = finished_records(run.directory)
        assert {name: after.get(name) for name in before if name not in lost} == {
            name: content for name, content in before.items() if name not in lost
        }
        assert lost or differences(essence(run.directory), expected) == []
        assert said.count("was moved to") == len(lost)
        assert [r.fidelity for r in RecordStore(run.directory).load_all()].count("short") == 4
    return altered


def test_a_run_with_altered_files_is_made_whole_by_the_same_command(
    stage: Stage, undisturbed: Watched, ram: Path
) -> None:
    assert alter_runs(stage, undisturbed, ram, 2) == 8


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_30_runs_with_altered_files_are_made_whole_by_the_same_command(
    stage: Stage, undisturbed: Watched, ram: Path
) -> None:
    assert alter_runs(stage, undisturbed, ram, 30) == 120
