"""The rules of a policy set as grants: which peers are allowed on which ports of the policy map. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TypeAlias

import msgspec

from nfagent.lab.ebpf.blocks import SHORT, BlockKey, BlockRef, Cover
from nfagent.lab.ebpf.codec import PortKey, protocol_number
from nfagent.model.netaddr import Range, aligned_blocks
from nfagent.model.networkpolicy import PodPeer, PolicyPort
from nfagent.model.objects import ContainerPort, Direction
from nfagent.policy.compiler import CIDRSet, CompiledRule, NamedPorts
from nfagent.policy.merged_peers import PortNumbers, peers_of
from nfagent.state.cluster import Identity

PeerKey: TypeAlias = tuple[tuple[Identity, tuple[ContainerPort, ...]], ...]
"""What an address is for rules: identity and named ports of each Pod that has it; two while an address is reused."""

EVERY_PORT = PortKey()


class Grant(msgspec.Struct, frozen=True):
    """A rule.

    peers: of its Pods; none for a rule with ipBlocks, or for every peer
    block: its ipBlocks, with their ranges; None with Pods
    ports: where they don't depend on the peer
    named: the name and protocol of a port that each peer's Pods define
    """

    peers: tuple[PodPeer, ...] = ()
    block: BlockKey | None = None
    ranges: tuple[Range, ...] = ()
    ports: frozenset[PortKey] = frozenset()
    named: NamedPorts | None = None

    @property
    def for_everyone(self) -> bool:
        """Return whether it allows every peer on its ports."""
        return not self.peers and self.block is None and self.named is None


def grant_of(rule: CompiledRule, direction: Direction, own_ports: tuple[ContainerPort, ...]) -> Grant | None:
    """Return a rule's grant for a Pod with these ports; None for a named port of ipBlocks, which isn't covered."""
    peers = tuple(peer for peer in peers_of(rule.peer) if isinstance(peer, PodPeer))
    block: BlockKey | None = None
    ranges: tuple[Range, ...] = ()
    if isinstance(rule.peer, CIDRSet):
        ranges = rule.peer.ranges
        block = rule.peer if len(ranges) <= SHORT else BlockRef(rule.policy, direction, rule.index)
    if isinstance(rule.port, NamedPorts):
        if rule.port.local:
            return Grant(peers, block, ranges, frozenset(named_ports(rule.port, own_ports)))
        return Grant(peers, named=rule.port) if block is None else None
    return Grant(peers, block, ranges, frozenset(port_keys(rule.port)))


def named_ports(wanted: NamedPorts, declared: Iterable[ContainerPort]) -> Iterator[PortKey]:
    """Yield the ports of that name among those that a Pod declares."""
    for port in declared:
        if port.name == wanted.name and wanted.protocol in {"any", port.protocol}:
            yield PortKey(protocol_number(port.protocol), port.port, 16)


def port_keys(port: PolicyPort | PortNumbers | None) -> Iterator[PortKey]:
    """Yield the keys for a rule's ports: a range is the prefixes that it is made of."""
    if port is None:
        yield EVERY_PORT
        return
    number = protocol_number(port.protocol)
    if isinstance(port, PortNumbers):
        ranges = port.ranges
    elif port.first:
        ranges = ((port.first, port.last),)
    else:
        yield PortKey(number)
        return
    for first, last in ranges:
        for start, bits in aligned_blocks(first, last, 16):
            yield PortKey(number, start, bits)


def ports_of_peer(
    grants: Iterable[Grant], key: PeerKey, members: Mapping[PodPeer, set[Identity]]
) -> frozenset[PortKey]:
    """Return the ports on which grants allow an address with this key, beyond those of every peer.

    members: identities of the Pods that each peer selects
    """
    found: set[PortKey] = set()
    for grant in grants:
        if grant.block is not None or grant.for_everyone:
            continue
        selected = [
            ports
            for identity, ports in key
            if not grant.peers or any(identity in members.get(peer, ()) for peer in grant.peers)
        ]
        if not selected:
            continue
        found |= grant.ports
        if grant.named is not None:
            found.update(port for ports in selected for port in named_ports(grant.named, ports))
    return frozenset(found)


def ports_of_cover(grants: Iterable[Grant], cover: Cover) -> frozenset[PortKey]:
    """Return the ports on which grants allow an address that these ipBlocks cover."""
    return frozenset(port for grant in grants if grant.block in cover for port in grant.ports)


def ports_of_everyone(grants: Iterable[Grant]) -> frozenset[PortKey]:
    """Return the ports on which grants allow every peer."""
    return frozenset(port for grant in grants if grant.for_everyone for port in grant.ports)
