"""Few cases that together have every tag."""

from __future__ import annotations

from collections.abc import Sequence

from tests.conformance.suites import Case


def marks(case: Case) -> frozenset[str]:
    """Return a case's tags and its support level."""
    return frozenset(case.tags) | ({case.support} if case.support else frozenset())


def cover(cases: Sequence[Case]) -> list[Case]:
    """Return cases that together have every mark: greedily, the one with most missing marks first."""
    missing = frozenset[str]().union(*map(marks, cases))
    chosen = []
    while missing:
        best = max(cases, key=lambda case: len(missing & marks(case)))
        missing -= marks(best)
        chosen.append(best)
    return sorted(chosen, key=lambda case: case.id)
