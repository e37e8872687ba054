"""Options that say where candidates are evaluated -> the configuration with them in it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from autoprune.cli.console import note

if TYPE_CHECKING:
    from autoprune.config import LoadedConfig


@dataclass(frozen=True)
class Engine:
    """What was asked for; None = what the configuration says.

    Args:
        workers: Candidates evaluated at the same time.
        cpus_per_worker: Cores that a worker reserves.
        gpus_per_worker: GPUs that a worker reserves.
        cluster: `auto`, or the address of a Ray cluster.
    """

    workers: int | None = None
    cpus_per_worker: float | None = None
    gpus_per_worker: float | None = None
    cluster: str | None = None

    def overrides(self) -> Iterator[str]:
        """Yield the options as `dotted.path=value`."""
        given = {
            "search.workers": self.workers,
            "executor.cpus_per_worker": self.cpus_per_worker,
            "executor.gpus_per_worker": self.gpus_per_worker,
            "executor.address": self.cluster,
        }
        yield from (f"{path}={json.dumps(value)}" for path, value in given.items() if value is not None)


def load_with(engine: Engine, path: Path, *, overrides: Sequence[str], name: str | None) -> LoadedConfig:
    """Read a configuration with these options in it; they count as much as `--set`, and more where both say the same.

    A cluster makes the engine `ray`, unless the configuration asks for `tune`, which uses clusters too.

    Raises:
        ConfigError: A value is not allowed.
    """
    from autoprune.config import load_config

    given = [*overrides, *engine.overrides()]
    loaded = load_config(path, overrides=given, name=name)
    if engine.cluster is not None and loaded.config.executor.kind == "local":
        loaded = load_config(path, overrides=[*given, "executor.kind=ray"], name=name)
    if loaded.config.executor.kind == "local" and (engine.gpus_per_worker or engine.cpus_per_worker):
        note("warning: --cpus-per-worker and --gpus-per-worker count on a cluster only: give --cluster as well.")
    return loaded
