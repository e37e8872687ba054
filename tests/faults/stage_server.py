"""One process that has imported and traced everything once; each act is a fork of it, so that hundreds can be killed.

Reads one JSON object a line: `{"act": name, "arguments": {...}, "out": path, "err": path, "environ": {...}}` forks and
is answered by the child's pid; `{"wait": pid, "seconds": s}` by its exit status, negative for a signal.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
import traceback
from typing import Any

import acts


def main() -> None:
    acts.warm_up()
    children: set[int] = set()
    print("ready", flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        if "act" in request:
            answer = start(request)
            children.add(answer)
        else:
            answer = wait(request["wait"], request["seconds"])
            children.discard(request["wait"])
        print(answer, flush=True)
    for child in children:
        os.kill(child, signal.SIGKILL)
    os._exit(0)  # what was imported takes seconds to take down


def start(request: dict[str, Any]) -> int:
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            status = play(request)
        finally:
            os._exit(status)
    return pid


def play(request: dict[str, Any]) -> int:
    writing = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    for number, path, flags in (
        (0, os.devnull, os.O_RDONLY),
        (1, request["out"], writing),
        (2, request["err"], writing),
    ):
        os.dup2(os.open(path, flags, 0o600), number)
    sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
    os.environ.update(request["environ"])
    signal.signal(signal.SIGINT, signal.default_int_handler)  # who started the tests may have had it ignored
    try:
        getattr(acts, request["act"])(**request["arguments"])
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(bool(end.code))
    except BaseException:
        traceback.print_exc()
        raise
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    return 0


def wait(pid: int, seconds: float) -> int:
    """Return the exit status of a child, which is killed when it takes longer."""
    limit = time.monotonic() + seconds
    while True:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > limit:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            raise SystemExit(f"act {pid} took longer than {seconds} s")
        time.sleep(0.002)


if __name__ == "__main__":
    main()
