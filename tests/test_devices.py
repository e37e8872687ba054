"""Devices: which one a worker takes, what runs on it, how a GPU is timed; no GPU is needed to be sure of these."""

from __future__ import annotations

import logging
import subprocess
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from executor_cases import faulty_setup, job, mark
from record_factory import RECORD
from torch import nn

from autoprune.errors import CandidateError, ConfigError, UnknownNameError
from autoprune.evaluation import LatencySettings, measure_latency
from autoprune.evaluation.clocks import CLOCKS, cuda_clock
from autoprune.policy import Policy, Strategy
from autoprune.pruning import Recovery, fine_tune, placed
from autoprune.records import CandidateRecord, RecordStore, record_schema
from autoprune.runtimes import CPU, TorchSession, device_name, on_device, open_session, parse_target
from autoprune.search.devices import claim, training_devices
from autoprune.search.workbench import Workbench
from autoprune.tasks.protocol import Inputs, RecoverContext

OTHER = torch.device("cpu", 0)
"""Computes on the processor, and is another device than `CPU` to whoever compares."""

HOLDER = """
import fcntl, sys
mark = open(sys.argv[1], "a")
fcntl.flock(mark, fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.read()
"""


def gpus(monkeypatch: pytest.MonkeyPatch, count: int) -> list[torch.device]:
    """Have torch see GPUs that are not there; return those that it is told to compute on."""
    current: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H200")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: SimpleNamespace(uuid=f"u{index}"))
    monkeypatch.setattr(torch.cuda, "set_device", current.append)
    return current


def test_a_worker_without_gpus_trains_on_the_cpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    current = gpus(monkeypatch, 2)
    assert training_devices(0.0, tmp_path) == (CPU,)
    assert current == []


@pytest.mark.parametrize(("share", "visible", "wanted"), [(1.0, 1, 1), (0.25, 1, 1), (2.0, 2, 2), (4.0, 2, 2)])
def test_a_worker_with_gpus_trains_on_those_it_sees(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, share: float, visible: int, wanted: int
) -> None:
    current = gpus(monkeypatch, visible)
    devices = training_devices(share, tmp_path)
    assert devices == tuple(torch.device("cuda", index) for index in range(wanted))
    assert current == [torch.device("cuda", 0)]


