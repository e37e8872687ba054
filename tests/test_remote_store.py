"""Results through an object store: a real server of this machine, workers without the driver's files, kills, damage."""

from __future__ import annotations

import json
import logging
import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from executor_cases import faulty_setup, gather, job
from record_factory import RECORD, numbered

from autoprune.config import RunConfig, effective_config
from autoprune.config.model import GroupsConfig
from autoprune.errors import ConfigError, MissingExtraError, StorageError
from autoprune.records import PENDING, CandidateRecord, RecordStore, RemoteStore
from autoprune.search.executors.base import Job
from autoprune.search.executors.fetching import FetchingExecutor, in_store, store_of
from autoprune.search.executors.local import InProcessExecutor
from autoprune.search.executors.staged import StagedExecutor
from autoprune.search.setup import Setup
from autoprune.search.workbench import PLAN_FILE, WEIGHTS_FILE, Workbench
from autoprune.storage import MANIFEST
from autoprune.storage.faults import VARIABLE

SECRET = "wJalrXUtnFEMIsecret"
BUCKET = "bucket"
FILES = {"model.safetensors": bytes(range(256)) * 400, "plan.json": b"{}"}
CONFIG = RunConfig.model_validate({"task": "a.py:b", "search": {"budget": {"evaluations": 10}}})
IDENTITY = {"task_sha256": "a", "data_fingerprint": "b"}

PUSHER = """
import sys
from pathlib import Path
from autoprune.records import RemoteStore
RemoteStore(sys.argv[1]).push(Path(sys.argv[2]))
print("pushed", flush=True)
"""


@pytest.fixture(scope="module")
def server() -> Iterator[Any]:
    """An object-store server on the loopback interface, told to fsspec by the environment alone."""
    from moto.server import ThreadedMotoServer

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "AKIAEXAMPLE")
        patch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        running = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        running.start()
        host, port = running.get_host_and_port()
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        from upath import UPath

        fs = UPath(f"s3://{BUCKET}", use_listings_cache=False).fs
        fs.mkdir(BUCKET)
        try:
            yield fs
        finally:
            fs.clear_instance_cache()
            running.stop()


@pytest.fixture
def store(server: Any) -> RemoteStore:
    """A folder of the store that no other test uses."""
    return RemoteStore(f"s3://{BUCKET}/{secrets.token_hex(4)}")


def written(run: Path, record: CandidateRecord = RECORD) -> Path:
    """Return the directory of a candidate that was written to a run's directory."""
    return RecordStore(run).write(record, FILES)


def objects(store: RemoteStore) -> list[str]:
    """Return the paths of a run's objects."""
    return [str(path) for path in store._root.fs.find(store._root.path)]


def object_of(store: RemoteStore, candidate: str, name: str) -> str:
    """Return the path of a file of a candidate."""
    (path,) = (p for p in objects(store) if f"/{candidate}/" in p and p.endswith(name))
    return path


def overwrite(store: RemoteStore, candidate: str, name: str, change: Callable[[bytes], bytes]) -> None:
    """Change the bytes of a file of a candidate."""
    path, fs = object_of(store, candidate, name), store._root.fs
    before = fs.cat_file(path)
    assert change(before) != before
    fs.pipe_file(path, change(before))


def test_a_candidate_comes_back_with_its_files(store: RemoteStore, tmp_path: Path) -> None:
    store.push(written(tmp_path / "worker"))
    assert store.pull(RECORD.id, tmp_path / "driver")
    assert RecordStore(tmp_path / "driver").load_all() == [RECORD]
    assert RecordStore(tmp_path / "driver").read_file(RECORD.id, "model.safetensors") == FILES["model.safetensors"]
    assert store.pull(RECORD.id, tmp_path / "driver")
    assert not store.pull("0000-short", tmp_path / "driver")


