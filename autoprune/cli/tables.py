"""Reports -> rich tables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from autoprune.markup import interval_text, printable

if TYPE_CHECKING:
    from rich.console import RenderableType

    from autoprune.artifacts import VerifyReport
    from autoprune.evaluation.types import Interval, Latency
    from autoprune.report.document import FrontDocument, Member
    from autoprune.report.partial import PartialRun
    from autoprune.search.check import CheckReport
    from autoprune.search.status import RunStatus

SHOWN_WIDTHS = 5


def plain_table(columns: Sequence[str], rows: Iterable[Sequence[str]], *, title: str = "") -> Table:
    """Return a table of literal text."""
    table = Table(box=SIMPLE_HEAD, title=title or None, title_justify="left", show_edge=False)
    for column in columns:
        table.add_column(literal(column), overflow="fold")
    for row in rows:
        table.add_row(*(literal(cell) for cell in row))
    return table


def literal(text: str) -> Text:
    """Return one line without markup or control characters."""
    return Text(printable(text))


def check_tables(report: CheckReport) -> list[RenderableType]:
    """Return what `autoprune check` shows."""
    from autoprune.cli.progress import duration

    groups = [[g.name, g.granularity, str(g.width), _widths(g.widths), ", ".join(g.layers)] for g in report.groups]
    protected = [[p.name, p.kind, str(p.width) if p.width else "", p.reason] for p in report.protected]
    parts: list[RenderableType] = [
        plain_table(["group", "kind", "units", "widths", "layers"], groups, title=f"Prunable groups ({report.tracer})"),
    ]
    if protected:
        parts.append(plain_table(["layer", "kind", "units", "why"], protected, title="Protected layers"))
    quality = [[name, *_interval(value)] for name, value in report.baseline.items()]
    parts.append(
        plain_table(["metric", "dense", "95% interval", "n"], quality, title="Quality of the dense model (val)")
    )
    rows = [_latency_row(name, dense, report.floor[name]) for name, dense in report.latency.items()]
    columns = ["target", "dense ms", "95% interval", "floor ms", "largest speed-up", "clean"]
    parts.append(plain_table(columns, rows, title="Latency"))
    sizes = [
        ["parameters", f"{report.parameters:,}", f"{report.floor_parameters:,}"],
        ["MACs an example", f"{report.macs:,}", f"{report.floor_macs:,}"],
        ["bytes", f"{report.bytes:,}", f"{report.floor_bytes:,}"],
    ]
    parts.append(plain_table(["size", "dense", "floor"], sizes, title="Size"))
    if report.parts:
        counts = [[kind, str(count)] for kind, count in report.parts.items()]
        parts.append(plain_table(["kind", "members"], counts, title="Prunable without slicing"))
    facts = f"10^{report.space_size_log10:.1f} policies; a run takes about {duration(report.estimate_seconds)}"
    return [*parts, Text(), literal(facts), *(literal(f"warning: {w}") for w in report.warnings)]


def status_tables(status: RunStatus) -> list[RenderableType]:
    """Return what `autoprune status` shows."""
    from autoprune.cli.progress import duration

    owner = "" if status.owner is None else f" by pid {status.owner.get('pid')} on {status.owner.get('host')}"
    counts = ", ".join(f"{count} {fidelity}" for fidelity, count in status.evaluations.items()) or "none"
    failed = ", ".join(f"{count} {reason}" for reason, count in status.failed.items()) or "none"
    stage = f"; stage: {status.stage}" if status.stage and status.state != "finished" else ""
    beside = f"stopped early: {status.stopped}; of controls: {status.controls}"
    lines = [
        f"{status.name}: {status.state}{owner}{stage}; {duration(status.wall_seconds)} so far",
        f"candidates: {counts} of {status.total}; failed: {failed}; {beside}; models of the front: {status.members}",
    ]
    if status.rank_correlation is not None:
        lines.append(f"predictor's rank correlation: {status.rank_correlation:.2f}")
    names = list(status.front[0][1]) if status.front else []
    picked = {ident: what.replace("_", " ") for what, ident in status.picks.items()}
    rows = [[i, *(f"{values[n]:.4g}" for n in names), picked.get(i, "")] for i, values in status.front]
    table = [plain_table(["candidate", *names, "pick"], rows, title="Front so far")] if rows else []
    return [*map(literal, lines), *table]


def partial_tables(part: PartialRun) -> list[RenderableType]:
    """Return what `autoprune report` shows of a run without a front."""
    lines = [f"{part.run}: {part.headline}", *part.lines, *([f"to go on: {part.command}"] if part.command else [])]
    tables = [item for t in part.tables for item in (plain_table(t.columns, t.rows, title=t.title), literal(t.note))]
    return [*map(literal, lines), *tables]


def place_lines(directory: Path, front: FrontDocument) -> list[RenderableType]:
    """Return where a run's results lie, one line a thing."""
    names = {member.id: member.name for member in front.members}
    picks = "; ".join(f"{what.replace('_', ' ')}: {names[ident]}" for what, ident in front.picks.items())
    lines = [f"{directory / 'front.json'}  (also front.csv, front.md)"]
    lines += [f"{directory / m.directory}" for m in front.members if m.directory is not None]
    return [Text(), literal(picks), Text("everything lies in"), *map(_path, lines)]


