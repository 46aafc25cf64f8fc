"""Reads label selectors in the syntax of `kubectl get -l`, which `str(selector)` writes."""

from __future__ import annotations

import re

from nfagent.errors import UsageError
from nfagent.model.selectors import Requirement, Selector

_PARTS = re.compile(r"(?:[^,()]|\([^()]*\))+")
_NAME = r"[A-Za-z0-9](?:[-A-Za-z0-9_.]*[A-Za-z0-9])?"
_KEY = rf"(?P<key>(?:{_NAME}/)?{_NAME})"
_OF_ONE = re.compile(rf"{_KEY}\s*(?P<sign>==?|!=)\s*(?P<value>(?:{_NAME})?)", re.ASCII)
_OF_SEVERAL = re.compile(rf"{_KEY}\s+(?P<sign>in|notin)\s*\((?P<values>[^()]*)\)", re.ASCII)
_PRESENT = re.compile(rf"(?P<not>!?)\s*{_KEY}", re.ASCII)
_VALUE = re.compile(rf"(?:{_NAME})?", re.ASCII)


def parse_selector(text: str) -> Selector:
    """Return the selector that a text means. Raises UsageError."""
    parts = _PARTS.findall(text)
    if not text.strip() or ",".join(parts) != text:
        raise _wrong(text)
    return Selector(tuple(sorted({_requirement(part.strip(), text) for part in parts})))


def _requirement(part: str, text: str) -> Requirement:
    if found := _OF_ONE.fullmatch(part):
        return Requirement(found["key"], "NotIn" if found["sign"] == "!=" else "In", (found["value"],))
    if found := _OF_SEVERAL.fullmatch(part):
        values = tuple(sorted({value.strip() for value in found["values"].split(",")}))
        if all(map(_VALUE.fullmatch, values)):
            return Requirement(found["key"], "In" if found["sign"] == "in" else "NotIn", values)
    elif found := _PRESENT.fullmatch(part):
        return Requirement(found["key"], "DoesNotExist" if found["not"] else "Exists")
    raise _wrong(text)


def _wrong(text: str) -> UsageError:
    return UsageError(f"{text!r} is no label selector; write one like app=web, app=web,tier!=db or 'app in (web,api)'")
