"""Which node holds each floating address: the same on every node, by rendezvous hashing of the Ready Nodes.

Only groups that an enforced EgressNATPolicy names count. An address that the cluster itself uses is left out, and so is
one that another group has already. Nodes are compared one by one as they change, and all of them after a change of an
object that configures egress NAT, or after the holder left: in steps.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping
from typing import Protocol

import msgspec

from nfagent.egress.gateways import MOST_NUMBERS, FloatingAddress
from nfagent.egress.left_gateways import LeftGateways
from nfagent.egress.rendezvous import weight, winner
from nfagent.model.egress_nat import NetworkGatewayGroup
from nfagent.model.netaddr import FAMILIES, Family, Range, family_of, number
from nfagent.model.objects import Node, ObjectRef
from nfagent.state.cluster import ClusterDelta, ClusterState
from nfagent.state.egress import EgressState

_COMPARED = 500
"""Nodes that one step compares."""


class KnownRanges(Protocol):
    """The cluster's own addresses; single ones of Pods outside its ranges are found by the Pods."""

    @property
    def ranges(self) -> tuple[Range, ...]:
        """Return disjoint ranges, sorted."""
        ...


class GatewayProblem(msgspec.Struct, frozen=True, order=True):
    """Why a group's address is not used."""

    group: ObjectRef
    address: str
    reason: str


def chosen(addresses: Iterable[FloatingAddress], pod_address: str) -> FloatingAddress | None:
    """Return the floating address that a Pod's packets leave under: one of its family; None if there is none."""
    family = family_of(pod_address)
    found = {item.address: item for item in addresses if item.family == family}
    return found.get(winner(pod_address, found))


def may_hold(node: Node | None, group: NetworkGatewayGroup, family: Family) -> bool:
    """Return whether a Node may hold addresses of a group and a family; None is a Node that doesn't exist.

    It needs an address of the family itself: others reach it there, and the floating address goes beside it.
    """
    if node is None or not node.ready or not group.nodes.matches(dict(node.labels)):
        return False
    return any(family_of(address) == family for address in node.addresses)