def test_all_that_is_missing_comes_and_what_is_there_stays(store: RemoteStore, tmp_path: Path) -> None:
    assert store.pull_all(tmp_path / "driver") == []
    for number in range(4):
        store.push(written(tmp_path / "worker", numbered(number)))
    written(tmp_path / "driver", replace(numbered(1), seconds=9.0))
    assert store.pull_all(tmp_path / "driver") == [numbered(n).id for n in (0, 2, 3)]
    assert [r.seconds for r in RecordStore(tmp_path / "driver").load_all()] == [0.25, 9.0, 0.25, 0.25]


@pytest.mark.parametrize("place", ["object-pushed.model.safetensors", "object-pushed.record.json", "manifest-pushed"])
def test_a_push_that_is_killed_shows_all_of_a_candidate_or_nothing(
    store: RemoteStore, tmp_path: Path, place: str
) -> None:
    directory = written(tmp_path / "worker")
    command = [sys.executable, "-c", PUSHER, store.url, str(directory)]
    killed = subprocess.run(command, env={**os.environ, VARIABLE: place}, capture_output=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    whole = place == "manifest-pushed"
    assert len(objects(store)) == {"object-pushed.model.safetensors": 1, "object-pushed.record.json": 4}.get(place, 5)
    assert store.pull_all(tmp_path / "driver") == ([RECORD.id] if whole else [])
    assert RecordStore(tmp_path / "driver").load_all() == ([RECORD] if whole else [])
    store.push(directory)
    assert store.pull(RECORD.id, tmp_path / "driver")


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("model.safetensors", lambda data: b"\1" + data[1:]),
        ("model.safetensors", lambda data: data[:-1]),
        ("model.safetensors", lambda data: b""),
        ("record.json", lambda data: data.replace(b"0.97", b"0.99")),
        (MANIFEST, lambda data: data[:40]),
        (MANIFEST, lambda data: b""),
        (MANIFEST, lambda data: data.replace(b"plan.json", b"../a.json")),
        (MANIFEST, lambda data: data.replace(b'"bytes": 2', b'"bytes": 99999999999')),
    ],
)
def test_what_was_altered_is_left_out_with_a_warning(
    store: RemoteStore,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    name: str,
    change: Callable[[bytes], bytes],
) -> None:
    store.push(written(tmp_path / "worker"))
    store.push(written(tmp_path / "worker", numbered(7)))
    overwrite(store, RECORD.id, name, change)
    with caplog.at_level(logging.WARNING, "autoprune"):
        assert store.pull_all(tmp_path / "driver") == [numbered(7).id]
    assert caplog.text.count("was left out") == 1
    assert sorted(p.name for p in (tmp_path / "driver" / "candidates").iterdir()) == [numbered(7).id]
    store.push(written(tmp_path / "worker"))
    assert store.pull(RECORD.id, tmp_path / "driver")


def test_an_object_that_is_gone_leaves_its_candidate_out(store: RemoteStore, tmp_path: Path) -> None:
    store.push(written(tmp_path / "worker"))
    store._root.fs.rm_file(object_of(store, RECORD.id, "plan.json"))
    assert not store.pull(RECORD.id, tmp_path / "driver")


def test_what_is_removed_is_gone(store: RemoteStore, tmp_path: Path) -> None:
    store.remove(RECORD.id)
    store.push(written(tmp_path / "worker"))
    store.remove(RECORD.id)
    assert objects(store) == []
    assert not store.pull(RECORD.id, tmp_path / "driver")


def test_a_store_belongs_to_one_run(store: RemoteStore) -> None:
    store.claim(CONFIG, IDENTITY)
    more = CONFIG.search.budget.model_copy(update={"evaluations": 20})
    store.claim(CONFIG.model_copy(update={"search": CONFIG.search.model_copy(update={"budget": more})}), IDENTITY)
    search = CONFIG.search.model_copy(update={"budget": more, "seed": 1})
    other = CONFIG.model_copy(update={"search": search})
    with pytest.raises(ConfigError, match=r"search.seed: was 0, is 1; data_fingerprint has changed"):
        store.claim(other, {**IDENTITY, "data_fingerprint": "c"})
    store.claim(other, IDENTITY, accept_changes=True)
    store.claim(other, IDENTITY)


