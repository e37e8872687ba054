"""What is promised for the day on which something breaks, tried at full length: kills, hangs, full disks, races.

    python -m benchmarks.promises [A1 A3 ...] [--again]

Runs the tests of tests/faults and of the two-node cluster, the slow ones included, one file after the other, and counts
for each test how many of its cases passed. The cluster's need root and Debian's iproute2.

Finished files are kept in results/benchmarks/promises.json and tried again only with --again.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.common import ROOT, current_commit, known_rows, rounded, write_result

NAME = "promises"
CLUSTER = {"A3": ROOT / "tests" / "cluster" / "test_two_nodes.py"}
OUTCOMES = ("passed", "failed", "skipped")

Row = dict[str, Any]


def files() -> dict[str, Path]:
    """Return promise -> file of its tests, in order."""
    own = ((re.match(r"test_(a\d+b?)_", p.name), p) for p in (ROOT / "tests" / "faults").glob("test_a*.py"))
    found = {match[1].replace("a", "A"): path for match, path in own if match} | CLUSTER
    return dict(sorted(found.items(), key=lambda item: (int(re.sub(r"\D", "", item[0])), item[0])))


def tried(promise: str, path: Path) -> list[Row]:
    """Run one file and return a row a test."""
    with tempfile.TemporaryDirectory() as folder:
        told = Path(folder) / "told.xml"
        command = [sys.executable, "-m", "pytest", "-q", str(path), f"--junitxml={told}", f"--basetemp={folder}/tests"]
        subprocess.run(command, cwd=ROOT, check=False)
        cases = ET.parse(told).iter("testcase")
        return rows_of(promise, [(c.get("name", ""), outcome_of(c), float(c.get("time", 0.0))) for c in cases])


def outcome_of(case: ET.Element) -> str:
    """Return what became of a case."""
    kinds = {child.tag for child in case}
    if kinds & {"failure", "error"}:
        return "failed"
    return "skipped" if "skipped" in kinds else "passed"


def rows_of(promise: str, cases: Iterable[tuple[str, str, float]]) -> list[Row]:
    """Return a row for all cases, (name, outcome, seconds), of a test together."""
    rows: dict[str, Row] = {}
    for name, outcome, seconds in cases:
        test = re.sub(rf"^test_({promise.lower()}_)?", "", name.partition("[")[0])
        row = rows.setdefault(test, {"promise": promise, "test": test, **dict.fromkeys(OUTCOMES, 0), "seconds": 0.0})
        row[outcome] += 1
        row["seconds"] += seconds
    return [{**row, "seconds": rounded(row["seconds"])} for row in rows.values()]


def summarise(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return promise -> cases by outcome, and minutes."""
    found: dict[str, Any] = {}
    for promise in files():
        own = [row for row in rows if row["promise"] == promise]
        if own:
            counts = {outcome: sum(row[outcome] for row in own) for outcome in OUTCOMES}
            found[promise] = {**counts, "minutes": rounded(sum(row["seconds"] for row in own) / 60, 2)}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("promises", nargs="*", metavar="PROMISE", help=f"{', '.join(files())}; all by default")
    parser.add_argument("--again", action="store_true", help="try also what was tried")
    arguments = parser.parse_args()
    unknown = sorted(set(arguments.promises) - set(files()))
    if unknown:
        parser.error(f"no such promise: {unknown[0]}; allowed: {', '.join(files())}")
    rows, commit = known_rows(NAME), current_commit()
    for promise, path in files().items():
        if arguments.promises and promise not in arguments.promises:
            continue
        if arguments.again or all(row["promise"] != promise for row in rows):
            fresh = [{**row, "commit": commit} for row in tried(promise, path)]
            rows = [row for row in rows if row["promise"] != promise] + fresh
            write_result(NAME, command=f"python -m benchmarks.{NAME}", seeds=[], rows=rows, summary=summarise(rows))
    print(json.dumps(summarise(rows), indent=2))


if __name__ == "__main__":
    main()
