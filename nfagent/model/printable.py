"""Escapes names, messages and values from outside, so that they can't control a terminal or forge a line."""

from __future__ import annotations


def printable(text: str) -> str:
    r"""Return text with characters that aren't printable escaped: `\x1b`, `\n`, `\u202e`.

    These are control characters, bidirectional and invisible format characters, line and paragraph separators, spaces
    other than U+0020, surrogates, and unassigned code points.
    """
    return text if text.isprintable() else "".join(map(_shown, text))


def printable_lines(text: str) -> str:
    r"""Return text escaped except for newlines and tabs; text from outside must be escaped before it is inserted."""
    if text.replace("\n", "").replace("\t", "").isprintable():
        return text
    return "\n".join("\t".join(map(printable, line.split("\t"))) for line in text.split("\n"))


def printable_json(text: str) -> str:
    r"""Return JSON text with characters that aren't printable as `\u001b`, so that the values stay the same."""
    if text.replace("\n", "").isprintable():
        return text
    return "".join(_json_escape(character) for character in text)


def _shown(character: str) -> str:
    return character if character.isprintable() else character.encode("unicode_escape").decode("ascii")


def _json_escape(character: str) -> str:
    # JSON text has newlines and spaces between its strings, never inside.
    if character.isprintable() or character == "\n":
        return character
    number = ord(character)
    if number < _ASTRAL:
        return f"\\u{number:04x}"
    number -= _ASTRAL
    return f"\\u{0xD800 | number >> 10:04x}\\u{0xDC00 | number & 0x3FF:04x}"


_ASTRAL = 0x10000
