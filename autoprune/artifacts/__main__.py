"""`python -P -m autoprune.artifacts DIR`: verify a model in a process of its own; the report as JSON on stdout."""

from __future__ import annotations

import sys

from autoprune.artifacts.verification import verify
from autoprune.storage import dump_json


def main(arguments: list[str]) -> int:
    """Verify the one directory given; return 0 where it holds, 1 where not, 2 for bad usage."""
    if len(arguments) != 1:
        sys.stderr.write("usage: python -P -m autoprune.artifacts DIR\n")
        return 2
    report = verify(arguments[0])
    sys.stdout.write(dump_json(report.to_json()).decode())
    return 0 if report.ok else 1


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
