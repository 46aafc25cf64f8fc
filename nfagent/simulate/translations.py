"""Pods that hosts outside would see under another address after a change of egress objects.

Nothing is applied: the objects before and after the change are two states, and both decide for the same Pods. Pods
that the same policies select are decided once, for each range in which no entry begins or ends.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from copy import copy
from heapq import nsmallest
from typing import TypeAlias

import msgspec

from nfagent.egress.gateway_election import GatewayElection, chosen
from nfagent.egress.gateway_translation import through_gateway
from nfagent.egress.masquerade import MasqueradeSettings
from nfagent.egress.precedence import policies_of
from nfagent.egress.translation import Translation, TranslationKind, outside_translation
from nfagent.errors import UsageError
from nfagent.model.egress_nat import EgressNATPolicy
from nfagent.model.gvk import EgressObject
from nfagent.model.netaddr import FAMILIES, Family, Range, join, text
from nfagent.model.objects import ObjectRef, Pod
from nfagent.model.slices import sort_in_slices
from nfagent.simulate.tie_changes import TieChanges, TieComparison
from nfagent.state.cluster import ClusterState
from nfagent.state.egress import EgressState

MOST_COMPARISONS = 20_000_000
"""Limit of one comparison: groups of Pods, times ranges, times entries that each is compared with."""
_NAMED = 100
"""Pods that a change names."""


class EgressInputs(msgspec.Struct, frozen=True):
    """What decides translations: the objects, the node's settings, and the cluster's ranges, disjoint and sorted."""

    state: EgressState
    settings: MasqueradeSettings
    cluster_ranges: tuple[Range, ...] = ()


class TranslationChange(msgspec.Struct, frozen=True):
    """Pods that destinations outside the cluster would see under another address.

    pods:         how many
    names:        NAMESPACE/NAME of the first of them, sorted
    destinations: ranges as text; addresses of the cluster in them are never translated
    before, after:             the translation
    decided, decided_before:   what decides it: an object, a list, or nothing; and why packets are dropped
    floating, floating_before: the floating address, of kind gateway; '' where packets are dropped
    """

    pods: int
    names: tuple[str, ...]
    destinations: tuple[str, ...]
    before: TranslationKind
    after: TranslationKind
    decided: str
    decided_before: str
    floating: str = ""
    floating_before: str = ""


class TranslationChanges(msgspec.Struct, frozen=True):
    """All changes, the number of Pods that they concern, and the policies that begin or cease to disagree.

    dropped: the number of Pods of which packets to some destination would be dropped, for lack of a floating address
    """

    pods: int
    changes: tuple[TranslationChange, ...]
    dropped: int = 0
    ties: TieChanges = TieChanges()


class _Group(msgspec.Struct, eq=False):
    """Pods that the same policies select and that have the same floating addresses, before the change and after it.

    pod: one of them
    """

    pod: Pod
    names: list[str]


_Outcome: TypeAlias = tuple[TranslationKind, str, str]
"""A translation, its floating address, and what decides it."""
_Turn: TypeAlias = tuple[_Outcome, _Outcome]
"""Before and after."""


class _Ranges(msgspec.Struct, frozen=True):
    ranges: tuple[Range, ...]


class _Part(msgspec.Struct):
    """Adjacent ranges with one turn."""

    span: Range
    turn: _Turn


def patched_state(state: EgressState, put: Iterable[EgressObject], removed: Iterable[ObjectRef] = ()) -> EgressState:
    """Return a copy of a state with some objects added, replaced or removed."""
    changed = copy(state)
    changed.objects = dict(state.objects)
    for item in put:
        changed.put(item)
    for ref in removed:
        changed.remove(ref)
    return changed


def removed_refs(state: EgressState, items: Iterable[EgressObject]) -> tuple[ObjectRef, ...]:
    """Return the references of objects to remove. Raises UsageError for one that doesn't exist."""
    refs = tuple(item.ref for item in items)
    for ref in refs:
        if ref not in state.objects:
            raise UsageError(f"there is no {ref} to remove", hint="`nfagent dump state` lists the egress objects")
    return refs


