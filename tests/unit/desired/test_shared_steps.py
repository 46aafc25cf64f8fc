"""Steps that several callers take in turn."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from nfagent.desired.shared_steps import SharedSteps


class Count:
    """Computes in three steps; `done` has the input of each computation that ended, as it was at its begin."""

    def __init__(self) -> None:
        self.input = 0
        self.done: list[int] = []
        self.steps = SharedSteps(self._compute)

    def _compute(self) -> Iterator[None]:
        taken = self.input
        for _ in range(3):
            yield
        self.done.append(taken)


def test_a_caller_that_stops_leaves_the_rest_to_the_next() -> None:
    count = Count()
    list(islice(count.steps.take(), 2))
    assert sum(1 for _ in count.steps.take()) == 1 + 3
    assert count.done == [0, 0]


def test_a_later_caller_ends_what_was_begun_and_then_computes_with_the_present_input() -> None:
    count = Count()
    first = count.steps.take()
    next(first)
    count.input = 1
    count.steps.finish()
    assert count.done == [0, 1]
    assert list(first) == []
    assert count.done == [0, 1]


def test_each_call_computes_anew() -> None:
    count = Count()
    count.steps.finish()
    count.input = 2
    count.steps.finish()
    assert count.done == [0, 2]
