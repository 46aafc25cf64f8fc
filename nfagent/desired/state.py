"""The desired ruleset of this node, updated object by object.

Objects are put or removed one by one; the changes are returned as a transaction, or the whole as a ruleset. The cost
of an object is that of its delta: the indexes, policy sets and elements that depend on it. The module depends neither
on the source of the objects nor on the commit. `rebuilt` computes the same from the objects alone: the full compile
that tests compare every history with.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from nfagent.decode.retained_fields import with_last_good
from nfagent.desired.egress_nat_ties import Tie
from nfagent.desired.masquerade_rules import MasqueradeRules
from nfagent.desired.node_interfaces import InterfaceSets, NodeInterfaces
from nfagent.desired.policy_sets import PolicySets
from nfagent.desired.recheck import RecheckSets
from nfagent.desired.set_members import SetMembership
from nfagent.desired.shared_steps import SharedSteps
from nfagent.desired.tracker import RulesetTracker
from nfagent.desired.unknown_pods import UnknownPods
from nfagent.desired.verdict_lookup import VerdictLookup
from nfagent.egress.gateway_election import GatewayElection
from nfagent.egress.gateways import GatewayPlan
from nfagent.egress.masquerade import MasqueradeSettings
from nfagent.egress.translation import Translation
from nfagent.model.admin_policy import POLICY_KINDS, TierPolicy
from nfagent.model.egress_nat import EgressNATPolicy, NetworkGatewayGroup
from nfagent.model.gvk import EgressObject, Item
from nfagent.model.ip_masq import IpMasqConfig
from nfagent.model.netaddr import Family, Range
from nfagent.model.networkpolicy import NetworkPolicy
from nfagent.model.objects import Namespace, NetworkLogging, Node, ObjectRef, Pod, ServiceCIDR
from nfagent.model.services import Service
from nfagent.nftables.base_chains import BASE_COUNTERS, base_chains, verdict_maps
from nfagent.nftables.diff import diff
from nfagent.nftables.foreign_nat import is_address_set
from nfagent.nftables.interface_chains import frames_chain
from nfagent.nftables.masquerade_chains import MASQUERADE_CHAIN
from nfagent.nftables.objects import FLOW_SET_SIZE, Ruleset
from nfagent.nftables.transaction import Transaction
from nfagent.nftables.verdict_keys import VerdictKey
from nfagent.policy.compiler import PolicySetKey
from nfagent.policy.evaluator import Flow, evaluate
from nfagent.policy.options import PolicyOptions
from nfagent.state.cluster import NO_CHANGE, ClusterDelta, ClusterState, PodKey
from nfagent.state.egress import EGRESS_KINDS, EgressState
from nfagent.state.policy_index import IndexDelta, PolicyIndex


class DesiredState:
    """The state of the cluster, and the ruleset that this node needs for it.

    generation:    grows with every object that changed anything
    egress:        the objects that configure masquerade
    local_changes: grows with every change of this node's Pods and of its Node
    node_changes:  grows with every change of a Node
    verdicts:      what NFLOG prefixes stand for
    """

    def __init__(
        self,
        node: str,
        masquerade: MasqueradeSettings | None = None,
        log_group: int = 100,
        policy_options: PolicyOptions | None = None,
        reply_tuples: int = FLOW_SET_SIZE,
    ) -> None:
        """Start empty, seen from a node.

        reply_tuples: how many reply tuples of ended connections the sets of each family can hold
        """
        self.policy_options = policy_options or PolicyOptions()
        self.cluster = ClusterState(node)
        self.index = PolicyIndex(self.cluster)
        self._logging: NetworkLogging | None = None
        self.generation = self.local_changes = self.node_changes = 0
        self._whole: tuple[int, Ruleset] | None = None
        self._masquerade_settings = masquerade or MasqueradeSettings()
        self.egress = EgressState(self._masquerade_settings.ip_masq)
        self._log_group = log_group
        self._live = RulesetTracker()
        self._members = SetMembership(self.cluster, self.index, self._live)
        self._policy_sets = PolicySets(
            self.cluster, self.index, self._live, self._members, log_group=log_group, policy_options=self.policy_options
        )
        for counter in BASE_COUNTERS:
            self._live.put_counter(counter)
        for name, chain in base_chains(self.policy_options):
            self._live.put_chain(name, chain)
        self._live.maps.update(verdict_maps())
        self._links = InterfaceSets(self._live, self.cluster, frames_chain())
        self._reply_tuples = reply_tuples
        self._recheck = RecheckSets(self._live, self._members, reply_tuples)
        self._unknown_pods = UnknownPods(self._live, self.cluster, self._recheck, self.policy_options)
        self._masquerade = MasqueradeRules(self._live, self.cluster, self.egress, self._masquerade_settings)
        self._steps = SharedSteps(self._update)
        self.verdicts = VerdictLookup(self._policy_sets, self._steps)

    def put(self, item: Item) -> bool:
        """Add or replace an object. Return whether anything changed."""
        match item:
            case NetworkPolicy() | TierPolicy():
                delta = self.index.put(item.with_last_good(self.index.policies.get(item.ref)))
                return delta is not None and self._apply_delta(delta)
            case IpMasqConfig() | EgressNATPolicy() | NetworkGatewayGroup():
                return self._apply_egress(item)
            case NetworkLogging():
                return self._set_logging(with_last_good(item, self._logging))
            case Namespace() | Node() | Pod() | Service() | ServiceCIDR():
                return self._apply_cluster(self.cluster.put(item))

    def put_ip_masq_file(self, path: str, config: IpMasqConfig | None) -> bool:
        """Apply the ip-masq-agent file; None if there is none. Return whether anything changed."""
        changed = self.egress.put_file(path, config)
        if changed:
            self._masquerade.invalidate()
            self.generation += 1
        return changed

    def remove(self, ref: ObjectRef) -> bool:
        """Remove an object. Return whether anything changed."""
        if ref.kind in POLICY_KINDS:
            delta = self.index.remove(ref)
            return delta is not None and self._apply_delta(delta)
        if ref.kind in EGRESS_KINDS:
            return self._apply_egress(ref)
        if ref.kind == "NetworkLogging":
            # Only `default` is used: an object of another name was never kept.
            return self._logging is not None and ref == self._logging.ref and self._set_logging(None)
        return self._apply_cluster(self.cluster.remove(ref))

    def keys(self, kind: str) -> Collection[PodKey]:
        """Return namespace ('' for cluster-scoped kinds) and name of every object of a kind.

        A live view for Pods and NetworkPolicies, which may be many: it changes with the next `put` or `remove`.
        """
        if kind in POLICY_KINDS:
            return self.index.keys(kind)
        if kind in EGRESS_KINDS:
            return self.egress.keys(kind)
        if kind == "NetworkLogging":
            return () if self._logging is None else {("", self._logging.ref.name)}
        return self.cluster.keys(kind)

    def find(self, ref: ObjectRef) -> Item | None:
        """Return the object of that name as it is enforced; None if there is none."""
        if ref.kind in POLICY_KINDS:
            return self.index.policies.get(ref)
        if ref.kind in EGRESS_KINDS:
            return self.egress.objects.get(ref)
        return self._logging if ref.kind == "NetworkLogging" else self.cluster.find(ref)

    def follow_links(self, links: NodeInterfaces, *, held: bool = False) -> bool:
        """Apply the present interfaces of this node. Return whether anything changed.

        held: read from the kernel's table, whose rules already enforce it: no connection is re-checked
        """
        if links == self._links.links:
            return False
        if self._links.follow_links(links) and not held:
            self._recheck.add(self._local_addresses())
        self.generation += 1
        return True

    @property
    def links(self) -> NodeInterfaces:
        """The interfaces of this node, as last applied."""
        return self._links.links

    def prepare(self) -> Iterator[None]:
        """Update the ruleset for the objects since the last `drain_changes`, in steps; `drain_changes` does the rest.

        Objects may be put between two steps, and are processed too. Each step is short, so that a caller on an event
        loop can yield in between; one that stops leaves the rest to the next caller.
        """
        return self._steps.take()

    def drain_changes(self) -> Transaction:
        """Return the changes since the last `drain_changes` or `mark_synced`: the transaction to commit."""
        self._steps.finish()
        before, after = self._live.changes()
        if self._recheck.note_changes(before, after):
            self._whole = None
            before, after = self._live.changes()
        self._live.mark_synced()
        return diff(before, after)

    def mark_synced(self) -> None:
        """Discard pending changes: the caller compares the kernel's whole table with the ruleset."""
        self._steps.finish()
        self._live.mark_synced()

    def recheck_all(self) -> Transaction:
        """Re-check every connection that policies apply to: the previous contents of the table are unknown.

        Return the commands for it, to be committed with the transaction that repairs the table.
        """
        self._steps.finish()
        self._whole = None
        return self._recheck.add_all(self._local_addresses() if self._links.has_tunnels else ())

    @property
    def recheck_addresses(self) -> dict[str, int]:
        """The addresses to re-check, each with the number of the last change that added it."""
        return dict(self._recheck.addresses)

    def clear_recheck(self, judged: Mapping[str, int]) -> None:
        """Clear addresses whose connections were re-checked, and the denied ones deleted.

        judged: as `recheck_addresses` returned them
        """
        self._whole = None
        self._recheck.clear(judged)

    def barred(self, flow: Flow) -> str:
        """Return why rules drop a flow independent of policies; '' if the policies decide."""
        if self._links.drops_outgoing(flow) or self._links.drops_incoming(flow):
            return "it goes to a Node's tunnel port, which accepts packets from Nodes only"
        return ""

    def is_allowed(self, flow: Flow) -> bool:
        """Return whether the policies of this node's Pods allow a flow; other nodes enforce the policies of theirs."""
        ends = (self.cluster.holders(flow.source), self.cluster.holders(flow.destination))
        verdict = evaluate(self.cluster, self.index.policies_for(*ends[0], *ends[1]), flow, self.policy_options)
        sides = zip(ends, (verdict.egress, verdict.ingress), strict=True)
        if verdict.barred or self._links.drops_outgoing(flow):
            return False
        local = (side for pods, side in sides if pods and pods[0].node == self.cluster.node)
        return all(side is None or side.allowed for side in local)

    def ruleset(self) -> Ruleset:
        """Return the whole desired ruleset; the same value until something changes."""
        self._steps.finish()
        if self._whole is None or self._whole[0] != self.generation:
            self._whole = (self.generation, self._live.ruleset())
        return self._whole[1]

    def rebuilt(self) -> DesiredState:
        """Compute the same state from the objects alone."""
        fresh = DesiredState(
            self.cluster.node, self._masquerade_settings, self._log_group, self.policy_options, self._reply_tuples
        )
        items: list[Item] = [*self.cluster.nodes.values(), *self.cluster.namespaces.values()]
        items += [*self.cluster.pods.values(), *self.cluster.services.values()]
        items += [*self.cluster.service_ranges.values(), *self.index.policies.values(), *self.egress.objects.values()]
        if self._logging is not None:
            items.append(self._logging)
        for item in items:
            fresh.put(item)
        fresh.egress.copy_file(self.egress)
        fresh.gateways.copy_numbers(self.gateways)
        fresh.follow_links(self.links, held=True)
        return fresh

    def sizes(self) -> dict[str, int]:
        """Return the number of objects of the ruleset by type, without pending changes."""
        return self._live.sizes()

    @property
    def logging(self) -> NetworkLogging:
        """The log settings; nothing is logged without a NetworkLogging object."""
        return self._logging or NetworkLogging()

    @property
    def logging_object(self) -> NetworkLogging | None:
        """The NetworkLogging object; None if there is none."""
        return self._logging

    @property
    def dirty(self) -> bool:
        """Return whether there are changes to drain."""
        self._steps.finish()
        return self._live.dirty

    @property
    def masquerade_families(self) -> tuple[Family, ...]:
        """The families that this node masquerades; none where masquerade is off."""
        return self._masquerade.families

    def translation(self, pod: Pod | None, destination: str) -> Translation:
        """Return how packets of a Pod to an address leave, as of the last `prepare`; None is a Pod that isn't known."""
        return self._masquerade.translation(pod, destination)

    @property
    def masquerade_settings(self) -> MasqueradeSettings:
        """The masquerade settings of the node."""
        return self._masquerade_settings

    @property
    def cluster_ranges(self) -> tuple[Range, ...]:
        """The ranges of Nodes, of Services and of the settings, disjoint and sorted; none where masquerade is off."""
        self._steps.finish()
        return self._masquerade.cluster_ranges

    @property
    def node_addresses(self) -> tuple[str, ...]:
        """The addresses of this node's Node object; none without one."""
        node = self.cluster.nodes.get(self.cluster.node)
        return node.addresses if node is not None else ()

    def policy_sets_of(self, address: str) -> tuple[PolicySetKey, ...]:
        """Return the policy sets that apply to a local Pod's address: at most one for each direction and Pod."""
        self._steps.finish()
        return self._policy_sets.keys_of(address)

    def known_policy_sets_of(self, address: str) -> tuple[PolicySetKey, ...] | None:
        """Return what `policy_sets_of` does, without processing pending changes first: None while there are any."""
        return self._policy_sets.keys_of(address) if self._policy_sets.is_current else None

    @property
    def masquerade_exempt(self) -> tuple[Range, ...]:
        """The destinations outside the cluster that are not masqueraded."""
        return self._masquerade.exempt

    def masquerade_ruleset(self) -> Ruleset:
        """Return the part of the ruleset that decides which addresses of Pods are kept, without pending changes."""
        return self._live.part((MASQUERADE_CHAIN,), filter(is_address_set, self._live.sets))

    @property
    def gateways(self) -> GatewayElection:
        """The floating addresses and their holders, as of the last `prepare`."""
        return self._masquerade.gateways

    @property
    def gateway_plan(self) -> GatewayPlan:
        """What this node does for floating addresses, as of the last `prepare`."""
        return self._masquerade.gateway_plan

    @property
    def egress_ties(self) -> tuple[Tie, ...]:
        """The EgressNATPolicies that disagree about a destination, as of the last `prepare`."""
        return self._masquerade.ties

    def verdict_key(self, prefix: str) -> VerdictKey | None:
        """Return the verdict that an NFLOG prefix stands for, also for some time after its rule was removed."""
        return self.verdicts.key(prefix)

    def _local_addresses(self) -> set[str]:
        return {address for pod in self.cluster.local.values() if pod.holds_addresses for address in pod.addresses}

    def _update(self) -> Iterator[None]:
        yield from self._policy_sets.steps()
        self._members.refill_detached()
        yield from self._links.steps()
        yield from self._unknown_pods.steps()
        yield from self._masquerade.steps()

    def _apply_delta(self, delta: IndexDelta) -> bool:
        for peer, identity, joined in delta.moved:
            self._members.move_identity(peer, identity, joined=joined)
        self._members.detach(delta.forgotten)
        self._policy_sets.mark_policies(delta.rewritten)
        self._policy_sets.mark_identities(delta.reselected)
        self.generation += 1
        return True

    def _apply_cluster(self, change: ClusterDelta) -> bool:
        if change == NO_CHANGE:
            return False
        before, after = change.pod if change.pod is not None else (None, None)
        here = self.cluster.node
        self.node_changes += change.node is not None
        self.local_changes += change.node == here or any(
            pod is not None and pod.node == here for pod in (before, after)
        )
        if before is not None:
            self._members.remove_pod(before)
        if change.node is not None:
            self._members.follow_node(change.node_was, self.cluster.nodes.get(change.node))
            self._links.follow_node(change.node_was, self.cluster.nodes.get(change.node))
        delta = self.index.follow(change)
        if after is not None:
            self._members.add_pod(after)
        for pod in (before, after):
            if pod is not None:
                self._policy_sets.mark_pod((pod.namespace, pod.name))
        if change.namespace is not None:
            self._members.refill_ports((peer for peer, _, _ in delta.moved), local=bool(delta.reselected))
        self._unknown_pods.follow(change)
        self._masquerade.follow(change)
        return self._apply_delta(delta)

    def _apply_egress(self, event: EgressObject | ObjectRef) -> bool:
        changed = self.egress.remove(event) if isinstance(event, ObjectRef) else self.egress.put(event)
        if changed:
            self._masquerade.invalidate()
            self._links.follow_gateways(in_use=self._masquerade.has_gateways)
            self.generation += 1
        return changed

    def _set_logging(self, logging: NetworkLogging | None) -> bool:
        changed = self._logging != logging
        if changed:
            before, self._logging = self.logging, logging
            self._policy_sets.verdict_chains.switch_logging(before, self.logging)
            self.generation += 1
        return changed
