"""Two effective configurations -> what differs in a way that makes them different experiments."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from autoprune.config.load import effective_config
from autoprune.config.model import RunConfig
from autoprune.config.reader import Document
from autoprune.config.validation import validate

MAY_CHANGE = ("name", "output", "search.workers", "search.plateau", "robustness", "executor")
LIMITS = ("evaluations", "proxy_evaluations", "minutes", "cpu_seconds")
MAY_GROW = (*(f"search.budget.{limit}" for limit in LIMITS), "search.controls", "recovery.seeds")


def compare_configs(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Return each difference that forbids resuming, as `dotted.path: was X, is Y`.

    Where a run writes, how many work on it and how far its front is looked into may change, and a budget may grow, as
    may the number of recovery seeds and of controls; the rest decides what its candidates mean. A budget of null has
    no limit.
    """
    return [
        f"{path}: was {_shown(a)}, is {_shown(b)}" for path, a, b in _differences(old, new, "") if not _may(path, a, b)
    ]


def changes_since(before: Document, config: RunConfig) -> list[str]:
    """Return what forbids a run with `config` to continue that of an earlier configuration, as `compare_configs`.

    What the earlier one lacks, such as a key of a later version, counts as left at its default.

    Raises:
        ConfigError: The earlier one is no configuration.
    """
    return compare_configs(effective_config(validate(RunConfig, before)), effective_config(config))


def _differences(old: Any, new: Any, path: str) -> Iterator[tuple[str, Any, Any]]:
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in [*old, *(k for k in new if k not in old)]:
            yield from _differences(old.get(key), new.get(key), f"{path}.{key}" if path else str(key))
    elif _plain(old) != _plain(new):
        yield path, old, new


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _may(path: str, old: Any, new: Any) -> bool:
    if any(path == allowed or path.startswith(f"{allowed}.") for allowed in MAY_CHANGE):
        return True
    return path in MAY_GROW and (new is None or (old is not None and new >= old))


def _shown(value: Any) -> str:
    return "null" if value is None else str(value)
