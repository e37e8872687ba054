"""A model's directory -> verdict of a process that has seen nothing of the run."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import TYPE_CHECKING

from autoprune.errors import ArtifactError

if TYPE_CHECKING:
    from autoprune.artifacts import VerifyReport


def verify_in_fresh_process(directory: Path) -> VerifyReport:
    """Return what a new interpreter finds in a model's directory.

    Raises:
        ArtifactError: The directory holds no model, or the process died over it.
    """
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn) as pool:
        try:
            return pool.submit(_verify, directory.absolute()).result()
        except BrokenProcessPool as error:
            raise ArtifactError(
                f"{directory} could not be verified: the verifying process died.",
                hint="What it wrote is above; a file that crashes its reader is not to be trusted.",
            ) from error


def _verify(directory: Path) -> VerifyReport:
    from autoprune.artifacts import verify

    return verify(directory)
