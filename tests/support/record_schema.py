"""Holds records against the JSON Schema that is published with the documents."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import fastjsonschema

SCHEMA = Path(__file__).parents[2] / "docs" / "verdict-record.schema.json"
SchemaError = fastjsonschema.JsonSchemaValueException
_validate = fastjsonschema.compile(json.loads(SCHEMA.read_text("utf-8")) if SCHEMA.exists() else False)


def check_line(line: bytes) -> bytes:
    """Return a record's line. Raises SchemaError where the schema forbids it."""
    _validate(json.loads(line))
    return line


def refused_lines(folder: Path) -> Iterator[str]:
    """Yield file, error and line of each record that the schema forbids, in all verdict logs below a folder."""
    for path in folder.rglob("policy_action.log*"):
        for line in path.read_bytes().splitlines() if path.is_file() and not path.is_symlink() else ():
            try:
                if b'"disposition"' in line:
                    check_line(line)
            except (SchemaError, ValueError) as error:
                yield f"{path}: {error}: {line!r}"
