"""Signals to a process of the command line: one orderly stop, then an end at once, and nothing left behind."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
import pytest

PROGRAM = """
import signal, sys, time, hashlib, subprocess
signal.signal(signal.SIGINT, signal.{initial})
from autoprune.cli.interrupt import Interruption
with Interruption(grace_s={grace}) as interruption:
    try:
        {begin}
        print("ready", flush=True)
        time.sleep(60)
    except KeyboardInterrupt as error:
        print(type(error).__name__, flush=True)
        {end}
    print("went on", flush=True)
"""
LONG_CALL = 'hashlib.pbkdf2_hmac("sha256", b"", b"", 10**9)'
CHILD = 'print(subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]).pid)'


@contextmanager
def process(
    begin: str = "pass", end: str = "pass", *, grace: float = 30.0, initial: str = "default_int_handler"
) -> Iterator[subprocess.Popen[str]]:
    """Yield a process that runs the program, and kill it afterwards."""
    code = PROGRAM.format(begin=begin, end=end, grace=grace, initial=initial)
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as child:
        try:
            yield child
        finally:
            child.kill()


def read_until(child: subprocess.Popen[str], word: str) -> list[str]:
    assert child.stdout
    lines = []
    for line in child.stdout:
        lines.append(line.strip())
        if lines[-1] == word:
            return lines
    raise AssertionError(lines)


def await_work(child: subprocess.Popen[str]) -> None:
    """Return when the process has computed for a while, so that it is inside its long call."""
    process = psutil.Process(child.pid)
    before = process.cpu_times().user
    while process.cpu_times().user < before + 0.3:
        time.sleep(0.02)


def seconds_until_end(child: subprocess.Popen[str]) -> float:
    started = time.monotonic()
    child.wait(20.0)
    return time.monotonic() - started


@pytest.mark.parametrize(
    ("sent", "code", "raised"),
    [(signal.SIGINT, 130, "KeyboardInterrupt"), (signal.SIGTERM, 143, "TerminatedError")],
)
def test_the_first_signal_raises_and_decides_the_exit_status(sent: signal.Signals, code: int, raised: str) -> None:
    with process() as child:
        read_until(child, "ready")
        child.send_signal(sent)
        out, _ = child.communicate(timeout=20.0)
    assert out.split("\n")[:2] == [raised, "went on"]
    assert child.returncode == code


def test_the_second_signal_ends_an_orderly_stop_at_once() -> None:
    with process(end="time.sleep(60)") as child:
        read_until(child, "ready")
        child.send_signal(signal.SIGINT)
        read_until(child, "KeyboardInterrupt")
        time.sleep(0.3)
        child.send_signal(signal.SIGINT)
        assert seconds_until_end(child) < 5.0
    assert child.returncode == 130


def test_a_signal_that_comes_twice_at_one_press_counts_once() -> None:
    with process(end="time.sleep(1)") as child:
        read_until(child, "ready")
        for _ in range(2):
            child.send_signal(signal.SIGINT)
        out, _ = child.communicate(timeout=20.0)
    assert "went on" in out
    assert child.returncode == 130


def test_a_main_thread_inside_a_long_call_is_ended_after_the_grace() -> None:
    with process(f'print("ready", flush=True); {LONG_CALL}', grace=1.0) as child:
        read_until(child, "ready")
        await_work(child)
        child.send_signal(signal.SIGTERM)
        assert 0.5 < seconds_until_end(child) < 6.0
    assert child.returncode == 143


def test_a_signal_that_the_parent_had_ignored_stays_ignored() -> None:
    with process(initial="SIG_IGN") as child:
        read_until(child, "ready")
        child.send_signal(signal.SIGINT)
        time.sleep(0.3)
        assert child.poll() is None
        child.send_signal(signal.SIGTERM)
        child.wait(20.0)
    assert child.returncode == 143


@pytest.mark.parametrize("again", [False, True])
def test_no_process_is_left_behind(again: bool) -> None:
    with process(CHILD, "time.sleep(60)" if again else "pass") as child:
        pid = int(read_until(child, "ready")[0])
        child.send_signal(signal.SIGINT)
        if again:
            time.sleep(0.5)
            child.send_signal(signal.SIGINT)
        child.wait(20.0)
    limit = time.monotonic() + 5.0
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < limit
        time.sleep(0.02)


def test_without_a_signal_everything_is_put_back() -> None:
    code = (
        "import signal, threading\n"
        "from autoprune.cli.interrupt import Interruption\n"
        "before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)\n"
        "with Interruption():\n    pass\n"
        "assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before\n"
        "assert signal.set_wakeup_fd(-1) == -1\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
