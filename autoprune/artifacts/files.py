"""Names of the files of an emitted model, and reading them only when the manifest vouches for them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from autoprune.errors import ArtifactError
from autoprune.groups.architecture import architecture_from_json
from autoprune.groups.types import ArchitecturePlan
from autoprune.storage import parse_json, read_regular, verify_directory

CARD = "README.md"
POLICY = "policy.json"
PLAN = "plan.json"
WEIGHTS = "model.safetensors"
METRICS = "metrics.json"
PROBES = "probes.safetensors"
JSON_LIMIT = 256 << 20


def require_intact(directory: Path, names: Sequence[str]) -> None:
    """Refuse a directory in which one of `names` is missing or differs from the manifest.

    Raises:
        ArtifactError: With every problem found.
    """
    problems = verify_directory(directory, only=names)
    if problems:
        raise ArtifactError(
            f"{directory} is no intact model: {'; '.join(problems)}.",
            hint="Copy the whole directory again from where it was made; `autoprune verify DIR` tells more.",
        )


def read_json(directory: Path, name: str) -> Any:
    """Read a JSON file of an emitted model.

    Raises:
        ArtifactError: It is missing, too large or no JSON.
    """
    try:
        return parse_json(read_regular(directory / name, limit=JSON_LIMIT))
    except (OSError, ValueError) as error:
        raise ArtifactError(f"Cannot read {directory / name}: {error}.") from error


def read_plan(directory: Path) -> ArchitecturePlan:
    """Read what the pruned architecture is.

    Raises:
        ArtifactError: There is no valid plan.
    """
    return architecture_from_json(read_json(directory, PLAN))
