"""Work in steps, for whoever must not be away for long: sorting, and the end of any."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from heapq import merge
from itertools import islice
from typing import Any, TypeVar

RUN = 2000
"""Items that are sorted at one step."""

_T = TypeVar("_T")


def in_order(items: Iterable[_T], key: Callable[[_T], Any] | None = None) -> Iterator[_T | None]:
    """Sort in steps: give None while runs are being sorted, then the items, in order."""
    rest = iter(items)
    runs = []
    while run := sorted(islice(rest, RUN), key=key):  # type: ignore[type-var,arg-type]
        runs.append(run)
        yield None
    yield from runs[0] if len(runs) == 1 else merge(*runs, key=key)  # type: ignore[arg-type]


def result(steps: Generator[object, None, _T]) -> _T:
    """Take all steps at once, and give what they return. Raises what they raise."""
    while True:
        try:
            next(steps)
        except StopIteration as ended:
            found: _T = ended.value
            return found
