"""What is wrong with objects now, and what of it was news since somebody last asked."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, MutableMapping
from typing import TypeVar

from nfagent.errors import ValidationIssue
from nfagent.model.ref_counts import RefCounts

K = TypeVar("K", bound=Hashable)


class IssueTracker(MutableMapping[K, tuple[ValidationIssue, ...]]):
    """Problems by who has them; who has none isn't in it. `news` costs what changed, however many there are."""

    def __init__(self) -> None:
        """Start with nothing wrong."""
        self._of: dict[K, tuple[ValidationIssue, ...]] = {}
        self._holders: RefCounts[ValidationIssue] = RefCounts()
        # Whether a problem was there when somebody last asked, of those that came or went since.
        self._was: dict[ValidationIssue, bool] = {}

    def __getitem__(self, owner: K) -> tuple[ValidationIssue, ...]:
        """Give what is wrong with one."""
        return self._of[owner]

    def __iter__(self) -> Iterator[K]:
        """Give those with whom something is wrong."""
        return iter(self._of)

    def __len__(self) -> int:
        """Count those with whom something is wrong."""
        return len(self._of)

    def __setitem__(self, owner: K, problems: tuple[ValidationIssue, ...]) -> None:
        """Take in what is wrong with one now; nothing may be."""
        before = self._of.get(owner, ())
        if before == problems:
            return
        for problem in problems:
            if self._holders.acquire(problem):
                self._was.setdefault(problem, False)
        for problem in before:
            if self._holders.release(problem):
                self._was.setdefault(problem, True)
        if problems:
            self._of[owner] = problems
        else:
            del self._of[owner]

    def __delitem__(self, owner: K) -> None:
        """Take in that nothing is wrong with one any more. Raises KeyError where nothing was."""
        if owner not in self._of:
            raise KeyError(owner)
        self[owner] = ()

    def news(self) -> tuple[list[ValidationIssue], list[ValidationIssue]]:
        """Give the problems that came and those that went since the last time, each in the order of its words."""
        came = [problem for problem, was in self._was.items() if not was and problem in self._holders]
        went = [problem for problem, was in self._was.items() if was and problem not in self._holders]
        self._was.clear()
        return sorted(came, key=str), sorted(went, key=str)
