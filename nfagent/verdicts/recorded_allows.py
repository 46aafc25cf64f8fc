"""Allowed connections that have their record: further packets of theirs need none.

The rules log an allow for each packet without a confirmed conntrack entry. Where a later hook drops the packets of a
connection, and where packets are not tracked, that is each of them. So a connection with a record is remembered for the
seconds in which denies are aggregated; then its next packet makes the next record. Times are monotonic seconds that the
caller passes in.

As many connections are remembered as denied ones may wait. One more takes the place of the one that would be forgotten
first: a flood of new connections makes the time shorter, and no connection stays without a record.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable

import msgspec

from nfagent.verdicts.history import Holders


class _Recorded(msgspec.Struct):
    expires: float
    opening: bytes
    generation: int
    holders: Holders


class RecordedAllows:
    """Connections, by key, in the order in which they are forgotten.

    A packet belongs to the connection of its key if both ends are still the same Pods, unless both began otherwise (see
    `connection_of_packet`).
    """

    def __init__(self, seconds: float, most_keys: int) -> None:
        """Start empty; nothing is remembered for 0 seconds."""
        self._seconds = seconds
        self._most_keys = most_keys
        # All are remembered equally long, so that the order of insertion is the order of `expires`.
        self._recorded: OrderedDict[Hashable, _Recorded] = OrderedDict()

    def __len__(self) -> int:
        """Return the number of connections."""
        return len(self._recorded)

    def has(self, key: Hashable, opening: bytes, generation: int, now: float) -> bool:
        """Return whether a packet of a connection with a record was logged in a generation whose Pods are known."""
        found = self._recorded.get(key)
        if found is None or found.generation != generation or found.expires <= now:
            return False
        return not opening or opening == found.opening

    def has_renewed(
        self, key: Hashable, opening: bytes, generation: int, now: float, holders: Callable[[], Holders]
    ) -> bool:
        """Return whether a packet belongs to a connection with a record, by the Pods of the packet's generation."""
        found = self._recorded.get(key)
        if found is None:
            return False
        if found.generation != generation and found.holders == holders():
            found.generation = generation
        return self.has(key, opening, generation, now)

    def add(self, key: Hashable, opening: bytes, generation: int, now: float, holders: Holders) -> None:
        """Remember a connection whose record is written."""
        if self._seconds <= 0:
            return
        while self._recorded and next(iter(self._recorded.values())).expires <= now:
            self._recorded.popitem(last=False)
        self._recorded.pop(key, None)
        if len(self._recorded) >= self._most_keys:
            self._recorded.popitem(last=False)
        self._recorded[key] = _Recorded(now + self._seconds, opening, generation, holders)
