"""Steps of emission -> what could not be emitted: a step that fails costs itself, never what stands beside it."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from autoprune.errors import AutopruneError, PartialResultError, StorageError
from autoprune.tasks.failures import describe

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def emission_step() -> Iterator[None]:
    """Turn whatever goes wrong inside the block into an `AutopruneError`: exporters may be anybody's code."""
    try:
        yield
    except AutopruneError:
        raise
    except Exception as error:
        raise AutopruneError(describe(error)) from error


@dataclass
class Losses:
    """What could not be emitted.

    Args:
        lines: What and why, one line each.
        full: The error of a disk without space, if that was a reason.
    """

    lines: list[str] = field(default_factory=list)
    full: AutopruneError | None = None

    @contextmanager
    def noting(self, what: str) -> Iterator[None]:
        """Note what goes wrong inside the block instead of raising it."""
        try:
            with emission_step():
                yield
        except AutopruneError as error:
            self.add(what, error)

    def add(self, what: str, error: AutopruneError) -> None:
        """Note a failed step."""
        self.lines.append(f"{what}: {error}")
        if self.full is None and _is_full(error):
            self.full = error

    def report(self, members: int, directory: Path) -> None:
        """Raise what was noted, if anything was.

        Args:
            members: Models that were emitted.
            directory: The run's directory.

        Raises:
            StorageError: The disk was full.
            PartialResultError: Something else went wrong.
        """
        if not self.lines:
            return
        models = f"The front of {members} model{'' if members == 1 else 's'} is written"
        told = f"{models}, but not all of it: " if members else "No model could be emitted: "
        told += "; ".join(self.lines)
        if self.full is not None:
            raise StorageError(told, hint=self.full.hint or "Free some space, then run the same command again.")
        hint = f"What was emitted is complete in {directory}. The same command again tries the rest once more."
        raise PartialResultError(told, hint=hint)


def _is_full(error: BaseException | None) -> bool:
    """Tell whether an error comes from a disk without space."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in _FULL:
            return True
        error = error.__cause__
    return False
