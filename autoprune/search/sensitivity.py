"""Space -> one-at-a-time candidates, and their results -> the additive model (stage A of the search)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from autoprune.predictor.additive import AdditiveModel, Probe, fit_additive
from autoprune.predictor.targets import Target
from autoprune.search.genome import Genome, Rows, stack
from autoprune.search.observations import Observations

Floats = npt.NDArray[np.float64]

PROBED = 0.7
MOST_PROBES = 150
LEAST_SIGNAL = 1e-3


def removed_shares(genome: Genome) -> Floats:
    """Return [G, levels] the share of units that each level removes."""
    table = np.array([genome.widths(np.full((1, genome.groups), level))[0] for level in range(_levels(genome))])
    return np.asarray(1.0 - table.T / genome.dense_widths[:, None])


def plain_row(genome: Genome) -> Rows:
    """Return the row that removes nothing, with the usual choices: the first category, the middle of a range."""
    return genome.plain()


def probe_rows(genome: Genome) -> Rows:
    """Return the rows of the sensitivity pass: the dense model, then each group alone at about 70% sparsity.

    One level a group: with smooth power-law curves a second one brought less than the evaluations that it took. Above
    150 groups, neighbours of equal width are probed together.
    """
    removed = removed_shares(genome)
    rows = [plain_row(genome)]
    for members in _clusters(genome):
        row = plain_row(genome)
        for group in members:
            row[group] = int(np.argmin(np.abs(removed[group, : genome.sizes[group]] - PROBED)))
        rows.append(row)
    return genome.canonical(stack(rows, len(genome.dimensions)))


def additive_model(genome: Genome, seen: Observations, target: Target, dense: tuple[float, float]) -> AdditiveModel:
    """Return the additive model through the sensitivity pass.

    The loss of a probe is the growth of the logarithm of the signal, or where there is none, of the learned quality.

    Args:
        genome: Rows of the space.
        seen: What was measured; the first value is the quality.
        target: Scale of the quality.
        dense: Quality and signal of the dense model; NaN where they are unknown.
    """
    removed = removed_shares(genome)
    index = {key: i for i, key in enumerate(genome.keys(seen.rows))}
    base_quality, base_signal = _base(genome, seen, index, dense)
    probes = []
    for row, members in zip(probe_rows(genome)[1:], _clusters(genome), strict=True):
        found = index.get(row.tobytes())
        if found is None:
            continue
        signal = seen.signal[found]
        if np.isfinite(signal) and np.isfinite(base_signal) and min(signal, base_signal) > 0.0:
            loss = float(np.log(max(signal, LEAST_SIGNAL) / max(base_signal, LEAST_SIGNAL)))
        elif np.isfinite(base_quality):
            learned = target.learned([seen.values[found, 0], base_quality])
            loss = float(learned[0] - learned[1])
        else:
            continue
        share = loss / len(members)
        probes += [Probe(group, float(removed[group, row[group]]), share) for group in members]
    return fit_additive(removed, probes)


def _base(
    genome: Genome, seen: Observations, index: dict[bytes, int], dense: tuple[float, float]
) -> tuple[float, float]:
    """Return quality and signal of the dense model: as given, else as measured."""
    found = index.get(plain_row(genome).tobytes())
    if found is None:
        return dense
    return float(seen.values[found, 0]), float(seen.signal[found])


def _clusters(genome: Genome) -> list[list[int]]:
    """Return the groups that are probed together: one by one, or neighbours of equal width where there are many."""
    size = -(-genome.groups // MOST_PROBES)
    clusters: list[list[int]] = []
    for group in range(genome.groups):
        last = clusters[-1] if clusters else []
        alike = bool(last) and genome.dense_widths[last[0]] == genome.dense_widths[group]
        if alike and len(last) < size:
            last.append(group)
        else:
            clusters.append([group])
    return clusters


def _levels(genome: Genome) -> int:
    return int(genome.sizes[: genome.groups].max(initial=1))
