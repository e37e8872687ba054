"""What is special to the Ray engine, in one cluster of this machine; its contract is in `test_executors.py`."""

from __future__ import annotations

import platform
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray
from executor_cases import faulty_setup, gather, job, living_in, mark
from faulty_task import calls_in

from autoprune.errors import ConfigError, TaskError
from autoprune.records import RecordStore
from autoprune.search.executors import joining, shipping
from autoprune.search.executors.cluster import Cluster, rooms_of
from autoprune.search.executors.joining import Probe, explain, refuse_unreachable_cluster
from autoprune.search.executors.ray_pool import RayPool
from autoprune.search.executors.shipping import pack, unpack, wrap
from autoprune.search.setup import Setup
from autoprune.tasks import TaskRef

PATIENCE = 120.0
CORE = {"cpus_per_worker": 1.0}


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster of this machine with room for two workers."""
    with closing(Cluster(faulty_setup(tmp_path_factory.mktemp("session"), **CORE))) as session:
        yield session


@pytest.fixture(scope="module")
def pool(session: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayPool]:
    """A pool of two workers, the second of which found room only after the first had worked for a while."""
    guest = _guest()
    setup = faulty_setup(tmp_path_factory.mktemp("run"), **CORE)
    mark(setup, "recover", "nap", steps=5)
    with closing(RayPool(setup)) as pool:
        gather(pool, [job(0), job(1)])
        assert len(pool._idle) == 1
        ray.kill(guest)
        until_idle(pool, 2)
        gather(pool, [job(2), job(3)])
        yield pool


def _guest() -> Any:
    """Return somebody else's actor, which holds one of the cluster's two cores."""

    class Guest:
        def ready(self) -> None: ...

    guest = ray.remote(num_cpus=1)(Guest).remote()
    ray.get(guest.ready.remote())
    return guest


@pytest.fixture
def setup(pool: RayPool) -> Setup:
    return pool._parcel.setup


def until(found: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not found():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def until_idle(pool: RayPool, workers: int) -> None:
    """Wait until so many workers are ready and have nothing to do."""

    def idle() -> bool:
        for answer in pool._answers() if pool._asked else []:
            pool._take(answer)
        return len(pool._idle) >= workers

    until(idle)


def evaluating(setup: Setup, steps: int) -> psutil.Process:
    """Return the child that evaluates the candidate of so many recovery steps, once it does."""
    until(lambda: [c for c in calls_in(setup.directory) if c.steps == steps])
    return psutil.Process(next(c for c in calls_in(setup.directory) if c.steps == steps).session)


def actor_of(child: psutil.Process) -> psutil.Process:
    parent = child.parent()
    assert parent is not None
    return parent


def calls(setup: Setup, steps: int) -> int:
    return sum(c.steps == steps for c in calls_in(setup.directory))


def test_a_cluster_of_this_machine_is_reached_from_this_machine_alone(session: Cluster) -> None:
    family = [psutil.Process(), *psutil.Process().children(recursive=True)]
    ports = [c.laddr for p in family for c in p.net_connections("inet") if c.status == psutil.CONN_LISTEN]
    assert ports
    assert {port.ip.removeprefix("::ffff:") for port in ports} == {"127.0.0.1"}


def test_a_worker_that_finds_room_late_is_used(pool: RayPool, setup: Setup) -> None:
    early, late = ({c.session for c in calls_in(setup.directory) if c.steps in steps} for steps in ((2, 3), (4, 5)))
    assert (len(early), len(late)) == (1, 2)


def test_an_actor_holds_no_torch_and_its_child_does(pool: RayPool, setup: Setup) -> None:
    until_idle(pool, 2)
    mark(setup, "recover", "nap", "once", steps=10)
    pool.submit(job(8))
    child = evaluating(setup, 10)
    assert any("libtorch" in m.path for m in child.memory_maps())
    assert not any("libtorch" in m.path for m in actor_of(child).memory_maps())
    assert [r.number for r in pool.collect()] == [8]


def test_a_record_whose_answer_was_lost_counts(pool: RayPool, setup: Setup) -> None:
    until_idle(pool, 1)
    mark(setup, "recover", "nap", "once", steps=52)
    pool.submit(job(50))
    child = evaluating(setup, 52)
    actor = actor_of(child)
    actor.send_signal(signal.SIGSTOP)
    until(lambda: RecordStore(setup.directory).load(job(50).id))
    actor.kill()
    records = pool.collect()
    assert [(r.number, r.state) for r in records] == [(50, "complete")]
    assert calls(setup, 52) == 1


@pytest.mark.parametrize("victim", ["child", "actor"])
def test_a_job_whose_worker_is_killed_is_evaluated_again_once(pool: RayPool, setup: Setup, victim: str) -> None:
    number = {"actor": 20, "child": 30}[victim]
    until_idle(pool, 1)
    mark(setup, "recover", "sleep", "once", steps=number + 2)
    pool.submit(job(number))
    child = evaluating(setup, number + 2)
    (child if victim == "child" else actor_of(child)).kill()
    assert [(r.number, r.state) for r in pool.collect()] == [(number, "complete")]
    assert calls(setup, number + 2) == 2
    assert living_in(child.pid) == []


def test_closing_does_not_wait_for_an_actor_that_hangs(pool: RayPool, setup: Setup) -> None:
    until_idle(pool, 1)
    mark(setup, "recover", "sleep", steps=62)
    pool.submit(job(60))
    child = evaluating(setup, 62)
    actor = actor_of(child)
    actor.send_signal(signal.SIGSTOP)
    started = time.monotonic()
    pool.close()
    assert time.monotonic() - started < 15.0
    actor.kill()
    until(lambda: living_in(child.pid) == [])
    assert not (setup.directory / shipping.MARK_FILE).exists()
    pool.close()


def test_ray_leaves_the_answer_to_sigterm_as_it_was(session: Cluster) -> None:
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


@pytest.mark.parametrize(
    ("resources", "share", "rooms"),
    [
        ({"CPU": 8.0}, {"CPU": 1.0, "GPU": 0.0}, 8),
        ({"CPU": 8.0}, {"CPU": 3.0}, 2),
        ({"CPU": 2.0}, {"CPU": 0.3}, 6),
        ({"CPU": 2.0}, {"CPU": 1.0, "GPU": 1.0}, 0),
        ({"CPU": 32.0, "GPU": 4.0}, {"CPU": 1.0, "GPU": 1.0}, 4),
        ({"CPU": 32.0, "GPU": 4.0}, {"CPU": 1.0, "GPU": 0.3}, 12),
        ({"CPU": 32.0, "GPU": 5.0}, {"CPU": 1.0, "GPU": 2.0}, 2),
        ({"CPU": 8.0, "board": 1.0}, {"CPU": 1.0, "board": 1.0}, 1),
        ({"CPU": 8.0}, {"CPU": 1.0, "board": 1.0}, 0),
        ({}, {"CPU": 1.0}, 0),
    ],
)
def test_a_node_has_room_for_as_many_workers_as_its_resources_allow(
    resources: dict[str, float], share: dict[str, float], rooms: int
) -> None:
    assert rooms_of(resources, share) == rooms


def test_a_cluster_without_room_for_one_worker_is_refused(session: Cluster, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"worker of 64 CPU, 2 GPU\. The most .* has: 2 CPU, 0 GPU\."):
        RayPool(faulty_setup(tmp_path, cpus_per_worker=64, gpus_per_worker=2))
    with pytest.raises(ConfigError, match=r"worker of 0 CPU, 1 board\. The most .* has: 2 CPU, 0 board\."):
        RayPool(faulty_setup(tmp_path), "board")
    assert ray.is_initialized()
    assert not (tmp_path / shipping.MARK_FILE).exists()


@pytest.mark.parametrize("address", ["somewhere", "host:port", "host:0", ":6379", "host:66000"])
def test_an_address_that_is_none_is_refused(address: str) -> None:
    with pytest.raises(ConfigError, match=r"executor\.address .* is no address of a Ray cluster"):
        refuse_unreachable_cluster(address)


def test_an_address_where_nothing_listens_is_refused_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(joining, "REACH_SECONDS", 0.2)
    with pytest.raises(ConfigError, match=r"The Ray cluster at 127\.0\.0\.1:9 cannot be reached: Connection refused"):
        refuse_unreachable_cluster("127.0.0.1:9")


def test_something_else_than_a_cluster_is_given_up_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(joining, "PROBE_SECONDS", 3.0)
    with socket.create_server(("127.0.0.1", 0)) as server, pytest.raises(ConfigError, match="no answer within 3 s"):
        refuse_unreachable_cluster(f"127.0.0.1:{server.getsockname()[1]}")


@pytest.mark.parametrize(
    ("probe", "told"),
    [
        (Probe("ConnectionError", "Failed to connect", "RPC error: InvalidAuthToken: secret"), "refuses the token"),
        (Probe("AuthenticationError", "no authentication token was found", ""), "finds none"),
        (Probe("died", "", "Failed to connect to socket at address:/tmp/x/sockets/raylet"), "is no node of the Ray"),
        (Probe("ConnectionError", "Could not find any running Ray instance", ""), "cannot be reached"),
        (Probe("late", "", ""), "no answer within"),
        (
            Probe(
                "RuntimeError",
                "Version mismatch: started with:\n Ray: 2.60.0\n Python: 3.11.7\nThis:\n Ray: 2.61.0\n Python: 3.12.1",
                "",
            ),
            r"has Ray 2\.60\.0 with Python 3\.11\.7, this process Ray 2\.61\.0 with Python 3\.12\.1",
        ),
    ],
)
def test_a_cluster_that_cannot_be_joined_is_explained(monkeypatch: pytest.MonkeyPatch, probe: Probe, told: str) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.delenv("RAY_AUTH_TOKEN_PATH", raising=False)
    error = explain("10.0.0.1:6379", probe)
    assert error.exit_code == 2
    assert error.hint
    with pytest.raises(ConfigError, match=told):
        raise error
    assert "secret" not in str(error) + error.hint


def shipped_setup(tmp_path: Path) -> Setup:
    """Return a run whose task and space lie among files that are nobody's business."""
    base = tmp_path / "user"
    base.mkdir()
    (base / "task.py").write_text("def make(): ...\n")
    (base / "helper.py").write_text("\n")
    (base / "mine.yaml").write_text("name: mine\n")
    for other in ("data.npz", ".env", "notes.txt"):
        (base / other).write_text("private")
    for folder in ("results", ".venv"):
        (base / folder).mkdir()
        (base / folder / "more.py").write_text("private")
    setup = faulty_setup(tmp_path / "run")
    config = setup.config.model_copy(update={"task": "task.py:make", "task_args": {}, "space": "mine.yaml"})
    return replace(setup, config=config, task=TaskRef("task.py:make", {}, base), base=base)


