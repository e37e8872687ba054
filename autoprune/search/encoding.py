"""Genome and additive model -> the encoder whose features the predictor sees."""

from __future__ import annotations

import numpy as np

from autoprune.predictor.additive import AdditiveModel
from autoprune.predictor.features import Choice, Encoder
from autoprune.search.columns import stem_of
from autoprune.search.context import SamplerContext
from autoprune.search.genome import Genome
from autoprune.space import OWN_AXES


def encoder_of(genome: Genome, context: SamplerContext, additive: AdditiveModel) -> Encoder:
    """Return what turns a genome's rows into features."""
    levels = int(genome.sizes[: genome.groups].max(initial=1))
    widths = np.array([genome.widths(np.full((1, genome.groups), level))[0] for level in range(levels)]).T
    index = {f"{axis}/{group.name}": i for axis in OWN_AXES for i, group in enumerate(context.space.groups)}
    own = [d for d in genome.dimensions if stem_of(d.name) in index]
    told = dict.fromkeys((d.name.partition("/")[0], value) for d in own for value in d.values)
    code = {value: i for i, value in enumerate(told)}
    choices = []
    for column in genome.choices:
        dimension = genome.dimensions[column]
        group, axis = index.get(stem_of(dimension.name)), dimension.name.partition("/")[0]
        codes = () if group is None else tuple(code[axis, value] for value in dimension.values)
        choices.append(Choice(column, len(dimension.values), dimension.ordered, group, codes))
    return Encoder(widths, genome.dense_widths, choices, context.costs, additive, genome.active)
