"""Values <-> JSON bytes in which every number is finite."""

from __future__ import annotations

import json
import math
from typing import Any, NoReturn


def dump_json(value: Any) -> bytes:
    """Return `value` as indented ASCII JSON with a final newline.

    Raises:
        ValueError: A number is NaN or infinite.
        TypeError: A value has no JSON form.
    """
    return (json.dumps(value, indent=2, allow_nan=False) + "\n").encode("ascii")


def parse_json(data: bytes) -> Any:
    """Parse untrusted JSON.

    Raises:
        ValueError: It is not UTF-8 JSON, a number is not finite or the nesting is too deep.
    """
    try:
        return json.loads(data.decode("utf-8"), parse_constant=_refuse_constant, parse_float=_finite)
    except RecursionError:
        raise ValueError("JSON nested too deeply") from None


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a finite number")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is not a finite number")
    return value
