"""Exception -> message and exit code: the one place where a command's errors end."""

from __future__ import annotations

import errno
import shlex
import sys
import traceback
from dataclasses import dataclass
from typing import Any

import typer
from typer.core import TyperCommand

from autoprune.cli.console import note
from autoprune.cli.interrupt import INTERRUPTED, TERMINATED, Interruption, TerminatedError
from autoprune.errors import AutopruneError, ConfigError, StorageError

_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True)
class Settings:
    """Options that every command takes.

    Args:
        debug: Whether errors come with their traceback.
        verbosity: < 0 quiet, 0 normal, > 0 more.
        interruption: What stops this process; None where the command line is used from within another program.
    """

    debug: bool = False
    verbosity: int = 0
    interruption: Interruption | None = None


class GuardedCommand(TyperCommand):
    """A command whose errors become one message, a hint and the exit code of their class."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        settings = ctx.obj if isinstance(ctx.obj, Settings) else Settings()
        try:
            return super().invoke(ctx)
        except (typer.Exit, typer.Abort, BrokenPipeError):
            raise
        except (Exception, KeyboardInterrupt) as error:
            if settings.debug:
                note(traceback.format_exc().rstrip())
            raise typer.Exit(explain(error)) from error


def explain(error: BaseException) -> int:
    """Write an error to stderr and return its exit code."""
    if isinstance(error, KeyboardInterrupt):
        told = "".join(f"\n{line}" for line in getattr(error, "__notes__", ()))
        note(f"stopped; what is finished is kept. Run the same command again to go on:\n  {command_line()}{told}")
        return TERMINATED if isinstance(error, TerminatedError) else INTERRUPTED
    if isinstance(error, AutopruneError):
        _explain(str(error), error.hint, error.problems if isinstance(error, ConfigError) else ())
        return error.exit_code
    if isinstance(error, OSError) and error.errno in _DISK_FULL:
        where = f"{error.filename}: " if error.filename else ""
        _explain(f"{where}{error.strerror}", "Free some space and run the same command again: it goes on.", ())
        return StorageError.exit_code
    first = str(error).splitlines()[:1]
    _explain(
        f"unexpected {type(error).__name__}{': ' if first else ''}{''.join(first)}", "Run with --debug for more.", ()
    )
    return AutopruneError.exit_code


def command_line() -> str:
    """Return the command as the user could type it again."""
    return shlex.join(["autoprune", *sys.argv[1:]])


def _explain(message: str, hint: str, problems: tuple[str, ...]) -> None:
    if len(problems) > 1:
        note(f"error: {len(problems)} problems")
        note("\n".join(problems))
    else:
        note(f"error: {message}")
    if hint:
        note(f"hint: {hint}")
