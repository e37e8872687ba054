"""Front document and demands -> the one member that satisfies them best."""

from __future__ import annotations

from collections.abc import Sequence

from autoprune.errors import UnmetConstraintError
from autoprune.report.document import FrontDocument, Member
from autoprune.requirements import Requirement, parse_requirement

Values = dict[str, float]
_DIGITS = 12


def pick(
    front: FrontDocument,
    *,
    max_latency_ms: float | None = None,
    require: Sequence[str] = (),
    max_drop: float | None = None,
) -> Member:
    """Return the feasible member of the best first objective that satisfies every demand; of equals the fastest.

    Args:
        front: The front.
        max_latency_ms: Highest latency on the first target.
        require: Demands such as `accuracy>=0.93`, on the figures that the front shows (test where it was read).
        max_drop: Largest loss of the first objective against the dense model, in its own unit.

    Raises:
        ConfigError: A demand cannot be read.
        UnknownNameError: A demand names no figure of the members.
        UnmetConstraintError: No member satisfies them; the message gives the reachable range.
    """
    demands = [parse_requirement(text) for text in require]
    if max_latency_ms is not None:
        demands.append(Requirement("latency_ms", "<=", max_latency_ms))
    if max_drop is not None:
        demands.append(Requirement("drop", "<=", max_drop))
    feasible = [(member, _values(front, member)) for member in front.members if member.feasible]
    if not front.members:
        raise UnmetConstraintError(
            f"The front of {front.run!r} is empty: no finalist was better than the dense model.",
            hint="Search again with a larger budget under another --name.",
        )
    if not feasible:
        raise UnmetConstraintError(
            f"None of the {len(front.members)} models of {front.run!r} satisfies the run's own constraints.",
            hint="Relax the constraints of the configuration and search again.",
        )
    fitting = [(m, v) for m, v in feasible if all(d.violation(v) <= 0.0 for d in demands)]
    if not fitting:
        raise _unmet(front, demands, [v for _, v in feasible])
    sign = -1.0 if front.metric.direction == "max" else 1.0
    return min(fitting, key=lambda pair: (sign * pair[1][front.metric.name], pair[1].get("latency_ms", 0.0)))[0]


def _values(front: FrontDocument, member: Member) -> Values:
    """Return a member's figures, with `drop`: by how much its first objective is worse than the dense model's."""
    values, name = front.values(member), front.metric.name
    sign = 1.0 if front.metric.direction == "max" else -1.0
    return values | {"drop": round(sign * (front.values(front.baseline)[name] - values[name]), _DIGITS)}


def _unmet(front: FrontDocument, demands: Sequence[Requirement], reached: Sequence[Values]) -> UnmetConstraintError:
    wanted = " and ".join(d.text for d in demands)
    ranges = []
    for name in dict.fromkeys([*(d.metric for d in demands), front.metric.name]):
        figures = [values[name] for values in reached]
        ranges.append(f"{name} from {min(figures):.6g} to {max(figures):.6g}")
    alone = [d.text for d in demands if not any(d.violation(v) <= 0.0 for v in reached)]
    reason = f"{', '.join(alone)} is out of reach" if alone else "each is met by some model, but not all by one"
    return UnmetConstraintError(
        f"None of the {len(reached)} models of {front.run!r} satisfies {wanted}: {reason}.",
        hint=f"Reachable: {'; '.join(ranges)}.",
    )
