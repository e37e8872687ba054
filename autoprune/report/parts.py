"""What every part of the front document is made of: a strict base, checked fields, figures with intervals."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field
from pydantic.functional_validators import AfterValidator


def _inside(path: str) -> str:
    """Refuse a path that is absolute or leaves its directory."""
    parts = PurePosixPath(path).parts
    if not parts or ".." in parts or parts[0] == "/" or "\\" in path or "\0" in path:
        raise ValueError("must be a relative path without '..'")
    return path


RelativePath = Annotated[str, AfterValidator(_inside)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Count = Annotated[int, Field(ge=0, lt=2**63)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]


class Part(BaseModel):
    """Base of all parts: frozen, strict about keys, every number finite."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Estimate(Part):
    """A metric with its 95% interval over `n` resampling units."""

    value: float
    low: float
    high: float
    n: Count
    unit: str
    method: str


class Change(Part):
    """Paired change of a metric against the dense model (pruned - dense)."""

    delta: float
    low: float
    high: float
    test: str
    noninferior: bool
    margin: float
