"""RunConfig -> the commented YAML file that `autoprune init` writes."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel

from autoprune.config.model import RunConfig
from autoprune.config.reader import reads_as_text
from autoprune.config.validation import section_of

_HEADER = """\
# A run of autoprune: `autoprune check FILE` tests it, `autoprune search FILE` runs it, and again resumes it.
# Every value below except `task` is the default; lines that say what you want anyway may go.
"""
_COMMENT_COLUMN = 44
_PLAIN = re.compile(r"[A-Za-z][\w./-]*(:[\w./-]+)*", re.ASCII)


def config_template(config: RunConfig) -> str:
    """Return a configuration as YAML with every key explained."""
    return _HEADER + "".join(f"{line}\n" for line in _lines(config, ""))


def _lines(section: BaseModel, indent: str) -> Iterator[str]:
    for key, field in type(section).model_fields.items():
        value = getattr(section, key)
        if section_of(field.annotation) is not None and isinstance(value, BaseModel):
            yield _commented(f"{indent}{key}:", (type(value).__doc__ or "").splitlines()[0])
            yield from _lines(value, f"{indent}  ")
        else:
            yield _commented(f"{indent}{key}: {_flow(value)}", field.description or "")


def _commented(text: str, comment: str) -> str:
    return f"{text:<{_COMMENT_COLUMN}}  # {comment}" if comment else text


def _flow(value: Any) -> str:
    """Return a value as YAML in one line; text stays unquoted where that reads back equal."""
    if isinstance(value, str):
        return value if _PLAIN.fullmatch(value) and reads_as_text(value) else json.dumps(value)
    if isinstance(value, tuple | list):
        return f"[{', '.join(_flow(item) for item in value)}]"
    return json.dumps(value)
