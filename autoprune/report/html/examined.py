"""Front -> what the report says of robustness, stability, agreement and classes: figures and tables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from autoprune.report.document import FrontDocument, Member
from autoprune.report.examined import ROBUSTNESS, Condition, Examination
from autoprune.report.html.candidates import thinned
from autoprune.report.html.charts import Axis, Dot, DotChart, Drawing, scale_of, swatch
from autoprune.report.html.figures import members_shown
from autoprune.report.html.models import ChangeShown, Look, Shown, change_shown, estimate_shown, look_of
from autoprune.report.html.numbers import NONE, figure, signed
from autoprune.report.html.quantities import Quantity
from autoprune.report.pictures import MOST_SHOWN

MOST_LAYERS = 24
MOST_CONDITIONS = 24
MOST_CLASS_ROWS = 20


@dataclass(frozen=True)
class StaticFigure:
    """A drawing with its legend and a note under it."""

    id: str
    title: str
    chart: Drawing
    legend: tuple[tuple[str, str], ...] = ()
    note: str = ""


@dataclass(frozen=True)
class ConditionRow:
    """One condition: the dense model's metric, and each pick's with its change."""

    name: str
    kind: str
    dense: Shown
    picks: tuple[tuple[Shown, ChangeShown | None], ...]


@dataclass(frozen=True)
class StabilityRow:
    """One model beside the dense one; texts are empty where a figure is not known."""

    name: str
    look: Look
    same: Shown
    divergence: str
    gap: str
    gap_interval: str
    seeds: str
    worst: str
    worst_interval: str


@dataclass(frozen=True)
class ClassRow:
    """One class: its units, and the accuracy of the dense model and of each pick with its change."""

    name: str
    n: int
    dense: Shown
    picks: tuple[tuple[Shown, ChangeShown | None], ...]


@dataclass(frozen=True)
class ExaminedView:
    """Everything of the section; parts that a front does not know are empty.

    Args:
        picks: Names of the models that are shown beside the dense one.
        figures: Conditions and gradients.
        conditions: A row a condition.
        stability: A row a model.
        classes: Those that lost most.
        classes_left_out: How many classes have no row.
        failures: (model, what could not be measured of it, and why).
        unknown: Why there are no conditions, where there are none.
        regression: Whether the models answer numbers.
        effort: What the measurements took.
    """

    picks: tuple[str, ...]
    figures: tuple[StaticFigure, ...]
    conditions: tuple[ConditionRow, ...]
    stability: tuple[StabilityRow, ...]
    classes: tuple[ClassRow, ...]
    classes_left_out: int
    failures: tuple[tuple[str, str], ...]
    unknown: str
    regression: bool
    effort: str


def examined_view(front: FrontDocument, metric: Quantity, most: int) -> ExaminedView:
    """Return the section on robustness and stability of a front, with at most `most` members in its longest table."""
    picks = picked(front)
    classes = _class_rows(front.baseline, picks)
    stability = tuple(_stability_rows(front, members_shown(front, most), metric))
    figures = (_condition_figure(front, picks, metric), _gradient_figure(front, picks))
    failures = tuple(_failures(front, picks))
    return ExaminedView(
        picks=tuple(member.name for member in picks),
        figures=tuple(f for f in figures if f is not None),
        conditions=tuple(_condition_rows(front, picks, metric)),
        stability=stability,
        classes=tuple(classes[:MOST_CLASS_ROWS]),
        classes_left_out=max(0, len(classes) - MOST_CLASS_ROWS),
        failures=failures,
        unknown=_why_unknown(front, failed=bool(failures), examined=bool(stability)),
        regression=any(m.agreement is not None and m.agreement.rmse is not None for m in front.members),
        effort=_effort(front.examination, shown_in_part=most < len(front.members)),
    )


def picked(front: FrontDocument) -> list[Member]:
    """Return the picks in the front's order, or the first members where none was picked."""
    chosen = [member for member in front.members if member.id in set(front.picks.values())]
    return (chosen or list(front.members))[:MOST_SHOWN]


