"""Few cases that bear every tag."""

from __future__ import annotations

from collections.abc import Sequence

from tests.conformance.suites import Case


def marks(case: Case) -> frozenset[str]:
    """Return a case's tags and its support level."""
    return frozenset(case.tags) | ({case.support} if case.support else frozenset())


def cover(cases: Sequence[Case]) -> list[Case]:
    """Choose cases that bear every mark between them: always the one with most marks that are still missing."""
    missing = frozenset[str]().union(*map(marks, cases))
    chosen = []
    while missing:
        best = max(cases, key=lambda case: len(missing & marks(case)))
        missing -= marks(best)
        chosen.append(best)
    return sorted(chosen, key=lambda case: case.id)
