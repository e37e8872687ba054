"""Files of the package -> scripts and styles of the page, and the policy that allows these alone."""

from __future__ import annotations

import base64
import functools
import hashlib
import json
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

from autoprune.errors import StorageError
from autoprune.markup import printable

ECHARTS_SHA256 = "b66b25aeb4df84e33199dc21694014d336d222cbd9deb0e5a7c14bd6aa0d0fd0"
SCRIPTS = ("format.js", "theme.js", "choose.js", "options.js", "charts.js", "main.js")
STYLES = ("page.css", "charts.css")
_PACKAGE = "autoprune.report.html"
_UNSAFE_IN_SCRIPTS = {ord("<"): "\\u003c", ord(">"): "\\u003e", ord("&"): "\\u0026"}


@functools.cache
def echarts() -> str:
    """Return the vendored chart library.

    Raises:
        StorageError: It is not the pinned file.
    """
    data = (files(_PACKAGE) / "vendor" / "echarts.min.js").read_bytes()
    if hashlib.sha256(data).hexdigest() != ECHARTS_SHA256:
        raise StorageError(
            "The chart library of the report was altered after installation.", hint="Install autoprune again."
        )
    return data.decode("utf-8")


@functools.cache
def script() -> str:
    """Return the page's own script."""
    return "\n".join(_static(name) for name in SCRIPTS)


@functools.cache
def style() -> str:
    """Return the page's style sheet."""
    return "\n".join(_static(name) for name in STYLES)


@functools.cache
def template(name: str = "report.html.j2") -> str:
    """Return the template of a page."""
    return _static(name)


def content_policy(scripts: Sequence[str], styles: Sequence[str]) -> str:
    """Return the Content-Security-Policy that allows these inline texts and nothing else."""
    allowed = {"script-src": scripts, "style-src": styles}
    sources = [" ".join([kind, *(f"'sha256-{_digest(text)}'" for text in texts)]) for kind, texts in allowed.items()]
    return "; ".join(["default-src 'none'", *sources, "img-src data:", "base-uri 'none'", "form-action 'none'"])


def data_block(value: Mapping[str, Any]) -> str:
    """Return JSON that cannot end the script element it stands in; names in it are printable."""
    text = json.dumps(_clean(value), ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.translate(_UNSAFE_IN_SCRIPTS)


def _clean(value: Any) -> Any:
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, Mapping):
        return {printable(str(key)): _clean(item) for key, item in value.items()}
    return [_clean(item) for item in value] if isinstance(value, (list, tuple)) else value


def _static(name: str) -> str:
    return (files(_PACKAGE) / "static" / name).read_text(encoding="utf-8")


def _digest(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii")
