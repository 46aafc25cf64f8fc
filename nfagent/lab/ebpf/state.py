"""The entries that the eBPF program's maps need for the cluster's state, object by object. Pure.

The counterpart of `desired.state`, over the same cluster state, indexes and compiled rules: what differs is the result,
map entries instead of a ruleset. Identities are those of `state.cluster`; Pods whose named ports differ are told apart.
Local Pods that the same policies select share one policy number, as they share a chain in the ruleset.
"""

from __future__ import annotations

from collections.abc import Collection
from itertools import count

import msgspec

from nfagent.decode.retained_fields import with_last_good
from nfagent.egress.masquerade import MasqueradeSettings
from nfagent.lab.ebpf.blocks import BlockTable
from nfagent.lab.ebpf.codec import FIRST_IDENTITY, EndpointEntry, PolicyEntry
from nfagent.lab.ebpf.coverage import Coverage
from nfagent.lab.ebpf.identities import EbpfIdentities
from nfagent.lab.ebpf.masquerade import MasqueradePrefixes
from nfagent.lab.ebpf.policy_sets import EbpfPolicySets
from nfagent.lab.ebpf.prefixes import Prefix
from nfagent.model.admin_policy import POLICY_KINDS, TierPolicy
from nfagent.model.egress_nat import EgressNATPolicy, NetworkGatewayGroup
from nfagent.model.gvk import Item
from nfagent.model.ip_masq import IpMasqConfig
from nfagent.model.netaddr import Family
from nfagent.model.networkpolicy import NetworkPolicy
from nfagent.model.objects import Namespace, NetworkLogging, Node, ObjectRef, Pod, ServiceCIDR
from nfagent.model.services import Service
from nfagent.state.cluster import NO_CHANGE, ClusterDelta, ClusterState, Identity, PodKey
from nfagent.state.egress import EGRESS_KINDS, EgressState
from nfagent.state.policy_index import IndexDelta, PolicyIndex


class EbpfChange(msgspec.Struct):
    """Entries to write and to delete.

    endpoints:        by Pod of this node; None for one that is gone
    settings_changed: whether what is reported changed
    revokes:          whether it may end connections: each is decided again at its next packet
    """

    policy_puts: list[PolicyEntry] = msgspec.field(default_factory=list)
    policy_deletes: list[PolicyEntry] = msgspec.field(default_factory=list)
    identity_puts: dict[str, int] = msgspec.field(default_factory=dict)
    identity_deletes: set[str] = msgspec.field(default_factory=set)
    block_puts: dict[Prefix, int] = msgspec.field(default_factory=dict)
    block_deletes: set[Prefix] = msgspec.field(default_factory=set)
    unmasqueraded_puts: set[Prefix] = msgspec.field(default_factory=set)
    unmasqueraded_deletes: set[Prefix] = msgspec.field(default_factory=set)
    endpoints: dict[PodKey, EndpointEntry | None] = msgspec.field(default_factory=dict)
    settings_changed: bool = False
    revokes: bool = False

    @property
    def is_empty(self) -> bool:
        """Return whether there is nothing to write."""
        return self == EbpfChange()


