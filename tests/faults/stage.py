"""Where acts are played: forks of one warm process, each with its own output files and its own end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

HERE = Path(__file__).resolve().parent
SERVER = HERE / "stage_server.py"
SIGKILLED = -signal.SIGKILL


@dataclass
class Act:
    """A process under way."""

    stage: Stage
    pid: int
    out: Path
    err: Path

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)

    def wait(self, seconds: float = 120.0) -> int:
        """Return the exit status, negative for the signal that ended it."""
        return self.stage.ask({"wait": self.pid, "seconds": seconds})


class Stage:
    """The warm process; its acts are the functions of `acts.py`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.count = 0
        self.errors = folder / "stage.err"
        paths = os.pathsep.join([str(HERE), str(HERE.parent), os.environ.get("PYTHONPATH", "")])
        with self.errors.open("w") as errors:
            self.server = subprocess.Popen(
                [sys.executable, str(SERVER)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths},
            )

    def __enter__(self) -> Self:
        assert self.server.stdout
        assert self.server.stdout.readline() == "ready\n", self.errors.read_text()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.communicate()

    def ask(self, request: dict[str, Any]) -> int:
        assert self.server.stdin
        assert self.server.stdout
        self.server.stdin.write(json.dumps(request) + "\n")
        self.server.stdin.flush()
        answer = self.server.stdout.readline()
        assert answer, self.errors.read_text()
        return int(answer)

    def start(self, act: str, *, environ: dict[str, str] | None = None, **arguments: Any) -> Act:
        """Start an act; paths are given as text."""
        self.count += 1
        out, err = self.folder / f"{self.count}.out", self.folder / f"{self.count}.err"
        out.touch()
        err.touch()
        pid = self.ask({"act": act, "arguments": arguments, "out": str(out), "err": str(err), "environ": environ or {}})
        return Act(self, pid, out, err)

    def play(self, act: str, **arguments: Any) -> tuple[int, str]:
        """Play an act to its end and return its exit status and what it wrote to stderr."""
        started = self.start(act, **arguments)
        status = started.wait()
        return status, started.err.read_text()