def member_tables(front: FrontDocument, member: Member) -> list[RenderableType]:
    """Return one member beside the dense model."""
    from autoprune.report import front_table

    warnings = [literal(f"warning: {w.text}") for w in member.warnings]
    return [front_table(front.model_copy(update={"members": (member,), "picks": {}})), *warnings]


def single_tables(member: Member, baseline: Member) -> list[RenderableType]:
    """Return what `autoprune prune` shows: one model beside the dense one, figure by figure."""
    rows = []
    for target, deployment in member.deployments.items():
        dense = baseline.deployments[target]
        for metric, estimate in deployment.quality.test.items():
            before = dense.quality.test[metric]
            shown = [interval_text(e.value, e.low, e.high) for e in (estimate, before)]
            rows.append([f"{metric} (test), {target}", *shown, ""])
        if deployment.latency is not None and dense.latency is not None:
            speedup = f"{deployment.latency.speedup:.2f}x"
            rows.append(
                [
                    f"latency ms, {target}",
                    f"{deployment.latency.ms:.4g}",
                    f"{dense.latency.ms:.4g}",
                    f"{speedup} the speed",
                ]
            )
    for name in ("parameters", "nonzero", "macs", "bytes"):
        now, before = getattr(member, name), getattr(baseline, name)
        if now is not None and before:
            rows.append([name, f"{now:,}", f"{before:,}", f"{now / before:.1%} of dense"])
    title = f"{member.strategy}: {member.name}"
    warnings = [literal(f"warning: {w.text}") for w in member.warnings]
    return [plain_table(["figure", "this model", "dense model", ""], rows, title=title), *warnings]


def verify_tables(report: VerifyReport) -> list[RenderableType]:
    """Return what `autoprune verify` shows."""
    rows = [["ok" if c.ok else "FAILED", c.name, c.detail] for c in report.checks]
    return [plain_table(["", "check", "found"], rows), Text("verified" if report.ok else "NOT verified")]


def _path(text: str) -> Text:
    return Text(f"  {printable(text)}", overflow="fold")


def _widths(widths: Sequence[int]) -> str:
    """Return widths in ascending order, the middle left out where there are many."""
    ordered = [str(w) for w in sorted(widths)]
    if len(ordered) <= SHOWN_WIDTHS:
        return " ".join(ordered)
    return f"{' '.join(ordered[:3])} ... {ordered[-1]} ({len(ordered)})"


def _interval(value: Interval) -> list[str]:
    return [f"{value.value:.4g}", f"{value.low:.4g} - {value.high:.4g}", f"{value.n} {value.unit}"]


def _latency_row(name: str, dense: Latency, floor: Latency) -> list[str]:
    speedup = f"{floor.speedup:.2f}x ({floor.speedup_low:.2f} - {floor.speedup_high:.2f})"
    clean = (
        "yes" if dense.clean and floor.clean else f"no: {max(dense.polluted_share, floor.polluted_share):.0%} disturbed"
    )
    return [name, f"{dense.ms:.4g}", f"{dense.low:.4g} - {dense.high:.4g}", f"{floor.ms:.4g}", speedup, clean]
