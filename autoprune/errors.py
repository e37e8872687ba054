"""Errors a user can act on. Each carries a message, a remedy (`hint`) and the exit code of the command line."""

from __future__ import annotations

from collections.abc import Sequence


class AutopruneError(Exception):
    """Base of every error that autoprune raises on purpose.

    Args:
        message: What was given, what is allowed.
        hint: What to do next; may be empty.
    """

    exit_code = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class ConfigError(AutopruneError):
    """Bad usage, configuration, space or policy. `problems` holds every error found, one line each."""

    exit_code = 2

    def __init__(self, message: str, *, hint: str = "", problems: Sequence[str] = ()) -> None:
        super().__init__(message, hint=hint)
        self.problems = tuple(problems) or (message,)


class TaskError(AutopruneError):
    """The user's task cannot be imported, or its model, data or metric is unusable."""

    exit_code = 2


class GroupError(AutopruneError):
    """The model has nothing that can be pruned, or a pattern matches no group."""

    exit_code = 2


class UnknownNameError(AutopruneError):
    """A name that no registry holds."""

    exit_code = 2


class MissingExtraError(AutopruneError):
    """An optional dependency is not installed; the hint is the install command."""

    exit_code = 2


class UnmetConstraintError(AutopruneError):
    """No model of the front satisfies the asked constraint."""

    exit_code = 4


class PartialResultError(AutopruneError):
    """Some front members or exports failed; the others are complete."""

    exit_code = 5


class OutputError(AutopruneError):
    """The output directory cannot be created or holds something else."""

    exit_code = 73


class StorageError(AutopruneError):
    """Reading or writing results failed (disk full, permission)."""

    exit_code = 74


class RunLockedError(AutopruneError):
    """Another process owns the run directory."""

    exit_code = 75


class ArtifactError(AutopruneError):
    """An emitted model is incomplete, altered or does not fit the given model."""


class CandidateError(AutopruneError):
    """One candidate could not be evaluated; the search goes on.

    Args:
        reason: Short machine-readable cause (`nonfinite`, `diverged`, `error`, `timeout`, `memory`).
        stage: Stage of the road at which it happened (`prune`, `recover`, `quality`, `latency`).
    """

    def __init__(self, message: str, *, reason: str, stage: str, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.reason = reason
        self.stage = stage
