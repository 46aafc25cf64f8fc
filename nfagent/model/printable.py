"""Text of others as it is shown: names, messages and values can't steer a terminal, nor begin a line of their own."""

from __future__ import annotations


def printable(text: str) -> str:
    r"""Write what isn't printable as its escape: `\x1b`, `\n`, `\u202e`.

    These are control characters, those that turn the direction of text around or can't be seen, separators of lines
    and paragraphs, blanks but for the plain one, halves of surrogate pairs, and what Unicode has no character for.
    """
    return text if text.isprintable() else "".join(map(_shown, text))


def printable_lines(text: str) -> str:
    r"""Write the same of a text of our own that has lines and tabs; whoever puts others' text in it took out theirs."""
    if text.replace("\n", "").replace("\t", "").isprintable():
        return text
    return "\n".join("\t".join(map(printable, line.split("\t"))) for line in text.split("\n"))


def printable_json(text: str) -> str:
    r"""Write JSON text so that its values stay as they are: what isn't printable becomes `\u001b` in its string."""
    if text.replace("\n", "").isprintable():
        return text
    return "".join(_json_escape(character) for character in text)


def _shown(character: str) -> str:
    return character if character.isprintable() else character.encode("unicode_escape").decode("ascii")


def _json_escape(character: str) -> str:
    # JSON text has newlines and blanks between its strings, never within them.
    if character.isprintable() or character == "\n":
        return character
    number = ord(character)
    if number < _ASTRAL:
        return f"\\u{number:04x}"
    number -= _ASTRAL
    return f"\\u{0xD800 | number >> 10:04x}\\u{0xDC00 | number & 0x3FF:04x}"


_ASTRAL = 0x10000
