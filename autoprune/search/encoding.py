"""Genome and additive model -> the encoder whose features the predictor sees."""

from __future__ import annotations

import numpy as np

from autoprune.predictor.additive import AdditiveModel
from autoprune.predictor.features import Choice, Encoder
from autoprune.search.context import SamplerContext
from autoprune.search.genome import Genome
from autoprune.space import CRITERION_PREFIX


def encoder_of(genome: Genome, context: SamplerContext, additive: AdditiveModel) -> Encoder:
    """Return what turns a genome's rows into features."""
    levels = int(genome.sizes[: genome.groups].max(initial=1))
    widths = np.array([genome.widths(np.full((1, genome.groups), level))[0] for level in range(levels)]).T
    index = {CRITERION_PREFIX + group.name: i for i, group in enumerate(context.space.groups)}
    own = [d for d in genome.dimensions if d.name in index]
    code = {value: i for i, value in enumerate(dict.fromkeys(value for d in own for value in d.values))}
    choices = []
    for column in genome.choices:
        dimension = genome.dimensions[column]
        group = index.get(dimension.name)
        codes = () if group is None else tuple(code[value] for value in dimension.values)
        choices.append(Choice(column, len(dimension.values), dimension.ordered, group, codes))
    return Encoder(widths, genome.dense_widths, choices, context.costs, additive)
