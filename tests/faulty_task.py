"""A real task of a second whose candidates, never its dense model, misbehave where a marker file says so."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn

from autoprune.tasks import ClassificationTask, Evaluated, LabelledArrays, Predict, trained_once
from autoprune.tasks.protocol import RecoverContext

ROWS, STEPS = 400, 150
FOREVER = 3600.0
NAP = 1.0
CHUNK = 32 << 20
MOST_CHUNKS = 128
CALLS, ENDED = "calls", "ended"


class SmallNet(nn.Module):
    """Two convolutions and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 8, 3, padding=1, bias=False)
        self.first_norm = nn.BatchNorm2d(8)
        self.second = nn.Conv2d(8, 16, 3, stride=2, padding=1, bias=False)
        self.second_norm = nn.BatchNorm2d(16)
        self.fc = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.second_norm(self.second(F.relu(self.first_norm(self.first(x))))))
        return self.fc(x.mean((2, 3)))


class FaultyTask(ClassificationTask):
    """Looks for markers, files in its directory, while it recovers and while it evaluates a candidate.

    `recover.7` is for candidates of 7 recovery steps, `recover` for any; likewise `evaluate`. A marker holds the name
    of a misbehaviour of `WAYS` and `once`, for the first candidate that finds it, or `always`. Each recovery leaves a
    line in `calls` when it starts and one in `ended` when it is over.
    """

    def __init__(self, *args: Any, directory: Path, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._directory = directory
        self._steps: int | None = None

    def recover(self, model: nn.Module, ctx: RecoverContext) -> None:
        started = time.monotonic()
        self._steps = ctx.steps
        note(self._directory / CALLS, f"{ctx.steps} {os.getsid(0)} {started} {started}")
        self._misbehave("recover")
        super().recover(model, ctx)
        note(self._directory / ENDED, f"{ctx.steps} {os.getsid(0)} {started} {time.monotonic()}")

    def evaluate(self, predict: Predict, *args: Any, **kwargs: Any) -> Evaluated:
        if self._steps is not None:
            self._misbehave("evaluate")
            self._steps = None
        return super().evaluate(predict, *args, **kwargs)

    def _misbehave(self, stage: str) -> None:
        for marker in (self._directory / stage, self._directory / f"{stage}.{self._steps}"):
            with suppress(FileNotFoundError):
                way, often = marker.read_text().split()
                if often == "once":
                    marker.unlink()
                WAYS[way]()


class Call(NamedTuple):
    """One recovery, its times on the system's monotonic clock."""

    steps: int
    session: int
    started: float
    ended: float


def calls_in(directory: Path, name: str = CALLS) -> list[Call]:
    """Return the recoveries that began, or with `ENDED` those that came to their end."""
    path = directory / name
    rows = [line.split() for line in path.read_text().splitlines()] if path.exists() else []
    return [Call(int(steps), int(session), float(start), float(end)) for steps, session, start, end in rows]


def note(path: Path, line: str) -> None:
    """Append a line that reaches the file whole, whatever becomes of this process."""
    with path.open("a") as file:
        file.write(line + "\n")


def sleep() -> None:
    time.sleep(FOREVER)


def deaf() -> None:
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    time.sleep(FOREVER)


def gil() -> None:
    sum(range(10**15))


def offspring() -> None:
    code = f"import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep({FOREVER})"
    subprocess.run([sys.executable, "-c", code], check=True)


def stopped() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)
    time.sleep(FOREVER)


def memory() -> None:
    """Allocate memory and touch it, 1.6 GB/s at most and 4 GiB at most."""
    held = []
    for _ in range(MOST_CHUNKS):
        held.append(bytearray(b"\1") * CHUNK)
        time.sleep(0.02)
    time.sleep(FOREVER)


def offspring_memory() -> None:
    lines = [
        "import time",
        "held = []",
        f"for _ in range({MOST_CHUNKS}):",
        f"    held.append(bytearray(b'1') * {CHUNK})",
        "    time.sleep(0.02)",
        f"time.sleep({FOREVER})",
    ]
    subprocess.run([sys.executable, "-c", "\n".join(lines)], check=True)


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def leave() -> NoReturn:
    os._exit(3)


def nap() -> None:
    time.sleep(NAP)


def fail() -> NoReturn:
    raise RuntimeError("the candidate's own mistake")


HANGS = (sleep, deaf, gil, offspring, stopped)
OTHERS = (memory, offspring_memory, kill, leave, nap, fail)
WAYS: dict[str, Callable[[], None]] = {way.__name__: way for way in (*HANGS, *OTHERS)}


def make_task(directory: str, build: str = "") -> FaultyTask:
    """Return the task.

    Args:
        directory: Where markers are looked for and calls are noted.
        build: A misbehaviour while the task is built.
    """
    if build:
        WAYS[build]()
    digits = load_digits()
    x = torch.tensor(digits.images[:ROWS, None] / 16.0, dtype=torch.float32)
    data = LabelledArrays(x, digits.target[:ROWS], unit="image")

    def train(model: nn.Module) -> None:
        context = RecoverContext(
            steps=STEPS,
            lr=0.1,
            batch_size=64,
            device=torch.device("cpu"),
            dtype=torch.float32,
            generator=torch.Generator().manual_seed(0),
        )
        model.train()
        ClassificationTask(model, data, name="faulty").recover(model, context)

    model = trained_once(SmallNet, train, name="faulty", recipe={"rows": ROWS, "steps": STEPS})
    return FaultyTask(model, data, name="faulty", directory=Path(directory))