def legend_of(front: FrontDocument, members: Sequence[Member]) -> tuple[tuple[str, str], ...]:
    """Return the marks of the dense model and of members with their names."""
    looks = [("dense model", Look("star", "s-dense")), *((m.name, look_of(front, m)) for m in members)]
    return tuple((swatch(look.shape, look.css), name) for name, look in looks)


def _effort(known: Examination | None, *, shown_in_part: bool) -> str:
    told = [] if known is None else [f"{figure(known.seconds)} s in all."]
    if known is not None and known.units:
        told = [f"{known.units:,} units a measurement at most, {told[0]}"]
    if shown_in_part:
        told.append("Shown are the picks, and others evenly along the front.")
    return " ".join(told)


def _why_unknown(front: FrontDocument, *, failed: bool, examined: bool) -> str:
    if front.examination is not None and front.examination.units == 0:
        return "Robustness and stability were switched off for this run: robustness.units is 0."
    if failed:
        return "Robustness could not be measured."
    if not examined:
        return "Robustness, stability and agreement with the dense model were not measured for this front."
    doubt = "" if front.examination is not None else ", or they were not measured"
    return f"The task knows no corruption and no shifted domain{doubt}."


def _failures(front: FrontDocument, picks: Sequence[Member]) -> Iterator[tuple[str, str]]:
    for member in (front.baseline, *picks):
        for warning in member.warnings:
            if warning.code == ROBUSTNESS:
                yield member.name, warning.text


def _conditions_of(front: FrontDocument, picks: Sequence[Member]) -> dict[str, str]:
    """Return condition -> kind, of the dense model first: what it fails at may be known of the picks."""
    members = (front.baseline, *picks)
    return {name: condition.kind for member in members for name, condition in member.robustness.items()}


def _condition_figure(front: FrontDocument, picks: Sequence[Member], metric: Quantity) -> StaticFigure | None:
    names = list(_conditions_of(front, picks))
    shown = names[:MOST_CONDITIONS]
    rows = []
    for name in shown:
        models = [(front.baseline, Look("star", "s-dense")), *((m, look_of(front, m)) for m in picks)]
        found = [(m, look, m.robustness[name].quality.get(metric.key)) for m, look in models if name in m.robustness]
        dots = [
            Dot(
                metric.drawn(e.value),
                look.css,
                look.shape,
                (metric.drawn(e.low), metric.drawn(e.high)),
                f"{m.name}: {metric.shown(e.value)}",
            )
            for m, look, e in found
            if e is not None
        ]
        rows.append((_title(name), dots))
    values = [v for _, dots in rows for d in dots for v in (d.value, *(d.span or ()))]
    if not values:
        return None
    chart = DotChart(
        Axis(metric.title, scale_of(values), metric.kind),
        rows,
        f"{metric.label} of the dense model and of {len(picks)} picks under {len(rows)} conditions; the table has the "
        "figures.",
    )
    note = "" if len(names) == len(shown) else f"{len(names) - len(shown)} further conditions are in front.json."
    title = f"{metric.label[:1].upper()}{metric.label[1:]} under each condition"
    return StaticFigure("conditions", title, chart, legend_of(front, picks), note)


def _gradient_figure(front: FrontDocument, picks: Sequence[Member]) -> StaticFigure | None:
    norms = {m.id: m.stability.gradient_norm for m in (front.baseline, *picks) if m.stability is not None}
    dense = norms.get(front.baseline.id, {})
    layers = list(dict.fromkeys(name for known in norms.values() for name in known))
    shown = thinned(layers, MOST_LAYERS)
    models = [(front.baseline, Look("star", "s-dense")), *((m, look_of(front, m)) for m in picks)]
    rows = []
    for layer in shown:
        found = [(m, look, norms.get(m.id, {}).get(layer, 0.0)) for m, look in models]
        rows.append((layer, [Dot(v, k.css, k.shape, None, f"{m.name}: {figure(v)}") for m, k, v in found if v > 0.0]))
    values = [dot.value for _, dots in rows for dot in dots]
    if not dense or not values:
        return None
    chart = DotChart(
        Axis("L2 norm of the gradient", scale_of(values, log=True)),
        rows,
        f"Gradient norms of {len(rows)} layers for the dense model and {len(picks)} picks, on a logarithmic axis.",
    )
    note = "Of the task's loss on one batch of calibration data, the model in eval mode."
    if len(shown) < len(layers):
        note += f" {len(shown)} of {len(layers)} layers, evenly taken."
    return StaticFigure("gradients", "Gradient of the loss by layer", chart, legend_of(front, picks), note)


