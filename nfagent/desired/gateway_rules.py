"""The Pods of the cluster that leave under floating addresses, and the chains that mark their packets.

Pods that the same policies select, and that use the same floating addresses, share a chain; a verdict map sends a Pod's
address there. A Pod's address is assigned as Pods, labels and Namespaces change, and all of them after a change of an
object that configures egress NAT or of the addresses that groups may use: in steps. Nothing is written, and nothing of
it costs anything, while no policy names a gateway.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import msgspec

from nfagent.desired.egress_nat_selections import EgressNATSelections, Selection
from nfagent.desired.tracker import RulesetTracker
from nfagent.egress.gateway_election import GatewayElection, chosen
from nfagent.egress.gateways import GatewayPlan, GatewayRoute
from nfagent.egress.masquerade import MasqueradeSettings
from nfagent.egress.precedence import gateway_ranges
from nfagent.model.netaddr import Family, Range, family_of
from nfagent.model.objects import Node, ObjectRef, Pod
from nfagent.model.ref_counts import RefCounts
from nfagent.nftables import names
from nfagent.nftables.gateway_chains import (
    GATEWAY_COUNTERS,
    GatewayDestinations,
    gateway_chains,
    gateway_policies_chain,
    gateway_set,
    gateway_sets,
)
from nfagent.nftables.objects import NamedSet
from nfagent.state.cluster import ClusterDelta, ClusterState
from nfagent.state.egress import EgressState

_MATCHES = 1_000
"""Sources that one step matches with Pods."""
_ASSIGNED = 10
"""What an address costs beside them, in sources."""
_WEIGHED = 4
"""Floating addresses that cost as much as a source."""


class _Use(msgspec.Struct, frozen=True):
    """What Pods of a chain have in common; `addresses` are those of the groups in order, '' where one has none."""

    family: Family
    policies: Selection
    groups: tuple[ObjectRef, ...]
    addresses: tuple[str, ...]

    @property
    def chain(self) -> str:
        return names.gateway_policies_chain(self.policies, self.addresses, self.family)


class GatewayRules:
    """The chains, sets and maps of floating addresses."""

    def __init__(  # noqa: PLR0917 - what decides
        self,
        live: RulesetTracker,
        cluster: ClusterState,
        egress: EgressState,
        settings: MasqueradeSettings,
        selections: EgressNATSelections,
        election: GatewayElection,
    ) -> None:
        """Start without chains."""
        self._live = live
        self._cluster = cluster
        self._egress = egress
        self._settings = settings
        self._selections = selections
        self._election = election
        self.plan = GatewayPlan()
        self.active = False
        self._ranges: dict[Selection, Mapping[ObjectRef, tuple[Range, ...]]] = {}
        self._usable: dict[ObjectRef, tuple[str, ...]] = {}
        self._of_address: dict[str, _Use] = {}
        self._users: RefCounts[_Use] = RefCounts()
        self._set_users: RefCounts[str] = RefCounts()
        self._written: dict[_Use, tuple[str, ...]] = {}
        self._present = False  # something of it may be in the ruleset
        self._fixed: tuple[set[str], set[str]] = (set(), set())
        self._reselected = 0
        # Marks for `steps`; `_relabelled` are addresses of this node's Pods that may have live connections.
        self._relabelled: set[str] = set()
        self._addresses: dict[str, None] = {}
        self._unused: dict[_Use, None] = {}
        self._unwritten: dict[_Use, None] = {}
        self._stale = False
        self._unfixed = False
        self._version = 0
        self._outside: tuple[Family, ...] = ()

    def follow(self, change: ClusterDelta) -> None:
        """Mark the Pods that a change of the cluster may move to other chains; selections follow it first."""
        if not self.active:
            return
        before, after = change.pod or (None, None)
        for pod in (before, after):
            if pod is not None:
                self._mark(pod, lives=before is not None and after is not None)
        if change.namespace is not None:
            for identity in self._cluster.by_namespace.get(change.namespace, ()):
                for pod in self._cluster.members[identity].values():
                    self._mark(pod, lives=True)
        if change.node is not None and self._routes_to(change.node, change.node_was):
            self._version = -1  # a route may lead to another address of the Node

    def _routes_to(self, name: str, before: Node | None) -> bool:
        """Return whether routes lead to a Node whose addresses changed."""
        now = self._cluster.nodes.get(name)
        same = now is not None and before is not None and now.addresses == before.addresses
        return not same and any(route.holder == name for route in self.plan.routes)

    def invalidate(self, *, reselected: bool) -> None:
        """Mark all chains, and all Pods if selections may differ: an object that configures egress NAT changed."""
        self._stale = True
        was, self.active = (
            self.active,
            self._settings.families != () and any(policy.gateway is not None for policy in self._egress.enforced),
        )
        if reselected or was != self.active:
            self._addresses.update(dict.fromkeys(self._cluster.by_address if self.active else self._of_address))

    def _mark(self, pod: Pod, *, lives: bool) -> None:
        if pod.holds_addresses:
            self._addresses.update(dict.fromkeys(pod.addresses))
            if lives and pod.node == self._cluster.node:
                self._relabelled.update(pod.addresses)

    def steps(self, outside: tuple[Family, ...]) -> Iterator[None]:
        """Process the marks in steps, after the election's; `outside` are families with Pods outside all ranges."""
        if not self.active and not self._present:
            self._addresses.clear()
            return
        self._present = True
        if self.active:
            self._open_maps()
        if self._stale or self._version != self._election.version:
            self._mark_affected()
        cost = _ASSIGNED + len(self._election.addresses) // _WEIGHED
        while self._addresses or self._unused or self._unwritten:
            until = self._selections.matched + _MATCHES
            while self._addresses and self._selections.matched < until:
                self._assign(self._addresses.popitem()[0])
                until -= cost
            # What another use may write again under the same name is removed first.
            if not self._addresses and self._unused:
                self._remove(self._unused.popitem()[0])
            elif not self._addresses and self._unwritten:
                self._write(self._unwritten.popitem()[0])
            yield
        if self._unfixed or self._outside != outside:
            self._write_fixed(outside)
            self._outside, self._unfixed = outside, False
            self._present = self.active
        self._relabelled.clear()
        if self.plan.held and self.plan.reselected != self._reselected:
            self.plan = msgspec.structs.replace(self.plan, reselected=self._reselected)

    def _open_maps(self) -> None:
        for family in self._settings.families:
            if names.gateway_map(family) not in self._live.maps:
                self._live.add_map(names.gateway_map(family), family)

    def _mark_affected(self) -> None:
        """Mark all Pods if any may use another group or address, and all chains if destinations may differ."""
        stale, self._stale, self._unfixed = self._stale, False, True
        self._version = self._election.version
        usable: dict[ObjectRef, tuple[str, ...]] = {}
        for item in self._election.addresses.values():
            usable[item.group] = (*usable.get(item.group, ()), item.address)
        moved, self._usable = usable != self._usable, usable
        if stale:
            self._note_left(address for pod in self._cluster.local.values() for address in pod.addresses)
            before, self._ranges = self._ranges, {}
            moved |= any(_groups(found) != _groups(self._ranges_of(policies)) for policies, found in before.items())
            self._unwritten.update(dict.fromkeys(self._users))
            self._reselected += 1
        if moved and self.active:
            self._addresses.update(dict.fromkeys(self._cluster.by_address))

    def _note_left(self, addresses: Iterable[str]) -> None:
        """Note what Pods of this node reach by gateways, before that changes."""
        for address in addresses:
            use = self._of_address.get(address)
            for ranges in self._ranges.get(use.policies, {}).values() if use is not None else ():
                self._election.left.add(address, ranges)

    def _assign(self, address: str) -> None:
        """Map an address to the chain of its Pod's gateways."""
        pod = self._cluster.holder(address) if self.active else None
        family = family_of(address)
        wanted = self._use(pod, address, family) if pod is not None and family in self._settings.families else None
        before = self._of_address.get(address)
        if wanted == before:
            return
        if address in self._relabelled:
            self._note_left((address,))
        self._of_address.pop(address, None)
        if wanted is not None:
            self._of_address[address] = wanted
        if before is not None and self._users.release(before):
            self._unused[before] = None
        if wanted is not None and address in self._relabelled:
            self._reselected += 1
        if wanted is not None and self._users.acquire(wanted):
            self._unwritten[wanted] = None
        self._live.map_to(names.gateway_map(family), address, wanted.chain if wanted is not None else None)

    def _use(self, pod: Pod, address: str, family: Family) -> _Use | None:
        policies = self._selections.of(pod)
        ranges = self._ranges_of(policies)
        groups = tuple(group for group, families in _groups(ranges) if family in families)
        if not groups:
            return None
        found = (chosen(self._election.of_group(group), address) for group in groups)
        return _Use(family, policies, groups, tuple(item.address if item is not None else "" for item in found))

    def _ranges_of(self, policies: Selection) -> Mapping[ObjectRef, tuple[Range, ...]]:
        """Return the destinations that see a group's addresses, for Pods that these policies with sources select."""
        found = self._ranges.get(policies)
        if found is None:
            applied = [item for item in self._egress.enforced if not item.sources or item.name in policies]
            found = self._ranges[policies] = gateway_ranges(applied)
        return found

    def _write(self, use: _Use) -> None:
        """Write the chain and the sets of a use that has Pods."""
        if use not in self._users:
            return
        before = self._written.pop(use, ())
        ranges, used = self._ranges_of(use.policies), []
        for group, address in zip(use.groups, use.addresses, strict=True):
            name = names.gateway_set(use.policies, group, use.family)
            self._put_set(name, gateway_set(use.policies, group, use.family, ranges.get(group, ())))
            self._set_users.acquire(name)
            used.append(GatewayDestinations(name, use.family, address))
        self._written[use] = tuple(item.set for item in used)
        self._live.put_chain(use.chain, gateway_policies_chain(used))
        self._release_sets(before)

    def _remove(self, use: _Use) -> None:
        """Remove the chain and the sets of a use, unless it has Pods again."""
        if use not in self._users and use in self._written:
            self._live.drop_chain(use.chain)
            self._release_sets(self._written.pop(use))

    def _release_sets(self, sets: tuple[str, ...]) -> None:
        for name in sets:
            if self._set_users.release(name):
                self._live.drop_set(name)

    def _put_set(self, name: str, shape: NamedSet) -> None:
        if name in self._live.sets:
            self._live.recount(name, shape.elements)
        else:
            self._live.add_set(name, shape)

    def _write_fixed(self, outside: tuple[Family, ...]) -> None:
        """Write what doesn't depend on Pods: base chains, chains of addresses, counters, and the plan; or remove it."""
        addresses = self._election.addresses.values() if self.active else ()
        node, families = self._cluster.node, self._settings.families if self.active else ()
        chains = dict(gateway_chains(addresses, node, self._settings.gateway_mark, families, outside))
        sets = dict(gateway_sets(addresses, families))
        if not self.active:
            chains, sets = {}, {}
        for name, shape in sets.items():
            self._put_set(name, shape)
        for name, chain in chains.items():
            self._live.put_chain(name, chain)
        for name in self._fixed[0] - chains.keys():
            self._live.drop_chain(name)
        for name in self._fixed[1] - sets.keys():
            self._live.drop_set(name)
        self._fixed = set(chains), set(sets)
        for family in self._settings.families:
            if not self.active and names.gateway_map(family) in self._live.maps:
                self._live.drop_map(names.gateway_map(family))
        for counter in GATEWAY_COUNTERS:
            (self._live.put_counter if self.active else self._live.drop_counter)(counter)
        self.plan = self._made_plan()

    def _made_plan(self) -> GatewayPlan:
        node, nodes = self._cluster.node, self._cluster.nodes
        families = self._settings.families if self.active else ()
        addresses = self._election.addresses.values()
        used = [item for item in addresses if item.family in families and item.holder and item.number]
        routes = []
        for item in sorted(used, key=lambda item: item.number):
            if item.holder != node:
                # A Node that went between two steps: its packets are dropped until the next election.
                known = nodes[item.holder].addresses if item.holder in nodes else ()
                via = tuple(address for address in known if family_of(address) == item.family)
                routes.append(GatewayRoute(item.number, item.family, item.address, item.holder, via))
        return GatewayPlan(tuple(item.address for item in used if item.holder == node), tuple(routes))


def _groups(ranges: Mapping[ObjectRef, tuple[Range, ...]]) -> list[tuple[ObjectRef, set[Family]]]:
    """Return the groups, each with the families of its destinations."""
    return [(group, {item.family for item in found}) for group, found in ranges.items()]
