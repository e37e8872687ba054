"""Where a model is deployed: target names such as `onnxruntime-fp32-b32-t1`, and the runtimes behind them."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Optional, TypeAlias

from autoprune.errors import UnknownNameError
from autoprune.registry import Registry, unknown_name

if TYPE_CHECKING:
    from torch import nn

    from autoprune.runtimes.session import Session
    from autoprune.runtimes.template import OnnxTemplate
    from autoprune.tasks.protocol import Inputs

_NAME = re.compile(
    r"(?P<runtime>[a-z][a-z-]*)-(?P<precision>[a-z0-9]+)-b(?P<batch>[1-9]\d{0,4})"
    r"-(?:t(?P<threads>[1-9]\d{0,2})|(?P<cuda>cuda))"
)
_FORM = "<runtime>-<precision>-b<batch>-t<threads> or -cuda, such as onnxruntime-fp32-b32-t1"

RuntimeName: TypeAlias = Literal["torch-eager", "onnxruntime"]
Device: TypeAlias = Literal["cpu", "cuda"]
OpenSession: TypeAlias = Callable[["nn.Module", "Target", "Inputs", Optional["OnnxTemplate"]], "Session"]


@dataclass(frozen=True)
class Runtime:
    """One way to execute a model.

    Args:
        description: One line for `autoprune list targets`.
        precisions: Numeric formats it offers.
        open: Deploys a model for a target; the example inputs have the target's batch size.
        devices: What it computes on.
    """

    description: str
    precisions: tuple[str, ...]
    open: OpenSession
    devices: tuple[Device, ...] = ("cpu",)


RUNTIMES: Registry[Runtime] = Registry("runtime", group="autoprune.latency_backends")


@dataclass(frozen=True)
class Target:
    """Deployment that latency and quality are measured on.

    Args:
        name: The whole name.
        runtime: What executes the model.
        precision: Numeric format, such as `fp32`.
        batch: Examples a call.
        threads: Threads within one call; 1 on a GPU.
        device: What computes: the processor, or the worker's GPU.
    """

    name: str
    runtime: RuntimeName | str
    precision: str
    batch: int
    threads: int
    device: Device = "cpu"


def parse_target(name: str) -> Target:
    """Read a target's name.

    Raises:
        UnknownNameError: The name has another form, or the runtime or its precision does not exist.
    """
    match = _NAME.fullmatch(name)
    if match is None:
        raise UnknownNameError(f"Target {name!r} must have the form {_FORM}.", hint=f"Runtimes: {', '.join(RUNTIMES)}.")
    if match["runtime"] not in RUNTIMES:
        raise unknown_name("runtime", match["runtime"], list(RUNTIMES))
    precisions = RUNTIMES[match["runtime"]].precisions
    if match["precision"] not in precisions:
        raise unknown_name(f"precision of {match['runtime']}", match["precision"], list(precisions))
    device: Device = "cuda" if match["cuda"] else "cpu"
    if device not in RUNTIMES[match["runtime"]].devices:
        able = [runtime for runtime, entry in RUNTIMES.items() if device in entry.devices]
        raise UnknownNameError(f"Target {name!r}: {match['runtime']} does not run on {device}; {', '.join(able)} does.")
    return Target(name, match["runtime"], match["precision"], int(match["batch"]), int(match["threads"] or 1), device)


def available() -> dict[str, str]:
    """Return every runtime's name with its description, for lists of targets."""
    return {name: f"{runtime.description} ({', '.join(runtime.precisions)})" for name, runtime in RUNTIMES.items()}
