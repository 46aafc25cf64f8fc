"""The current problems of objects, and the changes since the last call."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, MutableMapping
from typing import TypeVar

from nfagent.errors import ValidationIssue
from nfagent.model.ref_counts import RefCounts

K = TypeVar("K", bound=Hashable)


class IssueTracker(MutableMapping[K, tuple[ValidationIssue, ...]]):
    """Problems by object; an object without problems has no entry. `drain_changes` costs only the changes."""

    def __init__(self) -> None:
        """Start without problems."""
        self._of: dict[K, tuple[ValidationIssue, ...]] = {}
        self._holders: RefCounts[ValidationIssue] = RefCounts()
        # Problems that appeared or were resolved since the last call of `drain_changes` -> whether they existed then.
        self._was: dict[ValidationIssue, bool] = {}

    def __getitem__(self, owner: K) -> tuple[ValidationIssue, ...]:
        """Return the problems of an object."""
        return self._of[owner]

    def __iter__(self) -> Iterator[K]:
        """Return the objects with problems."""
        return iter(self._of)

    def __len__(self) -> int:
        """Return the number of objects with problems."""
        return len(self._of)

    def __setitem__(self, owner: K, problems: tuple[ValidationIssue, ...]) -> None:
        """Set the problems of an object; () removes it."""
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
        """Remove an object. Raises KeyError for one without problems."""
        if owner not in self._of:
            raise KeyError(owner)
        self[owner] = ()

    def drain_changes(self) -> tuple[list[ValidationIssue], list[ValidationIssue]]:
        """Return the new and the resolved problems since the last call, each sorted by text."""
        new = [problem for problem, was in self._was.items() if not was and problem in self._holders]
        resolved = [problem for problem, was in self._was.items() if was and problem not in self._holders]
        self._was.clear()
        return sorted(new, key=str), sorted(resolved, key=str)
