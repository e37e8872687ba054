"""A member's directory -> the place where the user wants it."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from autoprune.errors import ArtifactError, OutputError
from autoprune.report.document import Member
from autoprune.storage import verify_directory


def copy_member(run: Path, member: Member, target: Path | None) -> Path:
    """Return the member's directory, or `target` after copying it there in one step.

    Raises:
        ArtifactError: The member was not emitted, or its directory holds links or leaves the run.
        OutputError: `target` holds something already or cannot be written.
    """
    if member.directory is None:
        raise ArtifactError(f"{member.name!r} has no directory: it was not emitted.")
    source = run / member.directory
    if target is None:
        return source
    _refuse_foreign(run, source)
    problems = verify_directory(source)
    if problems:
        raise ArtifactError(f"{source} is no intact model: {'; '.join(problems)}.", hint="Run the search again.")
    refuse_taken(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as folder:
            copied = Path(shutil.copytree(source, Path(folder) / "model"))
            copied.replace(target)
    except OSError as error:
        raise OutputError(f"{target} cannot be written: {error.strerror}.", hint="Give another --to.") from error
    return target


def refuse_taken(target: Path) -> None:
    """Refuse a target that holds something already.

    Raises:
        OutputError: It is a file, or a directory that is not empty.
    """
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise OutputError(f"{target} exists already and is not empty.", hint="Give another --to.")


def _refuse_foreign(run: Path, source: Path) -> None:
    """Refuse what would copy files from outside the run: links, or a directory that is none."""
    if not source.is_dir():
        raise ArtifactError(f"{source} is missing.", hint="Run the search again: it emits what is missing.")
    inside = source.resolve().is_relative_to(run.resolve())
    entries = (Path(folder) / name for folder, folders, files in os.walk(source) for name in (*folders, *files))
    if not inside or any(entry.is_symlink() for entry in entries):
        raise ArtifactError(f"{source} holds links to other places.", hint="Copy it by hand if you trust it.")
