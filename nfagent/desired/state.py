"""What this node's kernel must hold, kept up to date by the object.

Objects go in, one after the other; what they change comes out as a transaction, or the whole as a ruleset.
The cost of an object is that of its delta: the indexes, classes and elements that it touches. Nothing here
knows where objects come from, or what becomes of the transactions. `rebuilt` makes the same anew from the
objects alone: the full compile that the tests hold every history against.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from nfagent.decode.retained_fields import with_last_good
from nfagent.desired.masquerade_rules import MasqueradeRules
from nfagent.desired.node_interfaces import InterfaceSets, NodeInterfaces
from nfagent.desired.policy_sets import PolicySets
from nfagent.desired.recheck import RecheckSets
from nfagent.desired.set_members import SetMembership
from nfagent.desired.tracker import RulesetTracker
from nfagent.egress.masquerade import MasqueradeSettings
from nfagent.model.admin_policy import SHORT_KINDS, TierPolicy
from nfagent.model.egress_nat import EgressNATPolicy, NetworkGatewayGroup
from nfagent.model.gvk import EgressObject, Item
from nfagent.model.ip_masq import IpMasqConfig
from nfagent.model.netaddr import Family, Range
from nfagent.model.networkpolicy import NetworkPolicy
from nfagent.model.objects import Namespace, NetworkLogging, Node, ObjectRef, Pod, ServiceCIDR
from nfagent.model.services import Service
from nfagent.nftables.base_chains import BASE_COUNTERS, base_chains, verdict_maps
from nfagent.nftables.interface_chains import frames_chain
from nfagent.nftables.objects import FLOW_SET_SIZE, Ruleset
from nfagent.nftables.policy_chains import LogConfig
from nfagent.nftables.transaction import Transaction
from nfagent.nftables.verdict_keys import VerdictKey
from nfagent.policy.compiler import PolicySetKey
from nfagent.policy.evaluator import Flow, evaluate
from nfagent.policy.options import PolicyOptions
from nfagent.state.cluster import NO_CHANGE, ClusterDelta, ClusterState, PodKey
from nfagent.state.egress import EGRESS_KINDS, EgressState
from nfagent.state.policy_index import IndexDelta, PolicyIndex

_POLICY_KINDS = {"NetworkPolicy", *SHORT_KINDS}


class DesiredState:
    """The state of the cluster, and the ruleset that this node needs for it.

    generation: a number that grows with every object that changed something
    egress:     the objects of masquerade
    local_changes: a number that grows with every change of this node's Pods, and of its Node
    """

    def __init__(
        self,
        node: str,
        masquerade: MasqueradeSettings | None = None,
        log_group: int = 100,
        choices: PolicyOptions | None = None,
        ways: int = FLOW_SET_SIZE,
    ) -> None:
        """Start empty, for the node of that name; ways: those of ended connections that there is room for."""
        self.choices = choices or PolicyOptions()
        self.cluster = ClusterState(node)
        self.index = PolicyIndex(self.cluster)
        self.egress = EgressState()
        self._logging: NetworkLogging | None = None
        self.generation = 0
        self.local_changes = 0
        self._whole: tuple[int, Ruleset] | None = None
        self._masquerade_settings = masquerade or MasqueradeSettings()
        self._log_group = log_group
        self._live = RulesetTracker()
        self._members = SetMembership(self.cluster, self.index, self._live)
        log = LogConfig(group=log_group)
        self._policy_sets = PolicySets(
            self.cluster, self.index, self._live, self._members, log=log, choices=self.choices
        )
        for counter in BASE_COUNTERS:
            self._live.put_counter(counter)
        for name, chain in base_chains(self.choices):
            self._live.put_chain(name, chain)
        self._live.maps.update(verdict_maps())
        self._links = InterfaceSets(self._live, self.cluster, frames_chain())
        self._ways = ways
        self._recheck = RecheckSets(self._live, self._members, ways)
        self._masquerade = MasqueradeRules(self._live, self.cluster, self.egress, self._masquerade_settings)

    def put(self, item: Item) -> bool:
        """Take in an object, new or changed; tell whether anything changed."""
        match item:
            case NetworkPolicy() | TierPolicy():
                if isinstance(item, TierPolicy):
                    item = item.with_last_good(self.index.policies.get(item.ref))
                delta = self.index.put(item)
                return delta is not None and self._apply_delta(delta)
            case IpMasqConfig() | EgressNATPolicy() | NetworkGatewayGroup():
                return self._apply_egress(item)
            case NetworkLogging():
                return self._set_logging(with_last_good(item, self._logging))
            case Namespace() | Node() | Pod() | Service() | ServiceCIDR():
                return self._apply_cluster(self.cluster.put(item))

    def remove(self, ref: ObjectRef) -> bool:
        """Drop an object; tell whether anything changed."""
        if ref.kind in _POLICY_KINDS:
            delta = self.index.remove(ref)
            return delta is not None and self._apply_delta(delta)
        if ref.kind in EGRESS_KINDS:
            return self._apply_egress(ref)
        if ref.kind == "NetworkLogging":
            # There is one, `default`: another name's removal says nothing about it.
            return self._logging is not None and ref == self._logging.ref and self._set_logging(None)
        return self._apply_cluster(self.cluster.remove(ref))

    def held(self, kind: str) -> Collection[PodKey]:
        """Give namespace ('' for cluster-scoped kinds) and name of every object of a kind that is held now.

        A view for Pods and NetworkPolicies, of which there are many: it changes with the next `put` or `remove`.
        """
        if kind in _POLICY_KINDS:
            return self.index.keys(kind)
        if kind in EGRESS_KINDS:
            return self.egress.keys(kind)
        if kind == "NetworkLogging":
            return () if self._logging is None else {("", self._logging.ref.name)}
        return self.cluster.keys(kind)

    def find(self, ref: ObjectRef) -> Item | None:
        """Return the object of that name as it is in force; None where there is none."""
        if ref.kind in _POLICY_KINDS:
            return self.index.policies.get(ref)
        if ref.kind in EGRESS_KINDS:
            return self.egress.objects.get(ref)
        return self._logging if ref.kind == "NetworkLogging" else self.cluster.find(ref)

    def follow_links(self, links: NodeInterfaces, *, held: bool = False) -> bool:
        """Take in what this node's interfaces are now; tell whether that changed anything.

        held: the kernel's table says so itself, so its rules had it in force
        """
        if links == self._links.links:
            return False
        if self._links.follow_links(links) and not held:
            self._recheck.add(self._local_addresses())
        self.generation += 1
        return True

    @property
    def links(self) -> NodeInterfaces:
        """What is known of this node's interfaces."""
        return self._links.links

    def prepare(self) -> Iterator[None]:
        """Work out what the objects since the last `take` mean for the ruleset, in steps; `take` does what is left.

        Objects that come between two steps are worked out too. Who gives others a turn in between needn't wait long.
        """
        yield from self._policy_sets.steps()
        self._members.refill_detached()
        yield from self._links.steps()
        yield from self._masquerade.steps()

    def take(self) -> Transaction:
        """Give what changed since the last `take` or `settle`: what the kernel has to be told."""
        self._finish()
        if self._recheck.note_changes():
            self._whole = None
        return self._live.drain_changes()

    def settle(self) -> None:
        """Consider everything told: somebody compares the kernel with the whole ruleset."""
        self._finish()
        self._live.mark_synced()

    def distrusted(self) -> Transaction:
        """Have every connection judged again that a policy judges: what the kernel let pass before isn't known.

        Gives the commands for it, to go with the transaction that puts the kernel right.
        """
        self._finish()
        self._whole = None
        return self._recheck.add_all(self._local_addresses() if self._links.has_tunnels else ())

    @property
    def suspects(self) -> dict[str, int]:
        """The addresses under re-check, each with the number of the change that put it there."""
        return dict(self._recheck.addresses)

    def absolve(self, judged: Mapping[str, int]) -> None:
        """Take in that the live connections of these suspects were judged, and the denied ones ended."""
        self._whole = None
        self._recheck.clear(judged)

    def barred(self, flow: Flow) -> str:
        """Say why rules that ask for no policy drop a connection; '' where it is the policies' to judge."""
        if self._links.drops_outgoing(flow) or self._links.drops_incoming(flow):
            return "a Node takes packets out of a tunnel there, from Nodes alone"
        return ""

    def permits(self, flow: Flow) -> bool:
        """Tell whether the policies of this node's Pods allow a connection; other nodes judge their own."""
        if self._links.drops_outgoing(flow):
            return False
        ends = (self.cluster.holders(flow.source), self.cluster.holders(flow.destination))
        judgement = evaluate(self.cluster, self.index.judging(*ends[0], *ends[1]), flow, self.choices)
        sides = zip(ends, (judgement.egress, judgement.ingress), strict=True)
        if judgement.barred:
            return False
        local = (side for pods, side in sides if pods and pods[0].node == self.cluster.node)
        return all(side is None or side.allowed for side in local)

    def ruleset(self) -> Ruleset:
        """Give what the kernel must hold now, whole; the same value until something changes."""
        self._finish()
        if self._whole is None or self._whole[0] != self.generation:
            self._whole = (self.generation, self._live.ruleset())
        return self._whole[1]

    def rebuilt(self) -> DesiredState:
        """Make the same anew from its objects alone."""
        fresh = DesiredState(self.cluster.node, self._masquerade_settings, self._log_group, self.choices, self._ways)
        items: list[Item] = [*self.cluster.nodes.values(), *self.cluster.namespaces.values()]
        items += [*self.cluster.pods.values(), *self.cluster.services.values()]
        items += [*self.cluster.service_ranges.values(), *self.index.policies.values(), *self.egress.objects.values()]
        if self._logging is not None:
            items.append(self._logging)
        for item in items:
            fresh.put(item)
        fresh.follow_links(self.links, held=True)
        return fresh

    @property
    def logging(self) -> NetworkLogging:
        """What is logged; nothing without a NetworkLogging object."""
        return self._logging or NetworkLogging()

    @property
    def logging_object(self) -> NetworkLogging | None:
        """The NetworkLogging object; None where there is none."""
        return self._logging

    @property
    def touched(self) -> bool:
        """Tell whether `take` has something to give."""
        self._finish()
        return self._live.dirty

    @property
    def masquerade_families(self) -> tuple[Family, ...]:
        """The families that this node translates; none where masquerade is off."""
        return self._masquerade.families

    def classes_of(self, address: str) -> tuple[PolicySetKey, ...]:
        """Name the classes that judge a local Pod's address: none, or one for each direction that is isolated."""
        self._finish()
        return self._policy_sets.keys_of(address)

    @property
    def masquerade_exempt(self) -> tuple[Range, ...]:
        """Destinations outside the cluster that see Pod addresses."""
        return self._masquerade.exempt

    def origin(self, prefix: str) -> VerdictKey | None:
        """Tell what an NFLOG prefix stands for; also for a while after its rule is gone."""
        keys = self._policy_sets.verdict_chains.keys
        found = keys.get(prefix)
        if found is None and not self._policy_sets.is_current:
            self._finish()
            found = keys.get(prefix)
        return found

    def _local_addresses(self) -> set[str]:
        return {address for pod in self.cluster.local.values() if pod.holds_addresses for address in pod.addresses}

    def _finish(self) -> None:
        for _ in self.prepare():
            pass

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
            self._members.refill_ports()
        self._masquerade.follow(change)
        return self._apply_delta(delta)

    def _apply_egress(self, event: EgressObject | ObjectRef) -> bool:
        changed = self.egress.remove(event) if isinstance(event, ObjectRef) else self.egress.put(event)
        if changed:
            self._masquerade.invalidate()
            self.generation += 1
        return changed

    def _set_logging(self, logging: NetworkLogging | None) -> bool:
        changed = self._logging != logging
        if changed:
            self._logging = logging
            log = LogConfig(allow=self.logging.allow.log, deny=self.logging.deny.log, group=self._log_group)
            self._policy_sets.verdict_chains.set_log(log)
            self.generation += 1
        return changed
