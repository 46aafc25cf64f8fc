"""Splits the text of iptables-save into its lines, of which one is a rule.

iptables-save prints comments and prefixes of logs as they are: between quotes there may be a line feed, and what
`str.splitlines` takes for one. What follows it there is no rule, whatever it looks like.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

_RULE = re.compile(r'(?: "(?:[^"\\]|\\.)*"(?=[ \n]|\Z)| |[^ \n]+)*', re.DOTALL)
"""Words, with one space between two. A quote that doesn't end before a space or a line feed is a character."""
_RULES = ("-A ", "[")
"""How a rule begins; with the counts in front, where the program was told to print them."""


def save_lines(saved: str) -> Iterator[str]:
    """Yield the lines; a rule whose quotes hold line feeds is one with them. Total: any text gives lines."""
    start, size = 0, len(saved)
    while start < size:
        end = saved.find("\n", start)
        end = size if end < 0 else end
        if saved.startswith(_RULES, start) and saved.find(' "', start, end) >= 0:
            found = _RULE.match(saved, start)
            end = end if found is None else found.end()
        yield saved[start:end]
        start = end + 1