class EbpfState:
    """The state of the cluster, and the map entries that this node needs for it. Satisfies `EventTarget`.

    coverage: what the eBPF path doesn't cover
    """

    def __init__(self, node: str, masquerade: MasqueradeSettings | None = None) -> None:
        """Start empty, seen from a node."""
        self.cluster = ClusterState(node)
        self.index = PolicyIndex(self.cluster)
        settings = masquerade or MasqueradeSettings()
        self.egress = EgressState(settings.ip_masq)
        self.coverage = Coverage(self.index, self.egress)
        self._logging: NetworkLogging | None = None
        self._masquerade = MasqueradePrefixes(self.cluster, self.egress, settings)
        numbers = count(FIRST_IDENTITY)
        self._identities = EbpfIdentities(self.cluster, numbers)
        self._blocks = BlockTable(numbers)
        self._policy_sets = EbpfPolicySets(self.cluster, self.index, self._identities, self._blocks, self.coverage)
        self._moved: set[Identity] = set()
        self._settings_changed = True

    def put(self, item: Item) -> bool:
        """Add or replace an object. Return whether any entry may differ."""
        match item:
            case NetworkPolicy() | TierPolicy():
                self.coverage.note_policy(item)
                return self._apply_delta(self.index.put(item))
            case IpMasqConfig() | EgressNATPolicy() | NetworkGatewayGroup():
                self._masquerade.invalidate()
                return self.egress.put(item)
            case NetworkLogging():
                return self._set_logging(with_last_good(item, self._logging))
            case Service():
                self.cluster.put(item)
                self._identities.mark_services()
                return True
            case Namespace() | Node() | Pod() | ServiceCIDR():
                return self._apply_cluster(self.cluster.put(item))

    def remove(self, ref: ObjectRef) -> bool:
        """Remove an object. Return whether any entry may differ."""
        if ref.kind in POLICY_KINDS:
            self.coverage.forget_policy(ref)
            return self._apply_delta(self.index.remove(ref))
        if ref.kind in EGRESS_KINDS:
            self._masquerade.invalidate()
            return self.egress.remove(ref)
        if ref.kind == "NetworkLogging":
            return self._logging is not None and ref == self._logging.ref and self._set_logging(None)
        if ref.kind == "Service":
            self._identities.mark_services()
        return self._apply_cluster(self.cluster.remove(ref)) or ref.kind == "Service"

    def keys(self, kind: str) -> Collection[PodKey]:
        """Return namespace ('' for cluster-scoped kinds) and name of every object of a kind."""
        if kind in POLICY_KINDS:
            return self.index.keys(kind)
        if kind in EGRESS_KINDS:
            return self.egress.keys(kind)
        if kind == "NetworkLogging":
            return () if self._logging is None else {("", self._logging.ref.name)}
        return self.cluster.keys(kind)

    @property
    def logging(self) -> NetworkLogging:
        """The log settings; nothing is reported without a NetworkLogging object."""
        return self._logging or NetworkLogging()

    @property
    def masquerade_families(self) -> tuple[Family, ...]:
        """The families that are masqueraded."""
        return self._masquerade.families

    def drain(self) -> EbpfChange:
        """Return the entries that changed since the last call."""
        change = EbpfChange(settings_changed=self._settings_changed)
        self._settings_changed = False
        found = self._identities.assign()
        change.identity_puts, change.identity_deletes = found.puts, found.deletes
        self._policy_sets.assign(change.endpoints)
        change.block_puts, change.block_deletes = self._blocks.drain()
        keys_of = self._identities.keys_of
        moved = found.new.union(*(keys_of.get(identity, ()) for identity in self._moved))
        self._moved.clear()
        change.policy_puts, change.policy_deletes = self._policy_sets.write(moved, found.gone)
        self._identities.forget(found.gone)
        change.unmasqueraded_puts, change.unmasqueraded_deletes = self._masquerade.drain()
        change.revokes = found.replaced or bool(
            change.policy_deletes or change.identity_deletes or change.block_deletes or change.endpoints
        )
        return change

    def _apply_delta(self, delta: IndexDelta | None) -> bool:
        if delta is None:
            return False
        self._moved.update(identity for _peer, identity, _joined in delta.moved)
        self._policy_sets.mark_policies(delta.rewritten)
        self._policy_sets.mark_identities(delta.reselected)
        return True

    def _apply_cluster(self, change: ClusterDelta) -> bool:
        if change == NO_CHANGE:
            return False
        delta = self.index.follow(change)
        for pod in change.pod or ():
            if pod is not None:
                self._identities.mark(pod.addresses if pod.holds_addresses else ())
                self._policy_sets.mark_pod((pod.namespace, pod.name))
        if change.node == self.cluster.node:
            for node in (change.node_was, self.cluster.nodes.get(self.cluster.node)):
                self._identities.mark(node.addresses if node is not None else ())
        if change.service_range:
            self._identities.mark_services()
        self._masquerade.follow(change)
        return self._apply_delta(delta)

    def _set_logging(self, logging: NetworkLogging | None) -> bool:
        changed = self._logging != logging
        self._logging = logging
        self.coverage.note_logging(logging)
        self._settings_changed |= changed
        return changed
