"""What large models cost before any training: tracing, proving the plan, cutting one candidate; seconds and memory.

    python -m benchmarks.large

A 100M-parameter decoder (12 layers of 768, 12 query and 4 key-value heads, SwiGLU, a vocabulary of 32,000 tied to the
output) and ResNet-50 at 224 x 224. Every step runs in a process of its own, on one thread. Memory is the rise of the
process's peak resident set over what it held before the step, as the kernel counts it (Linux); for a candidate it is
the peak of what torch allocated, as its profiler counts it, since the allocator may reuse what other steps gave back.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from autoprune.groups import ModelGroups, find_groups
from autoprune.groups.parts import find_parts
from autoprune.groups.slicing import Slicer
from autoprune.groups.tracing import trace_model
from autoprune.groups.verification import verify
from autoprune.tasks.protocol import Inputs
from benchmarks.common import ROOT, rounded, write_result
from tests.zoo import ZOO, tokens
from tests.zoo.transformers import GroupedQueryAttention, Llama, LlamaBlock

LAYERS, WIDTH, HIDDEN, VOCABULARY = 12, 768, 2048, 32_000
HEADS, KEY_VALUE_HEADS, HEAD_DIM = 12, 4, 64
LENGTH = 32
KEPT = 0.5
SEED = 0
STEPS = ("trace", "verify", "parts", "find_groups", "candidate")
LIMIT_FIND_GROUPS_S = 60.0
LIMIT_CANDIDATE_SHARE = 1.1
"""Allocated while a candidate is cut, relative to the candidate's own bytes."""

Subject = tuple[nn.Module, Inputs]


def large_llama() -> Subject:
    """Return the decoder with random weights, in eval mode, and token ids for one sequence."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        model = Llama(VOCABULARY, WIDTH, blocks=0)
        blocks = [LlamaBlock(WIDTH, HEADS, KEY_VALUE_HEADS, HIDDEN) for _ in range(LAYERS)]
        for block in blocks:
            block.attention = GroupedQueryAttention(WIDTH, HEADS, KEY_VALUE_HEADS, HEAD_DIM)
        model.blocks = nn.Sequential(*blocks)
    return model.eval(), tokens(LENGTH, vocabulary=VOCABULARY, batch=1)


SUBJECTS: dict[str, Callable[[], Subject]] = {"llama_100m": large_llama, "resnet50_224": ZOO["resnet50"]}


def kept_half(groups: ModelGroups) -> npt.NDArray[np.bool_]:
    """Return [unit_count] True for every other unit of each group."""
    alive = np.ones(groups.plan.unit_count, dtype=np.bool_)
    for group in groups.groups:
        alive[group.start + 1 : group.start + group.width : round(1 / KEPT)] = False
    return alive


def bytes_of(model: nn.Module) -> int:
    """Return the bytes of a model's parameters and buffers, shared ones once."""
    return sum(t.numel() * t.element_size() for t in (*model.parameters(), *model.buffers()))


def step_of(step: str, model: nn.Module, inputs: Inputs) -> Callable[[], Any]:
    """Return what is measured; all that it needs is made here, before the clock runs."""
    if step == "trace":
        return partial(trace_model, model, inputs)
    if step == "verify":
        return partial(verify, trace_model(model, inputs), inputs)
    if step == "find_groups":
        return partial(find_groups, model, inputs)
    groups = verify(trace_model(model, inputs), inputs)
    if step == "parts":
        return partial(find_parts, model, groups, inputs)
    slicer, alive = Slicer(model, groups.plan), kept_half(groups)
    return lambda: slicer.slice(alive)


def measure(name: str, step: str) -> dict[str, Any]:
    """Run one step in this process."""
    torch.set_num_threads(1)
    model, inputs = SUBJECTS[name]()
    action = step_of(step, model, inputs)
    gc.collect()
    before = _restart_peak()
    wall, cpu = time.perf_counter(), time.process_time()
    made = action()
    seconds, cpu_seconds = time.perf_counter() - wall, time.process_time() - cpu
    row = {
        "model": name,
        "step": step,
        "parameters": sum(p.numel() for p in model.parameters()),
        "dense_bytes": bytes_of(model),
        "seconds": rounded(seconds),
        "cpu_seconds": rounded(cpu_seconds),
        "peak_bytes": max(0, _status("VmHWM") - before),
    }
    if not isinstance(made, nn.Module):
        return row
    return {**row, "candidate_bytes": bytes_of(made), "peak_bytes": peak_allocated(action)}


def peak_allocated(action: Callable[[], Any]) -> int:
    """Return the most bytes that torch held at one time of what it allocated during a call, its result included."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        made = action()
    results: Any = profiler.profiler
    events = [e for e in results.kineto_results.events() if e.name() == "[memory]"]
    held = np.cumsum([e.nbytes() for e in sorted(events, key=lambda e: e.start_ns())])
    del made
    return int(held.max(initial=0))


def _restart_peak() -> int:
    """Give freed memory back and let the kernel count the peak resident set anew; return the bytes held now."""
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    return _status("VmRSS")


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


def summarise(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return, per model, the least time and the largest peak of every step over the repeats."""
    out: dict[str, Any] = {}
    for name in dict.fromkeys(row["model"] for row in rows):
        mine = [row for row in rows if row["model"] == name]
        steps = {}
        for step in dict.fromkeys(row["step"] for row in mine):
            own = [row for row in mine if row["step"] == step]
            steps[step] = {
                "cpu_seconds": min(row["cpu_seconds"] for row in own),
                "peak_mib": rounded(max(row["peak_bytes"] for row in own) / 2**20),
            }
        candidate = next(row for row in mine if "candidate_bytes" in row)
        sizes = {key: rounded(candidate[f"{key}_bytes"] / 2**20) for key in ("dense", "candidate")}
        out[name] = {"parameters": candidate["parameters"], "mib": sizes, "steps": steps}
    limits = {"find_groups_cpu_seconds": LIMIT_FIND_GROUPS_S, "candidate_allocates_of_its_size": LIMIT_CANDIDATE_SHARE}
    return {"limits": limits, "models": out}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--step", nargs=2, metavar=("MODEL", "STEP"), help="measure one step in this process")
    options = parser.parse_args()
    if options.step:
        print(json.dumps(measure(*options.step)))
        return
    rows = []
    for _ in range(options.repeats):
        for name in SUBJECTS:
            for step in STEPS:
                command = [sys.executable, "-m", "benchmarks.large", "--step", name, step]
                done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
                rows.append(json.loads(done.stdout.splitlines()[-1]))
                print(rows[-1])
    command_line = f"python -m benchmarks.large --repeats {options.repeats}"
    print(write_result("large", command=command_line, seeds=[SEED], rows=rows, summary=summarise(rows)).name)


if __name__ == "__main__":
    main()
