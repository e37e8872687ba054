"""What the scopes local and global take of each group: asked for once, and light enough to travel."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from autoprune.policy import Amount, Strategy

Allotment = Callable[[Strategy, Amount], Mapping[str, float]]
"""(criterion, normalization, granularity and scope; amount) -> group -> the sparsity that it would get."""


class Allotments:
    """Remembers allotments. What goes to another process is what is known by then, not the model that was asked.

    Args:
        ask: Returns the sparsity of every group by name.
    """

    def __init__(self, ask: Allotment) -> None:
        self._ask: Allotment | None = ask
        self._known: dict[tuple[Strategy, Amount], Mapping[str, float]] = {}

    def __call__(self, strategy: Strategy, amount: Amount) -> Mapping[str, float]:
        """Return group -> sparsity; nothing for what was not asked for before the travel."""
        key = strategy, amount
        if key not in self._known:
            if self._ask is None:
                return {}
            self._known[key] = dict(self._ask(strategy, amount))
        return self._known[key]

    def __getstate__(self) -> dict[str, Any]:
        return {"_ask": None, "_known": self._known}
