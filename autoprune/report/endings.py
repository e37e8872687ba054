"""Why a search ended -> words."""

from __future__ import annotations

from collections.abc import Mapping

from autoprune.report.document import FrontDocument

ENDINGS: Mapping[str, str] = {
    "evaluations": "all candidates that were asked for were evaluated",
    "minutes": "its share of the minutes was spent",
    "cpu_seconds": "its share of the CPU seconds was spent",
    "plateau": "the front had stopped growing",
    "exhausted": "the whole space was evaluated",
}


def why_ended(front: FrontDocument) -> str:
    """Return why the search of a front ended; empty where it is not known."""
    reason = front.ended_because or ""
    return ENDINGS.get(reason, reason)
