"""Which packets of a connection met a wrong verdict, by when each was sent and which arrived. Pure.

Between a change and its effect old and new verdict are right, but not in turns: what has met the new verdict once
doesn't meet the old one again.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Sequence
from typing import Literal, TypeAlias

import msgspec

Verdict: TypeAlias = Literal["allowed", "forbidden", "closing", "opening"]
"""closing: allowed before the change and forbidden after it. opening: the reverse"""

_SETTLED_SECONDS = 0.05


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """When a change of verdicts began, and from when on only the new verdicts are right, by time.monotonic()."""

    begun: float
    ended: float


class WrongPackets(msgspec.Struct, frozen=True):
    """The numbers of packets that met a wrong verdict.

    passed:   forbidden, and arrived
    missing:  allowed, and didn't arrive
    returned: of the old verdict, while the change took effect, after a packet of the new one
    """

    passed: tuple[int, ...] = ()
    missing: tuple[int, ...] = ()
    returned: tuple[int, ...] = ()

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self.passed) + len(self.missing) + len(self.returned)


def wrong_packets(verdict: Verdict, sent_at: Sequence[float], arrived: Collection[int], change: Change) -> WrongPackets:
    """Return the packets with a wrong verdict; sent_at: of packet 1, 2, …; arrived: their numbers."""
    passed: list[int] = []
    missing: list[int] = []
    returned: list[int] = []
    changed = False
    for number, at in enumerate(sent_at, 1):
        right, came = right_verdict(verdict, at, change), number in arrived
        if right is None:
            is_new = came == (verdict == "opening")
            if changed and not is_new:
                returned.append(number)
            changed = changed or is_new
        elif came != right:
            (passed if came else missing).append(number)
    return WrongPackets(tuple(passed), tuple(missing), tuple(returned))


def right_verdict(verdict: Verdict, at: float, change: Change) -> bool | None:
    """Return whether a packet of that time must pass; None where both is right."""
    if verdict in {"allowed", "forbidden"}:
        return verdict == "allowed"
    if at < change.begun - _SETTLED_SECONDS:
        return verdict == "closing"
    return verdict == "opening" if at > change.ended else None


def last_of_old(verdict: Verdict, sent_at: Sequence[float], arrived: Collection[int]) -> float:
    """Return when the last packet with the old verdict was sent; 0.0 where there was none."""
    if verdict not in {"closing", "opening"}:
        return 0.0
    old = (at for number, at in enumerate(sent_at, 1) if (number in arrived) == (verdict == "closing"))
    return max(old, default=0.0)


def describe(wrong: WrongPackets, sent_at: Sequence[float], change: Change) -> str:
    """Return how many met which wrong verdict, and when, as a few words; '' for none."""
    kinds = (
        (wrong.passed, "passed"),
        (wrong.missing, "missing"),
        (wrong.returned, "with the old verdict after the new one"),
    )
    parts = []
    for numbers, what in kinds:
        if numbers:
            first, last = (sent_at[number - 1] - change.begun for number in (numbers[0], numbers[-1]))
            parts.append(f"{len(numbers)} {what}, sent {first:+.3f} to {last:+.3f} s from the change")
    return "; ".join(parts)


def longest_gap(sent_at: Sequence[float], until: float) -> float:
    """Return the most seconds without a packet, up to a time; 0.0 for no packets."""
    times = [*sent_at, max(until, sent_at[-1])] if sent_at else []
    return max((after - before for before, after in itertools.pairwise(times)), default=0.0)
