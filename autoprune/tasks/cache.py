"""Recipe -> trained model, trained once a machine: for examples and tests whose training takes seconds to minutes."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

VARIABLE = "AUTOPRUNE_CACHE"


def cache_directory() -> Path:
    """Return $AUTOPRUNE_CACHE, or ~/.cache/autoprune."""
    given = os.environ.get(VARIABLE)
    return Path(given).expanduser() if given else Path.home() / ".cache" / "autoprune"


def trained_once(
    build: Callable[[], nn.Module], train: Callable[[nn.Module], None], *, name: str, recipe: Mapping[str, Any]
) -> nn.Module:
    """Return the trained model in eval mode, from the cache where the same recipe was trained before.

    Args:
        build: Returns the untrained module.
        train: Trains it in place.
        name: Opening of the file name in the cache.
        recipe: All that the weights depend on, as JSON: architecture, data, epochs, seed. It seeds initialisation and
            training by its `seed` (0 without), inside a copy of torch's random state.
    """
    key = hashlib.sha256(json.dumps(dict(recipe), sort_keys=True).encode()).hexdigest()[:16]
    path = cache_directory() / f"{name}-{key}.safetensors"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(recipe.get("seed", 0)))
        model = build()
        if not _restore(model, path):
            train(model)
            _store(model, path)
    return model.eval()


def _restore(model: nn.Module, path: Path) -> bool:
    """Load the weights; False where the file is missing, damaged or of another architecture."""
    try:
        with safe_open(path, framework="pt") as file:
            state = {key: file.get_tensor(key) for key in sorted(file.keys())}
            stored = (file.metadata() or {}).get("sha256")
        shapes = {key: value.shape for key, value in model.state_dict().items()}
        if stored != _digest(state) or shapes != {key: value.shape for key, value in state.items()}:
            return False
        model.load_state_dict(state)
    except (OSError, SafetensorError, RuntimeError):
        return False
    return True


def _store(model: nn.Module, path: Path) -> None:
    """Write the weights under a temporary name, then rename; a directory that cannot be written is no failure."""
    state = {key: value.detach().cpu().contiguous() for key, value in model.state_dict().items()}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".tmp", delete=False) as file:
            file.write(save(state, metadata={"sha256": _digest(state)}))
            file.flush()
            os.fsync(file.fileno())
        Path(file.name).replace(path)
    except OSError:
        return


def _digest(state: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for key in sorted(state):
        digest.update(f"{key}{state[key].dtype}{tuple(state[key].shape)}".encode())
        digest.update(state[key].contiguous().numpy().tobytes())
    return digest.hexdigest()
