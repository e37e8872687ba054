"""Members -> the shortest command that picks each of them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal

from autoprune.config.model import NAME_PATTERN
from autoprune.errors import ConfigError
from autoprune.report.document import FrontDocument, Member
from autoprune.report.html.quantities import Quantity
from autoprune.requirements import Requirement, parse_requirement

_DIGITS = (3, 4, 6, 17)
_SIZES = ("parameters", "macs", "bytes", "compressed_bytes")


def prefix_of(front: FrontDocument) -> str:
    """Return the command without demands; a name that no run can have is left for the reader to fill in."""
    return f"autoprune pick {front.run if re.fullmatch(NAME_PATTERN, front.run) else 'NAME'}"


def pick_commands(front: FrontDocument, quantities: Sequence[Quantity]) -> dict[str, str]:
    """Return member id -> the command that copies it; members that `pick` never chooses are copied by hand."""
    values = {member.id: front.values(member) for member in front.members if member.feasible}
    found = {}
    for member in front.members:
        demands = next(
            (d for d in _demands(member, values, quantities) if _choice(front, values, d) == member.id), None
        )
        if demands is not None:
            found[member.id] = " ".join([prefix_of(front), *map(_option, demands), "--to DIR"])
        elif member.directory is not None:
            found[member.id] = f"cp -r {shlex.quote(member.directory)} DIR"
    return found


def _demands(
    member: Member, values: Mapping[str, Mapping[str, float]], quantities: Sequence[Quantity]
) -> Iterator[list[Requirement]]:
    """Yield ever tighter demands that the member itself satisfies; none where it is not feasible."""
    if member.id not in values:
        return
    own = values[member.id]
    bounds = [(q.key, ">=" if q.direction == "max" else "<=") for q in quantities if q.key in own]
    costs = [bound for bound in bounds if bound[0] != quantities[0].key]
    least = [(key, ">=") for key in ("latency_ms", *_SIZES) if key in own]
    exact = [(key, relation) for key, _ in least for relation in (">=", "<=")]
    for chosen in ([], costs, bounds, *([bound] for bound in least), exact):
        for digits in _DIGITS if chosen else (0,):
            try:
                yield [parse_requirement(f"{key}{r}{_rounded(own[key], r, digits)}") for key, r in chosen]
            except ConfigError:
                break


def _choice(
    front: FrontDocument, values: Mapping[str, Mapping[str, float]], demands: Sequence[Requirement]
) -> str | None:
    """Return what `pick` chooses: the best first objective, of equals the fastest."""
    sign = -1.0 if front.metric.direction == "max" else 1.0
    fitting = [i for i, v in values.items() if all(d.violation(v) <= 0.0 for d in demands)]
    key = {i: (sign * values[i][front.metric.name], values[i].get("latency_ms", 0.0)) for i in fitting}
    return min(fitting, key=key.__getitem__, default=None)


def _rounded(value: float, relation: str, digits: int) -> str:
    """Return a bound of so many significant digits that the value satisfies."""
    exact = Decimal(repr(value))
    step = Decimal(1).scaleb(exact.adjusted() - digits + 1)
    if exact == 0 or len(exact.normalize().as_tuple().digits) <= digits:
        return f"{exact:f}"
    return f"{exact.quantize(step, rounding=ROUND_FLOOR if relation == '>=' else ROUND_CEILING):f}"


def _option(demand: Requirement) -> str:
    if demand.metric == "latency_ms" and demand.relation == "<=":
        return f"--max-latency-ms {demand.bound!r}".removesuffix(".0")
    return f"--require {shlex.quote(_text(demand))}"


def _text(demand: Requirement) -> str:
    bound = int(demand.bound) if demand.bound.is_integer() and abs(demand.bound) < 1e15 else demand.bound
    return f"{demand.metric}{demand.relation}{bound!r}"
