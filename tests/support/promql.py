"""The metrics and labels that a PromQL expression names."""

from __future__ import annotations

import re

import msgspec

_STRING = re.compile(r'"(?:\\.|[^"\\])*"')
_RANGE = re.compile(r"\[[^\]]*\]")
_SELECTOR = re.compile(r"([a-zA-Z_:][a-zA-Z0-9_:]*)?\s*\{([^}]*)\}")
_MATCHER = re.compile(r'([a-zA-Z_]\w*)\s*(=~|!~|!=|=)\s*"((?:\\.|[^"\\])*)"')
_GROUPING = re.compile(r"\b(by|without|on|ignoring|group_left|group_right)\s*\(([^)]*)\)")
_NAME = re.compile(r"(?<![\w:.])[a-zA-Z_:][a-zA-Z0-9_:]*")
_LABELS = re.compile(r"\{[^}]*\}")
_OFFSET = re.compile(r"\boffset\s+\w+")
_FUNCTION = re.compile(r"[a-zA-Z_]\w*\s*\(")
_KEYWORDS = frozenset({"and", "or", "unless", "by", "without", "bool", "inf", "nan"})


class Matcher(msgspec.Struct, frozen=True):
    """A label matcher of a selector, like reason=~"spoofed|tunnel"."""

    metric: str
    label: str
    operator: str
    value: str


class Expression(msgspec.Struct, frozen=True):
    """What a PromQL expression names: metrics, label matchers, labels.

    grouping: labels behind `by`, `on` and the like
    removed:  labels behind `without`
    """

    metrics: frozenset[str]
    matchers: frozenset[Matcher]
    grouping: frozenset[str]
    removed: frozenset[str]


def read_expression(text: str) -> Expression:
    """Return what an expression names.

    A name counts as a metric unless it is called as a function: a wrong name can't be overlooked.
    """
    matchers = frozenset(
        Matcher(found[1] or "", *matcher.groups())
        for found in _SELECTOR.finditer(text)
        for matcher in _MATCHER.finditer(found[2])
    )
    grouping, removed = set[str](), set[str]()
    for keyword, labels in _GROUPING.findall(text):
        (removed if keyword == "without" else grouping).update(label.strip() for label in labels.split(","))
    bare = text
    for left_out in (_STRING, _LABELS, _GROUPING, _RANGE, _OFFSET, _FUNCTION):
        bare = left_out.sub(" ", bare)
    return Expression(frozenset(_NAME.findall(bare)) - _KEYWORDS, matchers, frozenset(grouping), frozenset(removed))
