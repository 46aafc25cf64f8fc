"""Fits text into columns: where a text is broken, and how columns share the width of a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from re import compile as pattern

GAP = 2
"""Spaces between two columns."""
LONGEST_PIECE = 16
"""A word up to this length is kept whole; a longer one, such as the name of a Pod, may be broken anywhere."""
_BREAK_BEHIND = "/,-.:"
_INDENT = 4
_WIDEST_LABEL = 1 / 3
"""The part of a line that may be empty below a label."""
_LABEL = pattern(r"( *)(?:\S+ {2,})?")
_CONTINUED = " \\"
_WORDS = pattern(r"""(?:[^ '"]|'[^']*'|"[^"]*"|['"])+""")
"""Words of a shell; spaces between quotes are no place for a break."""
_PIECES = pattern(r"[^ /,]+[/,]?|[/,]")


def breaks(text: str, width: int, indent: int = 0, longest: int = LONGEST_PIECE) -> list[tuple[int, int]]:
    """Return begin and end of each line: broken at spaces, in long words behind one of `/,-.:`, else anywhere.

    indent:  by how much each line but the first is indented
    longest: a word up to this length is kept whole
    """
    found, begin, columns, rest = [], 0, width, max(1, width - indent)
    while len(text) - begin > columns:
        end = _end(text, begin, columns, longest)
        found.append((begin, begin + len(text[begin:end].rstrip(" "))))
        begin, columns = end, rest
        while text[begin : begin + 1] == " ":
            begin += 1
    if begin < len(text) or not found:
        found.append((begin, len(text)))
    return found


def _end(text: str, begin: int, width: int, longest: int) -> int:
    for end in range(begin + width, begin, -1):
        if text[end] == " " or (
            text[end - 1] in _BREAK_BEHIND and _in_long_word(text, begin, end, min(longest, width))
        ):
            return end
    return begin + width


def _in_long_word(text: str, begin: int, at: int, longest: int) -> bool:
    """Return whether a word may be broken at a place: it is longer than `longest`."""
    first = text.rfind(" ", begin, at) + 1 or begin
    last = text.find(" ", at)
    length = (len(text) if last < 0 else last) - first
    # A mark at the begin of a word, as in a path, is no place for a break.
    return length > longest and any(each.isalnum() for each in text[first : at - 1])


def hanging_indent(text: str, width: int) -> int:
    """Return the column at which the lines below the first one of a sentence begin.

    That is below the words behind a label, as in `  network   NetworkPolicy …`, else a bit right of the first word.
    """
    found = _LABEL.match(text)
    indent, label = (len(found[1]), len(found[0])) if found is not None else (0, 0)
    if indent < label <= width * _WIDEST_LABEL:
        return label
    return indent + _INDENT if indent + _INDENT <= width * _WIDEST_LABEL else min(indent, width - 1)


def command_lines(command: str, width: int) -> list[str]:
    """Return a shell command in lines of a width, as far as possible: all but the last end with a backslash."""
    if len(command) <= width:
        return [command]
    found, columns = [""], width - len(_CONTINUED)
    for word in _WORDS.findall(command):
        if found[-1].strip() and len(found[-1]) + 1 + len(word) > columns:
            found[-1] += _CONTINUED
            found.append(" " * GAP + word)
        else:
            found[-1] = f"{found[-1]} {word}" if found[-1] else word
    return found


def least_width(text: str) -> int:
    """Return the width below which a text would be broken inside a short word."""
    return min(LONGEST_PIECE, max((len(piece) for piece in _PIECES.findall(text)), default=1))


def share(natural: Sequence[int], least: Sequence[int], width: int) -> list[int] | None:
    """Return widths of columns that fit into a width with the gaps between them; None where the least ones don't.

    natural: what each column needs; least: what it needs where its text is broken. The widest columns become narrower.
    """
    columns = width - GAP * (len(natural) - 1)
    if sum(natural) <= columns:
        return list(natural)
    smallest = [min(pair) for pair in zip(natural, least, strict=True)]
    if sum(smallest) > columns:
        return None
    cap = max(natural)
    while sum(_capped(natural, smallest, cap)) > columns:
        cap -= 1
    return _capped(natural, smallest, cap)


def _capped(natural: Sequence[int], smallest: Sequence[int], cap: int) -> list[int]:
    return [min(wanted, max(needed, cap)) for wanted, needed in zip(natural, smallest, strict=True)]
