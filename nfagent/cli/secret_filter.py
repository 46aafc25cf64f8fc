"""Removes secrets from text, line by line: values that are known to be secret, and what looks like a secret.

What looks like one: private keys and certificates (PEM), JSON web tokens, Authorization headers, user and password of
a URL, values of keys as `token`, `password` or `client-key-data`, and the annotation last-applied-configuration, which
has a whole object as a user wrote it.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable, Iterator
from enum import Enum
from urllib.parse import quote

from nfagent.cli.secret_patterns import (
    ANY_VALUE,
    APPLIED,
    ARGUMENT_LINE,
    ESCAPED_END,
    FLAG_LINE,
    HINT,
    KEY,
    LINE_KEY,
    MAPPING_LINE,
    NAME_AND_VALUE,
    NAME_BEHIND,
    NAME_LINE,
    PATTERNS,
    PEM,
    PEM_END,
    REMOVED,
    VALUE_LINE,
)

SHORTEST = 4
"""A shorter value isn't looked for: it would be found in words that have nothing to do with it."""

_MOST_KEY_LINES = 200
"""Lines of a key of several lines: an end that never comes takes no more than these along."""
_QUOTE = re.compile(r"(\\*)\"")
_JSON_KEY = re.compile(r"\s*\"")
_KEY_QUOTE = re.compile(r"(\\*\")\s*:\s*$")
_WORD = re.compile(r"(?:[^\s,;}\]\"\\]|,(?![\s\"\\]|$)|[\"\\](?![\"\\]{0,8}(?:[,}\]\s]|$)))+")
"""A value without quotes: what may as well end the JSON around it isn't of it."""
_BLOCKS = {"|", "|-", "|+", ">", ">-", ">+", ""}


class _Next(Enum):
    """What the next line may have, by the one before it."""

    ANYTHING = 0
    VALUE = 1
    ARGUMENT = 2


