"""One computation in steps that several callers take further: what one leaves, the next one continues.

A caller on the event loop may stop between two steps, and another may then need the result at once. A second
computation beside the first would miss what the first has begun, and the first would end with values of before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator


class SharedSteps:
    """The steps of a computation that can be begun again and again."""

    def __init__(self, begin: Callable[[], Iterator[None]]) -> None:
        """Start without steps."""
        self._begin = begin
        self._begun: Iterator[None] = iter(())

    def take(self) -> Iterator[None]:
        """Continue what an earlier call left, then compute anew for what changed since."""
        # Not `yield from`: it would close the steps with a caller that stops.
        for _ in self._begun:
            yield
        self._begun = begun = self._begin()
        for _ in begun:
            yield

    def finish(self) -> None:
        """Take all steps at once."""
        for _ in self.take():
            pass
