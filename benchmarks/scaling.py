"""How far a run scales: simulated clusters of 10 to 1,000 workers, two real workers, and the cost beside Ray Tune.

    python -m benchmarks.scaling [PART ...] [--again]

`simulated`: the real loop, sampler, records, ledger and index drive workers that sleep a drawn time, mean 20 s,
log-normal with 2% stragglers of five times that and 1% failures; ten candidates a worker. Utilisation counts sleeping
workers alone, from the first submission to the last. Quality is a made-up function of the policy; the same draws are
run again in synchronous batches for as long. `workers`: candidates a second of one and of two real workers, best of
five rounds in turns. `tune`: what an engine costs beside the evaluations.

Finished parts are kept in results/benchmarks/scaling.json and made again only with --again.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.common import current_commit, known_rows, rounded, write_result
from benchmarks.scaling_simulated import SEED, Plan, Schedule, simulated_row, time_to, volume_at
from benchmarks.scaling_tune import ENGINES, overhead_row, summary_of_engines
from benchmarks.scaling_workers import summary_of_workers, worker_rows

NAME = "scaling"
SIZES = (10, 100, 1_000)
MEAN_S = 20.0
CANDIDATES_A_WORKER = 10
SCHEDULES: tuple[Schedule, ...] = ("asynchronous", "synchronous")
SHARES = (0.1, 0.25, 0.5, 0.75, 1.0)
GOALS = {"utilisation": 0.95, "two_workers": 1.8, "tune_over_ours": 5.0}

Row = dict[str, Any]


@dataclass(frozen=True)
class Part:
    """A piece of the benchmark that is kept as a whole.

    Args:
        name: As the rows state it.
        measure: What was measured before -> its rows.
    """

    name: str
    measure: Callable[[Sequence[Row]], Sequence[Row]]

    @property
    def kind(self) -> str:
        """First word of its name."""
        return self.name.partition(" ")[0]


def parts() -> Iterator[Part]:
    """Yield all parts; a synchronous one goes by what its asynchronous one took."""
    for workers in SIZES:
        for schedule in SCHEDULES:
            yield Part(f"simulated {workers} {schedule}", _simulation(workers, schedule))
    yield Part("workers", lambda _: worker_rows())
    for engine in ENGINES:
        yield Part(f"tune {engine}", _overhead(engine))


def _simulation(workers: int, schedule: Schedule) -> Callable[[Sequence[Row]], Sequence[Row]]:
    def measure(before: Sequence[Row]) -> Sequence[Row]:
        limit = None
        if schedule == "synchronous":
            limit = next(r["wall_s"] for r in before if r["part"] == f"simulated {workers} asynchronous")
        return [simulated_row(Plan(workers, schedule, CANDIDATES_A_WORKER * workers, MEAN_S, limit))]

    return measure


def _overhead(engine: str) -> Callable[[Sequence[Row]], Sequence[Row]]:
    return lambda _: [overhead_row(engine)]


def updated(rows: Sequence[Row], part: Part, commit: str) -> list[Row]:
    """Return the rows with those of a part measured anew."""
    others = [row for row in rows if row["part"] != part.name]
    return [*others, *({"part": part.name, "commit": commit, **row} for row in part.measure(others))]


def summarise(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the figures that are quoted, of the parts that are there."""
    by_part: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        by_part.setdefault(row["part"], []).append(row)
    simulated = {
        str(workers): simulated_figures([by_part[name][0] for name in names if name in by_part])
        for workers in SIZES
        if (names := [f"simulated {workers} {schedule}" for schedule in SCHEDULES])[0] in by_part
    }
    summary: dict[str, Any] = {"goals": GOALS, "simulated": simulated}
    if "workers" in by_part:
        summary["workers"] = summary_of_workers(by_part["workers"])
    engines = [row for name, found in by_part.items() if name.startswith("tune ") for row in found]
    return {**summary, "tune": summary_of_engines(engines)} if engines else summary


def simulated_figures(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return what is quoted of one size: the asynchronous run's row, then the synchronous one's where there is one."""
    ours = rows[0]
    kept = ("mean_s", "utilisation", "finished", "failed", "records_missing", "indexed")
    times = ("wall_s", "first_wave_s", "longest_gap_s", "median_writing_s")
    driver = ("driver_cpu_ms_a_candidate", "driver_waited_share", "driver_peak_mib", "driver_peak_mib_before")
    found = {key: ours[key] for key in (*kept, *times, *driver, "load_average_before")}
    found["candidates_per_s"] = rounded(ours["submitted"] / ours["wall_s"])
    moments = {f"{share:.0%}": share * ours["wall_s"] for share in SHARES}
    found["hypervolume"] = {
        row["schedule"]: {share: volume_at(row["hypervolume"], at) for share, at in moments.items()} for row in rows
    }
    if len(rows) > 1:
        final = volume_at(rows[1]["hypervolume"], ours["wall_s"])
        reached = time_to(ours["hypervolume"], final)
        found["synchronous"] = {
            "utilisation": rows[1]["utilisation"],
            "finished": rows[1]["finished"],
            "final_hypervolume": final,
            "reached_asynchronously_at": None if reached is None else rounded(reached / ours["wall_s"], 3),
        }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kinds = sorted({part.kind for part in parts()})
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"{', '.join(kinds)}, or a whole name; all by default")
    parser.add_argument("--again", action="store_true", help="measure also what is known")
    arguments = parser.parse_args()
    wanted = [p for p in parts() if not arguments.parts or {p.name, p.kind} & set(arguments.parts)]
    if not wanted:
        parser.error(f"no such part; allowed: {', '.join([*kinds, *(p.name for p in parts())])}")
    rows, commit = known_rows(NAME), current_commit()
    for part in wanted:
        if arguments.again or all(row["part"] != part.name for row in rows):
            rows = updated(rows, part, commit)
            print(part.name, {k: v for k, v in rows[-1].items() if k != "hypervolume"}, flush=True)
        write_result(NAME, command="python -m benchmarks.scaling", seeds=[SEED], rows=rows, summary=summarise(rows))


if __name__ == "__main__":
    main()
