"""Counters that no rule counts with any more, and that stay in the kernel until they were read for the last time.

What a counter has counted since its last reading goes with it, and the kernel's notification of a deleted counter has
no value. So a transaction is committed without its deletions of counters, named ones and elements of the sets that
count Pods: no verdict depends on them. They are deleted some time later, after a reading that began when no packet
could be on its way through the old rules any more.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable

import msgspec

from nfagent.nftables.objects import NamedSet, Ruleset
from nfagent.nftables.pod_counts import COUNTED_SETS
from nfagent.nftables.transaction import AddCounter, ChangeElements, Command, Delete, Transaction

GRACE_SECONDS = 1.0
"""A packet that met the rules before a commit has left them by then: it takes microseconds."""


_LISTING_SECONDS = 30.0
"""A listing of the rules that has a counter is no older than so long when it is compared."""


def element_counter(name: str, address: str) -> str:
    """Return what identifies an element of a set that counts; a named counter is its name, which has no space."""
    return f"{name} {address}"


class CommitPlan(msgspec.Struct, frozen=True):
    """What of a transaction is committed at once, and the counters that it adds and deletes."""

    at_once: Transaction
    added: tuple[str, ...] = ()
    deleted: tuple[str, ...] = ()


class RetiredCounters:
    """The counters whose deletion waits.

    added: named counters that were committed since the caller emptied the list
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        """Start without any; clock: returns monotonic seconds."""
        self.added: list[str] = []
        self._clock = clock
        self._since: dict[str, float] = {}
        self._gone: dict[str, float] = {}

    def __len__(self) -> int:
        """Return the number of counters that wait."""
        return len(self._since)

    @staticmethod
    def plan(transaction: Transaction) -> CommitPlan:
        """Return the parts of a transaction, in time proportional to its size."""
        at_once: list[Command] = []
        added: list[str] = []
        deleted: list[str] = []
        for command in transaction:
            if gone := _deleted(command):
                deleted += gone
            else:
                at_once.append(command)
                added += _added(command)
        return CommitPlan(tuple(at_once), tuple(added), tuple(deleted))

    def committed(self, plan: CommitPlan) -> None:
        """Note that a transaction is in force, but for its deletions: these wait now.

        A waiting counter that the transaction adds is in use again, and goes on from its value.
        """
        for counter in plan.added:
            self._since.pop(counter, None)
            self._gone.pop(counter, None)
        self._since.update(dict.fromkeys(plan.deleted, self._clock()))
        self.added += [counter for counter in plan.added if " " not in counter]

    def due(self) -> dict[str, float]:
        """Return the counters that a reading which begins now reads for the last time, each with when it retired."""
        latest = self._clock() - GRACE_SECONDS
        return {counter: since for counter, since in self._since.items() if since <= latest}

    def deletions(self, read: dict[str, float]) -> tuple[Transaction, list[str]]:
        """Return the commands that delete those that were `due` and have not been in use since; and their names."""
        names = [counter for counter, since in read.items() if self._since.get(counter) == since]
        named, elements = _by_object(names)
        changes = (ChangeElements("delete", name, tuple(found)) for name, found in elements.items())
        return (*(Delete("counter", name) for name in named), *changes), names

    def deleted(self, counters: Iterable[str]) -> None:
        """Note that counters were deleted; a listing that was made before still has them."""
        now = self._clock()
        self._gone = {name: when for name, when in self._gone.items() if when > now - _LISTING_SECONDS}
        for counter in counters:
            self._since.pop(counter, None)
            self._gone[counter] = now

    def forget(self, counters: Iterable[str]) -> None:
        """Forget counters that don't exist any more, or that another comparison is to decide about."""
        for counter in counters:
            self._since.pop(counter, None)

    def compared(self, wanted: Ruleset) -> None:
        """Note that the table is made equal to a ruleset: what waits and is wanted is in use again, and waits no more.

        A comparison finds it in the table, so that no command adds it. May be called in another thread.
        """
        named, elements = _by_object(self._since.copy())
        self.forget(wanted.counters.intersection(named))
        for name, addresses in elements.items():
            used = wanted.sets[name].elements.intersection(addresses) if name in wanted.sets else ()
            self.forget(element_counter(name, str(address)) for address in used)

    def with_waiting(self, wanted: Ruleset) -> Ruleset:
        """Return a ruleset with the counters that wait for their deletion."""
        waiting = self._since.copy()
        if not waiting or not wanted.exists:
            return wanted
        named, elements = _by_object(waiting)
        sets = {
            name: msgspec.structs.replace(wanted.sets[name], elements=wanted.sets[name].elements.union(more))
            for name, more in elements.items()
            if name in wanted.sets
        }
        return msgspec.structs.replace(wanted, counters=wanted.counters.union(named), sets={**wanted.sets, **sets})

    def as_deleted(self, listed: Ruleset, wanted: Ruleset) -> Ruleset:
        """Return a listing without the counters that wait for their deletion, or were deleted since it was made."""
        oldest = self._clock() - _LISTING_SECONDS
        waiting = {name: when for name, when in self._gone.copy().items() if when > oldest} | self._since.copy()
        if not waiting:
            return listed
        extra = {name for name in listed.counters if name in waiting} - wanted.counters
        present = COUNTED_SETS & listed.sets.keys()
        sets = {name: found for name in present if (found := _without(name, listed, wanted, waiting)) is not None}
        return msgspec.structs.replace(listed, counters=listed.counters - extra, sets={**listed.sets, **sets})


def _by_object(counters: Iterable[str]) -> tuple[list[str], dict[str, list[str]]]:
    """Return the named ones of these counters, and the addresses of the others by their sets."""
    named: list[str] = []
    elements: defaultdict[str, list[str]] = defaultdict(list)
    for counter in counters:
        name, _, address = counter.partition(" ")
        if address:
            elements[name].append(address)
        else:
            named.append(name)
    return named, elements


def _without(name: str, listed: Ruleset, wanted: Ruleset, waiting: dict[str, float]) -> NamedSet | None:
    """Return a set without waiting elements; None where it has none."""
    found = listed.sets[name]
    needed = wanted.sets[name].elements if name in wanted.sets else frozenset()
    extra = {
        element
        for element in found.elements - needed
        if isinstance(element, str) and element_counter(name, element) in waiting
    }
    return msgspec.structs.replace(found, elements=found.elements - extra) if extra else None


def _deleted(command: Command) -> tuple[str, ...]:
    """Return the counters that a command deletes, and that may stay for a while."""
    match command:
        case Delete("counter", name):
            return (name,)
        case ChangeElements("delete", name, elements) if name in COUNTED_SETS:
            return tuple(element_counter(name, element) for element in elements if isinstance(element, str))
    return ()


def _added(command: Command) -> tuple[str, ...]:
    match command:
        case AddCounter(name):
            return (name,)
        case ChangeElements("add", name, elements) if name in COUNTED_SETS:
            return tuple(element_counter(name, element) for element in elements if isinstance(element, str))
    return ()
