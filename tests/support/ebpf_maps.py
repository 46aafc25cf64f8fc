"""The eBPF program's maps as dictionaries, and its verdict on a new connection: what ebpf/policy.c does with them."""

from __future__ import annotations

from nfagent.lab.ebpf.codec import (
    ALL_PORTS,
    ALL_PROTOCOLS,
    ANY,
    HOST,
    SERVICE,
    WORLD,
    EndpointEntry,
    PolicyEntry,
    PortKey,
)
from nfagent.lab.ebpf.prefixes import Prefix
from nfagent.lab.ebpf.state import EbpfChange
from nfagent.model.netaddr import family_of, number
from nfagent.model.objects import Direction
from nfagent.policy.evaluator import Flow
from nfagent.state.cluster import PodKey

_PROTOCOLS = {"icmp": 1, "tcp": 6, "udp": 17, "icmpv6": 58, "sctp": 132}


class MapsModel:
    """The maps' entries, written by changes alone."""

    def __init__(self) -> None:
        self.policies: set[PolicyEntry] = set()
        self.identities: dict[str, int] = {}
        self.blocks: dict[Prefix, int] = {}
        self.unmasqueraded: set[Prefix] = set()
        self.endpoints: dict[PodKey, EndpointEntry] = {}

    def apply(self, change: EbpfChange) -> None:
        """Write a change; what is deleted must exist, and nothing is written twice."""
        assert not self.policies & set(change.policy_puts)
        self.policies |= set(change.policy_puts)
        assert set(change.policy_deletes) <= self.policies
        self.policies -= set(change.policy_deletes)
        self.identities |= change.identity_puts
        for address in change.identity_deletes:
            del self.identities[address]
        self.blocks |= change.block_puts
        for prefix in change.block_deletes:
            del self.blocks[prefix]
        assert not self.unmasqueraded & change.unmasqueraded_puts
        self.unmasqueraded |= change.unmasqueraded_puts
        self.unmasqueraded -= change.unmasqueraded_deletes
        for pod, entry in change.endpoints.items():
            if entry is None:
                del self.endpoints[pod]
            else:
                self.endpoints[pod] = entry

    def allows(self, pod: PodKey, direction: Direction, flow: Flow) -> bool:
        """Return whether a Pod's endpoint lets a new connection pass in one direction."""
        endpoint = self.endpoints[pod]
        policy = endpoint.egress if direction == "egress" else endpoint.ingress
        if not policy:
            return True
        peer = flow.destination if direction == "egress" else flow.source
        identity = self.identities.get(peer, WORLD)
        if direction == "ingress" and identity == HOST:
            return True
        if direction == "egress" and identity == SERVICE:
            return False
        numbers = {identity, self._longest(self.blocks, peer), ANY}
        return any(
            entry.policy == policy and entry.direction == direction and entry.identity in numbers
            for entry in self.policies
            if _matches(entry.ports, flow)
        )

    def masquerades(self, destination: str) -> bool:
        """Return whether a connection to an address is masqueraded, where its family is."""
        return self._longest(dict.fromkeys(self.unmasqueraded, 1), destination) < 0

    @property
    def sizes(self) -> tuple[int, ...]:
        """The number of entries of each map, and of the numbers that their values are."""
        return (
            len(self.policies),
            len({entry.policy for entry in self.policies}),
            len(self.identities),
            len(set(self.identities.values())),
            len(self.blocks),
            len(set(self.blocks.values())),
            len(self.unmasqueraded),
            len(self.endpoints),
            len({entry.egress for entry in self.endpoints.values()}),
            len({entry.ingress for entry in self.endpoints.values()}),
        )

    def _longest(self, entries: dict[Prefix, int], address: str) -> int:
        family, value = family_of(address), number(address)
        found = [prefix for prefix in entries if prefix.family == family and prefix.first <= value <= prefix.last]
        return entries[max(found, key=lambda prefix: prefix.length)] if found else -1


def _matches(ports: PortKey, flow: Flow) -> bool:
    protocol = _PROTOCOLS.get(flow.protocol) or int(flow.protocol)
    if ports.protocol == ALL_PROTOCOLS:
        return True
    if ports.protocol != protocol:
        return False
    return ports.bits == ALL_PORTS or (flow.port or 0) >> (16 - ports.bits) == ports.port >> (16 - ports.bits)