def test_only_sources_beside_the_task_and_the_space_travel(tmp_path: Path) -> None:
    package = pack(shipped_setup(tmp_path), tmp_path)
    assert package is not None
    assert sorted(p.name for p in package.rglob("*")) == ["__init__.py", "helper.py", "space.yaml", "task.py"]


def test_nothing_travels_for_an_installed_task_and_a_ready_made_space(tmp_path: Path) -> None:
    setup = faulty_setup(tmp_path)
    assert pack(replace(setup, task=TaskRef("package.tasks:make")), tmp_path) is None


def test_a_worker_that_sees_the_files_of_the_driver_uses_them(tmp_path: Path) -> None:
    setup = shipped_setup(tmp_path)
    there = unpack(wrap(setup))
    assert there.task.file == setup.task.file
    assert there.config.space == "mine.yaml"


def test_a_worker_that_does_not_see_them_uses_what_travelled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    setup = shipped_setup(tmp_path)
    parcel = wrap(setup)
    (tmp_path / "shipped").mkdir()
    package = pack(setup, tmp_path / "shipped")
    (tmp_path / "user").rename(tmp_path / "elsewhere")
    monkeypatch.syspath_prepend(tmp_path / "shipped")
    there = unpack(parcel)
    assert package is not None
    assert there.task.file == package / "task.py"
    assert there.task.sha256 == parcel.task_sha256
    assert there.config.space == str(package / "space.yaml")
    (package / "task.py").write_text("def make(): return 1\n")
    with pytest.raises(TaskError, match="differs from the driver's"):
        unpack(parcel)