class SecretFilter:
    """Filters the lines of one text. removed: how many secrets were."""

    def __init__(self, known: Iterable[str] = ()) -> None:
        """Look for these values too, in each form that text has them in."""
        forms = {form for value in known for form in _forms(value)}
        longest_first = sorted(forms, key=lambda form: (-len(form), form))
        self._known = re.compile("|".join(map(re.escape, longest_first))) if forms else None
        self._key_lines = 0  # that may follow of a key
        self._block = -1  # the indent of a key whose value is in the lines below it
        self._scalar = -1  # the same, where that is a value only if it is no mapping
        self._next = _Next.ANYTHING
        self.removed = 0

    def lines(self, lines: Iterable[bytes]) -> Iterator[bytes]:
        """Yield the lines without secrets."""
        held: tuple[str, str] | None = None
        for line in lines:
            text = line.decode(errors="backslashreplace")
            ending = "\n" if text.endswith("\n") else ""
            found = self.line(text.removesuffix("\n"))
            if held is not None:
                # The name of an entry may be behind its value.
                is_named = self._next is _Next.VALUE and not text.lstrip().startswith("- ")
                before = self._without_value(VALUE_LINE, held[0]) if is_named else held[0]
                yield (before + held[1]).encode()
                held = None
            if found is not None and VALUE_LINE.match(found) is not None:
                held = found, ending
            elif found is not None:
                yield (found + ending).encode()
        if held is not None:
            yield "".join(held).encode()

    def line(self, text: str) -> str | None:
        """Return a line without secrets; None for one inside of a key, or of a block that is removed as a whole."""
        if self._key_lines:
            self._key_lines -= 1
            if (end := PEM_END.match(text)) is None:
                return None
            self._key_lines = 0
            text = text[end.end() :]
        found = self._without_of_lines(text)
        return None if found is None else self._without(self._without_in_string(found))

    def _without_of_lines(self, text: str) -> str | None:
        """Return a line without what is a secret by the lines before it; note what the next ones may have."""
        if self._block >= 0:
            if not text.strip() or _indent(text) > self._block:
                return None
            self._block = -1
        before, self._next = self._next, _Next.ANYTHING
        scalar, self._scalar = self._scalar, -1
        if 0 <= scalar < _indent(text) and text.strip() and MAPPING_LINE.match(text) is None:
            self._block = scalar
            self.removed += 1
            return " " * _indent(text) + REMOVED
        if before is _Next.VALUE and VALUE_LINE.match(text) is not None:
            return self._without_value(VALUE_LINE, text)
        if before is _Next.ARGUMENT and ARGUMENT_LINE.match(text) is not None:
            return self._without_value(ARGUMENT_LINE, text)
        if HINT.search(text) is None:
            return text
        if NAME_LINE.match(text) is not None:
            self._next = _Next.VALUE
        elif FLAG_LINE.match(text) is not None:
            self._next = _Next.ARGUMENT
        return self._without_value(LINE_KEY, text)

    def _without_in_string(self, text: str) -> str:
        """Return a line without what is a secret by lines before it, in a text of several lines within a string."""
        if HINT.search(text) is None:
            return text
        first, *rest = ESCAPED_END.split(text)
        if not rest:
            return text
        inner = SecretFilter()
        begin = first.rfind('"') + 1
        found = [first[:begin], inner._without_of_lines(first[begin:]) or ""]
        for ending, part in zip(rest[::2], rest[1::2], strict=True):
            end = len(part)
            if part is rest[-1] and (quote_ := _QUOTE.search(part)) is not None:
                end = quote_.start()  # what follows is beside the string
            line = inner._without_of_lines(part[:end])
            if line is not None:
                found += [ending, line]
            found.append(part[end:])
        self.removed += inner.removed
        return "".join(found)

    def _without(self, text: str) -> str:
        if self._known is not None:
            text = self._replaced(self._known, REMOVED, text)
        if HINT.search(text) is None:
            return text
        if "-----BEGIN " in text:
            self._key_lines = 0 if "-----END " in text.rpartition("-----BEGIN ")[2] else _MOST_KEY_LINES
            text = self._replaced(PEM, REMOVED, text)
        if (applied := APPLIED.search(text)) is not None and text[applied.end() :].strip() in _BLOCKS:
            self._block = _indent(text)
        text = self._without_values(APPLIED, text, whole_line=True)
        text = self._without_values(NAME_AND_VALUE, text, whole_line=False)
        text = self._without_values_before(text)
        text = self._without_values(KEY, text, whole_line=False)
        for pattern, instead in PATTERNS:
            text = self._replaced(pattern, instead, text)
        return text

    def _without_value(self, key: re.Pattern[str], text: str) -> str:
        """Return a line without the value that goes on to its end, or in lines that are indented further."""
        found = key.match(text)
        if found is None:
            return text
        value = text[found.end() :]
        if not value.strip():
            self._scalar = _indent(text)
            return text
        if value[0] not in "\"'[{\\":
            # Of a scalar without quotes, or of a block, more lines may follow.
            self._block = _indent(text)
        end, quotes = _end_of_value(text, found.end(), whole_line=True)
        if not quotes:
            end = len(text.rstrip(",")) if _JSON_KEY.match(text) else end
        self.removed += 1
        return f"{text[: found.end()]}{quotes}{REMOVED}{quotes}{text[end:]}"

    def _without_values_before(self, text: str) -> str:
        """Return a line without the values of entries whose name is behind the value."""
        parts, at = list[str](), 0
        while (found := ANY_VALUE.search(text, at)) is not None:
            end, quotes = _end_of_value(text, found.end(), whole_line=False)
            end = max(end, found.end())
            parts.append(text[at : found.end()])
            if NAME_BEHIND.match(text, end) is not None:
                parts.append(f"{quotes}{REMOVED}{quotes}")
                self.removed += 1
            else:
                parts.append(text[found.end() : end])
            at = end
        return "".join([*parts, text[at:]])

    def _without_values(self, key: re.Pattern[str], text: str, *, whole_line: bool) -> str:
        """Return a text without the values of some keys. whole_line: a value without quotes goes on to the end."""
        parts, at = list[str](), 0
        while (found := key.search(text, at)) is not None:
            begin = found.end()
            end, quotes = _end_of_value(text, begin, whole_line=whole_line)
            if not quotes and (of_key := _KEY_QUOTE.search(found[0])) is not None:
                quotes = of_key[1]  # a number, which becomes a string
            parts += [text[at:begin], quotes, REMOVED, quotes]
            at = max(end, begin)
            self.removed += 1
        return "".join([*parts, text[at:]])

    def _replaced(self, pattern: re.Pattern[str], instead: str, text: str) -> str:
        text, number = pattern.subn(instead, text)
        self.removed += number
        return text


def _indent(text: str) -> int:
    return len(text) - len(text.lstrip())


def _end_of_value(text: str, begin: int, *, whole_line: bool) -> tuple[int, str]:
    """Return where a value ends, and its quotes: also of a string of JSON that is in strings of JSON itself."""
    opening = _QUOTE.match(text, begin)
    if opening is not None:
        level = len(opening[1])
        for quote_ in _QUOTE.finditer(text, opening.end()):
            # Of JSON in a string, a quote has one backslash, and one within its own strings three.
            if len(quote_[1]) % (2 * (level + 1)) == level:
                return quote_.end(), opening[0]
        return len(text), opening[0]
    if text[begin : begin + 1] == "'":
        end = text.find("'", begin + 1)
        return (end + 1 if end > 0 else len(text)), "'"
    word = _WORD.match(text, begin)
    return (len(text) if whole_line else word.end() if word is not None else begin), ""


def _forms(value: str) -> Iterator[str]:
    """Yield a value as text, JSON, URLs and base64 have it; of several lines each."""
    for part in {value, *value.splitlines()}:
        if len(part.strip()) < SHORTEST:
            continue
        yield part
        yield part.strip()
        yield json.dumps(part)[1:-1]
        yield json.dumps(part, ensure_ascii=False)[1:-1]
        yield quote(part, safe="")
        yield quote(part)
        yield base64.b64encode(part.encode()).decode()
        yield base64.urlsafe_b64encode(part.encode()).decode().rstrip("=")
