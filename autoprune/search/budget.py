"""What a run may spend -> whether one more candidate would leave too little for what must follow."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from autoprune.config.model import RunConfig
from autoprune.search.callbacks import Stage
from autoprune.search.directory import EventLog
from autoprune.search.ledger import Tally

PROXY_SHARE = 0.25
CONTROL_KINDS = 4
EMISSIONS = 3.0
RESERVED_SHARE = 0.5
FINALISTS_SHARE = 0.4
FEWEST_FINALISTS = 4


@dataclass(frozen=True)
class Meter:
    """One limited resource.

    Args:
        name: Of the limit in the configuration.
        limit_s: Seconds that may be spent.
        spent: Returns the seconds spent by all calls of the run so far.
        each: Tally -> seconds that its complete candidates spent together.
        workers: Candidates that spend it at the same time.
    """

    name: str
    limit_s: float
    spent: Callable[[], float]
    each: Callable[[Tally], float]
    workers: int


class Budget:
    """Tells when the limits of time are reached; a limit that is not set never is.

    Args:
        config: The run's configuration.
        events: The log of this call.
        earlier: (wall, processor) seconds of the calls before.
        tallies: Figures of every stage.
        siblings: Models that are trained from scratch as controls.
    """

    def __init__(
        self,
        config: RunConfig,
        events: EventLog,
        earlier: tuple[float, float],
        tallies: Mapping[Stage, Tally],
        siblings: int = 0,
    ) -> None:
        self._config = config
        self._tallies = tallies
        self._siblings = siblings
        limits, (wall, cpu) = config.search.budget, earlier
        clock = Meter(
            "minutes", 60.0 * (limits.minutes or 0.0), lambda: wall + events.elapsed, _wall, config.search.workers
        )
        processor = Meter("cpu_seconds", limits.cpu_seconds or 0.0, lambda: cpu + events.cpu_s, _cpu, 1)
        self._meters = [m for m in (clock, processor) if m.limit_s > 0.0]

    def proxy_ended(self) -> str | None:
        """Return the limit of which untrained candidates have had their share."""
        return self._reached(lambda meter: meter.spent() >= PROXY_SHARE * meter.limit_s)

    def search_ended(self) -> str | None:
        """Return the limit that controls and finalists would miss if one more candidate were evaluated."""
        return self._reached(lambda m: self._ends(m, self._controls(m) + self._finalists(m), RESERVED_SHARE))

    def controls_ended(self) -> str | None:
        """Return the limit that finalists would miss if one more control were evaluated."""
        return self._reached(lambda m: self._ends(m, self._finalists(m), FINALISTS_SHARE))

    def all_spent(self) -> str | None:
        """Return the limit that is used up: nothing that can be left out is begun any more."""
        return self._reached(lambda meter: meter.spent() >= meter.limit_s)

    def affordable_finalists(self) -> int:
        """Return how many candidates can be recovered in full, once each, in the time left; a few in any case."""
        wanted = self._config.recovery.finalists
        for meter in self._meters:
            each = self._finalist(meter, seeds=1)
            if each > 0.0:
                fitting = int((meter.limit_s - meter.spent()) / each)
                wanted = min(wanted, max(fitting, FEWEST_FINALISTS))
        return wanted

    def _reached(self, is_reached: Callable[[Meter], bool]) -> str | None:
        return next((meter.name for meter in self._meters if is_reached(meter)), None)

    def _ends(self, meter: Meter, after: float, most: float) -> bool:
        """Tell whether one more candidate leaves too little for `after`, which is given a share `most` and no more."""
        each, _ = self._rates(meter)
        return meter.spent() + each + min(after, most * meter.limit_s) >= meter.limit_s

    def _rates(self, meter: Meter) -> tuple[float, float]:
        """Return the seconds of one briefly recovered candidate, and of its training; 0 before there is one."""
        tally = self._tallies["search"]
        if not tally.complete:
            return 0.0, 0.0
        each = meter.each(tally) / tally.complete
        return each, each * tally.prune_seconds / tally.seconds

    def _finalist(self, meter: Meter, seeds: int) -> float:
        """Return the seconds that a finalist takes of a meter: recoveries, measurements on all targets, export."""
        each, training = self._rates(meter)
        recovery = self._config.recovery
        measuring = (each - training) * len(self._config.latency.targets)
        full = training * recovery.full_steps / max(recovery.short_steps, 1) + measuring
        return (seeds * full + EMISSIONS * measuring) / meter.workers

    def _finalists(self, meter: Meter) -> float:
        return self._config.recovery.finalists * self._finalist(meter, self._config.recovery.seeds)

    def _controls(self, meter: Meter) -> float:
        """Return the seconds of the controls that are still to come; those from scratch cost as much as a finalist."""
        each, _ = self._rates(meter)
        left = max(0, CONTROL_KINDS * self._config.search.controls - self._tallies["controls"].done)
        return left * each / meter.workers + self._siblings * self._finalist(meter, 1) * meter.workers


def _wall(tally: Tally) -> float:
    return tally.seconds


def _cpu(tally: Tally) -> float:
    return tally.cpu_seconds
