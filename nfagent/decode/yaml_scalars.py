"""Resolves plain YAML scalars to values, as kubectl does.

kubectl and ip-masq-agent parse YAML by sigs.k8s.io/yaml, which is go-yaml v2 and then JSON: booleans of YAML 1.1,
octal numbers in both notations, no sexagesimal numbers, dates as text. A test has its results for 150 scalars.
"""

from __future__ import annotations

import base64
import binascii
import math
import re
from typing import TypeAlias

Scalar: TypeAlias = str | int | float | bool | None

TAG = "tag:yaml.org,2002:"
_WORDS: dict[str, Scalar] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys(("y", "Y", "yes", "Yes", "YES", "on", "On", "ON", "true", "True", "TRUE"), True),
    **dict.fromkeys(("n", "N", "no", "No", "NO", "off", "Off", "OFF", "false", "False", "FALSE"), False),
    **dict.fromkeys((".nan", ".NaN", ".NAN"), math.nan),
    **dict.fromkeys((f"{sign}{word}" for sign in ("", "+") for word in (".inf", ".Inf", ".INF")), math.inf),
    **dict.fromkeys(("-.inf", "-.Inf", "-.INF"), -math.inf),
}
"""Source: go.yaml.in/yaml/v2 v2.4.2, resolve.go; sigs.k8s.io/yaml v1.6.0 passes its result on as JSON."""

_WHOLE = re.compile(r"([-+]?)(0[xX][0-9a-fA-F]+|0[oO]?[0-7]+|0[bB][01]+|0|[1-9][0-9]*)\Z")
_DECIMAL = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?\Z")
_FRACTION = re.compile(r"\.[0-9]+(_[0-9]+)*([eE][-+]?[0-9]+)?\Z")
_SIGNED, _UNSIGNED = 2**63, 2**64
_LONGEST = 80
"""Characters of a 64-bit integer in base 2, with some leading zeros."""


def plain(text: str) -> Scalar:
    """Return the value of a plain scalar without a tag."""
    if text in _WORDS:
        return _WORDS[text]
    first = text[0]
    if first in "0123456789+-":
        return _number(text.replace("_", ""), text)
    if first == "." and _FRACTION.match(text):
        return _decimal(text.replace("_", ""), text)
    return text


def tagged(tag: str, text: str) -> Scalar:
    """Return the value of a scalar with a tag, `!!int '1'`; unknown tags mean text. Raises ValueError."""
    name = tag.removeprefix(TAG) if tag.startswith(TAG) else ""
    if name == "binary":
        return _binary(text)
    if name not in {"null", "bool", "int", "float"}:
        return text
    value = plain(text)
    if name == "float" and _is(value, "int"):
        return float(value or 0)
    if not _is(value, name):
        raise ValueError(_KINDS[name])
    return value


_KINDS = {"null": "null", "bool": "a boolean", "int": "a whole number", "float": "a number"}


def _is(value: Scalar, name: str) -> bool:
    if name == "null":
        return value is None
    return type(value) is {"bool": bool, "int": int, "float": float}[name]


def _binary(text: str) -> str:
    try:
        return base64.b64decode("".join(text.split()), validate=True).decode()
    except (binascii.Error, ValueError):
        raise ValueError("text in base64") from None


def _number(digits: str, text: str) -> Scalar:
    found = _WHOLE.match(digits) if len(digits) <= _LONGEST else None
    if found is not None:
        sign, body = found.groups()
        value = int(body, _base(body))
        if sign == "-" and value <= _SIGNED:
            return -value
        if sign != "-" and value < (_SIGNED if sign else _UNSIGNED):
            return value
    return _decimal(digits, text) if _DECIMAL.match(digits) else text


def _base(digits: str) -> int:
    if digits[0] != "0" or digits == "0":
        return 10
    return {"x": 16, "b": 2}.get(digits[1].lower(), 8)


def _decimal(digits: str, text: str) -> Scalar:
    value = float(digits)
    return value if math.isfinite(value) else text
