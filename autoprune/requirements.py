"""Text such as `accuracy>=0.93` -> a requirement that values can be held against."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from autoprune.errors import ConfigError
from autoprune.registry import unknown_name

_FORM = re.compile(
    r"\s*(?P<metric>[A-Za-z_][A-Za-z0-9_.@-]{0,99})\s*(?P<relation>>=|<=)\s*"
    r"(?P<bound>[+-]?(\d{1,30}(\.\d{0,30})?|\.\d{1,30})([eE][+-]?\d{1,2})?)\s*"
)


@dataclass(frozen=True)
class Requirement:
    """A bound on one measured value.

    Args:
        metric: Name of the value.
        relation: Which side of the bound is allowed; the bound itself is.
        bound: The bound, in the value's own unit.
    """

    metric: str
    relation: Literal[">=", "<="]
    bound: float

    @property
    def text(self) -> str:
        """The requirement in its one canonical spelling."""
        return f"{self.metric}{self.relation}{self.bound:.12g}"

    def violation(self, values: Mapping[str, float]) -> float:
        """Return by how much `values` miss the bound; <= 0 where it holds.

        Raises:
            UnknownNameError: `values` has no such name.
        """
        if self.metric not in values:
            raise unknown_name("value", self.metric, list(values))
        excess = values[self.metric] - self.bound
        return -excess if self.relation == ">=" else excess

    def value(self, violation: float) -> float:
        """Return the value that misses the bound by `violation`."""
        return self.bound - violation if self.relation == ">=" else self.bound + violation


def parse_requirement(text: str) -> Requirement:
    """Parse `NAME>=NUMBER` or `NAME<=NUMBER`.

    Raises:
        ConfigError: `text` has another form.
    """
    match = _FORM.fullmatch(text)
    if match is None:
        raise ConfigError(
            f"{text[:200]!r} is no requirement; allowed is NAME>=NUMBER or NAME<=NUMBER.",
            hint="Write for example 'accuracy>=0.93'; accuracies are fractions from 0 to 1.",
        )
    relation: Literal[">=", "<="] = ">=" if match["relation"] == ">=" else "<="
    return Requirement(match["metric"], relation, float(match["bound"]))
