"""Several short measurements of one model, made at different moments -> one latency.

A shared host changes its state by the tenth of a second (a busy sibling thread, another clock rate), and small models
suffer more from it than large ones: the ratio itself moves. Models that are compared with each other are therefore
measured in turns, pass after pass, so that each meets the same mixture of states.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy.stats import t as student

from autoprune.evaluation.types import Latency

_TAIL = 0.975


def pool_passes(passes: Sequence[Latency]) -> Latency:
    """Return one latency from those of several passes over the same model.

    The speed-up is the geometric mean over the passes; its interval is the wider of Student's over the passes and the
    mean of the passes' own. Milliseconds are the least of any pass; quantiles are averaged over the passes, weighted by
    their samples (Vincent averaging).

    Args:
        passes: One or more, in any order.
    """
    if len(passes) == 1:
        return passes[0]
    logs = np.log([p.speedup for p in passes])
    between = float(student.ppf(_TAIL, len(logs) - 1) * logs.std(ddof=1) / math.sqrt(len(logs)))
    within = float(np.mean([np.log(p.speedup_high / p.speedup_low) / 2 for p in passes]))
    speedup, factor = math.exp(float(logs.mean())), math.exp(max(between, within))
    fastest = min(passes, key=lambda p: p.ms)
    return Latency(
        ms=fastest.ms,
        low=fastest.low,
        high=max(p.ms for p in passes),
        samples=sum(p.samples for p in passes),
        speedup=speedup,
        speedup_low=speedup / factor,
        speedup_high=speedup * factor,
        clean=sum(p.clean for p in passes) * 2 > len(passes),
        polluted_share=float(np.mean([p.polluted_share for p in passes])),
        dense_ms=min(p.dense_ms for p in passes),
        quantiles_ms=_mean_quantiles(passes),
    )


def _mean_quantiles(passes: Sequence[Latency]) -> tuple[float, ...]:
    told = [p for p in passes if p.quantiles_ms]
    if not told:
        return ()
    means = np.average([p.quantiles_ms for p in told], axis=0, weights=[p.samples for p in told])
    return tuple(float(q) for q in means)
