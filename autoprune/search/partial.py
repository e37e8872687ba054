"""Records of a run without a front -> its partial report; from the driver's memory, or from disk later."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from autoprune.config import RunConfig, read_yaml, validate
from autoprune.records import CandidateRecord, RecordStore
from autoprune.report.partial import PartialRun, PartialTable, write_partial
from autoprune.search.directory import CONFIG_FILE, EVENTS_FILE, RunDirectory, read_events
from autoprune.search.ledger import Tally, stage_of
from autoprune.search.objectives import Objective
from autoprune.search.status import recorded_objectives, running_owner

State = Literal["interrupted", "running"]

MOST_ROWS = 20
COSTS = ("parameters", "macs")
_KINDS = (
    (
        "finalists",
        "Recovered in full",
        "Measured once on val; neither exported, nor timed in turn, nor scored on test.",
    ),
    (
        "search",
        "Briefly recovered",
        "Measured once on val after a short recovery: full recovery changes these figures.",
    ),
    ("proxy", "Not trained", "Measured once on val without any recovery: these figures only rank candidates."),
)


def partial_of(
    config: RunConfig,
    objectives: Sequence[Objective],
    records: Iterable[CandidateRecord],
    *,
    command: str = "",
    state: State = "interrupted",
    fronted: bool = False,
) -> PartialRun:
    """Return what is known of an unfinished run.

    Args:
        config: Its configuration.
        objectives: What it optimises.
        records: All its records.
        command: What goes on with it; empty where nobody knows.
        state: Whether a process still works on it.
        fronted: Whether an earlier call, with a smaller budget, has left a front.
    """
    records = list(records)
    candidates = [r for r in records if r.number > 0]
    dense = next((r for r in records if r.number == 0 and r.state == "complete"), None)
    tallies = {name: Tally(objectives) for name in ("proxy", "search", "controls", "finalists")}
    for record in sorted(candidates, key=lambda r: (r.number, r.repeat)):
        tallies[stage_of(record)].add(record)
    done, wanted = tallies["search"].done, config.search.budget.evaluations
    tables = [_table(tallies[stage], dense, title, note) for stage, title, note in _KINDS if tallies[stage].front]
    return PartialRun(
        run=config.name,
        headline=f"{state}: {done} of {wanted} candidates",
        lines=(_standing(tallies["finalists"].complete, fronted=fronted), *_lines(config, candidates, bool(tables))),
        command=command,
        tables=tuple(tables),
    )


def report_unfinished(path: Path) -> PartialRun:
    """Write the partial report of the run in a directory from its records, and return it.

    Raises:
        StorageError: A file cannot be read or written.
    """
    config = validate(RunConfig, read_yaml(path / CONFIG_FILE))
    records = RecordStore(path).load_all()
    objectives = recorded_objectives(RunDirectory(path), records)
    commands = [e["command"] for e in read_events(path / EVENTS_FILE) if e.get("command")]
    state: State = "running" if running_owner(path) else "interrupted"
    known = records if objectives else []
    part = partial_of(config, objectives, known, command=str(commands[-1]) if commands else "", state=state)
    write_partial(part, path)
    return part


def _standing(finalists: int, *, fronted: bool) -> str:
    """Return what the run has to show, in two sentences."""
    front = "The front of an earlier call still stands in front.json." if fronted else "This run has no front yet."
    if not finalists:
        return f"{front} Nothing here is a recovered model."
    return f"{front} Recoveries in full: {finalists}; none of these models is exported or scored on test."


def _lines(config: RunConfig, candidates: Sequence[CandidateRecord], has_table: bool) -> Iterable[str]:
    """Yield what to know before reading the tables, a sentence a line."""
    kinds = Counter(stage_of(r) for r in candidates)
    failed = Counter((r.failure or {}).get("reason", "unknown") for r in candidates if r.state == "failed")
    also = [("untrained", kinds["proxy"]), ("of controls", kinds["controls"])]
    also += [("stopped early", sum(r.state == "stopped" for r in candidates))]
    also += [(f"failed ({reason})", count) for reason, count in failed.most_common()]
    if any(count for _, count in also):
        yield f"Among the finished: {', '.join(f'{what} {count}' for what, count in also if count)}."
    if not has_table:
        yield "No candidate has been measured yet."
    demands = config.constraints.model_dump(exclude_defaults=True)
    if demands and has_table:
        yield f"The constraints of the run ({', '.join(demands)}) are not applied to the tables."
    yield "Every finished candidate is kept: going on repeats none of them."


def _table(tally: Tally, dense: CandidateRecord | None, title: str, note: str) -> PartialTable:
    """Return the non-dominated candidates of a stage below the dense model."""
    names = [o.name for o in tally.objectives]
    picked = {ident: pick.replace("_", " ") for pick, ident in reversed(tally.picks().items())}
    shown = _evenly(tally.front)
    rows = [] if dense is None else [("dense", "", *_figures(dense, names))]
    rows += [(r.id, picked.get(r.id, ""), *_figures(r, names)) for r in shown]
    left = len(tally.front) - len(shown)
    more = f" {left} more lie between them." if left else ""
    told = f"{len(tally.front)} of {tally.complete} measured candidates are not dominated by another.{more} {note}"
    return PartialTable(title, told, ("candidate", "pick", *names, *COSTS), tuple(rows))


def _figures(record: CandidateRecord, names: Sequence[str]) -> list[str]:
    """Return the objectives of a record, a metric with its 95% interval, and its cost; what it lacks is left out."""
    evaluation = record.evaluation or {}
    intervals, cost = evaluation.get("quality", {}).get("val", {}), evaluation.get("cost", {})
    cells = [f"{record.values[name]:.4g}{_interval(intervals.get(name))}" for name in names]
    return [*cells, *(f"{cost[name]:,.0f}" if isinstance(cost.get(name), int | float) else "" for name in COSTS)]


def _interval(estimate: Mapping[str, Any] | None) -> str:
    ends = [(estimate or {}).get(end) for end in ("low", "high")]
    return f" [{', '.join(f'{e:.4g}' for e in ends)}]" if all(isinstance(e, int | float) for e in ends) else ""


def _evenly(front: Sequence[CandidateRecord]) -> list[CandidateRecord]:
    """Return at most `MOST_ROWS` records, evenly spread, ends included."""
    if len(front) <= MOST_ROWS:
        return list(front)
    return [front[round(i * (len(front) - 1) / (MOST_ROWS - 1))] for i in range(MOST_ROWS)]
