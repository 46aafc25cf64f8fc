"""Whom a counter counts for: a Pod with direction and disposition, policies, or a reason.

The name of a named counter tells it, unless it was too long and ends in a digest. Whose an address is changes with the
Pods: the one that had an address first keeps it until it is gone, and a counter that outlives its Pod is still its.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import product
from typing import TypeAlias

from nfagent.desired.state import DesiredState
from nfagent.metrics.packet_totals import CountKey
from nfagent.model.netaddr import FAMILIES, family_of
from nfagent.model.objects import DIRECTIONS, Direction
from nfagent.nftables.pod_counts import counted_set
from nfagent.nftables.verdict_keys import DISPOSITIONS, Disposition, VerdictKey, key_of_counter

PodName: TypeAlias = tuple[str, str]
"""Namespace and name."""
Workload: TypeAlias = tuple[str, str]
"""Name and kind of what a Pod is of."""
DROP = "drop/"
_MOST_PASSED = 50
"""Addresses that `passed_addresses` returns at once: their counters are read on the event loop, in 5 ms."""
_OF_SET: dict[str, tuple[Direction, Disposition]] = {
    counted_set(disposition, direction, family): (direction, disposition)
    for disposition, direction, family in product(DISPOSITIONS, DIRECTIONS, FAMILIES)
}
_SETS = {family: tuple(name for name in _OF_SET if name.endswith(str(family))) for family in FAMILIES}


class CounterOwners:
    """The owners of one node's counters.

    workloads: of Pods that have a counter, also of those that are gone
    """

    def __init__(self, desired: DesiredState) -> None:
        """Start without any."""
        self._desired = desired
        self._holders: dict[str, PodName] = {}
        self._verdicts: dict[str, tuple[CountKey, ...]] = {}
        self._seen = -1
        self.workloads: dict[PodName, Workload] = {}

    @property
    def are_current(self) -> bool:
        """Return whether no Pod of this node changed since `passed_addresses` returned the last address."""
        return self._seen == self._desired.local_changes

    def keys_of(self, counter: str, holder: PodName | None = None) -> Iterator[CountKey]:
        """Yield what a counter counts for; holder: who has its address, in place of the present one."""
        name, _, address = counter.partition(" ")
        if address:
            holder = holder or self._holders.get(address)
            if holder is not None and name in _OF_SET:
                yield ("pod", *holder, *_OF_SET[name])
        elif name.startswith(DROP):
            yield ("reason", name)
        else:
            yield from self._verdicts.get(name) or _verdict_keys(key_of_counter(name))

    def remember(self, counter: str) -> None:
        """Remember the policies of a named counter that was added, where its name doesn't tell them."""
        if not counter.startswith(DROP) and key_of_counter(counter) is None:
            # The name is that of the log prefix, with other separators.
            self._verdicts[counter] = tuple(_verdict_keys(self._desired.verdict_key(counter.replace("/", " ", 2))))

    def passed_addresses(self) -> dict[str, PodName]:
        """Return addresses that have passed from a Pod to another one since the last call, each with who had it.

        From the return on they are the other one's. At most so many at once that their counters can be read at once.
        """
        if self.are_current:
            return {}
        passed: dict[str, PodName] = {}
        local = self._desired.cluster.local
        for key, pod in local.items():
            self.workloads[key] = (pod.workload_name or pod.name, pod.workload_kind)
            for address in pod.addresses if pod.holds_addresses else ():
                holder = self._holders.setdefault(address, key)
                if holder == key or self._holds(holder, address):
                    continue
                if len(passed) == _MOST_PASSED:
                    return passed
                passed[address] = holder
                self._holders[address] = key
        self._seen = self._desired.local_changes
        return passed

    def forget(self, counters: Iterable[str]) -> None:
        """Forget counters that were deleted."""
        for counter in counters:
            name, _, address = counter.partition(" ")
            self._verdicts.pop(name, None)
            holder = self._holders.get(address)
            if holder is not None and not self._holds(holder, address):
                del self._holders[address]

    def keep_workloads(self, names: set[PodName]) -> None:
        """Forget the workloads of Pods that are gone, but for some."""
        local = self._desired.cluster.local
        for name in self.workloads.keys() - local.keys() - names:
            del self.workloads[name]

    def encode(self) -> dict[str, list[CountKey]]:
        """Return what `restore` reads."""
        kept = {name: list(keys) for name, keys in self._verdicts.items()}
        for address, holder in self._holders.items():
            kept[address] = [holder]
        return kept

    def restore(self, kept: dict[str, list[CountKey]]) -> None:
        """Take over the owners that another process knew."""
        for counter, keys in kept.items():
            match keys:
                case [(str(namespace), str(name))]:
                    self._holders[counter] = namespace, name
                case _:
                    self._verdicts[counter] = tuple(keys)
        self._seen = -1

    def _holds(self, name: PodName, address: str) -> bool:
        pod = self._desired.cluster.local.get(name)
        return pod is not None and pod.holds_addresses and address in pod.addresses


def elements_of(address: str) -> Iterator[tuple[str, str]]:
    """Yield set and address of the elements that count an address."""
    for name in _SETS[family_of(address)]:
        yield name, address


def _verdict_keys(key: VerdictKey | None) -> Iterator[CountKey]:
    if key is None:
        return
    for ref in key.policies:
        yield ("policy", ref.kind, ref.namespace, ref.name, key.direction, key.disposition)
