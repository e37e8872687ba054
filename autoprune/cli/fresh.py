"""A model's directory -> verdict of a process that has seen nothing of the run."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from autoprune.errors import ArtifactError


def verify_in_fresh_process(directory: Path) -> tuple[dict[str, Any], int]:
    """Return the report of `autoprune.artifacts.verify` on a directory, and its exit code.

    `-P` keeps the working directory off the import path.

    Raises:
        ArtifactError: The process ended without a report.
    """
    command = [sys.executable, "-P", "-m", "autoprune.artifacts.verify", str(directory.absolute())]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=False)
    try:
        document = json.loads(done.stdout)
    except ValueError as error:
        raise ArtifactError(
            f"{directory} could not be verified: the verifying process ended with code {done.returncode}.",
            hint="What it wrote is above.",
        ) from error
    if not isinstance(document, dict):
        raise ArtifactError(f"{directory} could not be verified: the verifying process gave no report.")
    return document, done.returncode
