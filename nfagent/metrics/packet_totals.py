"""Totals of packets by Pod, by policy and by reason, of readings of the kernel's counters. Pure.

A counter of the kernel begins anew where its object is made anew: with its table, or with the Pod or the rules that it
counts for. A total never does: what a counter has gained since the reading before is added. What it gained between the
last reading and its end isn't known.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import product
from typing import TypeAlias, TypeVar

import msgspec

from nfagent.errors import DecodeError
from nfagent.kernel.verdict_counts import CountReading
from nfagent.model.netaddr import FAMILIES
from nfagent.model.objects import DIRECTIONS, Direction, ObjectRef
from nfagent.nftables.pod_counts import counted_set
from nfagent.nftables.verdict_keys import DISPOSITIONS, Disposition, VerdictKey

PodVerdict: TypeAlias = tuple[str, str, Direction, Disposition]
"""Namespace and name of a Pod, direction and disposition."""

OF_SET: dict[str, tuple[Direction, Disposition]] = {
    counted_set(disposition, direction, family): (direction, disposition)
    for disposition, direction, family in product(DISPOSITIONS, DIRECTIONS, FAMILIES)
}
"""Direction and disposition that a set of counted addresses stands for."""


_Key = TypeVar("_Key")


class KeptTotals(msgspec.Struct, forbid_unknown_fields=True):
    """The totals, and the reading that they were made of, as they are kept over restarts.

    boot: identifies the kernel's start: no counter of another one goes on
    """

    boot: str = ""
    reading: CountReading = CountReading()
    pods: list[tuple[str, str, Direction, Disposition, int]] = []
    policies: list[tuple[str, str, str, Direction, Disposition, int]] = []
    drops: dict[str, int] = {}


_decoder = msgspec.json.Decoder(KeptTotals)
_encoder = msgspec.json.Encoder()


class PacketTotals:
    """The totals of one node.

    pods, policies, drops: packets, by what they stand for; `policies` has a key for each policy by itself
    """

    def __init__(self, boot: str) -> None:
        """Start without any, after a start of the kernel with this identity."""
        self._boot = boot
        self._last = CountReading()
        self.pods: dict[PodVerdict, int] = {}
        self.policies: dict[VerdictKey, int] = {}
        self.drops: dict[str, int] = {}

    def restore(self, text: bytes) -> None:
        """Take over kept totals. Raises DecodeError, and changes nothing, for a text that `encode` didn't write."""
        try:
            kept = _decoder.decode(text)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise DecodeError(f"not totals of packets: {error}") from None
        self._last = kept.reading if kept.boot == self._boot else CountReading()
        self.pods = {(namespace, name, way, verdict): count for namespace, name, way, verdict, count in kept.pods}
        self.policies = {
            VerdictKey(verdict, way, (ObjectRef(kind, namespace, name),)): count
            for kind, namespace, name, way, verdict, count in kept.policies
        }
        self.drops = dict(kept.drops)

    def encode(self) -> bytes:
        """Return the totals as text, to be kept."""
        return _encoder.encode(
            KeptTotals(
                self._boot,
                self._last,
                [(*key, count) for key, count in self.pods.items()],
                [
                    (ref.kind, ref.namespace, ref.name, key.direction, key.disposition, count)
                    for key, count in self.policies.items()
                    for ref in key.policies
                ],
                self.drops,
            )
        )

    def add(
        self,
        reading: CountReading,
        holder: Callable[[str], tuple[str, str] | None],
        verdict: Callable[[str], VerdictKey | None],
    ) -> None:
        """Add what counters have gained since the last reading.

        holder:  returns namespace and name of this node's Pod that has an address
        verdict: returns the verdict that a named counter counts; None for another counter
        """
        last = self._last if reading.table == self._last.table else CountReading()
        for name, counts in reading.elements.items():
            direction, disposition = OF_SET[name]
            for address, gain in _gains(counts, last.elements.get(name, {})):
                pod = holder(address)
                if pod is not None:
                    _increase(self.pods, (*pod, direction, disposition), gain)
        for name, gain in _gains(reading.counters, last.counters):
            key = verdict(name)
            if key is None:
                _increase(self.drops, name, gain)
            else:
                for ref in key.policies:
                    _increase(self.policies, VerdictKey(key.disposition, key.direction, (ref,)), gain)
        self._last = reading

    def forget(self, has_pod: Callable[[tuple[str, str]], bool], has_policy: Callable[[ObjectRef], bool]) -> None:
        """Forget the totals of Pods and policies that are gone."""
        self.pods = {key: count for key, count in self.pods.items() if has_pod(key[:2])}
        self.policies = {key: count for key, count in self.policies.items() if has_policy(key.policies[0])}


def _gains(now: Mapping[str, int], before: Mapping[str, int]) -> list[tuple[str, int]]:
    """Return what each counter has gained: all of it where it is less than before, since it began anew."""
    found = []
    for name, count in now.items():
        was = before.get(name, 0)
        found.append((name, count - was if count >= was else count))
    return found


def _increase(totals: dict[_Key, int], key: _Key, gain: int) -> None:
    totals[key] = totals.get(key, 0) + gain
