"""Which EgressNATPolicies decide: the longest destination prefix, for each address.

Policies that disagree about the same prefix, for the same Pod, are an error: neither applies there, and the destination
is masqueraded. They disagree if their actions differ, or their gateways. No shorter prefix and no list decides then,
since it could show a Pod's address that one of the two hides.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TypeVar

from nfagent.model.egress_nat import EgressNATPolicy
from nfagent.model.netaddr import FAMILIES, Range, disjoint, family_of, join, number, without
from nfagent.model.objects import ObjectRef, Pod
from nfagent.state.cluster import ClusterState
from nfagent.state.egress import EgressState

T = TypeVar("T")


def policies_of(pod: Pod | None, cluster: ClusterState, egress: EgressState) -> list[EgressNATPolicy]:
    """Return the enforced policies other than the base that apply to a Pod, by name.

    None is a Pod that isn't known, whose labels aren't known either: policies with sources don't apply to it.
    """
    if pod is None:
        return [policy for policy in egress.enforced if not policy.sources]
    labels, namespace_labels = dict(pod.labels), dict(cluster.namespace_labels(pod.namespace))
    return [policy for policy in egress.enforced if policy.selects(labels, namespace_labels)]


def longest_prefix(policies: Iterable[EgressNATPolicy], destination: str) -> tuple[Range, list[EgressNATPolicy]] | None:
    """Return the longest prefix that contains a destination, with the policies that have it; None without one."""
    family, value = family_of(destination), number(destination)
    found: dict[Range, list[EgressNATPolicy]] = {}
    for policy in policies:
        for item in dict.fromkeys(policy.destinations):
            if item.family == family and item.first <= value <= item.last:
                found.setdefault(item, []).append(policy)
    if not found:
        return None
    longest = min(found, key=lambda item: item.last - item.first)
    return longest, found[longest]


def translated_ranges(policies: Iterable[EgressNATPolicy]) -> tuple[Range, ...]:
    """Return the disjoint ranges that the policies have translated: those of SNAT, and those they disagree about."""
    kept: dict[Range, bool] = {}
    for policy in policies:
        for item in policy.destinations:
            kept[item] = kept.get(item, True) and policy.action == "NoSNAT"
    if all(kept.values()):
        return ()
    merged: list[Range] = []
    for item, is_kept in _decided_ranges(kept):
        if not is_kept:
            join(merged, item)
    return tuple(merged)


def gateway_ranges(policies: Iterable[EgressNATPolicy]) -> dict[ObjectRef, tuple[Range, ...]]:
    """Return the disjoint ranges that see an address of a NetworkGatewayGroup, by group; in order.

    Policies that disagree about a prefix send nothing there to any group.
    """
    decided: dict[Range, ObjectRef | None] = {}
    for policy in policies:
        for item in policy.destinations:
            agreed = decided.get(item, policy.gateway) == policy.gateway
            decided[item] = policy.gateway if agreed else None
    if not any(decided.values()):
        return {}
    merged: dict[ObjectRef, list[Range]] = {}
    for item, group in _decided_ranges(decided):
        if group is not None:
            join(merged.setdefault(group, []), item)
    return {group: tuple(merged[group]) for group in sorted(merged)}


def _decided_ranges(decided: Mapping[Range, T]) -> Iterator[tuple[Range, T]]:
    """Yield disjoint ranges, in order, with what is decided for their longest prefix.

    Two prefixes are nested or disjoint.
    """
    for family in FAMILIES:
        # The prefixes around the current place, the longest one last.
        around: list[Range] = []
        place = 0
        prefixes = sorted(
            (item for item in decided if item.family == family), key=lambda item: (item.first, -item.last)
        )
        for item in (*prefixes, None):
            while around and (item is None or around[-1].last < item.first):
                ended = around.pop()
                if place <= ended.last:
                    yield Range(family, place, ended.last), decided[ended]
                place = ended.last + 1
            if item is None:
                break
            if around and place < item.first:
                yield Range(family, place, item.first - 1), decided[around[-1]]
            place = item.first
            around.append(item)


def kept_ranges(base: Iterable[Range], policies: Iterable[EgressNATPolicy]) -> tuple[Range, ...]:
    """Return the disjoint ranges outside the cluster that keep the Pod's address.

    base: the list that decides where no policy has an entry
    """
    applied = list(policies)
    listed = [item for policy in applied if policy.action == "NoSNAT" for item in policy.destinations]
    return without(disjoint((*base, *listed)), translated_ranges(applied))
