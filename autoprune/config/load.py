"""File, environment, options -> RunConfig; `--set` beats the environment, which beats the file and the defaults."""

from __future__ import annotations

import copy
import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml

from autoprune.config.model import RunConfig
from autoprune.config.reader import Document, has_only_allowed_characters, read_text, reads_as_text, scan_yaml
from autoprune.config.validation import check_document
from autoprune.errors import ConfigError

ENVIRONMENT_PREFIX = "AUTOPRUNE_"
LATER = ("robustness.pictures", "robustness", "groups.query_heads")


@dataclass(frozen=True)
class LoadedConfig:
    """A valid configuration with where it came from.

    Args:
        path: The file as given.
        base: Its directory, from which `task` and `space` are resolved.
        effective: Every value after overrides and defaults, as plain data.
    """

    config: RunConfig
    path: Path
    base: Path
    effective: dict[str, Any]


@dataclass(frozen=True)
class _Override:
    """One value given outside the file; `place` is what messages name."""

    place: str
    keys: tuple[str, ...]
    value: Any


def load_config(
    path: Path | str,
    *,
    overrides: Sequence[str] = (),
    environ: Mapping[str, str] | None = None,
    name: str | None = None,
) -> LoadedConfig:
    """Read a run's configuration.

    Args:
        path: YAML file.
        overrides: `dotted.path=value`, each value in YAML; the last one of a path counts.
        environ: Variables such as AUTOPRUNE_SEARCH__BUDGET__EVALUATIONS; None = those of this process.
        name: Run name that replaces the file's.

    Raises:
        ConfigError: `problems` holds every problem as `file:line: dotted.path: problem; allowed; did you mean 'x'`.
    """
    path = Path(path)
    variables = os.environ if environ is None else environ
    found = check_config_text(read_text(path), source=str(path), overrides=overrides, environ=variables, name=name)
    return LoadedConfig(found, path, path.resolve().parent, effective_config(found))


def check_config_text(
    text: str,
    *,
    source: str,
    overrides: Sequence[str] = (),
    environ: Mapping[str, str] = MappingProxyType({}),
    name: str | None = None,
) -> RunConfig:
    """Return the configuration that YAML text holds; `source` is what messages name. Otherwise as `load_config`."""
    document, problems = scan_yaml(text, source=source)
    given: list[_Override] = []
    for override in (*_from_environment(environ), *_from_arguments(overrides)):
        if isinstance(override, _Override):
            given.append(override)
        else:
            problems.append(override)
    if name is not None:
        given.append(_Override(f"--name {name}", ("name",), name))
    data, places = _merge(document, given)
    found = check_document(RunConfig, data, document.broken)
    if isinstance(found, list):
        problems += [f"{_place(places, dotted)}: {text}" for dotted, text in found]
    if problems or isinstance(found, list):
        raise ConfigError("\n".join(problems), problems=problems, hint="`autoprune init` writes a commented example.")
    return found


def effective_config(config: RunConfig) -> dict[str, Any]:
    """Return every value, defaults included, as plain data (what YAML and JSON hold)."""
    return config.model_dump(mode="json")


def dump_config(config: RunConfig) -> str:
    """Return the configuration as YAML that reads back to an equal one."""
    escaped, readable = (
        yaml.dump(effective_config(config), Dumper=_Dumper, sort_keys=False, allow_unicode=unicode, width=110)
        for unicode in (False, True)
    )
    return readable if has_only_allowed_characters(readable) else escaped


def config_digest(config: RunConfig) -> str:
    """Return 64 hex digits that are equal for equal configurations.

    What stands in `LATER` counts where it is not left at its default, so that the digests of older runs stay valid.
    """
    values, default = effective_config(config), effective_config(RunConfig(task=config.task))
    for name in LATER:
        section, _, key = name.rpartition(".")
        own, usual = (values[section], default[section]) if section else (values, default)
        if own[key] == usual[key]:
            del own[key], usual[key]
    text = json.dumps(values, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _from_environment(environ: Mapping[str, str]) -> Iterator[_Override | str]:
    """Yield what variables set: those that name a key of the configuration or a path with `__`."""
    for variable in sorted(environ):
        if not variable.startswith(ENVIRONMENT_PREFIX):
            continue
        keys = variable.removeprefix(ENVIRONMENT_PREFIX).lower().split("__")
        if len(keys) > 1 or keys[0] in RunConfig.model_fields:
            yield _parse(f"environment {variable}", keys, environ[variable])


def _from_arguments(overrides: Sequence[str]) -> Iterator[_Override | str]:
    for text in overrides:
        dotted, equals, value = text.partition("=")
        if not equals:
            yield f"--set {text}: must be dotted.path=value; e.g. search.budget.evaluations=40"
        else:
            yield _parse(f"--set {text}", dotted.strip().split("."), value)


def _parse(place: str, keys: Sequence[str], value: str) -> _Override | str:
    if not all(keys):
        return f"{place}: the path has an empty part; e.g. search.budget.evaluations"
    document, problems = scan_yaml(value, source=place)
    if problems:
        _, _, problem = problems[0].removeprefix(place).partition(": ")
        return f"{place}: {'.'.join(keys)}: {problem}"
    return _Override(place, tuple(keys), document.data)


def _merge(document: Document, overrides: Sequence[_Override]) -> tuple[Any, dict[str, str]]:
    """Return the file's data with the overrides put in, and dotted path -> place of every value."""
    empty = document.data is None and not document.broken
    data = {} if empty else copy.deepcopy(document.data)
    places = {"": f"{document.path}:1"} | {dotted: f"{document.path}:{line}" for dotted, line in document.lines.items()}
    for override in overrides if isinstance(data, dict) else ():
        node = data
        for depth, key in enumerate(override.keys[:-1], start=1):
            if not isinstance(node.get(key), dict):
                _claim(places, ".".join(override.keys[:depth]), override.place)
                node[key] = {}
            node = node[key]
        _claim(places, ".".join(override.keys), override.place)
        node[override.keys[-1]] = override.value
    return data, places


def _claim(places: dict[str, str], dotted: str, place: str) -> None:
    for below in [known for known in places if known.startswith(f"{dotted}.")]:
        del places[below]
    places[dotted] = place


def _place(places: Mapping[str, str], dotted: str) -> str:
    """Return the place of a dotted path or of the nearest enclosing one."""
    while dotted and dotted not in places:
        dotted = dotted.rpartition(".")[0]
    return places[dotted]


class _Dumper(yaml.SafeDumper):
    """Writes text such as `1e-3` quoted, because our reader takes the plain form for a number."""


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=None if reads_as_text(text) else '"')


_Dumper.add_representer(str, _represent_text)
