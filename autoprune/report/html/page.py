"""Front document and records -> the page: everything escaped, hashed and put together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autoprune.errors import StorageError
from autoprune.markup import printable
from autoprune.records import CandidateRecord, RecordStore
from autoprune.report.document import FrontDocument, Member, read_front
from autoprune.report.html.assets import content_policy, data_block, echarts, script, style, template
from autoprune.report.html.before_after import before_after
from autoprune.report.html.candidates import (
    candidates_of,
    failures_of,
    predictions_of,
    sparsity_by_id,
    stopped_of,
)
from autoprune.report.html.charts import swatch
from autoprune.report.html.commands import pick_commands
from autoprune.report.html.examined import examined_view
from autoprune.report.html.figures import Figure, Limits, front_figures, heat_figure, parallel_figure
from autoprune.report.html.figures_search import (
    history_figure,
    importance_figure,
    latency_figures,
    predicted_figure,
    seeds_figure,
    trust_figure,
)
from autoprune.report.html.models import Models, models_of
from autoprune.report.html.payload import demandable, payload
from autoprune.report.html.quantities import Quantity, cost_of, quantities_of
from autoprune.report.html.tables import (
    control_rows,
    effort_sentence,
    gain_sentence,
    reproduction_rows,
    trust_rows,
)
from autoprune.report.html.verdict import verdict_of
from autoprune.report.pictures import Pictures, read_pictures
from autoprune.storage import write_file

REPORT_FILE = "report.html"
MOST_BYTES = 1_480_000
_ATTEMPTS = 4


def write_report(run_dir: Path) -> None:
    """Write `report.html` of a finished run from its `front.json` and its records, in one step.

    Raises:
        StorageError: The front or a record cannot be read, or the page cannot be written.
    """
    front = read_front(run_dir)
    records, pictures = RecordStore(run_dir).load_all(), read_pictures(run_dir, front)
    write_html(front, records, run_dir / REPORT_FILE, pictures)


def write_html(
    front: FrontDocument, records: Sequence[CandidateRecord], path: Path, pictures: Pictures | None = None
) -> None:
    """Write the page to `path` in one step.

    Raises:
        StorageError: Disk full, permission, or another failure of the file system; or the documents, which are not
            trusted, hold figures that no page can be drawn of.
    """
    try:
        page = html_report(front, records, pictures)
    except (ArithmeticError, ValueError) as error:
        raise StorageError(
            f"{path} cannot be drawn: {error}.",
            hint=f"{path.parent} holds figures that no run measures; run the search again to have it rebuilt.",
        ) from error
    write_file(path, page.encode("utf-8"))


def html_report(front: FrontDocument, records: Sequence[CandidateRecord], pictures: Pictures | None = None) -> str:
    """Return the page; equal documents, records and pictures give equal pages.

    The charts of a page that would become too large draw fewer candidates and models.
    """
    limits = Limits()
    for _ in range(_ATTEMPTS):
        page = _page(front, records, pictures, limits)
        if len(page.encode("utf-8")) <= MOST_BYTES:
            break
        limits = limits.tighter()
    return page


def _page(front: FrontDocument, records: Sequence[CandidateRecord], pictures: Pictures | None, limits: Limits) -> str:
    from jinja2 import Environment, FunctionLoader, StrictUndefined
    from markupsafe import Markup

    def literal(value: object) -> object:
        return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value

    quantities = quantities_of(front)
    models = models_of(front, quantities, pick_commands(front, quantities))
    figures = _figures(front, records, models, limits)
    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=literal,
        loader=FunctionLoader(template),
    )
    environment.globals |= {"swatch": lambda look: swatch(look.shape, look.css)}
    roles = {row.id: row.picks for row in models.members}
    return environment.from_string(template()).render(
        front=front,
        quantities=quantities,
        sliders=demandable(quantities),
        infeasible=any(not member.feasible for member in front.members),
        models=models,
        verdict=verdict_of(front, models, quantities),
        figures=figures,
        examined=examined_view(front, quantities[0], limits.rows),
        pictured=before_after(front, pictures, roles, limits.pictured) if pictures is not None else None,
        tables=_tables(front, records, quantities),
        data=data_block(payload(front, quantities, figures.all())),
        style=style(),
        library=echarts(),
        script=script(),
        policy=content_policy([echarts(), script()], [style()]),
    )


@dataclass(frozen=True)
class _Figures:
    front: list[Figure]
    parallel: list[Figure]
    heat: list[Figure]
    predictor: list[Figure]
    latency: list[Figure]
    history: list[Figure]
    importance: list[Figure]
    seeds: list[Figure]
    shows_candidates: bool

    def all(self) -> list[Figure]:
        """Return all figures in the order of the page."""
        groups = (self.front, self.parallel, self.heat, self.predictor, self.latency)
        return [f for group in (*groups, self.history, self.importance, self.seeds) for f in group]


def _figures(front: FrontDocument, records: Sequence[CandidateRecord], models: Models, limits: Limits) -> _Figures:
    quantities = quantities_of(front)
    policies = sparsity_by_id(records)

    def shares(member: Member) -> dict[str, float]:
        return dict(member.sparsity) or policies.get(member.id, {})

    ids = {member.id for member in front.members}
    metric, importance = quantities[0], front.importance
    candidates = candidates_of(records, ids, [metric.key, cost_of(quantities).key])
    return _Figures(
        front=front_figures(front, quantities, candidates, limits),
        parallel=_present(parallel_figure(front, quantities, models.split, limits)),
        heat=_present(heat_figure(front, shares, limits)),
        predictor=_present(predicted_figure(predictions_of(records, metric.key), metric, limits), trust_figure(front)),
        latency=latency_figures(front, limits),
        history=_present(history_figure(front)),
        importance=_present(
            importance_figure(importance.groups, "groups") if importance else None,
            importance_figure(importance.choices, "choices") if importance else None,
        ),
        seeds=_present(seeds_figure(front, metric, limits)),
        shows_candidates=bool(candidates),
    )


def _tables(
    front: FrontDocument, records: Sequence[CandidateRecord], quantities: tuple[Quantity, ...]
) -> dict[str, Any]:
    return {
        "trust": trust_rows(front.predictor, quantities[0]) if front.predictor else (),
        "controls": control_rows(front, quantities),
        "control_columns": (quantities[0].label, cost_of(quantities).label),
        "gain": gain_sentence(front),
        "effort": effort_sentence(front),
        "failures": failures_of(records),
        "stopped": stopped_of(records),
        "reproduction": list(reproduction_rows(front)),
    }


def _present(*figures: Figure | None) -> list[Figure]:
    return [figure for figure in figures if figure is not None]
