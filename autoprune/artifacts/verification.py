"""Directory of a model -> what holds of it and what does not. Imports nothing that the directory names."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import nn

from autoprune.artifacts.files import CARD, METRICS, PLAN, POLICY, PROBES, WEIGHTS, read_json, read_plan
from autoprune.artifacts.formats import FORMATS, Format
from autoprune.artifacts.loading import load
from autoprune.artifacts.probes import Probes, read_probes, run_model
from autoprune.errors import ArtifactError
from autoprune.groups.types import ArchitecturePlan
from autoprune.runtimes import PARITY_TOLERANCE, parity
from autoprune.storage import read_manifest, verify_directory

REQUIRED = (CARD, POLICY, PLAN, WEIGHTS, METRICS, PROBES)


@dataclass(frozen=True)
class Check:
    """One thing that was checked, with what was found."""

    name: str
    ok: bool
    detail: str


@dataclass(frozen=True)
class VerifyReport:
    """Everything that was checked of one directory, in order; what depends on a failed check is left out."""

    directory: str
    checks: tuple[Check, ...]

    @property
    def ok(self) -> bool:
        """Whether every check holds."""
        return all(check.ok for check in self.checks)

    def to_json(self) -> dict[str, Any]:
        """Return the report as plain JSON values."""
        return {"schema_version": "1.0", "ok": self.ok, **asdict(self)}


def verify(directory: str | Path) -> VerifyReport:
    """Check hashes, then the plan against the weights, then every exported form against the stored outputs.

    A file is opened only after the whole directory agrees with its manifest.
    """
    folder = Path(directory)
    files = _check_files(folder)
    if not files.ok:
        return VerifyReport(str(folder), (files,))
    checks = [files, _guarded("architecture", lambda: _check_architecture(folder))]
    try:
        probes = read_probes(folder / PROBES)
    except ArtifactError as error:
        return VerifyReport(str(folder), (*checks, Check("probes", ok=False, detail=str(error))))
    names = read_manifest(folder)
    for name, form in FORMATS.items():
        if form.file in names:
            checks.append(_guarded(name, functools.partial(_check_form, form, folder, probes)))
    return VerifyReport(str(folder), tuple(checks))


def verify_with_model(directory: str | Path, model: nn.Module) -> VerifyReport:
    """Do what `verify` does, then load the weights into the user's own model and compare its outputs."""
    report = verify(directory)
    if not report.ok:
        return report
    folder = Path(directory)

    def reload() -> str:
        probes = read_probes(folder / PROBES)
        return _agrees(run_model(load(folder, model), probes.inputs), probes)

    return VerifyReport(report.directory, (*report.checks, _guarded("reload", reload)))


def _check_files(folder: Path) -> Check:
    if not folder.is_dir():
        return Check("files", ok=False, detail="there is no such directory")
    problems = verify_directory(folder)
    if not problems:
        names = read_manifest(folder)
        problems = [f"{name}: not in the manifest" for name in REQUIRED if name not in names]
    return Check("files", ok=not problems, detail="; ".join(problems) or f"{len(names)} files as the manifest says")


def _guarded(name: str, action: Callable[[], str]) -> Check:
    try:
        return Check(name, ok=True, detail=action())
    except ArtifactError as error:
        return Check(name, ok=False, detail=str(error))


def _check_architecture(folder: Path) -> str:
    plan = read_plan(folder)
    if not isinstance(read_json(folder, POLICY), dict):
        raise ArtifactError(f"{POLICY} holds no policy")
    try:
        with safe_open(folder / WEIGHTS, framework="pt") as file:
            names = list(file.keys())
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in names}
    except (SafetensorError, OSError) as error:
        raise ArtifactError(f"{WEIGHTS} is no safetensors file: {error}") from error
    for name in sorted(plan.shapes.keys() & shapes.keys()):
        planned = pruned_shape(plan, name)
        if shapes[name] != planned:
            raise ArtifactError(f"{name!r} has shape {shapes[name]}, the plan says {planned}")
    return f"{len(shapes)} tensors; {len(plan.shapes)} of the plan"


def pruned_shape(plan: ArchitecturePlan, name: str) -> tuple[int, ...]:
    """Return the shape that a planned tensor has after pruning."""
    shape = list(plan.shapes[name])
    for dim, kept in plan.kept.get(name, {}).items():
        shape[dim] = len(kept)
    groups = plan.grouped.get(name, ())
    if groups:
        shape[0] = sum(len(rows) for rows, _ in groups)
        shape[1] = len(groups[0][1])
    return tuple(shape)


def _check_form(form: Format, folder: Path, probes: Probes) -> str:
    return _agrees(form.run(folder / form.file, probes.inputs), probes)


def _agrees(outputs: Any, probes: Probes) -> str:
    difference = parity(probes.outputs, outputs)
    if not difference <= PARITY_TOLERANCE:
        raise ArtifactError(f"its outputs differ from the stored ones by {difference:.2g} of their scale")
    return f"outputs agree to {difference:.1g} of their scale"
