"""What was denied in the last minutes, by source, destination and policies: a window over the verdict log's records.

Times are monotonic seconds that the caller passes in. The number of keys is bounded: packets of further ones are left
out, and counted by the kernel's counters alone.
"""

from __future__ import annotations

from collections import Counter, deque

import msgspec

from nfagent.verdicts.record_summary import served
from nfagent.verdicts.records import Record

WINDOW_SECONDS = 300.0
_BUCKET_SECONDS = 10.0
_MOST_KEYS = 4_096


class DeniedKey(msgspec.Struct, frozen=True, gc=False):
    """Source, destination with port and protocol, and the policies that denied."""

    source: str
    destination: str
    policies: tuple[str, ...]


class _Bucket(msgspec.Struct):
    begun: float
    packets: Counter[DeniedKey]


class DeniedWindow:
    """Packets by key, in buckets of ten seconds."""

    def __init__(self, seconds: float = WINDOW_SECONDS, most_keys: int = _MOST_KEYS) -> None:
        """Start empty."""
        self._seconds = seconds
        self._most = most_keys
        self._buckets: deque[_Bucket] = deque()
        self._keys = 0

    def add(self, record: Record, now: float) -> None:
        """Add a record that is denied; others are left out."""
        if record.disposition != "deny":
            return
        self._forget(now)
        if not self._buckets or now - self._buckets[-1].begun >= _BUCKET_SECONDS:
            self._buckets.append(_Bucket(now, Counter()))
        bucket = self._buckets[-1]
        key = DeniedKey(record.src.name, served(record), tuple(policy.path for policy in record.isolating_policies))
        if key not in bucket.packets:
            if self._keys >= self._most:
                return
            self._keys += 1
        bucket.packets[key] += record.count

    def top(self, now: float, number: int) -> list[tuple[DeniedKey, int]]:
        """Return the keys with the most packets, so many."""
        self._forget(now)
        total: Counter[DeniedKey] = Counter()
        for bucket in self._buckets:
            total.update(bucket.packets)
        return total.most_common(number)

    def _forget(self, now: float) -> None:
        while self._buckets and now - self._buckets[0].begun >= self._seconds:
            self._keys -= len(self._buckets.popleft().packets)
