"""A page of HTML -> what tests ask of it: its elements, its attributes, its visible text, its inline scripts."""

from __future__ import annotations

import json
import shlex
from html.parser import HTMLParser
from typing import Any

from autoprune.report import FrontDocument, pick

Attributes = dict[str, str | None]


class Page(HTMLParser):
    """All elements of a page in order, and the text outside scripts and styles."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, Attributes]] = []
        self.scripts: list[str] = []
        self.styles: list[str] = []
        self._texts: list[str] = []
        self._inside = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag in ("script", "style"):
            self._inside = tag
            (self.scripts if tag == "script" else self.styles).append("")

    def handle_endtag(self, tag: str) -> None:
        if tag == self._inside:
            self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside == "script":
            self.scripts[-1] += data
        elif self._inside == "style":
            self.styles[-1] += data
        else:
            self._texts.append(data)

    @property
    def text(self) -> str:
        """The text of the page, white space collapsed."""
        return " ".join(" ".join(self._texts).split())

    @property
    def data(self) -> dict[str, Any]:
        """What the page's script works with."""
        found: dict[str, Any] = json.loads(self.scripts[0])
        return found

    def all(self, tag: str, css: str = "") -> list[Attributes]:
        """Return the attributes of every element of a tag, with a class where one is given."""
        return [a for t, a in self.elements if t == tag and (not css or css in (a.get("class") or "").split())]

    def meta(self, name: str) -> str:
        """Return the content of an http-equiv."""
        return next(a["content"] or "" for a in self.all("meta") if a.get("http-equiv") == name)


def picked_by(document: FrontDocument, command: str) -> str:
    """Return the id of the member that a command of the page chooses."""
    words = shlex.split(command)
    assert [*words[:2], *words[-2:]] == ["autoprune", "pick", "--to", "DIR"]
    options = list(zip(words[3:-2:2], words[4:-2:2], strict=True))
    limits = [float(value) for option, value in options if option == "--max-latency-ms"]
    demands = [value for option, value in options if option == "--require"]
    assert len(limits) + len(demands) == len(options)
    return pick(document, max_latency_ms=limits[0] if limits else None, require=demands).id
