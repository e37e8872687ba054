"""Name or file -> search space: the ready-made ones, and the user's own."""

from __future__ import annotations

from pathlib import Path

from autoprune.config.reader import read_yaml
from autoprune.config.validation import validate
from autoprune.errors import ConfigError
from autoprune.registry import unknown_name
from autoprune.space.spec import SearchSpace


def load_space(name: str, *, base: Path | None = None) -> SearchSpace:
    """Return the space of a ready-made name or of a YAML file (relative to `base`)."""
    path = Path(name) if base is None else base / name
    if path.suffix not in {".yaml", ".yml"}:
        known = {p.stem: p for p in _space_files()}
        if name not in known:
            raise unknown_name("search space", name, list(known))
        path = known[name]
    document = read_yaml(path)
    return validate(SearchSpace, document)


def list_spaces() -> dict[str, str]:
    """Return name -> description of the ready-made spaces."""
    return {p.stem: load_space(p.stem).description.strip() for p in _space_files()}


def _space_files() -> list[Path]:
    package = Path(__file__).parent.parent
    for folder in (package / "search_spaces", package.parent / "search_spaces"):
        if folder.is_dir():
            return sorted(folder.glob("*.yaml"))
    raise ConfigError("The ready-made search spaces are missing from this installation.", hint="Reinstall autoprune.")
