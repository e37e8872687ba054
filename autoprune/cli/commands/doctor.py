"""This machine: what a run would find here."""

from __future__ import annotations

import os
import platform
import shutil
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any

import typer

from autoprune.cli.console import show, write_json
from autoprune.cli.options import DEFAULT_OUTPUT, AsJson, Output
from autoprune.cli.ray_facts import ray_facts

_PACKAGES = ("autoprune", "torch", "numpy", "optuna", "ray", "scikit-learn", "onnx", "onnxruntime", "torch-pruning")
_CPU_FEATURES = ("avx2", "fma", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8", "amx_bf16", "asimd", "sve")
_MIB = 2**20


def doctor(
    cluster: Annotated[
        str | None, typer.Option("--cluster", metavar="auto|ADDRESS", help="Ray cluster to try; else the one found.")
    ] = None,
    output: Output = DEFAULT_OUTPUT,
    as_json: AsJson = False,
) -> None:
    """Print versions, devices, CPU features, threads, memory, free disk, and whether a Ray cluster can be joined."""
    found = {
        "versions": _versions(),
        "machine": _machine(),
        "torch": _torch(),
        "ray": ray_facts(cluster, os.environ),
        "gate": _gate(),
        "disk": _disk(output),
    }
    if as_json:
        write_json(found)
        return
    from autoprune.cli.tables import plain_table

    rows = [[f"{part}.{key}", _text(part, value)] for part, values in found.items() for key, value in values.items()]
    show(plain_table(["what", "found"], rows))


def _versions() -> dict[str, str | None]:
    found: dict[str, str | None] = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    return found


def _machine() -> dict[str, Any]:
    import psutil

    memory = psutil.virtual_memory()
    flags = _cpu_flags()
    return {
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cores": psutil.cpu_count(logical=False),
        "threads": psutil.cpu_count(),
        "usable_threads": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "cpu_features": [f for f in _CPU_FEATURES if f in flags],
        "memory_mib": memory.total // _MIB,
        "available_memory_mib": memory.available // _MIB,
        "load": [round(value, 2) for value in psutil.getloadavg()],
    }


def _cpu_flags() -> set[str]:
    """Return the features that the kernel names; empty where it has no such list."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return set()
    lines = (line.partition(":") for line in text.splitlines())
    return {flag for name, _, flags in lines if name.strip() in ("flags", "Features") for flag in flags.split()}


def _torch() -> dict[str, Any]:
    import torch

    return {
        "threads": torch.get_num_threads(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "cuda_devices": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
    }


def _gate() -> dict[str, Any]:
    """Return where the processes of this host agree on who measures."""
    from autoprune.errors import OutputError
    from autoprune.evaluation import HostGate

    try:
        return {"directory": str(HostGate().directory), "usable": "yes"}
    except OutputError as error:
        return {"directory": None, "usable": f"no: {error} {error.hint}"}


def _disk(output: Path) -> dict[str, Any]:
    folder = output.absolute()
    while not folder.is_dir():
        folder = folder.parent
    return {"directory": str(output), "free_mib": shutil.disk_usage(folder).free // _MIB}


def _text(part: str, value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    if value is None:
        return "not installed" if part == "versions" else "none"
    return str(value)
