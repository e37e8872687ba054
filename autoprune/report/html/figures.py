"""Front and candidates -> the figures of the models: the front on each split, sparsity, parallel coordinates."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from autoprune.report.document import FrontDocument, Member
from autoprune.report.html.candidates import Candidate, thinned
from autoprune.report.html.charts import (
    Axis,
    Chart,
    Group,
    HeatChart,
    Mark,
    ParallelChart,
    ScatterChart,
    Series,
    Strand,
    scale_of,
    swatch,
)
from autoprune.report.html.models import PICKS, Look, look_of
from autoprune.report.html.quantities import Quantity, Split, cost_of, split_shown, split_values

FIDELITIES = {
    "full": ("candidate, full recovery", Look("circle", "s-full")),
    "short": ("candidate, short recovery", Look("dot", "s-short")),
    "proxy": ("candidate, proxy", Look("cross", "s-proxy")),
}
_CONTROL_SHAPES = ("plus", "cross", "square", "up", "right", "circle")
_Point = tuple[float, float]


@dataclass(frozen=True)
class Limits:
    """How much the charts of one page draw at most, so that it stays small.

    Args:
        points: Candidates, over all charts together.
        cells: Cells of the heat strips.
        strands: Lines of the parallel coordinates.
        rows: Models in a chart of one row each.
        pictured: Models whose pictures are shown.
    """

    points: int = 1500
    cells: int = 8000
    strands: int = 100
    rows: int = 40
    pictured: int = 4

    def tighter(self) -> Limits:
        """Return a third of everything, and half of the pictures."""
        points, cells, strands, rows = (max(4, v // 3) for v in (self.points, self.cells, self.strands, self.rows))
        return Limits(points, cells, strands, rows, self.pictured // 2)


@dataclass(frozen=True)
class Figure:
    """A chart with its legend, a list of (mark, text), and a note under it."""

    id: str
    title: str
    chart: Chart
    legend: tuple[tuple[str, str], ...] = ()
    note: str = ""


def axis_of(quantity: Quantity, values: Iterable[float]) -> Axis:
    """Return the axis of a quantity that holds all values."""
    return Axis(quantity.title, scale_of((quantity.drawn(v) for v in values), log=quantity.log), quantity.kind)


def control_look(index: int) -> Look:
    """Return how the models of a control are marked."""
    return Look(_CONTROL_SHAPES[index % len(_CONTROL_SHAPES)], f"s-control{index % 3}")


def front_figures(
    front: FrontDocument, quantities: tuple[Quantity, ...], candidates: Sequence[Candidate], limits: Limits
) -> list[Figure]:
    """Return the front against every cost on the split that counts, and on val with all that the search saw."""
    metric, main, split = quantities[0], cost_of(quantities), split_shown(front)
    found = [_front_figure(front, metric, main, "test", ())] if split == "test" else []
    seen = _front_figure(front, metric, main, "val", thinned(candidates, limits.points))
    drawn = sum(len(one["points"]) for one in seen.chart.live()["series"] if one["group"] == "candidates")
    found.append(replace(seen, note=_left_out(drawn, len(candidates))))
    others = [q for q in quantities[1:] if q is not main]
    return found + [_front_figure(front, metric, cost, split, ()) for cost in others]


def _front_figure(
    front: FrontDocument, metric: Quantity, cost: Quantity, split: Split, candidates: Sequence[Candidate]
) -> Figure:
    builder = _FrontSeries(front, metric, cost, split)
    series = builder.models()
    known = [m for one in series for m in one.marks]
    ys = [v for m in known for v in (m.y, *(m.y_range or ()))]
    others = builder.candidates(candidates)
    shown = [m for one in others for m in one.marks if ys and min(ys) - (max(ys) - min(ys)) <= m.y]
    xs = [v for m in known for v in (m.x, *(m.x_range or ()))] + [m.x for m in shown]
    x = Axis(cost.title, scale_of(xs, log=cost.log), cost.kind)
    y = Axis(f"{metric.title} on {split}", scale_of([*ys, *(m.y for m in shown)]), metric.kind)
    drawn = [*others, *series]
    inside = sum(x.scale.holds(m.x) and y.scale.holds(m.y) for one in others for m in one.marks)
    described = (
        f"Scatter chart of {metric.label} on {split} against {cost.label} of {len(front.members)} front members and "
        f"the dense model{f', with {inside} other candidates' if inside else ''}; the table of models has the figures."
    )
    return Figure(
        id=f"front-{split}-{cost.key}",
        title=f"On {split}: {metric.label} against {cost.label}",
        chart=ScatterChart(x, y, drawn, described),
        legend=tuple((swatch(one.shape, one.css), one.label) for one in reversed(drawn) if one.marks),
    )


@dataclass(frozen=True)
class _FrontSeries:
    front: FrontDocument
    metric: Quantity
    cost: Quantity
    split: Split

    @property
    def ids(self) -> set[str]:
        """Ids of the front's own members."""
        return {member.id for member in self.front.members}

    def models(self) -> list[Series]:
        """Return controls, dense model, members and picks, in the order of drawing."""
        front = self.front
        found = [
            Series(f"control: {name}", (look := control_look(i)).css, look.shape, self._marks(members), "controls")
            for i, (name, members) in enumerate(front.controls.items())
        ]
        found.append(Series("dense model", "s-dense", "star", self._marks([front.baseline], "dense")))
        looks = {member.id: look_of(front, member) for member in front.members}
        kinds: tuple[tuple[bool, str, str, Group], ...] = (
            (True, "front", "s-member", "models"),
            (False, "front, violates a constraint", "s-member open", "infeasible"),
        )
        for feasible, label, css, group in kinds:
            plain = [m for m in front.members if m.feasible is feasible and looks[m.id].css == "s-member"]
            found.append(Series(label, css, "circle", self._marks(plain), group))
        for _, (text, shape, css) in reversed(PICKS.items()):
            picked = [m for m in front.members if looks[m.id].css == css]
            found.append(Series(text, css, shape, self._marks(picked, "name")))
        return found

    def candidates(self, candidates: Sequence[Candidate]) -> list[Series]:
        """Return candidates off the front by fidelity, the cheapest fidelity lowest."""
        found = []
        for fidelity, (label, look) in reversed(FIDELITIES.items()):
            of_it = [c for c in candidates if c.fidelity == fidelity]
            keys = (self.cost.key, self.metric.key)
            pairs = [(c.values[keys[0]], c.values[keys[1]]) for c in of_it if all(k in c.values for k in keys)]
            marks = [Mark(self.cost.drawn(a), self.metric.drawn(b)) for a, b in pairs]
            found.append(Series(label, look.css, look.shape, marks, "candidates"))
        return found

    def _marks(self, members: Sequence[Member], named: str = "") -> list[Mark]:
        found = []
        for member in members:
            values = split_values(self.front, member, self.split)
            if self.metric.key not in values or self.cost.key not in values:
                continue
            x, y = values[self.cost.key], values[self.metric.key]
            found.append(
                Mark(
                    self.cost.drawn(x),
                    self.metric.drawn(y),
                    self._range(member, self.cost),
                    self._range(member, self.metric),
                    f"{member.name}: {self.metric.shown(y)}, {self.cost.shown(x)}",
                    {"dense": "dense", "name": member.name}.get(named, ""),
                    member.id if member.id in self.ids else "",
                )
            )
        return found

    def _range(self, member: Member, quantity: Quantity) -> _Point | None:
        deployed = self.front.deployment(member)
        if quantity.key == "latency_ms" and deployed.latency:
            return deployed.latency.low, deployed.latency.high
        measured = deployed.quality.test if self.split == "test" else deployed.quality.val
        estimate = measured.get(quantity.key)
        return (quantity.drawn(estimate.low), quantity.drawn(estimate.high)) if estimate else None


