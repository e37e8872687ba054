"""Measured numbers of one model -> its model card in Markdown."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any

import jinja2

from autoprune.artifacts.formats import FORMATS
from autoprune.markup import escape_code, escape_marks, interval_text

SIZES = ("parameters", "macs", "bytes", "compressed_bytes")
TEMPLATE = "card.md.j2"
MOST_CLASSES = 5


@dataclass(frozen=True)
class CardFacts:
    """What a card tells; names come from users and are shown literally.

    Args:
        run: Name of the run.
        task: Name of the task.
        member: The model as `front.json` describes it.
        baseline: The dense model in the same form.
        targets: Target name -> how and where its latency was measured, as in `front.json`.
        policy: `Policy.to_json()`.
        provenance: Versions, seed and digests, as in `front.json`.
        formats: Names in `FORMATS` that the model is exported to.
    """

    run: str
    task: str
    member: Mapping[str, Any]
    baseline: Mapping[str, Any]
    targets: Mapping[str, Mapping[str, Any]]
    policy: Mapping[str, Any]
    provenance: Mapping[str, Any] = field(default_factory=dict)
    formats: Sequence[str] = ("onnx", "pt2")


def render_card(facts: CardFacts) -> str:
    """Return the model card: what was measured and how, how to load the model, and its limits."""
    sizes = [(name, facts.member[name], facts.baseline[name]) for name in SIZES]
    forms = [FORMATS[name] for name in facts.formats]
    return _template().render(
        facts=facts,
        member=facts.member,
        baseline=facts.baseline,
        sizes=sizes,
        forms=forms,
        losers=_losers(facts.member),
    )


def _losers(member: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the classes of a member that lost most against the dense model, the worst first."""
    changed = [one for one in member.get("classes", ()) if one["change"] and one["change"]["delta"] < 0]
    return sorted(changed, key=lambda one: float(one["change"]["delta"]))[:MOST_CLASSES]


@functools.cache
def _template() -> jinja2.Template:
    """Return the template; what its filters return is escaped as HTML when it is put in."""
    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"md": escape_marks, "code": escape_code, "figure": _figure, "interval": _interval}
    return environment.from_string((files("autoprune.artifacts") / TEMPLATE).read_text(encoding="utf-8"))


def _figure(value: float) -> str:
    """Return a number with thousands separated where it is whole."""
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def _interval(estimate: Mapping[str, Any]) -> str:
    return f"{interval_text(estimate['value'], estimate['low'], estimate['high'])}, n = {estimate['n']}"
