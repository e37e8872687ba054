"""What the benchmarks share: interleaved timing, the description of the machine, and the result file."""

from __future__ import annotations

import gc
import json
import math
import os
import platform
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import psutil

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "results" / "benchmarks"
SCHEMA_VERSION = "1.0"
PACKAGES = ("torch", "numpy", "torch-pruning", "onnxruntime", "scikit-learn", "optuna", "ray")


def describe_machine() -> dict[str, Any]:
    """Return CPU model, cores, memory and operating system; never a path or a host name."""
    return {
        "cpu": _cpu_model(),
        "cores": psutil.cpu_count(logical=True),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "os": _os_name(),
        "python": platform.python_version(),
    }


def _cpu_model() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()


def _os_name() -> str:
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        return platform.system()


def package_versions(packages: Sequence[str] = PACKAGES) -> dict[str, str]:
    """Return the installed version of every package that is installed."""
    found = {}
    for name in packages:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def current_commit() -> str:
    """Return the commit of the working tree, with `+changes` when tracked files differ from it."""
    head = _git("rev-parse", "HEAD")
    if not head:
        return "unknown"
    return f"{head}+changes" if _git("status", "--porcelain", "--untracked-files=no") else head


def _git(*arguments: str) -> str:
    try:
        done = subprocess.run(
            ["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=True, timeout=30
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()


def interleaved(
    subjects: Mapping[str, Callable[[], object]],
    *,
    repeats: int,
    seed: int,
    clock: Callable[[], float] = time.process_time,
    collect: bool = False,
) -> dict[str, list[float]]:
    """Time every subject `repeats` times, one of each a round, in random order, after one warm-up round.

    Interleaving with a CPU clock keeps the ratio of two subjects stable on a busy machine.

    Args:
        subjects: Zero-argument calls; what they return is dropped.
        repeats: Rounds.
        seed: Of the order within a round.
        clock: Seconds; `process_time` counts the CPU time of all threads.
        collect: Collect garbage before each sample, so that no subject pays for what another left behind.

    Returns:
        Milliseconds per subject, one value a round.
    """
    rng = np.random.default_rng(seed)
    names = list(subjects)
    samples: dict[str, list[float]] = {name: [] for name in names}
    for call in subjects.values():
        call()
    for _ in range(repeats):
        for index in rng.permutation(len(names)):
            name = names[index]
            if collect:
                gc.collect()
            start = clock()
            subjects[name]()
            samples[name].append((clock() - start) * 1e3)
    return samples


def ratio_interval(
    numerator: Sequence[float], denominator: Sequence[float], *, seed: int, draws: int = 2000
) -> tuple[float, float, float]:
    """Return the ratio of the medians with its 95% bootstrap interval, rounds resampled in pairs.

    Args:
        numerator: One value a round, in the same unit as `denominator`.
        denominator: One value a round, paired with `numerator`.
        seed: Of the bootstrap.
        draws: Bootstrap resamples.

    Returns:
        (ratio, low, high).
    """
    top, bottom = np.asarray(numerator), np.asarray(denominator)
    rounds = np.random.default_rng(seed).integers(0, len(top), size=(draws, len(top)))
    resampled = np.median(top[rounds], axis=1) / np.median(bottom[rounds], axis=1)
    low, high = np.quantile(resampled, [0.025, 0.975])
    return float(np.median(top) / np.median(bottom)), float(low), float(high)


def write_result(
    name: str, *, command: str, seeds: Sequence[int], rows: Sequence[Mapping[str, Any]], summary: Mapping[str, Any]
) -> Path:
    """Write results/benchmarks/NAME.json atomically and return its path.

    Args:
        name: File name without suffix.
        command: What a reader runs to make the file again.
        seeds: Every seed that entered.
        rows: The single measurements, JSON-able.
        summary: The figures that are quoted, JSON-able.

    Raises:
        ValueError: A figure is not finite.
    """
    document = {
        "schema_version": SCHEMA_VERSION,
        "command": command,
        "commit": current_commit(),
        "machine": describe_machine(),
        "versions": package_versions(),
        "seeds": list(seeds),
        "rows": list(rows),
        "summary": dict(summary),
    }
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / f"{name}.json"
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    temporary.write_text(json.dumps(document, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    temporary.replace(path)
    return path


def known_rows(name: str) -> list[dict[str, Any]]:
    """Return the rows of a result file; none where there is no file."""
    path = RESULTS / f"{name}.json"
    rows: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["rows"] if path.is_file() else []
    return rows


def rounded(value: float, digits: int = 4) -> float:
    """Return `value` with `digits` significant digits, for readable result files."""
    return value if value == 0 or not math.isfinite(value) else float(f"{value:.{digits}g}")
