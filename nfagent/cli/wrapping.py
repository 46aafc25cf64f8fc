"""Fits text into columns: where a text is broken, and how columns share the width of a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from re import compile as pattern

GAP = 2
"""Spaces between two columns."""
_LONGEST_PIECE = 16
"""A word up to this length is kept whole; a longer one, such as the name of a Pod, may be broken anywhere."""
_BREAK_BEHIND = "/,-.:"
_PIECES = pattern(r"[^ /,]+[/,]?|[/,]")


def breaks(text: str, width: int) -> list[tuple[int, int]]:
    """Return begin and end of each line: broken at spaces, behind one of `/,-.:`, else anywhere."""
    found, begin = [], 0
    while len(text) - begin > width:
        end = _end(text, begin, width)
        found.append((begin, end))
        begin = end
        while text[begin : begin + 1] == " ":
            begin += 1
    if begin < len(text) or not found:
        found.append((begin, len(text)))
    return found


def _end(text: str, begin: int, width: int) -> int:
    for end in range(begin + width, begin, -1):
        if text[end] == " " or text[end - 1] in _BREAK_BEHIND:
            return end
    return begin + width


def least_width(text: str) -> int:
    """Return the width below which a text would be broken inside a short word."""
    return min(_LONGEST_PIECE, max((len(piece) for piece in _PIECES.findall(text)), default=1))


def share(natural: Sequence[int], least: Sequence[int], width: int) -> list[int] | None:
    """Return widths of columns that fit into a width with the gaps between them; None where the least ones don't.

    natural: what each column needs; least: what it needs where its text is broken. The widest columns become narrower.
    """
    room = width - GAP * (len(natural) - 1)
    if sum(natural) <= room:
        return list(natural)
    smallest = [min(pair) for pair in zip(natural, least, strict=True)]
    if sum(smallest) > room:
        return None
    cap = max(natural)
    while sum(_capped(natural, smallest, cap)) > room:
        cap -= 1
    return _capped(natural, smallest, cap)


def _capped(natural: Sequence[int], smallest: Sequence[int], cap: int) -> list[int]:
    return [min(wanted, max(needed, cap)) for wanted, needed in zip(natural, smallest, strict=True)]
