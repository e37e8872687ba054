"""Figures -> charts: as static SVG, complete without scripts, and as plain JSON for their interactive form."""

from __future__ import annotations

from typing import Any, Protocol

from autoprune.report.html.charts.dots import Dot, DotChart
from autoprune.report.html.charts.heat import HeatChart
from autoprune.report.html.charts.lines import Line, LineChart
from autoprune.report.html.charts.matrix import MatrixChart
from autoprune.report.html.charts.parallel import ParallelChart, Strand
from autoprune.report.html.charts.rows import Row, RowChart
from autoprune.report.html.charts.scale import Axis, Kind, Scale, bounded, scale_of, ticks
from autoprune.report.html.charts.scatter import Group, Mark, ScatterChart, Series
from autoprune.report.html.charts.strips import Strip, StripChart
from autoprune.report.html.charts.svg import SHAPES, swatch

__all__ = [
    "SHAPES",
    "Axis",
    "Chart",
    "Dot",
    "DotChart",
    "Drawing",
    "Group",
    "HeatChart",
    "Kind",
    "Line",
    "LineChart",
    "Mark",
    "MatrixChart",
    "ParallelChart",
    "Row",
    "RowChart",
    "Scale",
    "ScatterChart",
    "Series",
    "Strand",
    "Strip",
    "StripChart",
    "bounded",
    "scale_of",
    "swatch",
    "ticks",
]


class Drawing(Protocol):
    """A figure in its static form."""

    def svg(self) -> str:
        """Return the static form."""


class Chart(Drawing, Protocol):
    """A figure in its two forms."""

    def live(self) -> dict[str, Any]:
        """Return the data of the interactive form, as plain JSON."""