def heat_figure(front: FrontDocument, shares: Callable[[Member], dict[str, float]], limits: Limits) -> Figure | None:
    """Return the fraction removed of every group, one strip a member; None where it is not known."""
    groups = list(dict.fromkeys(name for member in front.members for name in shares(member)))
    if not groups:
        return None
    members = members_shown(front, max(10, limits.cells // len(groups)))
    rows = [[shares(m).get(group, 0.0) for group in groups] for m in members]
    described = f"Heat strips: share of units removed in each of {len(groups)} groups, for {len(members)} models."
    note = "" if len(members) == len(front.members) else _some(len(members), len(front.members))
    chart = HeatChart([m.name for m in members], groups, rows, described)
    return Figure("heat", "Sparsity of each group", chart, note=note)


def parallel_figure(
    front: FrontDocument, quantities: Sequence[Quantity], split: Split, limits: Limits
) -> Figure | None:
    """Return parallel coordinates of the members and the dense model over objectives and sizes."""
    if not front.members:
        return None
    axes = parallel_quantities(front, quantities)
    models = [*members_shown(front, limits.strands), front.baseline]
    values = [split_values(front, model, split) for model in models]
    scales = [(axis_of(q, [v[q.key] for v in values if q.key in v]), q.direction == "max") for q in axes]
    strands = [
        Strand(
            model.name,
            "s-dense" if model is front.baseline else look_of(front, model).css,
            [q.drawn(told[q.key]) if q.key in told else None for q in axes],
            model.id,
        )
        for model, told in zip(models, values, strict=True)
    ]
    plain = [s for s in strands if s.css == "s-member"]
    strands = plain + [s for s in strands if s.css != "s-member"]
    described = f"Parallel coordinates of {len(models)} models over {', '.join(q.label for q in axes)}."
    legend = [("dense model", Look("dash", "s-dense"))]
    legend += [(text, Look("dash", css)) for text, _, css in PICKS.values() if any(s.css == css for s in strands)]
    legend += [("front", Look("dash", "s-member"))] if plain else []
    swatches = tuple((swatch(look.shape, look.css), text) for text, look in legend)
    return Figure(
        "parallel",
        "All figures at once",
        ParallelChart(scales, strands, described),
        swatches,
        "The better end of each axis is on top.",
    )


def parallel_quantities(front: FrontDocument, quantities: Sequence[Quantity]) -> list[Quantity]:
    """Return the objectives, and the sizes that every model has."""
    sizes = [
        Quantity("speedup", "max", "value"),
        Quantity("macs", "min", "count", log=True),
        Quantity("parameters", "min", "count", log=True),
        Quantity("bytes", "min", "bytes", log=True),
    ]
    known = {q.key for q in quantities}
    told = front.values(front.baseline)
    return [*quantities, *(q for q in sizes if q.key not in known and q.key in told)]


def members_shown(front: FrontDocument, most: int) -> list[Member]:
    """Return at most `most` members in the front's order: the picks, and others evenly taken."""
    if len(front.members) <= most:
        return list(front.members)
    kept = set(front.picks.values())
    kept |= {m.id for m in thinned([m for m in front.members if m.id not in kept], most - len(kept))}
    return [m for m in front.members if m.id in kept]


def _some(shown: int, total: int) -> str:
    return f"Shown are {shown} of {total} models: the picks, and others evenly along the front."


def _left_out(drawn: int, total: int) -> str:
    if drawn == total:
        return ""
    return f"{drawn:,} of {total:,} candidates are drawn; others lie outside the axes or are left out to keep it clear."
