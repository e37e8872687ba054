"""The host's gate in a worker's child: time spent before it counts as waiting, not as the candidate's own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from autoprune.evaluation import HostGate
from autoprune.search.executors.clock import WaitClock


class CountedGate(HostGate):
    """A gate that counts how long it was waited for.

    Args:
        clock: What counts.
        directory: See `HostGate`.
    """

    def __init__(self, clock: WaitClock, directory: Path) -> None:
        super().__init__(directory)
        self._clock = clock

    @contextmanager
    def shared(self) -> Iterator[None]:
        """Hold the gate together with other sharers, while nobody measures."""
        with ExitStack() as held:
            with self._clock.waiting():
                held.enter_context(super().shared())
            yield

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Hold the gate alone."""
        with ExitStack() as held:
            with self._clock.waiting():
                held.enter_context(super().exclusive())
            yield
