"""Configuration and records -> the phases of a search: untrained candidates first, then briefly recovered ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from optuna.trial import FrozenTrial

from autoprune.config.model import RunConfig
from autoprune.records import CandidateRecord, Fidelity
from autoprune.search.context import SIGNAL, SamplerContext
from autoprune.search.costs import cost_model
from autoprune.search.loop import Phase, seen_trial
from autoprune.search.objectives import Constraints
from autoprune.search.rungs import RungBoard, rung_steps
from autoprune.search.samplers import LEARNED, SAMPLERS
from autoprune.search.study import signal_value
from autoprune.search.workbench import Workbench, evaluation_of
from autoprune.tasks import signal_of

PROXIES = 100
PROXIES_AFTER_PROBES = 40
PROXIES_AN_EVALUATION = 2
SEED_STRIDE = 7919


def proxy_evaluations(config: RunConfig, groups: int) -> int:
    """Return how many untrained candidates the first phase may evaluate, 0 for no such phase.

    By default about 100, more where there are many groups to probe, and at most twice the recovered candidates. A run
    that does not train its candidates has no use for them.

    Args:
        config: The run's configuration.
        groups: Groups that are searched.
    """
    search = config.search
    if search.sampler != LEARNED or config.recovery.short_steps == 0:
        return 0
    if search.budget.proxy_evaluations is not None:
        return search.budget.proxy_evaluations
    wanted = max(PROXIES, 2 * groups + PROXIES_AFTER_PROBES)
    return min(wanted, PROXIES_AN_EVALUATION * search.budget.evaluations)


class PhaseMaker:
    """Makes the phases of one run.

    Args:
        bench: The driver's workbench.
        constraints: What is demanded.
        dense: The dense model's record.
    """

    def __init__(self, bench: Workbench, constraints: Constraints, dense: CandidateRecord) -> None:
        self._bench = bench
        self._config = bench.config
        self._constraints = constraints
        self._signal = signal_of(bench.task)
        self._costs = cost_model(bench)
        measured = evaluation_of(dense)
        beside = {name: metric.value for name, metric in measured.quality["val"].items()}
        beside["latency_ms"] = measured.latency[bench.targets[0].name].ms
        self._dense: Mapping[str, float] = {**beside, **dense.values}
        signal = signal_value(dense, self._signal)
        if signal is not None:
            self._dense = {**self._dense, SIGNAL: signal}

    def proxy(self) -> Phase:
        """Return the phase of untrained candidates."""
        evaluations = proxy_evaluations(self._config, len(self._bench.space.groups))
        context = self._context("proxy", evaluations, self._config.search.seed)
        return self._phase(context, board=None)

    def short(self, records: Sequence[CandidateRecord], proxies: Sequence[CandidateRecord]) -> Phase:
        """Return the phase of briefly recovered candidates.

        Args:
            records: Such candidates of earlier calls.
            proxies: What the phase before has found, in order.
        """
        search, recovery = self._config.search, self._config.recovery
        if search.sampler != LEARNED:
            seed = (search.seed + SEED_STRIDE * len(records)) % 2**32
            return self._phase(self._context("short", search.budget.evaluations, seed), board=None)
        before = self._context("proxy", 0, search.seed)
        prior = tuple(seen_trial(before, record, self._signal) for record in proxies)
        context = self._context("short", search.budget.evaluations, search.seed, prior)
        return self._phase(context, RungBoard(rung_steps(recovery), recovery.reduction, records))

    def _context(
        self, fidelity: Fidelity, evaluations: int, seed: int, prior: Sequence[FrozenTrial] = ()
    ) -> SamplerContext:
        space = self._bench.space
        return SamplerContext(
            space=space.for_proxy() if fidelity == "proxy" else space,
            seed=seed,
            evaluations=evaluations,
            objectives=self._bench.objectives,
            metrics=tuple(self._bench.task.metrics),
            constraints=self._constraints,
            costs=self._costs,
            dense=self._dense,
            workers=self._config.search.workers,
            fidelity=fidelity,
            prior=prior,
        )

    def _phase(self, context: SamplerContext, board: RungBoard | None) -> Phase:
        search = self._config.search
        sampler = SAMPLERS[search.sampler](context)
        seeded = search.sampler in (LEARNED, "uniform")
        return Phase(context, sampler, self._signal, 0 if seeded else search.warm_start, search.plateau, board)
