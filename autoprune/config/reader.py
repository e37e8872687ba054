"""YAML text -> plain data with line numbers: the hardened reader of configurations and search spaces.

YAML 1.2 scalars (`1e-3` is a number, `NO` is text, `017` is 17), no tags, no anchors, no aliases, no duplicate keys,
bounded size and depth. Built on PyYAML's event stream: no object is ever constructed by PyYAML itself.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from autoprune.errors import ConfigError

MAX_BYTES = 1 << 20
MAX_LEVELS = 32
MAX_NODES = 20_000
MAX_DIGITS = 400
MAX_PROBLEMS = 50

_LOADER = yaml.CSafeLoader if yaml.__with_libyaml__ else yaml.SafeLoader
_NULL = re.compile(r"~|null|Null|NULL|")
_TRUE = re.compile(r"true|True|TRUE")
_FALSE = re.compile(r"false|False|FALSE")
_INT = re.compile(r"[-+]?[0-9]+")
_BASED = re.compile(r"0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_NONFINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_FORBIDDEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff\ud800-\udfff]")
_UNREPRESENTABLE = re.compile("[\x00\ud800-\udfff]")


@dataclass(frozen=True)
class Document:
    """Plain data (dict, list, str, int, float, bool, None) of one YAML document.

    Args:
        lines: Dotted path -> line, counted from 1; list items by index (`latency.targets.0`).
        path: What messages name as the source.
        broken: Dotted paths whose value was refused, and is therefore absent or None in `data`.
    """

    data: Any
    lines: Mapping[str, int]
    path: str
    broken: frozenset[str] = frozenset()

    def where(self, dotted: str) -> str:
        """Return `file:line` of a dotted path, or of the nearest enclosing one that the document holds."""
        while dotted and dotted not in self.lines:
            dotted = dotted.rpartition(".")[0]
        return f"{self.path}:{self.lines.get(dotted, 1)}"


def read_yaml(path: Path | str) -> Document:
    """Read a YAML file.

    Raises:
        ConfigError: The file cannot be read or is refused; `problems` holds all that was found as `file:line: ...`.
    """
    return parse_yaml(read_text(Path(path)), source=str(path))


def parse_yaml(text: str, *, source: str) -> Document:
    """Read YAML text; `source` is what messages name. Raises ConfigError as `read_yaml` does."""
    document, problems = scan_yaml(text, source=source)
    if problems:
        raise ConfigError("\n".join(problems), problems=problems)
    return document


def scan_yaml(text: str, *, source: str) -> tuple[Document, list[str]]:
    """Read YAML text and return the document with the problems found, instead of raising."""
    if refused := _FORBIDDEN.search(text):
        line = text.count("\n", 0, refused.start()) + 1
        char = f"U+{ord(refused.group()):04X}"
        return Document(None, {}, source, frozenset({""})), [f"{source}:{line}: character {char} is not allowed"]
    composer = _Composer(source)
    try:
        data = composer.document(yaml.parse(text, Loader=_LOADER))
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        composer.problems.append(_syntax_problem(error, source))
        composer.broken.add("")
        data = None
    except _LimitError:
        data = None
    return Document(data, composer.lines, source, frozenset(composer.broken)), composer.problems


def read_text(path: Path) -> str:
    """Return the text of a UTF-8 file of at most 1 MiB; anything else is a ConfigError."""
    if not path.exists():
        raise ConfigError(f"{path}: no such file", hint="Give the path of a YAML file; `autoprune init` writes one.")
    if not path.is_file():
        raise ConfigError(f"{path}: not a file", hint="Give the path of a YAML file.")
    try:
        with path.open("rb") as stream:
            raw = stream.read(MAX_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    if len(raw) > MAX_BYTES:
        raise ConfigError(f"{path}:1: larger than {MAX_BYTES} bytes", hint="A configuration is a short text file.")
    if raw.startswith((b"\xff\xfe", b"\xfe\xff", b"\xef\xbb\xbf")) or b"\x00" in raw[:4]:
        raise ConfigError(f"{path}:1: not plain UTF-8", hint="Save the file as UTF-8 without a byte order mark.")
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{path}:{line}: not UTF-8: byte 0x{raw[error.start]:02X}", hint="Save as UTF-8.") from error


def plain_scalar(text: str) -> Any:
    """Return the value of an unquoted YAML 1.2 scalar.

    Raises:
        ValueError: The scalar is a number that is not finite or has too many digits.
    """
    if _NULL.fullmatch(text):
        return None
    if _TRUE.fullmatch(text) or _FALSE.fullmatch(text):
        return bool(_TRUE.fullmatch(text))
    is_int, is_float = _INT.fullmatch(text), _FLOAT.fullmatch(text)
    if (is_int or is_float or _BASED.fullmatch(text)) and len(text) > MAX_DIGITS:
        raise ValueError(f"a number of more than {MAX_DIGITS} digits")
    if is_int:
        return int(text)
    if _BASED.fullmatch(text):
        return int(text, 0)
    if _NONFINITE.fullmatch(text) or (is_float and not math.isfinite(float(text))):
        raise ValueError(f"{_short(text)} is not a finite number")
    return float(text) if is_float else text


def has_only_allowed_characters(text: str) -> bool:
    """Return whether the reader takes every character of `text` as it stands."""
    return _FORBIDDEN.search(text) is None


def reads_as_text(text: str) -> bool:
    """Return whether an unquoted scalar is text rather than a number, a boolean or null."""
    try:
        return isinstance(plain_scalar(text), str)
    except ValueError:
        return False


class _LimitError(Exception):
    """Ends the composition at once: a limit is reached."""


@dataclass
class _Composer:
    """Events -> data. A refused node is noted with its line and left out, so that one pass finds all problems."""

    source: str
    lines: dict[str, int] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    broken: set[str] = field(default_factory=set)
    nodes: int = 0

    def document(self, events: Iterator[yaml.Event]) -> Any:
        """Return the data of the only document."""
        data: Any = None
        seen = 0
        for event in events:
            if isinstance(event, yaml.DocumentStartEvent):
                seen += 1
                if seen > 1:
                    self._refuse("", event, "a second document; allowed: one")
                    break
                data = self._node(next(events), events, "", 1)
        return data

    def _node(self, event: yaml.Event, events: Iterator[yaml.Event], path: str, level: int) -> Any:
        self.nodes += 1
        if self.nodes > MAX_NODES:
            self._stop(event, f"more than {MAX_NODES} values")
        if level > MAX_LEVELS:
            self._stop(event, f"nested deeper than {MAX_LEVELS} levels")
        self.lines.setdefault(path, _line(event))
        if isinstance(event, yaml.AliasEvent):
            return self._refuse(path, event, f"alias *{_short(str(event.anchor))} is not allowed; write the value out")
        if not isinstance(event, yaml.NodeEvent):
            return self._refuse(path, event, "a value is missing")
        if event.anchor is not None:
            self._refuse(path, event, f"anchor &{_short(event.anchor)} is not allowed; write the value out")
        tag = event.tag if isinstance(event, yaml.ScalarEvent | yaml.CollectionStartEvent) else None
        if tag is not None:
            self._refuse(path, event, f"tag {_short(tag)} is not allowed; write plain values")
        if isinstance(event, yaml.SequenceStartEvent):
            return self._sequence(events, path, level)
        if isinstance(event, yaml.MappingStartEvent):
            return self._mapping(events, path, level)
        return self._scalar(event, path) if isinstance(event, yaml.ScalarEvent) else None

    def _sequence(self, events: Iterator[yaml.Event], path: str, level: int) -> list[Any]:
        items: list[Any] = []
        for event in events:
            if isinstance(event, yaml.SequenceEndEvent):
                break
            items.append(self._node(event, events, _join(path, str(len(items))), level + 1))
        return items

    def _mapping(self, events: Iterator[yaml.Event], path: str, level: int) -> dict[str, Any]:
        items: dict[str, Any] = {}
        for event in events:
            if isinstance(event, yaml.MappingEndEvent):
                break
            if not isinstance(event, yaml.ScalarEvent):
                self._refuse(path, event, "a key must be plain text")
                self._node(event, events, _join(path, "?"), level + 1)
                self._node(next(events), events, _join(path, "?"), level + 1)
                continue
            key = event.value
            child = _join(path, key)
            if event.anchor is not None or event.tag is not None or _UNREPRESENTABLE.search(key):
                self._refuse(child, event, "a key must be plain text")
            duplicate = key in items
            if duplicate:
                self._refuse(child, event, f"key {_short(key)!r} is given twice; first in line {self.lines[child]}")
            else:
                self.lines[child] = _line(event)
            value = self._node(next(events), events, child, level + 1)
            if not duplicate:
                items[key] = value
        return items

    def _scalar(self, event: yaml.ScalarEvent, path: str) -> Any:
        if _UNREPRESENTABLE.search(event.value):
            return self._refuse(path, event, "text with NUL or a lone surrogate is not allowed")
        if event.style:
            return event.value
        try:
            return plain_scalar(event.value)
        except ValueError as error:
            return self._refuse(path, event, f"{error}; allowed: finite numbers")

    def _refuse(self, path: str, event: yaml.Event, problem: str) -> None:
        place = f"{printable(path)}: " if path else ""
        self.problems.append(f"{self.source}:{_line(event)}: {place}{problem}")
        self.broken.add(path)
        if len(self.problems) >= MAX_PROBLEMS:
            self._stop(event, f"more than {MAX_PROBLEMS} problems; the rest is not shown")

    def _stop(self, event: yaml.Event, problem: str) -> None:
        self.problems.append(f"{self.source}:{_line(event)}: {problem}")
        self.broken.add("")
        raise _LimitError


def printable(text: str, *, limit: int = 120) -> str:
    """Return text cut to `limit` characters, its control characters escaped: safe in a message."""
    shown = "".join(c if c.isprintable() else repr(c)[1:-1] for c in text[:limit])
    return f"{shown}..." if len(text) > limit else shown


def _short(text: str) -> str:
    return printable(text, limit=40)


def _line(event: yaml.Event) -> int:
    return event.start_mark.line + 1 if event.start_mark else 1


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


def _syntax_problem(error: Exception, source: str) -> str:
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    parts = [getattr(error, "context", None), getattr(error, "problem", None)]
    text = ", ".join(str(p) for p in parts if p) or str(error).splitlines()[0]
    return f"{source}:{mark.line + 1 if mark else 1}: not valid YAML: {text}"
