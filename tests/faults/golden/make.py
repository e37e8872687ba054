"""Make the golden run of this version: `python tests/faults/golden/make.py`, once for each release, then commit it.

The report is left out: it is the largest file, and `autoprune report` makes it again.
"""

from __future__ import annotations

import os
import platform
import shutil
import sqlite3
import tempfile
from contextlib import closing
from importlib.metadata import version
from pathlib import Path

import torch

from autoprune.config import load_config
from autoprune.search.run import run

HERE = Path(__file__).resolve().parent
MOST_BYTES = 300_000


def main() -> None:
    target = HERE / version("autoprune")
    platform.node = lambda: "golden"  # no name of a machine in what is committed
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        for name in ("task.py", "run.yaml"):
            shutil.copy(HERE / name, folder)
        os.chdir(folder)
        made = run(load_config(Path("run.yaml"), environ={})).directory
        (made / "report.html").unlink()
        with closing(sqlite3.connect(made / "study.db", isolation_level=None)) as database:
            database.execute("PRAGMA page_size = 1024")
            database.execute("VACUUM")
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(made, target)
    size = sum(p.stat().st_size for p in target.rglob("*") if p.is_file())
    if size > MOST_BYTES:
        raise SystemExit(f"{target} has {size} bytes, more than {MOST_BYTES}.")
    print(f"{target}: {size} bytes")


if __name__ == "__main__":
    main()
