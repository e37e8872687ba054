"""Plain data -> pydantic model; every problem at once, with its place, what is allowed and the nearest known name."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from types import UnionType
from typing import Any, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from autoprune.config.reader import Document, printable
from autoprune.errors import ConfigError
from autoprune.registry import nearest

M = TypeVar("M", bound=BaseModel)
Loc = tuple[str | int, ...]

_WORDS = (
    ("Input should be", "must be"),
    ("a valid string", "text"),
    ("a valid integer", "an integer"),
    ("a valid number", "a number"),
    ("a valid boolean", "true or false"),
    ("a valid array", "a list"),
    ("a valid dictionary", "a mapping"),
    ("an object", "a mapping"),
    ("Tuple should have", "must have"),
    (" after validation", ""),
    ("Value error, ", ""),
)


def validate(model: type[M], document: Document) -> M:
    """Return `model` filled from a document.

    Raises:
        ConfigError: `problems` holds each one as `file:line: dotted.path: problem; allowed; did you mean 'x'`.
    """
    found = check_document(model, document.data, document.broken)
    if isinstance(found, BaseModel):
        return found
    problems = [f"{document.where(path)}: {text}" for path, text in found]
    raise ConfigError("\n".join(problems), problems=problems)


def check_document(model: type[M], data: Any, broken: frozenset[str] = frozenset()) -> M | list[tuple[str, str]]:
    """Return the filled model, or (dotted path, text) of each problem.

    Args:
        model: What to fill.
        data: Plain data; types are taken strictly (`"5"` is no integer).
        broken: Dotted paths already reported; nothing more is said about them.
    """
    if not isinstance(data, dict):
        shown = f"must be a mapping of keys; got {_shown(data)}; allowed: {', '.join(model.model_fields)}"
        return [] if "" in broken else [("", shown)]
    try:
        return model.model_validate_json(json.dumps(data), strict=True)
    except ValidationError as error:
        merged: dict[str, list[str]] = {}
        for detail in error.errors(include_url=False):
            loc = _within(data, detail)
            path = ".".join(str(part) for part in loc)
            if not any(path == b or path.startswith(f"{b}.") for b in broken):
                text = _text(model, loc, detail)
                merged.setdefault(path, []).append(text)
        return [(path, f"{printable(path)}: {' or '.join(dict.fromkeys(texts))}") for path, texts in merged.items()]


def key_paths(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Yield every dotted key that `model` knows, sections included."""
    for name, field in model.model_fields.items():
        path = f"{prefix}{name}"
        yield path
        section = section_of(field.annotation)
        if section is not None:
            yield from key_paths(section, f"{path}.")


def section_of(annotation: Any) -> type[BaseModel] | None:
    """Return the model that an annotation holds, if it holds one."""
    options: Sequence[Any] = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)
    for option in options:
        if isinstance(option, type) and issubclass(option, BaseModel):
            return option
    return None


def _within(data: Any, detail: ErrorDetails) -> Loc:
    """Return the error's place without the tags that pydantic appends for unions."""
    loc: Loc = detail["loc"]
    if detail["type"] == "missing":
        return loc
    for depth, part in enumerate(loc):
        held = part in data if isinstance(data, dict) else isinstance(data, list) and isinstance(part, int)
        if not held:
            return loc[:depth]
        data = data[part]
    return loc


def _text(model: type[BaseModel], loc: Loc, detail: ErrorDetails) -> str:
    """Return "problem; allowed; did you mean" of one pydantic error."""
    kind, given, context = detail["type"], detail["input"], detail.get("ctx", {})
    if kind == "extra_forbidden":
        return _unknown_key(model, loc)
    if kind == "missing":
        field = _section_at(model, loc[:-1]).model_fields[str(loc[-1])]
        return f"is missing; give {field.description}" if field.description else "is missing"
    if kind == "literal_error":
        names = re.findall("'([^']*)'", str(context["expected"]))
        close = nearest(given, names, count=1) if isinstance(given, str) else []
        return f"{_shown(given)} is not known; allowed: {', '.join(names)}{_guess(close)}"
    if kind in ("model_type", "model_attributes_type"):
        allowed = ", ".join(_section_at(model, loc).model_fields)
        return f"must be a mapping of keys; got {_shown(given)}; allowed: {allowed}"
    text = detail["msg"]
    for pydantic_words, ours in _WORDS:
        text = text.replace(pydantic_words, ours)
    return text if kind == "value_error" else f"{text}; got {_shown(given)}"


def _unknown_key(model: type[BaseModel], loc: Loc) -> str:
    *parents, key = [str(part) for part in loc]
    siblings = list(_section_at(model, loc[:-1]).model_fields)
    by_leaf = {path.rpartition(".")[2]: path for path in reversed(list(key_paths(model)))}
    close = [".".join([*parents, name]) for name in nearest(key, siblings, count=1)]
    if key in by_leaf or not close:
        close = [by_leaf[leaf] for leaf in nearest(key, list(by_leaf), count=1)]
    return f"unknown key; allowed: {', '.join(siblings)}{_guess(close)}"


def _section_at(model: type[BaseModel], loc: Loc) -> type[BaseModel]:
    """Return the section at a place; lists of sections are passed through."""
    for part in loc:
        if isinstance(part, str) and part in model.model_fields:
            model = section_of(model.model_fields[part].annotation) or model
    return model


def _guess(close: Sequence[str]) -> str:
    return f"; did you mean {close[0]!r}?" if close else ""


def _shown(value: Any) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, list | tuple):
        return "a list"
    return printable(repr(value), limit=60)
