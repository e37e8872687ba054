"""The user's exceptions -> one line with its place, so that a broken task is a message and never a traceback."""

from __future__ import annotations

import sysconfig
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from textwrap import shorten

from autoprune.errors import AutopruneError, CandidateError, TaskError

PACKAGE = Path(__file__).resolve().parent.parent
LONGEST = 400
STANDARD_LIBRARY = Path(sysconfig.get_paths()["stdlib"])


def describe(error: BaseException) -> str:
    """Return the error's kind, message and place in one line, such as `ValueError: no data (digits.py:12)`."""
    words = shorten(str(error), LONGEST, placeholder=" ...")
    text = f"{type(error).__name__}: {words}" if words else type(error).__name__
    if isinstance(error, SyntaxError):
        return f"{type(error).__name__}: {error.msg} ({Path(error.filename or '?').name}:{error.lineno})"
    place = _place(error)
    return f"{text} ({place})" if place else text


@contextmanager
def user_code(what: str, *, hint: str = "") -> Iterator[None]:
    """Turn whatever the user's code raises inside the block into a `TaskError` that names what was being done.

    Args:
        what: What ran, as the subject of the message, such as `task.build_model()`.
        hint: What to do about it.
    """
    try:
        yield
    except (Exception, SystemExit) as error:
        if isinstance(error, AutopruneError) and not isinstance(error, CandidateError):
            raise
        raise TaskError(f"{what} raised {describe(error)}.", hint=hint or "Mend the task, then run again.") from error


def _place(error: BaseException) -> str:
    """Return `file:line` of the deepest frame of the user's own code: outside this package and any site-packages."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if _is_users(f.filename)]
    return f"{Path(own[-1].filename).name}:{own[-1].lineno}" if own else ""


def _is_users(filename: str) -> bool:
    path = Path(filename)
    library = {"site-packages", "dist-packages"} & set(path.parts) or path.is_relative_to(STANDARD_LIBRARY)
    return not library and not filename.startswith("<") and not path.is_relative_to(PACKAGE)
