"""Reference counts: how many users each key has."""

from __future__ import annotations

from collections.abc import Hashable
from typing import TypeVar

K = TypeVar("K", bound=Hashable)


class RefCounts(dict[K, int]):
    """A dictionary of counts, always positive: a key that lost its last user is removed.

    A dict itself, because the sets of the ruleset read the keys of 100,000 of them without a copy.
    """

    __slots__ = ()

    def acquire(self, key: K) -> bool:
        """Add one user of a key. Return whether it is the first."""
        count = self.get(key, 0)
        self[key] = count + 1
        return not count

    def release(self, key: K) -> bool:
        """Remove one user of a key. Return whether it was the last. Raises KeyError for a key without users."""
        count = self[key] - 1
        if count:
            self[key] = count
            return False
        del self[key]
        return True
