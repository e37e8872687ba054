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
    r"(?P<runtime>[a-z][a-z-]*)-(?P<precision>[a-z0-9]+)-b(?P<batch>[1-9]\d{0,4})-t(?P<threads>[1-9]\d{0,2})"
)
_FORM = "<runtime>-<precision>-b<batch>-t<threads>, such as onnxruntime-fp32-b32-t1"

RuntimeName: TypeAlias = Literal["torch-eager", "onnxruntime"]
OpenSession: TypeAlias = Callable[["nn.Module", "Target", "Inputs", Optional["OnnxTemplate"]], "Session"]


@dataclass(frozen=True)
class Runtime:
    """One way to execute a model.

    Args:
        description: One line for `autoprune list targets`.
        precisions: Numeric formats it offers.
        open: Deploys a model for a target; the example inputs have the target's batch size.
    """

    description: str
    precisions: tuple[str, ...]
    open: OpenSession


RUNTIMES: Registry[Runtime] = Registry("runtime", group="autoprune.latency_backends")


@dataclass(frozen=True)
class Target:
    """Deployment that latency and quality are measured on.

    Args:
        name: The whole name.
        runtime: What executes the model.
        precision: Numeric format, such as `fp32`.
        batch: Examples a call.
        threads: Threads within one call.
    """

    name: str
    runtime: RuntimeName | str
    precision: str
    batch: int
    threads: int


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
    return Target(name, match["runtime"], match["precision"], int(match["batch"]), int(match["threads"]))


def available() -> dict[str, str]:
    """Return every runtime's name with its description, for lists of targets."""
    return {name: f"{runtime.description} ({', '.join(runtime.precisions)})" for name, runtime in RUNTIMES.items()}
