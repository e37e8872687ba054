"""Progress of a run -> stderr: a live table on a terminal, now and then a line elsewhere."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, TextIO

from autoprune.cli.console import log_console, note
from autoprune.search.callbacks import Callback, Progress, RunInfo, SilentCallback

if TYPE_CHECKING:
    from rich.console import RenderableType

    from autoprune.cli.interrupt import Interruption
    from autoprune.records import CandidateRecord
    from autoprune.report.document import FrontDocument

LINE_EVERY_S = 5.0
FRONT_ROWS = 12


@contextmanager
def watch(*, quiet: bool) -> Iterator[Callback]:
    """Yield the watcher that suits stderr; the terminal is restored at the end, also after an error."""
    if quiet:
        yield SilentCallback()
    elif is_live(sys.stderr, os.environ):
        from rich.live import Live

        with Live(console=log_console(), refresh_per_second=4, transient=False) as live:
            yield LiveProgress(live.update)
    else:
        yield LineProgress()


def is_live(stream: TextIO, environ: Mapping[str, str]) -> bool:
    """Return whether a table that redraws itself is welcome: a real terminal that is no CI log."""
    return stream.isatty() and environ.get("TERM", "") != "dumb" and not environ.get("CI")


class LineProgress(SilentCallback):
    """Writes one line at the start, every few seconds, at the end of each stage and of the run."""

    def __init__(self, *, every_s: float = LINE_EVERY_S, clock: Callable[[], float] = time.monotonic) -> None:
        self._every_s = every_s
        self._clock = clock
        self._last = -every_s

    def on_search_start(self, info: RunInfo) -> None:
        """Write what is about to happen."""
        note(headline(info))
        for warning in info.warnings:
            note(f"warning: {warning}")

    def on_candidate_end(self, record: CandidateRecord, progress: Progress) -> None:
        """Write a line if the last one is a while ago."""
        if record.failure is not None:
            failure = record.failure
            note(f"candidate {record.id} failed ({failure['reason']}, {failure['stage']}): {failure['message']}")
        now = self._clock()
        if now - self._last >= self._every_s or progress.done == progress.total:
            self._last = now
            note(f"{summary(progress)}; {picks(progress)}")

    def on_search_end(self, front: FrontDocument) -> None:
        """Write how many models the front has, and why the search ended."""
        from autoprune.report.endings import why_ended

        ended = why_ended(front)
        count = f"{len(front.members)} model{'' if len(front.members) == 1 else 's'}"
        note(f"front: {count}{f'; the search ended: {ended}' if ended else ''}")


class LiveProgress(SilentCallback):
    """Redraws a table of the front so far.

    Args:
        update: Shows a renderable in place of the last one.
    """

    def __init__(self, update: Callable[[RenderableType], None]) -> None:
        self._update = update
        self._title = ""

    def on_search_start(self, info: RunInfo) -> None:
        """Show what is about to happen."""
        from rich.text import Text

        self._title = "\n".join([headline(info), *(f"warning: {text}" for text in info.warnings)])
        self._update(Text(self._title))

    def on_candidate_end(self, record: CandidateRecord, progress: Progress) -> None:
        """Redraw."""
        del record
        self.on_front_update(progress)

    def on_front_update(self, progress: Progress) -> None:
        """Redraw."""
        from rich.console import Group
        from rich.text import Text

        from autoprune.cli.tables import plain_table

        names = list(progress.front[0][1]) if progress.front else []
        rows = [[ident, *(f"{values[n]:.4g}" for n in names)] for ident, values in _spread(progress, FRONT_ROWS)]
        parts = [Text(f"{self._title}\n{summary(progress)}; {picks(progress)}")]
        best = [[what, ident, *(f"{values[n]:.4g}" for n in names)] for what, ident, values in best_picks(progress)]
        table = [plain_table(["pick", "candidate", *names], best)] if best else []
        self._update(Group(*parts, *table, plain_table(["candidate", *names], rows)))


class Reminder(SilentCallback):
    """Ends a run whose interruption somebody has swallowed, such as a training loop that catches everything.

    Args:
        interruption: Knows whether a stop was asked for.
    """

    def __init__(self, interruption: Interruption) -> None:
        self._interruption = interruption

    def on_candidate_end(self, record: CandidateRecord, progress: Progress) -> None:
        """Raise again."""
        del record, progress
        self._interruption.raise_again()


def headline(info: RunInfo) -> str:
    """Return what a run is about to do, in one line."""
    aims = ", ".join(f"{name} ({direction})" for name, direction in info.objectives.items())
    dense = ", ".join(f"{name} {value:.4g}" for name, value in info.baseline.items())
    resumed = f", {info.resumed} done before" if info.resumed else ""
    untrained = f"{info.proxy_evaluations} untrained, then " if info.proxy_evaluations else ""
    sampler = f"; sampler {info.sampler}" if info.sampler else ""
    return f"{info.name}: {untrained}{info.evaluations} candidates{resumed}{sampler}; objectives {aims}; dense {dense}"


def summary(progress: Progress) -> str:
    """Return how far a run is, in one line."""
    failed = f", {progress.failed} failed" if progress.failed else ""
    stopped = f", {progress.stopped} stopped early" if progress.stopped else ""
    tau = progress.rank_correlation
    predictor = "" if tau is None else f", predictor's rank correlation {tau:.2f}"
    left = "" if progress.remaining_s is None else f", about {duration(progress.remaining_s)} left"
    done = f"{progress.stage} {progress.done}/{progress.total}{failed}{stopped}{predictor}"
    return f"{done}, {duration(progress.elapsed_s)}{left}"


def picks(progress: Progress) -> str:
    """Return the ends of the front so far, in one line."""
    if not progress.front:
        return "no front yet"
    names = list(progress.front[0][1])
    ends = (progress.front[0], progress.front[-1]) if len(progress.front) > 1 else (progress.front[0],)
    shown = " ... ".join(" ".join(f"{n}={values[n]:.4g}" for n in names) for _, values in ends)
    return f"front of {len(progress.front)}: {shown}"


def best_picks(progress: Progress) -> list[tuple[str, str, Mapping[str, float]]]:
    """Return (what, id, values) of the named picks of the front so far."""
    values = dict(progress.front)
    return [(name.replace("_", " "), ident, values[ident]) for name, ident in progress.picks.items()]


def duration(seconds: float) -> str:
    """Return seconds as `12 s`, `3 min 05 s` or `2 h 07 min`."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def _spread(progress: Progress, count: int) -> list[tuple[str, Mapping[str, float]]]:
    """Return at most `count` members of the front, evenly spread, ends included."""
    front = list(progress.front)
    if len(front) <= count:
        return front
    return [front[round(i * (len(front) - 1) / (count - 1))] for i in range(count)]
