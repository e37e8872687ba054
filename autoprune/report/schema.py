"""JSON Schemas of what autoprune reads and writes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from autoprune.registry import unknown_name
from autoprune.report.document import DIGEST, FrontDocument

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def json_schema(name: str) -> dict[str, Any]:
    """Return the JSON Schema of `front` (front.json), `config` (a run's YAML) or `record` (record.json).

    Raises:
        UnknownNameError: There is no such schema.
    """
    if name not in _SCHEMAS:
        raise unknown_name("schema", name, list(_SCHEMAS))
    return {"$schema": DIALECT, **_SCHEMAS[name]()}


def _config() -> dict[str, Any]:
    from autoprune.config.model import RunConfig

    return RunConfig.model_json_schema()


def _record() -> dict[str, Any]:
    from autoprune.records import record_schema

    return record_schema()


def _front() -> dict[str, Any]:
    schema = FrontDocument.model_json_schema()
    digest = {"type": "string", "pattern": "^[0-9a-f]{64}$", "description": "SHA-256 of the document without it."}
    return {**schema, "properties": {**schema["properties"], DIGEST: digest}}


_SCHEMAS: Mapping[str, Callable[[], dict[str, Any]]] = {"front": _front, "config": _config, "record": _record}
