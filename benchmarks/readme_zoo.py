"""The zoo's result file -> the README's table of supported architectures."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

NAMES = {"channel": "channels", "head": "heads", "ffn": "ffn", "head_dim": "head widths", "conv_group": "conv groups"}
BLOCKS = "tied channels"


def zoo_lines(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a row a net."""
    lines = [
        (
            "| architecture | parameters | groups: units | what is cut | removable blocks | MACs prunable "
            "| sliced against zeroed | ONNX against torch | protected beside the outputs |"
        ),
        "| --- | ---: | ---: | --- | ---: | ---: | ---: | ---: | --- |",
    ]
    for row in rows:
        kinds = ", ".join(NAMES.get(kind, BLOCKS) for kind in row["kinds"])
        protected = "; ".join(f"{count}: {reason}" for reason, count in row["protected"].items())
        cells = [
            row["title"],
            f"{row['parameters']:,}",
            f"{row['groups']}: {row['units']:,}",
            kinds,
            str(row["blocks"] or "–"),
            f"{math.floor(1000 * row['macs_share']) / 10:.1f}%",
            _compared(row),
            _size(row["onnx"]),
            protected or "–",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return [*lines, "", *_reasons(rows)]


def _compared(row: Mapping[str, Any]) -> str:
    """Return the largest difference of both checks; the one with substituted norms is marked."""
    parts = []
    if row["masked"] is not None:
        parts.append(_size(row["masked"]))
    if row["norms_scaled"] is not None:
        parts.append(f"{_size(row['norms_scaled'])} (N)")
    return ", ".join(parts)


def _size(value: float | None) -> str:
    return "–" if value is None else f"{value:.0e}" if value else "0"


def _reasons(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return what the columns mean, and why a net has no ONNX form."""
    without = "; ".join(f"{row['title']}: {row['onnx_reason']}" for row in rows if row["onnx"] is None)
    columns = (
        "MACs prunable: what vanishes when every group is cut to one unit. Sliced against zeroed: the largest "
        "difference over the largest output, by four random policies; (N): in a copy whose LayerNorm, RMSNorm and "
        "GroupNorm only scale, for with a norm over the units zeroing is not removing. ONNX: of one randomly pruned "
        "net. Tied channels go together (chunks, shuffles, groups of a convolution or a norm, the gates of a recurrent "
        "neuron)."
    )
    return [
        columns,
        "",
        f"No ONNX form: {without}.",
    ]