def test_a_store_of_before_a_key_was_known_is_continued(store: RemoteStore) -> None:
    older = effective_config(CONFIG)
    del older["groups"]["query_heads"], older["robustness"]
    (store._root / "run.json").write_text(json.dumps({"config": older, "identity": IDENTITY}))
    with pytest.raises(ConfigError, match=r"groups.query_heads: was False, is True"):
        store.claim(CONFIG.model_copy(update={"groups": GroupsConfig(query_heads=True)}), IDENTITY)
    store.claim(CONFIG, IDENTITY)


def test_a_store_of_another_version_is_refused_with_the_key_that_is_not_known(store: RemoteStore) -> None:
    later = effective_config(CONFIG) | {"later": 1}
    (store._root / "run.json").write_text(json.dumps({"config": later, "identity": IDENTITY}))
    with pytest.raises(ConfigError, match=r"run.json:1: later: unknown key"):
        store.claim(CONFIG, IDENTITY)
    store.claim(CONFIG, IDENTITY, accept_changes=True)


def test_a_bucket_that_does_not_exist_is_named(server: Any, tmp_path: Path) -> None:
    store = RemoteStore("s3://nowhere/run")
    with pytest.raises(StorageError, match="s3://nowhere/run"):
        store.push(written(tmp_path))
    with pytest.raises(StorageError, match="s3://nowhere/run"):
        store.claim(CONFIG, IDENTITY)