def _condition_rows(front: FrontDocument, picks: Sequence[Member], metric: Quantity) -> Iterator[ConditionRow]:
    for name, kind in list(_conditions_of(front, picks).items())[:MOST_CONDITIONS]:
        yield ConditionRow(
            _title(name),
            kind,
            _under(front.baseline.robustness.get(name), metric)[0],
            tuple(_under(member.robustness.get(name), metric) for member in picks),
        )


def _under(condition: Condition | None, metric: Quantity) -> tuple[Shown, ChangeShown | None]:
    if condition is None:
        return Shown(NONE), None
    shown = estimate_shown(metric, condition.quality.get(metric.key))
    return shown, change_shown(metric, condition.versus_dense.get(metric.key))


def _stability_rows(front: FrontDocument, members: Sequence[Member], metric: Quantity) -> Iterator[StabilityRow]:
    share = Quantity("accuracy", "max", "fraction")
    if not any(m.agreement is not None or m.stability is not None or m.classes for m in members):
        return
    for member in (front.baseline, *members):
        agreed = member.agreement
        gap = None if member.stability is None else member.stability.training_gap.get(metric.key)
        spread = member.seed_spread.get(metric.key)
        lost = [(c.change, c.name) for c in member.classes if c.change is not None and c.change.delta < 0.0]
        change, worst = min(lost, key=lambda pair: pair[0].delta, default=(None, ""))
        distance = None if agreed is None else agreed.rmse if agreed.rmse is not None else agreed.kl
        yield StabilityRow(
            name=member.name,
            look=Look("star", "s-dense") if member is front.baseline else look_of(front, member),
            same=estimate_shown(share, None if agreed is None else agreed.same),
            divergence=NONE if distance is None else figure(distance),
            gap=NONE if gap is None else metric.bare_change(gap.gap),
            gap_interval="" if gap is None else f"[{metric.bare_change(gap.low)}, {metric.bare_change(gap.high)}]",
            seeds=_spread(metric, None if spread is None else spread.std),
            worst=NONE if change is None else f"{worst}: {signed(100 * change.delta)}",
            worst_interval="" if change is None else f"[{signed(100 * change.low)}, {signed(100 * change.high)}]",
        )


def _spread(metric: Quantity, std: float | None) -> str:
    if std is None:
        return NONE
    return f"± {100 * std:.2f}" if metric.kind == "fraction" else f"± {figure(std)}"


def _class_rows(dense: Member, picks: Sequence[Member]) -> list[ClassRow]:
    """Return a row a class; where a pick lost most comes first."""
    share = Quantity("accuracy", "max", "fraction")
    known = [{(c.number, c.name): c for c in member.classes} for member in picks]
    found = []
    for one in dense.classes if picks else ():
        cells = [own.get((one.number, one.name)) for own in known]
        shown = tuple(
            (Shown(NONE), None) if c is None else (estimate_shown(share, c.accuracy), change_shown(share, c.change))
            for c in cells
        )
        loss = min((c.change.delta for c in cells if c is not None and c.change is not None), default=0.0)
        found.append((loss, ClassRow(one.name, one.accuracy.n, estimate_shown(share, one.accuracy), shown)))
    return [row for _, row in sorted(found, key=lambda pair: pair[0])]


def _title(condition: str) -> str:
    return condition.replace("_", " ")
