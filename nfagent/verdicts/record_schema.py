"""The JSON Schema of a record, for programs that read the verdict log: docs/verdict-record.schema.json."""

from __future__ import annotations

import inspect
from typing import Any

import msgspec

from nfagent.verdicts.records import Record

_POD_FIELDS = ("pod_name", "workload_kind", "workload_name", "pod_namespace", "namespace")
_DIALECT = "https://json-schema.org/draft/2020-12/schema"


def record_schema() -> dict[str, Any]:
    """Return the schema of one line. Fields may be added later; those that are there keep their meaning."""
    found = msgspec.json.schema(Record)
    definitions: dict[str, dict[str, Any]] = {name: _written(each) for name, each in found["$defs"].items()}
    definitions["RecordEndpoint"] |= {
        "properties": {name: {"type": "string", "minLength": 1} for name in (*_POD_FIELDS, "instance")},
        "oneOf": [{"required": list(_POD_FIELDS)}, {"required": ["instance"]}],
    }
    return {"$schema": _DIALECT, **definitions.pop("Record"), "$defs": definitions}


def _written(definition: dict[str, Any]) -> dict[str, Any]:
    """Return a definition as records are written: a field without a value is absent, never null or a default."""
    properties = {name: _present(each) for name, each in definition["properties"].items()}
    described = {"description": inspect.cleandoc(definition["description"])}
    return definition | described | {"properties": properties}


def _present(field: dict[str, Any]) -> dict[str, Any]:
    kept = {key: value for key, value in field.items() if key != "default"}
    allowed = [each for each in kept.pop("anyOf", ()) if each != {"type": "null"}]
    return kept | (allowed[0] if len(allowed) == 1 else {"anyOf": allowed} if allowed else {})