def test_credentials_are_in_no_message_and_in_nothing_that_is_stored(
    store: RemoteStore, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise RuntimeError(f"signed with {SECRET}")

    with caplog.at_level(logging.DEBUG, "autoprune"):
        store.push(written(tmp_path))
        store.claim(CONFIG, IDENTITY)
        assert store.pull(RECORD.id, tmp_path / "driver")
        stored = b"".join(store._root.fs.cat_file(path) for path in objects(store))
        monkeypatch.setattr(store._root.fs, "cat_file", refuse)
        with pytest.raises(StorageError, match="RuntimeError") as caught:
            store.pull("0000-short", tmp_path / "driver")
    for text in (str(caught.value), caught.value.hint, caplog.text, stored.decode("latin-1")):
        assert SECRET not in text


@pytest.mark.parametrize(
    "given",
    ["s3://key:topsecret@bucket/run", "s3://bucket/run?secret=topsecret", "bucket/run", "https://u:topsecret@h/x"],
)
def test_a_url_with_credentials_or_without_a_kind_is_refused_and_not_repeated(given: str) -> None:
    with pytest.raises(ConfigError, match=r"executor.store must be a URL") as caught:
        RemoteStore(given)
    assert "topsecret" not in f"{caught.value} {caught.value.hint}"


def test_a_missing_library_is_told_with_what_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(MissingExtraError, match="gcsfs"):
        RemoteStore("gs://bucket/run")
    with pytest.raises(ConfigError, match="nosuch"):
        RemoteStore("nosuch://bucket/run")
    monkeypatch.setitem(sys.modules, "upath", None)
    with pytest.raises(MissingExtraError) as caught:
        RemoteStore("s3://bucket/run")
    assert "pip install" in caught.value.hint
    assert "autoprune[remote]" in caught.value.hint


@pytest.mark.parametrize("kind", ["memory", "file"])
def test_other_file_systems_will_do(tmp_path: Path, kind: str) -> None:
    store = RemoteStore(f"{kind}://{tmp_path}/store/run")
    store.push(written(tmp_path / "worker"))
    assert store.pull_all(tmp_path / "driver") == [RECORD.id]
    assert RecordStore(tmp_path / "driver").load_all() == [RECORD]


def apart(setup: Setup) -> Workbench:
    """Return a worker that sees the store and nothing of the driver's files."""
    return Workbench(replace(in_store(setup), directory=Path("/nonexistent/run")))


@pytest.fixture
def setup(store: RemoteStore, tmp_path: Path) -> Setup:
    """A run whose results go through the store; the task's own files stay where they are."""
    return replace(faulty_setup(tmp_path / "markers", store=store.url), directory=tmp_path / "run")


def test_workers_that_share_no_files_leave_their_results_in_the_store(setup: Setup) -> None:
    bench = apart(setup)
    jobs = [job(0), replace(job(1), fidelity="full")]
    records = gather(FetchingExecutor(InProcessExecutor(bench), setup), jobs)
    assert [r.state for r in records] == ["complete", "complete"]
    assert as_json(RecordStore(setup.directory).load_all()) == as_json(records)
    for name in (WEIGHTS_FILE, PLAN_FILE):
        assert RecordStore(setup.directory).read_file(jobs[1].id, name)
    assert not any(bench.outbox._directory.rglob("*.json"))


def test_halves_travel_through_the_store(setup: Setup) -> None:
    trainer, measurer = apart(setup), apart(setup)
    staged = StagedExecutor(InProcessExecutor(trainer), InProcessExecutor(measurer))
    records = gather(FetchingExecutor(staged, setup), [job(0), job(1)])
    assert [r.state for r in records] == ["complete", "complete"]
    assert len(RecordStore(setup.directory).load_all()) == 2
    assert objects(store_of(setup))
    assert not [path for path in objects(store_of(setup)) if PENDING in path]


def test_what_arrives_damaged_is_run_again_once_and_then_failed(setup: Setup, caplog: pytest.LogCaptureFixture) -> None:
    class Spoiling(InProcessExecutor):
        """Damages the results of its worker in the store, so many times."""

        left = 1

        def collect(self) -> list[CandidateRecord]:
            records = super().collect()
            for record in records if self.left else []:
                self.left -= 1
                overwrite(store_of(setup), record.id, MANIFEST, lambda data: data[:9])
            return records

    engine = Spoiling(apart(setup))
    with caplog.at_level(logging.WARNING, "autoprune"):
        (record,) = gather(FetchingExecutor(engine, setup), [job(0)])
    assert record.state == "complete"
    assert "is run again" in caplog.text
    engine.left = 2
    (lost,) = gather(FetchingExecutor(engine, setup), [job(1)])
    assert (lost.state, (lost.failure or {})["reason"]) == ("failed", "storage")
    assert RecordStore(setup.directory).load(lost.id) == lost


def test_records_that_the_driver_wrote_itself_are_taken(setup: Setup) -> None:
    class Losing(InProcessExecutor):
        """Loses its worker and writes the failed record where the driver is."""

        def __init__(self) -> None:
            self._waiting: list[Job] = []

        def collect(self) -> list[CandidateRecord]:
            lost = replace(RECORD, id=self._waiting.pop(0).id, state="failed", evaluation=None, values={})
            lost = replace(lost, failure={"reason": "timeout", "stage": "worker", "message": "too long"})
            RecordStore(setup.directory).write(lost)
            return [lost]

    (record,) = gather(FetchingExecutor(Losing(), setup), [job(0)])
    assert (record.failure or {})["reason"] == "timeout"


def test_a_run_has_a_folder_of_its_own_and_none_without_a_store(tmp_path: Path) -> None:
    plain = faulty_setup(tmp_path)
    assert in_store(plain) is plain
    with pytest.raises(ConfigError, match=r"executor\.store"):
        store_of(plain)
    assert in_store(faulty_setup(tmp_path, store="s3://bucket/prefix/")).store == "s3://bucket/prefix/faulty"


def as_json(records: list[CandidateRecord]) -> object:
    return json.loads(json.dumps([r.to_json() for r in sorted(records, key=lambda r: r.number)]))
