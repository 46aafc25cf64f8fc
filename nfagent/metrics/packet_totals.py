"""Totals of the kernel's counters that never decrease: over rule changes, flushed tables and restarts of the agent.

A counter of the kernel begins at 0 again when its object is made anew. What it had counted until it was last read is
in the total; what it counted between that and its end is lost. Each counter counts for one or several keys: a Pod with
direction and disposition, a policy, a reason.

The last readings are kept with the totals: an agent that starts continues where the previous one stopped, however it
ended. Readings of another boot don't count: all counters began at 0 since.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import TypeAlias

import msgspec

CountKey: TypeAlias = tuple[str, ...]
"""What a total is of: names of the caller's."""


class _Kept(msgspec.Struct, frozen=True):
    """The form on disk. `readings` are of the boot with this id, and of the table with this handle."""

    boot: str
    readings: dict[str, int]
    totals: list[tuple[CountKey, int]]
    table: int = 0


class PacketTotals:
    """Totals by key.

    boot: the id of this boot of the machine
    """

    def __init__(self, boot: str) -> None:
        """Start at 0."""
        self.totals: Counter[CountKey] = Counter()
        self._boot = boot
        self._readings: dict[str, int] = {}
        self._table = 0

    def add(
        self,
        counters: Mapping[str, int],
        keys_of: Callable[[str], Iterable[CountKey]],
        *,
        is_whole: bool = True,
        table: int = 0,
    ) -> None:
        """Add what all counters have counted since they were last read.

        counters: the name of each counter in the kernel, with its packets
        keys_of:  the keys that a counter counts for; each gets a total, 0 at first
        is_whole: a counter that isn't there doesn't exist; otherwise it may not have been read
        table:    the handle of the table that has them: all counters of another one began at 0
        """
        if table != self._table:
            self._table, self._readings = table, {}
        known = set(self.totals)
        for name, packets in counters.items():
            before = self._readings.get(name)
            goes_on = before is not None and packets >= before
            more = packets - before if before is not None and goes_on else packets
            for key in keys_of(name):
                # The counter was another's when it was last read, as the address of a Pod that is gone.
                took_over = goes_on and key not in known
                self.totals[key] += 0 if took_over else more
        self._readings = dict(counters) if is_whole else {**self._readings, **counters}

    def keep(self, is_current: Callable[[CountKey], bool]) -> None:
        """Forget the totals of keys that don't exist any more."""
        for key in [key for key in self.totals if not is_current(key)]:
            del self.totals[key]

    def encode(self) -> bytes:
        """Return what `decode` reads."""
        return msgspec.json.encode(_Kept(self._boot, self._readings, list(self.totals.items()), self._table))

    def decode(self, kept: bytes) -> bool:
        """Continue from the totals of a previous process; return False, and start at 0, for bytes of another form."""
        try:
            found = msgspec.json.decode(kept, type=_Kept)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return False
        if any(number < 0 for number in (*found.readings.values(), *(total for _, total in found.totals))):
            return False
        self.totals = Counter(dict(found.totals))
        self._readings = found.readings if found.boot == self._boot else {}
        self._table = found.table
        return True