class TranslationComparison:
    """Compares the translations of all Pods before and after a change.

    refs, idle: the objects that the change adds, replaces or removes; those of them that stay as they are
    result:     complete after the last step of `compare`
    """

    def __init__(
        self, cluster: ClusterState, inputs: EgressInputs, put: tuple[EgressObject, ...], removed: tuple[ObjectRef, ...]
    ) -> None:
        """Compare with the present objects; later changes of them don't count, those of Pods do."""
        self.refs = (*(item.ref for item in put), *removed)
        self.idle = tuple(item.ref for item in put if inputs.state.objects.get(item.ref) == item)
        self.result = TranslationChanges(0, ())
        self._cluster = cluster
        self._settings = inputs.settings
        self._known = inputs.cluster_ranges
        self._before = patched_state(inputs.state, ())
        self._after = patched_state(inputs.state, put, removed)
        self._ties = TieComparison(cluster, self._before, self._after)
        known = _Ranges(self._known)
        self._elections = tuple((state, GatewayElection(cluster, state, known)) for state in self._states)
        self._moved: set[ObjectRef] = set()
        self._ranges: list[Range] = []
        self._groups: dict[object, _Group] = {}

    def plan(self, namespace: str = "") -> Iterator[None]:
        """Group the Pods by the policies that select them, in steps; with a namespace, its Pods alone.

        Raises UsageError where there is too much to compare.
        """
        yield from self._elect()
        for item in self._find_ranges():
            if item is not None:
                self._ranges.append(item)
            yield
        for identity in list(self._cluster.members):
            if namespace in {"", identity.namespace}:
                yield from self._add(list(self._cluster.members.get(identity, {}).values()))
            yield
        entries = sum(1 for state in (self._before, self._after) for _ in self._entries(state))
        if len(self._groups) * len(self._ranges) * entries > MOST_COMPARISONS:
            raise UsageError(
                f"{len(self._groups)} groups of Pods, which different EgressNATPolicies select, and "
                f"{len(self._ranges)} ranges of destinations are too many to compare",
                hint="narrow them with -n NS, or try fewer EgressNATPolicies at once",
            )

    def compare(self) -> Iterator[None]:
        """Compare in steps of one range, for one group of Pods; then the ties."""
        found: dict[tuple[_Turn, tuple[str, ...]], list[str]] = {}
        turned: set[str] = set()
        dropped: set[str] = set()
        for group in self._groups.values():
            parts: list[_Part] = []
            for item in self._ranges:
                self._compare(group.pod, item, parts)
                yield
            if parts:
                turned.update(group.names)
            if any(part.turn[1][:2] == ("gateway", "") for part in parts):
                dropped.update(group.names)
            for turn in dict.fromkeys(part.turn for part in parts):
                ranges = tuple(str(part.span) for part in parts if part.turn == turn)
                found.setdefault((turn, ranges), []).extend(group.names)
        yield from self._ties.steps()
        changes = tuple(_change(*key, names) for key, names in found.items())
        self.result = TranslationChanges(len(turned), changes, len(dropped), self._ties.result)

    @property
    def _states(self) -> tuple[EgressState, EgressState]:
        return self._before, self._after

    def _elect(self) -> Iterator[None]:
        """Elect the holders of floating addresses before and after, and find the groups that change."""
        for _, elected in self._elections:
            elected.invalidate()
            yield from elected.steps()
        seen = [
            {ref: {(one.address, not one.holder) for one in elected.of_group(ref)} for ref in state.gateways}
            for state, elected in self._elections
        ]
        self._moved = {ref for ref in (*seen[0], *seen[1]) if seen[0].get(ref) != seen[1].get(ref)}

    def _add(self, pods: Iterable[Pod]) -> Iterator[None]:
        """Add Pods of one identity to the groups, in steps where gateways have them differ."""
        having = [pod for pod in pods if pod.holds_addresses]
        if not having:
            return
        both = [policies_of(having[0], self._cluster, state) for state in self._states]
        selected = tuple(tuple(policy.name for policy in policies) for policies in both)
        gateways = [dict.fromkeys(policy.gateway for policy in policies if policy.gateway) for policies in both]
        if not any(gateways):
            group = self._groups.setdefault(selected, _Group(having[0], []))
            group.names += [pod.ref.path for pod in having]
            return
        choices = [
            elected.of_group(ref) for refs, (_, elected) in zip(gateways, self._elections, strict=True) for ref in refs
        ]
        for pod in having:
            floating = tuple(chosen(choice, address) for choice in choices for address in pod.addresses)
            self._groups.setdefault((selected, floating), _Group(pod, [])).names.append(pod.ref.path)
            yield

    def _compare(self, pod: Pod, item: Range, parts: list[_Part]) -> None:
        """Decide for one range; add it to the parts if its translation changes."""
        address = text(item.family, item.first)
        before, after = (
            through_gateway(
                outside_translation(pod, address, self._cluster, state, self._settings), pod, address, state, elected
            )
            for state, elected in self._elections
        )
        turn = (_outcome(before), _outcome(after))
        if turn[0][:2] == turn[1][:2]:
            return
        last = parts[-1] if parts else None
        if last is not None and last.turn == turn and _adjacent(last.span, item):
            last.span = Range(item.family, last.span.first, item.last)
        else:
            parts.append(_Part(item, turn))

    def _find_ranges(self) -> Iterator[Range | None]:
        """Yield the ranges whose translation may change: no entry begins or ends inside one. None is a pause."""
        states = (self._before, self._after)
        for family in FAMILIES:
            changed = (item for state in states for item in self._changed_entries(state) if item.family == family)
            wanted: list[Range] = []
            for item in sort_in_slices(changed):
                if item is None:
                    yield None
                else:
                    join(wanted, item)
            if wanted:
                yield from self._pieces(wanted, family)

    def _pieces(self, wanted: list[Range], family: Family) -> Iterator[Range | None]:
        """Yield the parts of disjoint sorted ranges between the places where entries begin or end."""
        entries = (item for state in (self._before, self._after) for item in self._entries(state))
        cuts = (place for item in entries if item.family == family for place in (item.first, item.last + 1))
        at, first = 0, 0
        for place in sort_in_slices(cuts):
            if place is None:
                yield None
                continue
            while at < len(wanted) and wanted[at].last < first:
                at += 1
            piece = Range(family, first, place - 1)
            if place > first and at < len(wanted) and wanted[at].first <= first and not self._in_cluster(piece):
                yield piece
            first = place

    def _in_cluster(self, piece: Range) -> bool:
        at = bisect_right(self._known, Range(piece.family, piece.first, 1 << 128)) - 1
        known = self._known[at] if at >= 0 else None
        return known is not None and known.family == piece.family and known.last >= piece.last

    def _changed_entries(self, state: EgressState) -> Iterator[Range]:
        """Yield the entries of a state that the other one doesn't have in the same way."""
        both = self._before.objects, self._after.objects
        for ref, item in state.objects.items():
            if not isinstance(item, EgressNATPolicy):
                continue
            if both[0].get(ref) != both[1].get(ref) or item.gateway in self._moved:
                yield from item.destinations
        lists = [set(self._base(known)) for known in (self._before, self._after)]
        yield from lists[0] ^ lists[1]

    def _entries(self, state: EgressState) -> Iterator[Range]:
        for policy in state.policies.values():
            yield from policy.destinations
        yield from self._base(state)

    def _base(self, state: EgressState) -> tuple[Range, ...]:
        return state.base_list(all_reserved_ranges=self._settings.all_reserved_ranges)


def _adjacent(one: Range, other: Range) -> bool:
    return one.family == other.family and one.last + 1 == other.first


def _outcome(found: Translation) -> _Outcome:
    return found.kind, "" if found.dropped else found.floating, _decider(found)


def _change(turn: _Turn, ranges: tuple[str, ...], names: list[str]) -> TranslationChange:
    (before, floating_before, decided_before), (after, floating, decided) = turn
    return TranslationChange(
        pods=len(names),
        names=tuple(nsmallest(_NAMED, names)),
        destinations=ranges,
        before=before,
        after=after,
        decided=decided,
        decided_before=decided_before,
        floating=floating,
        floating_before=floating_before,
    )


def _decider(found: Translation) -> str:
    """Return what decides a translation, for tables; explain.source_translation has the reason."""
    if found.disputed:
        return f"{' and '.join(map(str, found.disputed))} disagree"
    if found.dropped:
        return f"{found.by}, dropped: {found.dropped}"
    if found.by is not None:
        return str(found.by)
    return "nothing has it" if found.prefix is None else "the built-in list"