class GatewayElection:
    """The floating addresses that policies may use, with the node that holds each.

    addresses: by address, as of the last complete `steps`, in order of groups
    problems:  why other addresses of the groups are not used, sorted
    version:   grows with every change of these
    left:      what Pods of this node may no longer reach by them
    """

    def __init__(self, cluster: ClusterState, egress: EgressState, known: KnownRanges) -> None:
        """Start without groups; `known` are the cluster's own addresses."""
        self._cluster = cluster
        self._egress = egress
        self._known = known
        self.addresses: Mapping[str, FloatingAddress] = {}
        self.problems: tuple[GatewayProblem, ...] = ()
        self.version = 0
        self.left = LeftGateways()
        self._groups: dict[ObjectRef, NetworkGatewayGroup] = {}
        # Address -> its group, and the Node that holds it.
        self._owners: dict[str, ObjectRef] = {}
        self._holders: dict[str, str] = {}
        self._numbers: dict[tuple[bool, str], int] = {}
        self._call = 0  # the last one of `steps`
        # Marks for `steps`.
        self._stale = False
        self._unchecked = False
        self._ranges: tuple[Range, ...] = ()  # the cluster's, as they were checked
        self._nodes: dict[str, None] = {}

    def follow(self, change: ClusterDelta) -> None:
        """Mark what a change of the cluster may move."""
        if not self._groups:
            return
        self._unchecked |= change.service_range or any(
            address in self._owners for pod in change.pod or () if pod is not None for address in pod.addresses
        )
        if change.node is None:
            return
        before, after = change.node_was, self._cluster.nodes.get(change.node)
        self._unchecked |= before is None or after is None or before.addresses != after.addresses
        if any(
            may_hold(before, group, family) != may_hold(after, group, family)
            for group in self._groups.values()
            for family in FAMILIES
        ):
            self._nodes[change.node] = None

    def invalidate(self) -> None:
        """Read the groups again at the next `steps`: an object that configures egress NAT changed."""
        self._stale = True

    def copy_numbers(self, other: GatewayElection) -> None:
        """Keep the numbers that another election gave, for the addresses that get one."""
        self._numbers = dict(other._numbers)

    def of_group(self, group: ObjectRef) -> tuple[FloatingAddress, ...]:
        """Return the usable addresses of a group."""
        return tuple(item for item in self.addresses.values() if item.group == group)

    def steps(self) -> Iterator[None]:
        """Process the marks in steps, after those of the cluster's own addresses.

        A call takes over what an earlier one, which hasn't ended, has left to do.
        """
        self._call += 1
        call = self._call
        for _ in self._process():
            yield
            if call != self._call:
                return

    def _process(self) -> Iterator[None]:
        """Process the marks; each is kept until what it stands for is done, but for the step that does it."""
        self._unchecked |= bool(self._groups) and self._ranges is not self._known.ranges
        while self._stale or self._nodes or len(self._holders) < len(self._owners):
            if self._stale:
                self._stale = False
                self._read_groups()
            for (ref, family), addresses in self._unelected().items():
                yield from self._elect(self._groups[ref], family, addresses)
            while self._nodes and not self._stale:
                self._compare(self._nodes.popitem()[0])
                yield
        if self._unchecked:
            self._unchecked = False
            self._publish()

    def _read_groups(self) -> None:
        """Read the groups that enforced policies name; the holders of groups that select other Nodes are unknown."""
        named = {policy.gateway for policy in self._egress.enforced if policy.gateway is not None}
        before, present = self._groups, self._egress.gateways
        self._groups = {ref: present[ref] for ref in sorted(named) if ref in present}
        owners: dict[str, ObjectRef] = {}
        for ref, group in self._groups.items():
            for address in group.addresses:
                owners.setdefault(address, ref)
        same = {ref for ref, group in self._groups.items() if ref in before and before[ref].nodes == group.nodes}
        self._holders = {
            address: holder
            for address, holder in self._holders.items()
            if owners.get(address) in same and owners[address] == self._owners[address]
        }
        self._owners = owners
        self._unchecked = True

    def _unelected(self) -> dict[tuple[ObjectRef, Family], list[str]]:
        """Return the addresses whose holder isn't known, by group and family."""
        found: dict[tuple[ObjectRef, Family], list[str]] = {}
        for address, ref in self._owners.items():
            if address not in self._holders:
                found.setdefault((ref, family_of(address)), []).append(address)
        return found

    def _elect(self, group: NetworkGatewayGroup, family: Family, addresses: list[str]) -> Iterator[None]:
        """Compare all Nodes, for addresses of one group and family.

        A Node that changes in the meantime is marked, and compared again.
        """
        eligible: list[str] = []
        for count, node in enumerate(list(self._cluster.nodes.values()), 1):
            if may_hold(node, group, family):
                eligible.append(node.name)
            if count % _COMPARED == 0:
                yield
                if self._stale:
                    return
        for address in addresses:
            best = (b"", "")
            for start in range(0, len(eligible), _COMPARED):
                best = max(best, *(weight(address, name) for name in eligible[start : start + _COMPARED]))
                yield
                if self._stale:
                    return
            self._holders[address], self._unchecked = best[1], True

    def _compare(self, name: str) -> None:
        """Compare one Node, which changed, with the holders; those of addresses that it loses are unknown then."""
        node = self._cluster.nodes.get(name)
        eligible = {
            (ref, family): may_hold(node, group, family) for ref, group in self._groups.items() for family in FAMILIES
        }
        for address, holder in list(self._holders.items()):
            if eligible[self._owners[address], family_of(address)]:
                if not holder or weight(address, name) > weight(address, holder):
                    self._holders[address], self._unchecked = name, True
            elif holder == name:
                del self._holders[address]

    def _publish(self) -> None:
        """Replace the public values, if they differ."""
        self._ranges, problems = self._known.ranges, list[GatewayProblem]()
        usable: dict[str, ObjectRef] = {}
        inside = self._inside()
        for ref, group in self._groups.items():
            for address in group.addresses:
                reason = self._refusal(address, ref, inside)
                if reason:
                    problems.append(GatewayProblem(ref, address, reason))
                else:
                    usable[address] = ref
        self._number(usable)
        found = {address: self._floating(address, ref) for address, ref in usable.items()}
        if found != self.addresses or tuple(problems) != self.problems:
            self.addresses, self.problems = found, tuple(problems)
            self.version += 1

    def _floating(self, address: str, group: ObjectRef) -> FloatingAddress:
        holder = self._holders[address]
        given = self._numbers.get((holder == self._cluster.node, address), 0)
        return FloatingAddress(address, family_of(address), group, holder, given)

    def _inside(self) -> dict[str, str]:
        """Return the addresses that are in the cluster's ranges, with the Node that has each; '' if none has."""
        ranges = {family: [item for item in self._known.ranges if item.family == family] for family in FAMILIES}
        found = {address: "" for address in self._owners if _contains(ranges[family_of(address)], address)}
        if found:
            nodes = self._cluster.nodes.values()
            found |= {address: node.name for node in nodes for address in node.addresses if address in found}
        return found

    def _refusal(self, address: str, group: ObjectRef, inside: Mapping[str, str]) -> str:
        """Return why a group's address is not used; '' if it is."""
        owner = self._owners[address]
        if owner != group:
            return f"{owner} has it too; write it in one group only"
        pod = self._cluster.holder(address)
        if pod is not None:
            return f"Pod {pod.ref.path} has it; write an address that nothing else has"
        if address not in inside:
            return ""
        what = f"Node {inside[address]} has it" if inside[address] else "it is in a range of Pods or Services"
        return f"{what}; write an address that nothing else has"

    def _number(self, usable: Mapping[str, ObjectRef]) -> None:
        """Give each address a number: the one that it has, or a free one, first the one of its hash."""
        here = self._cluster.node
        wanted = {(self._holders[address] == here, address) for address in usable if self._holders[address]}
        self._numbers = {key: value for key, value in self._numbers.items() if key in wanted}
        free = {held: set(range(1, MOST_NUMBERS + 1)) for held in (False, True)}
        for (held, _), value in self._numbers.items():
            free[held].discard(value)
        for held, address in sorted(wanted - self._numbers.keys()):
            if not free[held]:
                continue
            start = int.from_bytes(weight(address, "")[0])
            tried = ((start + step) % MOST_NUMBERS + 1 for step in range(MOST_NUMBERS))
            given = next(value for value in tried if value in free[held])
            self._numbers[held, address] = given
            free[held].remove(given)


def _contains(ranges: list[Range], address: str) -> bool:
    """Return whether any of disjoint, sorted ranges contains an address."""
    value = number(address)
    place = bisect_right(ranges, value, key=lambda item: item.first) - 1
    return place >= 0 and value <= ranges[place].last
