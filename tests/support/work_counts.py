"""Counts of executed work, which are the same on every machine, unlike times."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from types import FrameType


class CountedText(str):
    """A string of which every hash and comparison is counted: those of sets and dictionaries are made in C."""

    __slots__ = ()
    uses = 0

    def __hash__(self) -> int:
        """Count it; return the string's hash."""
        CountedText.uses += 1
        return str.__hash__(self)

    def __eq__(self, other: object) -> bool:
        """Count it; compare as strings."""
        CountedText.uses += 1
        return str.__eq__(self, other)

    def __ne__(self, other: object) -> bool:
        """Count it; compare as strings."""
        CountedText.uses += 1
        return str.__ne__(self, other)


def text_uses(function: Callable[[], object]) -> int:
    """Call a function; return how many hashes and comparisons of CountedText it made."""
    before = CountedText.uses
    function()
    return CountedText.uses - before


class CountingLoop(asyncio.SelectorEventLoop):
    """An event loop that knows the most calls, of functions in Python and in C, that one of its turns made."""

    most = 0
    _made = 0

    def _run_once(self) -> None:
        self._made = 0
        sys.setprofile(self._count)
        try:
            super()._run_once()  # type: ignore[misc]
        finally:
            sys.setprofile(None)
        self.most = max(self.most, self._made)

    def _count(self, _frame: FrameType, event: str, _value: object) -> None:
        self._made += event in {"call", "c_call"}
