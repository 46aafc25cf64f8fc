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
from urllib.parse import quote

REMOVED = "<removed>"
SHORTEST = 4
"""A shorter value isn't looked for: it would be found in words that have nothing to do with it."""

_PEM = re.compile(r"-----BEGIN [A-Z0-9 ]+-----.*?(?:-----END [A-Z0-9 ]+-----|$)")
_PEM_END = re.compile(r"^.*?-----END [A-Z0-9 ]+-----")
_MOST_KEY_LINES = 200
"""Lines of a key of several lines: an end that never comes takes no more than these along."""
_KEY = re.compile(
    r"(?i)(?<![\w.-])\\*[\"']?[\w.-]*"
    r"(?:token|password|passwd|pwd|[_-]pass|passphrase|secret|secret(?:[-_]?access)?[-_]?key|api[-_]?key"
    r"|private[-_]?key|dockerconfigjson|client-key-data|client-certificate-data|certificate-authority-data)"
    r"\\*[\"']?\s*[:=]\s*(?!<removed>)"
)
_APPLIED = re.compile(r"last-applied-configuration\\*[\"']?\s*[:=]\s*")
_QUOTE = re.compile(r"(\\*)\"")
_KEY_QUOTE = re.compile(r"(\\*\")\s*:\s*$")
_WORD = re.compile(r"(?:[^\s,;}\]\"\\]|,(?![\s\"\\]|$)|[\"\\](?![\"\\]{0,8}(?:[,}\]\s]|$)))+")
"""A value without quotes: what may as well end the JSON around it isn't of it."""
_PATTERNS = (
    (re.compile(r"\beyJ[\w-]{6,}\.[\w-]{2,}(?:\.[\w-]*)*"), REMOVED),
    (re.compile(r"(?i)\b(authorization\\*\"?\s*[:=]\s*\\*\"?)(?:bearer|basic)?\s*[^\s\"\\]+"), rf"\1{REMOVED}"),
    (re.compile(r"(?i)\b(bearer\s+)[\w.~+/=-]{8,}"), rf"\1{REMOVED}"),
    (
        re.compile(r"(?i)(--[\w-]*(?:token|password|passwd|passphrase|secret|api-?key)\s+)(?![-<])[^\s\"\\]+"),
        rf"\1{REMOVED}",
    ),
    (re.compile(r"(\b[a-zA-Z][a-zA-Z0-9+.-]*://)[^\s\"'<>]*@"), rf"\1{REMOVED}@"),
)
_HINT = re.compile(
    r"eyJ|://|-----|(?i:token|pass|pwd|secret|dockerconfigjson|key|bearer|authorization|-data|last-applied)"
)
"""What a line has in which there can be a secret by its looks: most have none, and a bundle has 100,000s of lines."""
_BLOCKS = {"|", "|-", "|+", ">", ">-", ">+", ""}


class SecretFilter:
    """Filters the lines of one text. removed: how many secrets were."""

    def __init__(self, known: Iterable[str] = ()) -> None:
        """Look for these values too, in each form that text has them in."""
        forms = {form for value in known for form in _forms(value)}
        longest_first = sorted(forms, key=lambda form: (-len(form), form))
        self._known = re.compile("|".join(map(re.escape, longest_first))) if forms else None
        self._key_lines = 0  # that may follow of a key
        self._block = -1
        self.removed = 0

    def lines(self, lines: Iterable[bytes]) -> Iterator[bytes]:
        """Yield the lines without secrets."""
        for line in lines:
            text = line.decode(errors="backslashreplace")
            ending = "\n" if text.endswith("\n") else ""
            found = self.line(text.removesuffix("\n"))
            if found is not None:
                yield (found + ending).encode()

    def line(self, text: str) -> str | None:
        """Return a line without secrets; None for one inside of a key, or of a block that is removed as a whole."""
        if self._key_lines:
            self._key_lines -= 1
            if (end := _PEM_END.match(text)) is None:
                return None
            self._key_lines = 0
            text = text[end.end() :]
        if self._block >= 0:
            if not text.strip() or len(text) - len(text.lstrip()) > self._block:
                return None
            self._block = -1
        return self._without(text)

    def _without(self, text: str) -> str:
        if self._known is not None:
            text = self._replaced(self._known, REMOVED, text)
        if _HINT.search(text) is None:
            return text
        if "-----BEGIN " in text:
            self._key_lines = 0 if "-----END " in text.rpartition("-----BEGIN ")[2] else _MOST_KEY_LINES
            text = self._replaced(_PEM, REMOVED, text)
        if (applied := _APPLIED.search(text)) is not None and text[applied.end() :].strip() in _BLOCKS:
            self._block = len(text) - len(text.lstrip())
        text = self._without_values(_APPLIED, text, whole_line=True)
        text = self._without_values(_KEY, text, whole_line=False)
        for pattern, instead in _PATTERNS:
            text = self._replaced(pattern, instead, text)
        return text

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
