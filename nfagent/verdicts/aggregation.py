"""Aggregation of denied packets: one record for the packets of a connection that come within a few seconds.

A client that is denied tries again, often from another port, so the key of a connection leaves the source port out.
The record is that of the first packet, with its port and time; its `count` says for how many packets it stands: those
of the same Pods. A packet of another Pod that has got one of the addresses ends the waiting record.
Times are monotonic seconds that the caller passes in.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from itertools import islice

import msgspec

from nfagent.verdicts.history import Holders
from nfagent.verdicts.records import Record


class _Waiting(msgspec.Struct):
    due: float
    record: Record
    generation: int
    holders: Holders
    count: int = 1


class DenyAggregation:
    """Records of denied packets that wait, by key, in the order in which they are due.

    seconds:   from the first packet of a key to its record
    most_keys: number of keys that may wait at once
    """

    def __init__(self, seconds: float, most_keys: int) -> None:
        """Start empty."""
        self._seconds = seconds
        self._most_keys = most_keys
        # All wait equally long, so that the order of insertion is the order of `due`.
        self._waiting: dict[Hashable, _Waiting] = {}
        self._ended: list[_Waiting] = []

    @property
    def keys(self) -> int:
        """Number of records that wait."""
        return len(self._waiting) + len(self._ended)

    @property
    def packets(self) -> int:
        """Number of packets that the waiting records stand for."""
        return sum(waiting.count for found in (self._ended, self._waiting.values()) for waiting in found)

    @property
    def is_full(self) -> bool:
        """Whether a new key can't wait."""
        return self.keys >= self._most_keys

    def waits(self, key: Hashable) -> bool:
        """Return whether a key waits."""
        return key in self._waiting

    def count(self, key: Hashable, generation: int) -> bool:
        """Count a packet of a key that waits, in a generation whose Pods are known; return False for any other one."""
        waiting = self._waiting.get(key)
        if waiting is None or waiting.generation != generation:
            return False
        waiting.count += 1
        return True

    def has_renewed(self, key: Hashable, generation: int, holders: Callable[[], Holders]) -> bool:
        """Count a packet of a key that waits, if its Pods are the packet's; end the record of other Pods.

        Return False for a key that doesn't wait, or no longer: `begin` takes it.
        """
        waiting = self._waiting.get(key)
        if waiting is None:
            return False
        if waiting.generation != generation and waiting.holders != holders():
            self._ended.append(self._waiting.pop(key))
            return False
        waiting.generation = generation
        waiting.count += 1
        return True

    def begin(self, key: Hashable, record: Record, generation: int, holders: Holders, now: float) -> None:
        """Let the record of a key's first packet wait. The key must not wait already, nor `is_full` hold."""
        self._waiting[key] = _Waiting(now + self._seconds, record, generation, holders)

    def delay(self, now: float) -> float:
        """Return the seconds until a record is due; where none waits, until the next one can be."""
        if self._ended:
            return 0.0
        first = next(iter(self._waiting.values()), None)
        return self._seconds if first is None else max(0.0, first.due - now)

    def drain_due(self, now: float, most: int) -> list[Record]:
        """Remove and return the records that are due or ended, the earliest first, at most so many."""
        ended, self._ended = self._ended[:most], self._ended[most:]
        keys = [key for key, _ in islice(self._due(now), most - len(ended))]
        return [*map(_counted, ended), *self._drain(keys)]

    def drain_all(self) -> list[Record]:
        """Remove and return all records, due or not, the earliest first."""
        ended, self._ended = self._ended, []
        return [*map(_counted, ended), *self._drain(list(self._waiting))]

    def _due(self, now: float) -> Iterator[tuple[Hashable, _Waiting]]:
        for key, waiting in self._waiting.items():
            if waiting.due > now:
                return
            yield key, waiting

    def _drain(self, keys: list[Hashable]) -> list[Record]:
        return [_counted(self._waiting.pop(key)) for key in keys]


def _counted(waiting: _Waiting) -> Record:
    if waiting.count == 1:
        return waiting.record
    return msgspec.structs.replace(waiting.record, count=waiting.count)
