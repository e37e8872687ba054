"""Fronts of the examples, results/reference/*/front.json -> one table: a row an example, in order of their names."""

from __future__ import annotations

from pathlib import Path

from autoprune.report import FrontDocument, read_front

HEADERS = ("example", r"dense, test \[95%\]", "models", "most accurate", "balanced", "fastest")
PICKS = ("most_accurate", "balanced", "fastest")


def example_lines(reference: Path, examples: Path) -> list[str]:
    """Return the table.

    Args:
        reference: Folder with one folder of a run each, named like the example.
        examples: Folder of the examples' configs.
    """
    rows = [_row(read_front(file), examples) for file in sorted(reference.glob("*/front.json"))]
    return [f"| {' | '.join(HEADERS)} |", f"| --- | --- | ---: |{' --- |' * len(PICKS)}", *rows]


def subject(config: Path) -> str:
    """Return what an example's config says of itself in its first line, before the command.

    Raises:
        ValueError: It does not open with `# MODEL on DATA: ` and its command.
    """
    opening = config.read_text(encoding="utf-8").partition("\n")[0]
    words, command, _ = opening.removeprefix("# ").partition(f": `autoprune search examples/{config.name}`")
    if not command or not opening.startswith("# "):
        raise ValueError(f"{config.name} must open with '# MODEL on DATA: `autoprune search examples/{config.name}`'.")
    return words


def _row(front: FrontDocument, examples: Path) -> str:
    config = examples / f"{front.run}.yaml"
    metric = front.metric.name
    dense = front.estimates(front.baseline)[metric]
    members = {member.id: member for member in front.members}
    picks = {str(name): member for name, member in front.picks.items()}
    cells = [f"[{front.run}](examples/{config.name}): {subject(config)}"]
    cells.append(f"{metric} {dense.value:.4g} [{dense.low:.4g}, {dense.high:.4g}]")
    cells.append(str(len(members)))
    for pick in PICKS:
        found = front.values(members[picks[pick]])
        cells.append(f"{found['speedup']:.2f}x, {found[metric]:.4g}")
    return f"| {' | '.join(cells)} |"
