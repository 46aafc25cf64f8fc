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
_KEYS = (
    r"(?:[a-z0-9_-]*[_.-])?(?:token|password|passwd|passphrase|secret|api[-_]?key|private[-_]?key)"
    r"|(?:client-key|client-certificate|certificate-authority)-data"
)
_VALUE = r'"(?:[^"\\]|\\.)*"|\'[^\']*\'|[^\s,;}\]]+'
_PATTERNS = (
    (re.compile(r"\beyJ[\w-]{6,}\.[\w-]{2,}(?:\.[\w-]*)*"), REMOVED),
    (re.compile(r"(?i)\b(authorization\"?\s*[:=]\s*\"?)(?:bearer|basic)?\s*[^\s\"]+"), rf"\1{REMOVED}"),
    (re.compile(r"(?i)\b(bearer\s+)[\w.~+/=-]{8,}"), rf"\1{REMOVED}"),
    (re.compile(r"(\b[a-zA-Z][a-zA-Z0-9+.-]*://)[^\s\"'<>]*@"), rf"\1{REMOVED}@"),
    (
        re.compile(rf"(?i)(?<![\w.-])(\\?[\"']?(?:{_KEYS})\\?[\"']?\s*[:=]\s*)(?!<removed>)(?:{_VALUE})"),
        rf'\1"{REMOVED}"',
    ),
)
_HINT = re.compile(r"eyJ|://|-----|(?i:token|passw|passphrase|secret|key|bearer|authorization|-data|last-applied)")
"""What a line has in which one of the patterns can be: most have none, and a bundle has 100,000s of lines."""
_APPLIED = re.compile(
    rf"(last-applied-configuration\\?[\"']?\s*[:=]\s*)(\\\"(?:[^\"\\]|\\\\.|\\[^\"])*\\\"|{_VALUE}|$)(.*)"
)


class SecretFilter:
    """Filters the lines of one text. removed: how many secrets were."""

    def __init__(self, known: Iterable[str] = ()) -> None:
        """Look for these values too, in each form that text has them in."""
        forms = {form for value in known for form in _forms(value)}
        longest_first = sorted(forms, key=lambda form: (-len(form), form))
        self._known = re.compile("|".join(map(re.escape, longest_first))) if forms else None
        self._in_key = False
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
        if self._in_key:
            if (end := _PEM_END.match(text)) is None:
                return None
            self._in_key = False
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
            self._in_key = "-----END " not in text.rpartition("-----BEGIN ")[2]
            text = self._replaced(_PEM, REMOVED, text)
        if (applied := _APPLIED.search(text)) is not None:
            if applied[2] in {"|", "|-", ">", ">-", ""}:
                self._block = len(text) - len(text.lstrip())
            text = f'{text[: applied.start()]}{applied[1]}"{REMOVED}"{applied[3] if applied[2][:1] in chr(34) else ""}'
            self.removed += 1
        for pattern, instead in _PATTERNS:
            text = self._replaced(pattern, instead, text)
        return text

    def _replaced(self, pattern: re.Pattern[str], instead: str, text: str) -> str:
        text, number = pattern.subn(instead, text)
        self.removed += number
        return text


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
