"""Parses a file's text to documents: JSON, or YAML as kubectl reads it. Never raises: documents, or the issue."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any, TypeAlias

from nfagent.decode.yaml_values import YamlError, duplicate_key_error, yaml_documents
from nfagent.errors import ValidationIssue
from nfagent.system.regular_file import LARGEST_FILE, TOO_LARGE

LocatedDocument: TypeAlias = tuple[int, Any]
"""The line where a document starts, from 1, and its content: mappings, lists, strings, numbers, booleans, None."""


_BLANK = re.compile(r"[ \t\r\n]*")
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")
_MAX_DIGITS = 20
"""Digits and sign of a 64-bit integer."""


def parse(name: str, text: str) -> list[LocatedDocument] | ValidationIssue:
    """Return the documents of a file, or an issue with its place where they can't be parsed. Never raises."""
    if len(text) > LARGEST_FILE:
        return ValidationIssue(place=name, reason=TOO_LARGE)
    no_json: Exception | None = None
    if text[_blank(text, 0) :][:1] == "{":
        try:
            return list(_load_json(text))
        except (ValueError, RecursionError) as error:
            no_json = error  # YAML in braces begins like JSON
    try:
        return list(yaml_documents(text))
    except YamlError as error:
        # For unclosed braces the YAML parser reports a better line.
        if no_json is not None and name.endswith(".json") and not isinstance(no_json, RecursionError):
            return _json_issue(name, no_json)
        return _syntax_issue(name, "YAML", str(error), error.line)


def _json_issue(name: str, error: Exception) -> ValidationIssue:
    if isinstance(error, json.JSONDecodeError):
        return _syntax_issue(name, "JSON", error.msg, error.lineno)
    return _syntax_issue(name, "JSON", str(error), None)


def _syntax_issue(name: str, language: str, reason: str, line: int | None) -> ValidationIssue:
    place = name if line is None else f"{name}:{line}"
    return ValidationIssue(place=place, reason=f"is not valid {language}: {' '.join(reason.split())}")


def _load_json(text: str) -> Iterator[LocatedDocument]:
    """Yield JSON documents one after the other: the YAML parser rejects some valid JSON."""
    decoder = json.JSONDecoder(
        object_pairs_hook=_unique_keys, parse_int=_integer, parse_float=_finite, parse_constant=_finite
    )
    may_have_surrogate = _SURROGATE.search(text) or _LONE_SURROGATE.search(text)
    line, counted = 1, 0
    start = _blank(text, 0)
    while start < len(text):
        document, end = decoder.raw_decode(text, start)
        if may_have_surrogate and _LONE_SURROGATE.search(json.dumps(document, ensure_ascii=False)):
            raise json.JSONDecodeError("a character is half of a surrogate pair", text, start)
        line, counted = line + text.count("\n", counted, start), start
        yield line, document
        start = _blank(text, end)


def _unique_keys(pairs: list[tuple[str, object]]) -> dict[str, object]:
    made = dict(pairs)
    if len(made) < len(pairs):
        raise ValueError(
            duplicate_key_error(next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1))
        )
    return made


def _integer(digits: str) -> int | float:
    """Decode an integer as Go does: one beyond 64 bits becomes a float."""
    if len(digits) <= _MAX_DIGITS:
        value = int(digits)
        if -(2**63) <= value < 2**63:
            return value
    return _finite(digits)


def _finite(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise ValueError(f"{digits[:_MAX_DIGITS]} is a number too large for JSON")
    return value


def _blank(text: str, start: int) -> int:
    found = _BLANK.match(text, start)
    return found.end() if found is not None else start
