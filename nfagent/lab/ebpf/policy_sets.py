"""The policy numbers of this node's Pods, and the policy map's entries of each. Pure.

The counterpart of `desired.policy_sets`: a policy set has a number instead of a chain, and an entry for each identity
and port that its rules allow. Where a rule names a port of the Pod itself, Pods that declare other ports have a number
of their own.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from itertools import count

import msgspec

from nfagent.lab.ebpf.blocks import BlockKey, BlockTable
from nfagent.lab.ebpf.codec import ANY, EndpointEntry, PolicyEntry, PortKey
from nfagent.lab.ebpf.coverage import Coverage
from nfagent.lab.ebpf.grants import (
    Grant,
    PeerKey,
    grant_of,
    ports_of_cover,
    ports_of_everyone,
    ports_of_peer,
)
from nfagent.lab.ebpf.identities import EbpfIdentities
from nfagent.model.networkpolicy import PodPeer
from nfagent.model.objects import DIRECTIONS, ContainerPort, Direction, ObjectRef, Pod
from nfagent.model.ref_counts import RefCounts
from nfagent.policy.compiler import (
    CompiledPolicies,
    CompiledRule,
    NamedPorts,
    PolicySetKey,
    TierChainKey,
    policy_set_keys,
)
from nfagent.state.cluster import ClusterState, Identity, PodKey
from nfagent.state.policy_index import PolicyIndex

_NO_PORTS: frozenset[PortKey] = frozenset()


class EbpfPolicyKey(msgspec.Struct, frozen=True, order=True, cache_hash=True):
    """A policy set, and the ports of its Pods where its rules name them; without policies it allows nothing."""

    policies: PolicySetKey
    ports: tuple[ContainerPort, ...] = ()


class EbpfPolicySet(msgspec.Struct):
    """The state of one policy number.

    allowed: identity -> ports that it is allowed on, as written
    """

    number: int
    direction: Direction
    grants: tuple[Grant, ...] = ()
    blocks: frozenset[BlockKey] = frozenset()
    allowed: dict[int, frozenset[PortKey]] = msgspec.field(default_factory=dict)


class EbpfPolicySets:
    """The policies of this node's Pods."""

    def __init__(
        self,
        cluster: ClusterState,
        index: PolicyIndex,
        identities: EbpfIdentities,
        blocks: BlockTable,
        coverage: Coverage,
    ) -> None:
        """Start without Pods."""
        self._cluster = cluster
        self._index = index
        self._identities = identities
        self._blocks = blocks
        self._coverage = coverage
        self._compiled = CompiledPolicies(index)
        self._numbers = count(1)
        self.known: dict[EbpfPolicyKey, EbpfPolicySet] = {}
        self._users: RefCounts[EbpfPolicyKey] = RefCounts()
        self._block_users: RefCounts[BlockKey] = RefCounts()
        self._keys_of_pod: dict[PodKey, tuple[EbpfPolicyKey, ...]] = {}
        self._endpoints: dict[PodKey, EndpointEntry] = {}
        self._written_covers: set[int] = set()
        # The policy sets that name a Pod peer (None: ports of any Pod), and those with entries of an identity.
        self._of_peer: dict[PodPeer | None, set[EbpfPolicyKey]] = {}
        self._of_identity: dict[int, set[EbpfPolicyKey]] = {}
        # Marks: Pods, policies whose rules changed, policy sets whose grants are new.
        self._dirty_pods: dict[PodKey, None] = {}
        self._dirty_policies: set[ObjectRef] = set()
        self._dirty: set[EbpfPolicyKey] = set()

    def mark_pod(self, key: PodKey) -> None:
        """Mark a Pod that was added, changed or removed, with those of this node that share an address with it."""
        if key in self._cluster.local or key in self._endpoints:
            self._dirty_pods[key] = None
            pod = self._cluster.local.get(key)
            before = self._endpoints.get(key)
            addresses = (*(pod.addresses if pod is not None else ()), *(before.addresses if before is not None else ()))
            for address in addresses:
                for other in self._cluster.by_address.get(address, ()):
                    if other.node == self._cluster.node:
                        self._dirty_pods[other.namespace, other.name] = None

    def mark_identities(self, identities: Iterable[Identity]) -> None:
        """Mark identities that other policies select now."""
        for identity in identities:
            self._dirty_pods.update(dict.fromkeys(self._index.local.get(identity, ())))

    def mark_policies(self, policies: Iterable[ObjectRef]) -> None:
        """Mark policies whose rules changed."""
        self._dirty_policies.update(policies)

    def assign(self, changed: dict[PodKey, EndpointEntry | None]) -> None:
        """Give the marked Pods their policy numbers, and add the endpoints that changed; compile what is new.

        The entries follow by `write`, after the drain of the blocks.
        """
        released: list[EbpfPolicyKey] = []
        for key in self._dirty_pods:
            released += self._keys_of_pod.pop(key, ())
            before, after = self._endpoints.pop(key, None), self._assign(key)
            if after is not None:
                self._endpoints[key] = after
            if before != after:
                changed[key] = after
        self._dirty_pods.clear()
        for policy in released:
            if self._users.release(policy):
                self._use_grants(policy, ())
                self._dirty.add(policy)
        self._compile_changed()

    def _compile_changed(self) -> None:
        """Compile the policy sets that are new, and those with a policy whose rules changed."""
        for policy in self._users if self._dirty_policies else ():
            if not self._dirty_policies.isdisjoint(policy.policies.refs):
                self._dirty.add(policy)
        for ref in self._dirty_policies:
            if ref not in self._index.active:
                self._compiled.forget(ref)
        self._dirty_policies.clear()
        for policy in self._dirty:
            if policy in self._users:
                rules = self._rules(policy.policies)
                found = (grant_of(rule, policy.policies.direction, policy.ports) for rule in rules)
                self._use_grants(policy, tuple(grant for grant in found if grant is not None))

    def write(
        self, moved: Collection[PeerKey], gone: Collection[PeerKey]
    ) -> tuple[list[PolicyEntry], list[PolicyEntry]]:
        """Return the entries to write and those to delete.

        moved: peer keys that are new, or that other peers select now; gone: those that no address has any more
        """
        puts: list[PolicyEntry] = []
        deletes: list[PolicyEntry] = []
        covers, numbers = self._blocks.numbers, self._identities.numbers
        new_covers = {cover: number for cover, number in covers.items() if number not in self._written_covers}
        gone_covers = self._blocks.forget()
        self._written_covers.update(new_covers.values())
        self._written_covers.difference_update(gone_covers)
        wanted: dict[EbpfPolicyKey, dict[int, frozenset[PortKey]]] = {}
        left = set(gone)
        for key in moved:
            for policy in self._concerned(key) if key not in left else ():
                wanted.setdefault(policy, {})[numbers[key]] = self._ports_of_peer(self.known[policy], key)
        for policy, live in self.known.items() if new_covers else ():
            wanted.setdefault(policy, {}).update(
                (number, ports_of_cover(live.grants, cover))
                for cover, number in new_covers.items()
                if not live.blocks.isdisjoint(cover)
            )
        for policy in self._dirty:
            live = self.known[policy]
            wanted[policy] = dict.fromkeys(live.allowed, _NO_PORTS) | self._all(live, left)
        for number in (*gone_covers, *(numbers[key] for key in gone)):
            for policy in self._of_identity.get(number, ()):
                wanted.setdefault(policy, {})[number] = _NO_PORTS
        for policy, ports in wanted.items():
            self._update(policy, ports, puts, deletes)
        for policy in self._dirty:
            if policy not in self._users:
                del self.known[policy]
        self._dirty.clear()
        return puts, deletes

    def _concerned(self, key: PeerKey) -> set[EbpfPolicyKey]:
        """Return the policy sets that may allow a peer key, and those that did."""
        found = set(self._of_peer.get(None, ()))
        found.update(self._of_identity.get(self._identities.numbers[key], ()))
        for identity, _ports in key:
            for peer in self._index.peers.of.get(identity, ()):
                found.update(self._of_peer.get(peer, ()))
        return found

    def _assign(self, key: PodKey) -> EndpointEntry | None:
        """Return the endpoint of a Pod, as a user of its policy sets; None without the Pod or its addresses."""
        pod = self._cluster.local.get(key)
        if pod is None or not pod.holds_addresses:
            self._coverage.note_pod(key, "")
            return None
        reason = self._coverage.refusal(pod, self._cluster)
        self._coverage.note_pod(key, reason)
        wanted = {policy.policies.direction: policy for policy in self._keys_of(pod, closed=bool(reason))}
        self._keys_of_pod[key] = tuple(wanted.values())
        for direction, policy in wanted.items():
            self._users.acquire(policy)
            if policy not in self.known:
                self.known[policy] = EbpfPolicySet(next(self._numbers), direction)
                self._dirty.add(policy)
        numbers = {direction: self.known[policy].number for direction, policy in wanted.items()}
        return EndpointEntry(numbers.get("egress", 0), numbers.get("ingress", 0), pod.addresses)

    def _keys_of(self, pod: Pod, *, closed: bool) -> list[EbpfPolicyKey]:
        if closed:
            return [EbpfPolicyKey(PolicySetKey(direction)) for direction in DIRECTIONS]
        found = policy_set_keys(self._index.policies_of(pod))
        return [EbpfPolicyKey(key, pod.ports if self._names_own_ports(key) else ()) for key in found]

    def _names_own_ports(self, key: PolicySetKey) -> bool:
        rules = self._rules(key) if key.direction == "ingress" else ()
        return any(isinstance(rule.port, NamedPorts) for rule in rules)

    def _rules(self, key: PolicySetKey) -> tuple[CompiledRule, ...]:
        """Return the rules of a policy set's NetworkPolicies, also of large ones."""
        return self._compiled.rules(TierChainKey("policy", key.direction, key.policies))

    def _use_grants(self, policy: EbpfPolicyKey, grants: tuple[Grant, ...]) -> None:
        """Replace a policy set's grants, with the peers and ipBlocks that they name."""
        live = self.known[policy]
        before, after = _named_peers(live.grants), _named_peers(grants)
        for peer in before - after:
            self._of_peer[peer].discard(policy)
            if not self._of_peer[peer]:
                del self._of_peer[peer]
        for peer in after - before:
            self._of_peer.setdefault(peer, set()).add(policy)
        ranges = {grant.block: grant.ranges for grant in grants if grant.block is not None}
        blocks = frozenset(ranges)
        for block in blocks - live.blocks:
            self._block_users.acquire(block)
        for block, found in ranges.items():
            self._blocks.put(block, found)
        for block in live.blocks - blocks:
            if self._block_users.release(block):
                self._blocks.remove(block)
        live.grants, live.blocks = grants, blocks

    def _ports_of_peer(self, live: EbpfPolicySet, key: PeerKey) -> frozenset[PortKey]:
        return ports_of_peer(live.grants, key, self._index.peers.members)

    def _all(self, live: EbpfPolicySet, gone: Collection[PeerKey]) -> dict[int, frozenset[PortKey]]:
        """Return the ports of every identity that a policy set allows anything; without those that are gone."""
        numbers, keys_of = self._identities.numbers, self._identities.keys_of
        peers = _named_peers(live.grants)
        members = self._index.peers.members
        keys: Collection[PeerKey] = {
            key
            for peer in peers
            if peer is not None
            for identity in members.get(peer, ())
            for key in keys_of.get(identity, ())
        }
        if None in peers:
            keys = numbers.keys()
        found = {numbers[key]: self._ports_of_peer(live, key) for key in keys if key not in gone}
        for cover, number in self._blocks.numbers.items():
            if not live.blocks.isdisjoint(cover):
                found[number] = ports_of_cover(live.grants, cover)
        found[ANY] = ports_of_everyone(live.grants)
        return found

    def _update(
        self,
        policy: EbpfPolicyKey,
        wanted: Mapping[int, frozenset[PortKey]],
        puts: list[PolicyEntry],
        deletes: list[PolicyEntry],
    ) -> None:
        """Add what differs between the ports of identities as written and as wanted."""
        live = self.known[policy]
        for identity, ports in wanted.items():
            before = live.allowed.get(identity, _NO_PORTS)
            if before == ports:
                continue
            puts += [PolicyEntry(live.number, live.direction, identity, port) for port in ports - before]
            deletes += [PolicyEntry(live.number, live.direction, identity, port) for port in before - ports]
            if ports:
                live.allowed[identity] = ports
                self._of_identity.setdefault(identity, set()).add(policy)
                continue
            del live.allowed[identity]
            self._of_identity[identity].discard(policy)
            if not self._of_identity[identity]:
                del self._of_identity[identity]


def _named_peers(grants: tuple[Grant, ...]) -> set[PodPeer | None]:
    """Return the Pod peers of grants; with None where one names ports of any Pod."""
    found: set[PodPeer | None] = {peer for grant in grants for peer in grant.peers}
    if any(grant.named is not None and not grant.peers for grant in grants):
        found.add(None)
    return found
