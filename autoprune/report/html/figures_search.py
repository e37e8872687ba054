"""Front and records -> the figures of the search: predictor, hypervolume, importance, latency, seeds."""

from __future__ import annotations

from collections.abc import Sequence

from autoprune.report.document import FrontDocument, LatencyResult, Member
from autoprune.report.html.candidates import Prediction, thinned
from autoprune.report.html.charts import (
    Axis,
    Line,
    LineChart,
    Mark,
    Row,
    RowChart,
    Scale,
    ScatterChart,
    Series,
    bounded,
    scale_of,
    swatch,
)
from autoprune.report.html.figures import FIDELITIES, Figure, Limits, members_shown
from autoprune.report.html.models import Look, look_of
from autoprune.report.html.numbers import figure
from autoprune.report.html.quantities import Quantity

MOST_GROUPS = 30
_Z90 = 1.645
_LINES = {"full": "s-accurate", "short": "s-member", "proxy": "s-balanced"}
_SHAPES = {"full": "up", "short": "circle", "proxy": "diamond"}


def predicted_figure(predictions: Sequence[Prediction], metric: Quantity, limits: Limits) -> Figure | None:
    """Return predicted against measured values; the bars are 90% intervals of the prediction."""
    if not predictions:
        return None
    shown: list[Prediction] = thinned(predictions, limits.points // 4)
    values = [metric.drawn(v) for p in shown for v in (p.mean, p.measured)]
    scale = scale_of(values)
    series = []
    for fidelity in FIDELITIES:
        marks = [_prediction(p, metric) for p in shown if p.fidelity == fidelity]
        series.append(Series(f"{fidelity} candidates", _LINES[fidelity], _SHAPES[fidelity], marks))
    x = Axis(f"measured {metric.title}", scale, metric.kind)
    y = Axis(f"predicted {metric.title}", scale, metric.kind)
    described = f"Predicted against measured {metric.label} of {len(shown)} candidates, with the line of equality."
    note = "Bars are 90% intervals, stated before the measurement; on the dashed line prediction equals measurement."
    return Figure(
        "predicted",
        f"Predicted against measured {metric.label}",
        ScatterChart(x, y, series, described, diagonal=True),
        tuple((swatch(s.shape, s.css), s.label) for s in series if s.marks),
        note,
    )


def _prediction(prediction: Prediction, metric: Quantity) -> Mark:
    reach = _Z90 * prediction.std
    low, high = metric.drawn(prediction.mean - reach), metric.drawn(prediction.mean + reach)
    return Mark(metric.drawn(prediction.measured), metric.drawn(prediction.mean), None, (low, high))


def trust_figure(front: FrontDocument) -> Figure | None:
    """Return rank correlation and same-cost concordance over the search, each beside cost alone."""
    rounds = front.predictor.rounds if front.predictor else ()
    tracks = (
        ("rank correlation", "s-member", "circle", [(r.evaluation, r.kendall_tau) for r in rounds]),
        ("same, cost alone", "s-member faint", "circle", [(r.evaluation, r.cost_only.kendall_tau) for r in rounds]),
        ("same-cost concordance", "s-balanced", "diamond", [(r.evaluation, r.same_cost_concordance) for r in rounds]),
        ("same, cost alone", "s-balanced faint", "diamond", [(r.evaluation, r.cost_only.concordance) for r in rounds]),
    )
    lines = [
        Line(label, css, shape, found)
        for label, css, shape, told in tracks
        if len(found := [(float(e), v) for e, v in told if v is not None]) > 1
    ]
    if not lines:
        return None
    x = Axis("evaluations", scale_of(a for line in lines for a, _ in line.points))
    y = Axis("1 = always right", scale_of([1.0, *(b for line in lines for _, b in line.points)]))
    described = "Rank correlation and same-cost concordance of predictor and of cost alone over the evaluations."
    legend = tuple((swatch(line.shape, line.css), line.label) for line in lines)
    return Figure("trust", "Trust in the predictor over the search", LineChart(x, y, lines, described), legend)


def history_figure(front: FrontDocument) -> Figure | None:
    """Return the hypervolume over the evaluations, one line a fidelity."""
    lines = []
    for fidelity in FIDELITIES:
        points = [(float(h.evaluation), h.hypervolume) for h in front.history if h.fidelity == fidelity]
        if points:
            shown = [*thinned(points[:-1], 300), points[-1]]
            lines.append(Line(f"{fidelity} candidates", _LINES[fidelity], _SHAPES[fidelity], shown, stepped=True))
    if not lines:
        return None
    x = Axis("evaluations", scale_of(a for line in lines for a, _ in line.points))
    y = Axis("hypervolume", scale_of([0.0, *(b for line in lines for _, b in line.points)]))
    told = "; ".join(f"{line.label} end at {figure(line.points[-1][1])}" for line in lines)
    legend = tuple((swatch(line.shape, line.css), line.label) for line in lines)
    described = f"Hypervolume over evaluations: {told}."
    note = "Candidates of different fidelity are never compared: each has its own line."
    return Figure("history", "Hypervolume over evaluations", LineChart(x, y, lines, described), legend, note)


def importance_figure(told: dict[str, float], kind: str) -> Figure | None:
    """Return shares of the variation explained as bars, the largest first."""
    ranked = sorted(told.items(), key=lambda pair: (-pair[1], pair[0]))
    if not ranked:
        return None
    rows = [Row(n, f"{100 * v:.1f}%", "s-member", bar=(0.0, 100 * v)) for n, v in ranked[:MOST_GROUPS]]
    axis = Axis("share explained (%)", Scale(0.0, bounded(max(1.0, 105 * ranked[0][1]))))
    described = f"Importance of {len(rows)} {kind}: {', '.join(f'{r.label} {r.value}' for r in rows[:5])}."
    rest = ranked[MOST_GROUPS:]
    note = f"{len(rest)} further {kind} explain {100 * sum(v for _, v in rest):.1f}% together." if rest else ""
    return Figure(f"importance-{kind}", f"Importance of {kind}", RowChart(axis, rows, described), note=note)


def latency_figures(front: FrontDocument, limits: Limits) -> list[Figure]:
    """Return the distribution of latency of every model, one figure a target."""
    found: list[Figure] = []
    models = [front.baseline, *members_shown(front, limits.rows)]
    for target in front.targets:
        timed = [(m, latency) for m in models if (d := m.deployments.get(target)) and (latency := d.latency)]
        if not timed:
            continue
        rows = [_latency_row(front, member, latency) for member, latency in timed]
        axis = Axis("ms a batch", scale_of((v for r in rows for v in r.quantiles), log=True))
        described = f"Latency on {target} of {len(rows)} models: {rows[0].label} {rows[0].value}."
        boxed = any(len(r.quantiles) == 5 for r in rows)
        note = "Box: middle half of the clean samples; line: 5% to 95%." if boxed else "Line: 95% interval."
        note += " ? marks a noisy measurement." if any(r.value.endswith("?") for r in rows) else ""
        if len(models) <= len(front.members):
            note += f" {len(rows)} of {len(front.members) + 1} models."
        found.append(Figure(f"latency-{len(found)}", target, RowChart(axis, rows, described), note=note))
    return found


def _latency_row(front: FrontDocument, member: Member, latency: LatencyResult) -> Row:
    dense = member is front.baseline
    look = Look("star", "s-dense") if dense else look_of(front, member)
    five = latency.quantiles_ms
    spread = five if len(five) == 5 and all(v > 0 for v in five) else (latency.low, latency.ms, latency.high)
    flag = "" if latency.clean else "?"
    return Row(member.name, f"{figure(latency.ms)} ms{flag}", look.css, quantiles=spread, shape=look.shape)


def seeds_figure(front: FrontDocument, metric: Quantity, limits: Limits) -> Figure | None:
    """Return the first metric of every recovery seed, one row a member."""
    rows = []
    for member in members_shown(front, limits.rows):
        spread = member.seed_spread.get(metric.key)
        if spread and spread.values:
            std = f"± {100 * spread.std:.2f}" if metric.kind == "fraction" else f"± {figure(spread.std)}"
            dots = tuple(metric.drawn(v) for v in spread.values)
            rows.append(Row(member.name, std, look_of(front, member).css, dots=dots))
    if not rows:
        return None
    axis = Axis(f"{metric.title} on val", scale_of(v for r in rows for v in r.dots), metric.kind)
    described = f"{metric.label} on val of {len(rows)} models, one dot a recovery seed."
    note = (
        "One dot a seed of recovery, with their standard deviation: this is apart from the sampling error of the split."
    )
    return Figure("seeds", f"Spread of {metric.label} over recovery seeds", RowChart(axis, rows, described), note=note)
