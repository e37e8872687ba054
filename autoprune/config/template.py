"""RunConfig -> the commented YAML file that `autoprune init` writes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel

from autoprune.config.model import RunConfig
from autoprune.config.validation import section_of

_HEADER = """\
# A run of autoprune: `autoprune check FILE` tests it, `autoprune search FILE` runs it, and again resumes it.
# Every value below except `task` is the default; lines that say what you want anyway may go.
"""
_COMMENT_COLUMN = 48


def config_template(*, name: str, task: str) -> str:
    """Return a complete configuration with every key explained."""
    return _HEADER + "".join(f"{line}\n" for line in _lines(RunConfig(name=name, task=task), ""))


def _lines(section: BaseModel, indent: str) -> Iterator[str]:
    for key, field in type(section).model_fields.items():
        value = getattr(section, key)
        if section_of(field.annotation) is not None and isinstance(value, BaseModel):
            yield f"{indent}{key}:  # {(type(value).__doc__ or '').splitlines()[0]}"
            yield from _lines(value, f"{indent}  ")
        else:
            text = f"{indent}{key}: {_flow(value)}"
            yield f"{text:<{_COMMENT_COLUMN}}  # {field.description}" if field.description else text


def _flow(value: Any) -> str:
    """Return a value as YAML in one line; text stays unquoted where that reads back equal."""
    if isinstance(value, str):
        plain = value.replace(".", "").replace(":", "").replace("-", "").replace("_", "").replace("/", "").isalnum()
        return value if plain and value[0].isalpha() and not value.endswith(":") else json.dumps(value)
    if isinstance(value, tuple | list):
        return f"[{', '.join(_flow(item) for item in value)}]"
    return json.dumps(value)