def test_a_worker_that_sees_another_task_file_refuses(tmp_path: Path) -> None:
    parcel = wrap(shipped_setup(tmp_path))
    (tmp_path / "user" / "task.py").write_text("def make(): return 1\n")
    with pytest.raises(TaskError, match=r"The task file .*task\.py on node .* differs from the driver's"):
        unpack(parcel)


def test_a_worker_without_the_task_file_refuses(tmp_path: Path) -> None:
    parcel = wrap(shipped_setup(tmp_path))
    (tmp_path / "user" / "task.py").unlink()
    with pytest.raises(TaskError, match="does not see the task file"):
        unpack(parcel)


def test_a_worker_that_does_not_see_the_runs_directory_names_its_node_and_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shipping, "MARK_SECONDS", 0.0)
    parcel = wrap(shipped_setup(tmp_path))
    shipping.unmark(parcel)
    with pytest.raises(ConfigError, match=f"Node {platform.node()} does not see the run's directory") as caught:
        unpack(parcel)
    assert "executor.store" in caught.value.hint


def test_a_worker_of_another_version_refuses(tmp_path: Path) -> None:
    parcel = replace(wrap(shipped_setup(tmp_path)), versions=("99.0", "3.11.0"))
    with pytest.raises(ConfigError, match=r"the driver autoprune 99\.0 with Python 3\.11\.0"):
        unpack(parcel)
