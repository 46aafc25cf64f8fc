"""Totals of the kernel's counters that never decrease: over rule changes, flushed tables and restarts of the agent.

A counter of the kernel begins at 0 again when its object is made anew. What it had counted until it was last read is
in the total; the caller reads a counter again before it deletes it. Each counter counts for one or several keys: a Pod
with direction and disposition, a policy, a reason.

The last readings are kept with the totals: an agent that starts continues where the previous one stopped, however it
ended. Readings of another boot don't count: all counters began at 0 since.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from typing import TypeAlias

import msgspec

CountKey: TypeAlias = tuple[str, ...]
"""What a total is of: names of the caller's."""
_STEP = 200
"""Counters of one step: 0.3 ms."""
_NO_HANDLES: Mapping[str, int] = {}


class _Kept(msgspec.Struct, frozen=True):
    """The form on disk. `readings` are of the boot with this id, and of the table with this handle.

    handles: of named counters
    owners:  the keys of counters whose name doesn't tell them
    """

    boot: str
    readings: dict[str, int]
    totals: list[tuple[CountKey, int]]
    table: int = 0
    handles: dict[str, int] = {}
    owners: dict[str, list[CountKey]] = {}


class PacketTotals:
    """Totals by key.

    boot:   the id of this boot of the machine
    owners: the keys of counters whose name doesn't tell them, kept for the caller
    resets: how many times readings showed that other programs set counters back to 0
    """

    def __init__(self, boot: str) -> None:
        """Start at 0."""
        self.totals: Counter[CountKey] = Counter()
        self.owners: dict[str, list[CountKey]] = {}
        self.resets = 0
        self._boot = boot
        self._readings: dict[str, int] = {}
        self._handles: dict[str, int] = {}
        self._table = 0
        self._newer: set[str] = set()

    def begin_reading(self) -> None:
        """Note that all counters are being read: what `add_newer` adds from now on is newer than that reading."""
        self._newer.clear()

    def add(
        self,
        counters: Mapping[str, int],
        keys_of: Callable[[str], Iterable[CountKey]],
        *,
        is_whole: bool = True,
        table: int = 0,
        handles: Mapping[str, int] = _NO_HANDLES,
    ) -> Iterator[None]:
        """Add in steps what all counters have counted since they were last read.

        counters: the name of each counter in the kernel, with its packets
        keys_of:  the keys that a counter counts for; each gets a total, 0 at first
        is_whole: a counter that isn't there doesn't exist; otherwise it may not have been read
        table:    the handle of the table that has them: all counters of another one began at 0
        handles:  of those counters that have one: a counter with another handle began at 0
        """
        if table != self._table:
            self._table, self._readings, self._handles = table, {}, {}
        # A key that appears now had no part in what its counters counted before, as the address of a Pod that is gone.
        known = set(self.totals)
        went_back = False
        for count, (name, packets) in enumerate(counters.items()):
            if count % _STEP == _STEP - 1:
                yield
            if name not in self._newer:
                handle = handles.get(name)
                is_anew = self._handles.get(name, handle) != handle
                went_back |= self._add(name, packets, keys_of(name), known, is_anew=is_anew)
        self.resets += went_back
        if is_whole:
            yield
            for name in self._readings.keys() - counters.keys() - self._newer:
                del self._readings[name]
            self._handles = dict(handles)
        else:
            self._handles.update(handles)

    def add_newer(self, counters: Mapping[str, int], keys_of: Callable[[str], Iterable[CountKey]]) -> None:
        """Add what some counters have counted until now; a reading that has begun doesn't count for them."""
        known = set(self.totals) if counters else set()
        for name, packets in counters.items():
            self._newer.add(name)
            self._add(name, packets, keys_of(name), known)

    def _add(
        self, name: str, packets: int, keys: Iterable[CountKey], known: set[CountKey], *, is_anew: bool = False
    ) -> bool:
        """Add what one counter has counted; return whether it was set back."""
        before = None if is_anew else self._readings.get(name)
        goes_on = before is not None and packets >= before
        more = packets - before if before is not None and goes_on else packets
        for key in keys:
            self.totals[key] += 0 if goes_on and key not in known else more
        self._readings[name] = packets
        return before is not None and not goes_on

    def begin_totals(self, keys: Iterable[CountKey]) -> None:
        """Have totals for keys: what their counters count from now on is theirs."""
        for key in keys:
            self.totals.setdefault(key, 0)

    def forget_counters(self, names: Iterable[str]) -> None:
        """Forget counters that were deleted after their last reading: made anew, they begin at 0."""
        for name in names:
            self._readings.pop(name, None)
            self._handles.pop(name, None)
            self.owners.pop(name, None)

    def keep(self, is_current: Callable[[CountKey], bool]) -> Iterator[None]:
        """Forget, in steps, the totals of keys that don't exist any more."""
        keys = iter(list(self.totals))
        while step := list(islice(keys, _STEP)):
            for key in step:
                if not is_current(key):
                    del self.totals[key]
            yield

    def encode(self) -> bytes:
        """Return what `decode` reads."""
        totals = list(self.totals.items())
        kept = _Kept(self._boot, self._readings, totals, self._table, self._handles, self.owners)
        return msgspec.json.encode(kept)

    def decode(self, kept: bytes) -> bool:
        """Continue from the totals of a previous process; return False, and start at 0, for bytes of another form."""
        try:
            found = msgspec.json.decode(kept, type=_Kept)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return False
        if any(number < 0 for number in (*found.readings.values(), *(total for _, total in found.totals))):
            return False
        self.totals = Counter(dict(found.totals))
        self._readings, self._handles = (found.readings, found.handles) if found.boot == self._boot else ({}, {})
        self._table = found.table
        self.owners = found.owners
        return True
