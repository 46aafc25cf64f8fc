"""Long work as a generator of short steps, so that an event loop can run between them."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from heapq import merge
from itertools import islice
from typing import Any, TypeVar

RUN = 2000
"""Items that are sorted in one step."""

_T = TypeVar("_T")


def sort_in_slices(items: Iterable[_T], key: Callable[[_T], Any] | None = None) -> Iterator[_T | None]:
    """Sort in steps: yield None after each sorted run, then the items in order."""
    rest = iter(items)
    runs = []
    while run := sorted(islice(rest, RUN), key=key):  # type: ignore[type-var,arg-type]
        runs.append(run)
        yield None
    yield from runs[0] if len(runs) == 1 else merge(*runs, key=key)  # type: ignore[arg-type]


def run_to_end(steps: Generator[object, None, _T]) -> _T:
    """Run all steps without a pause, and return their result. Raises their exceptions."""
    while True:
        try:
            next(steps)
        except StopIteration as ended:
            found: _T = ended.value
            return found
