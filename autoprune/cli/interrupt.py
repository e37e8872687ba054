"""SIGINT and SIGTERM -> one orderly stop; an end at once when it is asked for again or takes too long.

The first signal raises in the main thread, which closes what it has begun. A second one, or `GRACE_S` without an end,
ends the process with all that it has started. A thread sees to that: Python runs a handler only between two steps of
the interpreter, and the main thread may be inside a long call.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import threading
import time
from types import FrameType, TracebackType
from typing import Any, NoReturn, Self

GRACE_S = 15.0
SAME_PRESS_S = 0.1
INTERRUPTED = 130
TERMINATED = 143
CODES = {signal.SIGINT: INTERRUPTED, signal.SIGTERM: TERMINATED}
SHOW_CURSOR = "\x1b[?25h"


class TerminatedError(KeyboardInterrupt):
    """SIGTERM arrived: stop in order, as after Ctrl-C."""


class Interruption:
    """Context manager of a process that is to stop in order.

    Signals that the parent had this process ignore stay ignored. A second signal within `SAME_PRESS_S` is the first
    one, passed on by a wrapper that shares the terminal.

    Args:
        grace_s: Seconds that an orderly stop may take.

    Attributes:
        code: Exit status of the stop that was asked for; None as long as none was.
    """

    def __init__(self, *, grace_s: float = GRACE_S) -> None:
        self.grace_s = grace_s
        self.code: int | None = None
        self._raised = False
        self._before: dict[signal.Signals, Any] = {}
        self._writer = -1
        self._wakeup = -1

    def __enter__(self) -> Self:
        reader, self._writer = os.pipe()
        os.set_blocking(self._writer, False)
        for number in CODES:
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._before[number] = signal.signal(number, self._stop)
        self._wakeup = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        threading.Thread(target=self._watch, args=(reader,), name="autoprune-interrupt", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.code is not None:
            end_descendants()
            raise SystemExit(self.code)
        signal.set_wakeup_fd(self._wakeup)
        for number, handler in self._before.items():
            signal.signal(number, handler)
        os.close(self._writer)

    def raise_again(self) -> None:
        """Raise once more what somebody has swallowed.

        Raises:
            KeyboardInterrupt: A stop was asked for.
        """
        if self.code is not None:
            raise TerminatedError if self.code == TERMINATED else KeyboardInterrupt

    def _stop(self, number: int, _frame: FrameType | None) -> None:
        """Stop the main thread in order, once."""
        if not self._raised:
            self._raised = True
            self.code = CODES[signal.Signals(number)]
            self.raise_again()

    def _watch(self, reader: int) -> None:
        """End the process when the orderly stop is too slow for the user or for `grace_s`."""
        first: float | None = None
        while True:
            left = None if first is None else max(0.0, first + self.grace_s - time.monotonic())
            if not select.select([reader], [], [], left)[0]:
                break
            data = os.read(reader, 64)
            if not data:
                os.close(reader)
                return
            asked = [number for number in CODES if number in data]
            if asked and first is None:
                first, self.code = time.monotonic(), self.code or CODES[asked[0]]
            elif asked and first is not None and time.monotonic() - first >= SAME_PRESS_S:
                break
        end_at_once(self.code or INTERRUPTED)


def end_at_once(code: int) -> NoReturn:
    """End this process and all that it has started, without any cleaning up."""
    if sys.stderr.isatty():
        sys.stderr.write(SHOW_CURSOR)
        sys.stderr.flush()
    end_descendants()
    os._exit(code)


def end_descendants() -> None:
    """Kill the processes that this one has started, and theirs; those that they start meanwhile in a second turn."""
    import psutil

    for _ in range(2):
        for child in psutil.Process().children(recursive=True):
            try:
                child.kill()
            except psutil.Error:
                continue