def test_gpus_that_are_asked_for_and_not_there_are_told_of(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    gpus(monkeypatch, 0)
    with caplog.at_level(logging.WARNING, "autoprune"):
        assert training_devices(1.0, tmp_path) == (CPU,)
    assert "sees no GPU" in caplog.text


def test_workers_of_a_host_share_out_its_gpus(tmp_path: Path) -> None:
    assert [claim(["a", "b", "c"], 1, 1, tmp_path) for _ in range(3)] == [[0], [1], [2]]
    assert claim(["a", "b", "c"], 1, 1, tmp_path) == [0]
    assert claim(["d", "e", "f", "g"], 2, 1, tmp_path) == [0, 1]
    assert claim(["d", "e", "f", "g"], 2, 1, tmp_path) == [2, 3]


def test_shares_of_a_gpu_fill_all_gpus_evenly(tmp_path: Path) -> None:
    assert [claim(["a", "b"], 1, 2, tmp_path)[0] for _ in range(4)] == [0, 1, 0, 1]


def test_a_gpu_is_free_again_when_its_worker_is_gone(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLDER, str(tmp_path / "gpu-a-0")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline().strip() == "held"
        assert claim(["a", "b"], 1, 1, tmp_path) == [1]
        other.kill()
    assert claim(["a", "b"], 1, 1, tmp_path) == [0]


def test_devices_are_named_by_what_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    gpus(monkeypatch, 2)
    assert device_name(CPU) == "cpu"
    assert device_name(torch.device("cuda", 0)) == "cuda:NVIDIA H200"
    assert device_name(torch.device("cuda", 0), torch.device("cuda", 1)) == "2 x cuda:NVIDIA H200"


def test_tensors_inside_structures_are_moved_and_the_rest_stays() -> None:
    moved = on_device(Inputs((torch.ones(2), "a"), {"mask": torch.zeros(1)}), torch.device("meta"))
    assert isinstance(moved, Inputs)
    assert (moved.args[0].device.type, moved.args[1], moved.kwargs["mask"].device.type) == ("meta", "a", "meta")


def test_a_record_states_the_device_on_success_and_on_failure(tmp_path: Path) -> None:
    setup = faulty_setup(tmp_path)
    bench = Workbench(setup)
    assert bench.run(job(0)).device == "cpu"
    mark(setup, "recover", "fail")
    failed = bench.run(job(1))
    assert (failed.state, failed.device) == ("failed", "cpu")


def test_records_with_and_without_a_device_are_read(tmp_path: Path) -> None:
    record = replace(RECORD, device="cuda:NVIDIA H200", measured_on="edge")
    RecordStore(tmp_path).write(record)
    assert RecordStore(tmp_path).load(record.id) == record
    earlier = {k: v for k, v in RECORD.to_json().items() if k not in {"device", "measured_on"}}
    assert CandidateRecord.from_json(earlier) == RECORD
    assert not {"device", "measured_on"} & set(record_schema()["required"])


def test_an_explicit_cpu_gives_the_same_model_as_none(tmp_path: Path) -> None:
    bench = Workbench(faulty_setup(tmp_path))
    policy = Policy({"first": 0.5}, Strategy(recovery="distillation"))
    budget = Recovery(steps=5, batch_size=16, calibration=32)
    models = [
        bench.pruner.prune(policy, replace(budget, **on)).model for on in ({}, {"device": CPU}, {"device": OTHER})
    ]
    states = [model.state_dict() for model in models]
    assert all(torch.equal(value, states[0][name]) for state in states[1:] for name, value in state.items())
    assert all(value.device == CPU for state in states for value in state.values())


def test_a_task_is_told_the_device_to_recover_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Workbench(faulty_setup(tmp_path))
    told: list[torch.device] = []
    recover = bench.user_task.recover

    def watched(model: nn.Module, ctx: RecoverContext) -> None:
        told.append(ctx.device)
        recover(model, ctx)

    monkeypatch.setattr(bench.user_task, "recover", watched)
    bench.pruner.prune(Policy({"first": 0.5}), Recovery(steps=2, batch_size=16, calibration=32, device=OTHER))
    assert told == [OTHER]


def test_a_model_is_placed_and_fetched_back() -> None:
    model = nn.Linear(2, 2)
    with placed(model, torch.device("meta")):
        assert model.weight.device.type == "meta"
        model.to_empty(device="cpu")
    assert model.weight.device == CPU


def test_too_little_memory_on_the_gpu_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Workbench(faulty_setup(tmp_path))

    def recover(model: nn.Module, ctx: RecoverContext) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(bench.user_task, "recover", recover)
    context = RecoverContext(1, 0.1, 4, CPU, torch.float32, torch.Generator())
    with pytest.raises(CandidateError, match="out of memory") as caught:
        fine_tune(bench.task.build_model(), bench.task, context)
    assert (caught.value.reason, caught.value.stage) == ("memory", "recover")


def test_a_cuda_target_is_read() -> None:
    target = parse_target("torch-eager-fp32-b32-cuda")
    assert (target.runtime, target.batch, target.threads, target.device) == ("torch-eager", 32, 1, "cuda")
    assert parse_target("torch-eager-fp32-b32-t2").device == "cpu"


@pytest.mark.parametrize("name", ["onnxruntime-fp32-b1-cuda", "torch-eager-fp32-b1-t1-cuda", "torch-eager-fp32-b1-gpu"])
def test_targets_that_do_not_exist_on_a_gpu_are_refused(name: str) -> None:
    with pytest.raises(UnknownNameError, match=r"torch-eager|form"):
        parse_target(name)


def test_a_cuda_target_without_a_gpu_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    gpus(monkeypatch, 0)
    example = Inputs((torch.ones(1, 2),), {})
    with pytest.raises(ConfigError, match=r"torch-eager-fp32-b1-cuda needs a CUDA GPU") as caught:
        open_session(nn.Linear(2, 2), parse_target("torch-eager-fp32-b1-cuda"), example)
    assert "-t1" in caught.value.hint


def test_a_session_on_another_device_leaves_the_model_alone_and_gives_the_same_outputs() -> None:
    model, inputs = nn.Linear(3, 2), Inputs((torch.randn(4, 3),), {})
    here, there = TorchSession(model, 1), TorchSession(model, 1, OTHER)
    assert torch.equal(here.run(inputs), there.run(inputs))
    with torch.no_grad():
        model.weight.zero_()
    assert not torch.equal(here.run(inputs), there.run(inputs))
    there.call(inputs)()


@dataclass
class Gpu:
    """A GPU whose calls take the milliseconds that they are told."""

    now: float = 0.0
    log: list[str] = field(default_factory=list)

    def event(self, *, enable_timing: bool) -> Any:
        assert enable_timing
        event = SimpleNamespace(at=0.0)

        def record() -> None:
            event.at = self.now
            self.log.append("record")

        event.record = record
        event.synchronize = lambda: self.log.append("wait")
        event.elapsed_time = lambda other: other.at - event.at
        return event

    def work(self, ms: float) -> Any:
        def call() -> None:
            self.now += ms
            self.log.append("call")

        return call


def test_a_gpu_is_waited_for_after_every_call(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = Gpu()
    monkeypatch.setattr(torch.cuda, "Event", gpu.event)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: gpu.log.append("idle"))
    assert cuda_clock(gpu.work(3.0), 2) == (3.0, 3.0)
    assert gpu.log == ["idle", *["record", "call", "record", "wait"] * 2]


def times(milliseconds: list[float]) -> Any:
    """Return a call that takes these times in turn, over and over."""
    turns = iter(milliseconds * 1000)
    return lambda: next(turns)


@pytest.fixture
def told_times(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the clock of GPUs believe what a call returns."""

    def clock(call: Any, repeat: int) -> tuple[float, float]:
        ms = float(np.mean([call() for _ in range(repeat)]))
        return ms, ms

    monkeypatch.setattr("autoprune.evaluation.latency.CLOCKS", {**CLOCKS, "cuda": clock})


@pytest.mark.usefixtures("told_times")
def test_a_gpu_is_timed_by_its_own_clock() -> None:
    latency = measure_latency(times([4.0, 4.1]), times([8.0, 8.3]), LatencySettings(device="cuda"))
    assert latency.clean
    assert (latency.ms, latency.dense_ms) == (4.0, 8.0)
    assert 1.9 < latency.speedup_low <= latency.speedup <= latency.speedup_high < 2.1


@pytest.mark.usefixtures("told_times")
def test_a_gpu_that_serves_somebody_else_is_not_clean() -> None:
    settings = LatencySettings(device="cuda", rounds=12, max_retries=0)
    latency = measure_latency(times([4.0, 9.0, 14.0, 7.0, 11.0]), times([8.0]), settings)
    assert not latency.clean
    assert latency.polluted_share > 0.3
