"""Keys, values and events of the eBPF program's maps, as in ebpf/maps.h. Pure."""

from __future__ import annotations

import ipaddress
import struct
import sys
from typing import Literal

import msgspec

from nfagent.errors import UsageError, WireError
from nfagent.lab.ebpf.prefixes import Prefix
from nfagent.model.objects import Direction, Protocol

HOST, WORLD, SERVICE = 1, 2, 3
"""Identities of the node's own addresses, of an address without one of its own (Cilium's numbers), of Services."""
FIRST_IDENTITY = 256
"""The first number that an identity may have: Cilium reserves those below."""
ANY = 0
"""Every peer, in the place of an identity."""
ALL_PORTS, ALL_PROTOCOLS = -1, 0

NO_PACKETS = bytes(16)
"""The value of a new entry in the map of policies: struct policy_value, its packets and bytes."""
EVENT_BYTES = 72
MARK = 0x20000
"""The bit of the packet mark that tells packets to masquerade."""

DenyReason = Literal["policy", "changed policy", "source", "unreadable", "service"]
_REASONS: dict[int, DenyReason] = {1: "policy", 2: "changed policy", 3: "source", 4: "unreadable", 5: "service"}
_DIRECTIONS: dict[Direction, int] = {"egress": 0, "ingress": 1}
_DIRECTION_NAMES: dict[int, Direction] = {number: name for name, number in _DIRECTIONS.items()}
_PROTOCOLS: dict[str, int] = {"icmp": 1, "tcp": 6, "udp": 17, "icmpv6": 58, "sctp": 132}
_PROTOCOL_NAMES = {number: name for name, number in _PROTOCOLS.items()}
_ADDRESS_KEY_FIXED = 32  # bits of the trie's key that stand before the address
_ADDRESS_HEAD = struct.Struct("=II")
_POLICY_KEY = struct.Struct("=IIIBB2s")
_POLICY_KEY_FIXED = 72  # bits before the protocol
_ENDPOINT = struct.Struct("=IIII16s16s")
_SETTINGS = struct.Struct("=IIII")
_EVENT = struct.Struct("=QIIIII16s16s2s2sHBBI")


class PortKey(msgspec.Struct, frozen=True, order=True, gc=False):
    """The part of a policy entry behind the identity.

    protocol: its number; ALL_PROTOCOLS for every protocol
    port:     the first port
    bits:     leading bits of the port that count; ALL_PORTS where the protocol is all that counts
    """

    protocol: int = ALL_PROTOCOLS
    port: int = 0
    bits: int = ALL_PORTS


class PolicyEntry(msgspec.Struct, frozen=True, order=True, gc=False):
    """An entry of the map of policies: it allows connections with a peer's identity on some ports."""

    policy: int
    direction: Direction
    identity: int
    ports: PortKey


class EndpointEntry(msgspec.Struct, frozen=True, gc=False):
    """An entry of the map of endpoints: the policies of a Pod's link, and the Pod's addresses.

    egress, ingress: 0 where the Pod isn't isolated
    """

    egress: int = 0
    ingress: int = 0
    addresses: tuple[str, ...] = ()


class EbpfSettings(msgspec.Struct, frozen=True, gc=False):
    """The entry of the map `configuration`."""

    generation: int = 0
    reports_allows: bool = False
    reports_denies: bool = False
    masquerades_ipv4: bool = False
    masquerades_ipv6: bool = False


class VerdictEvent(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """A verdict on a new connection, or on one that a change ended.

    time_ns:  of the monotonic clock
    endpoint: interface index of the Pod's link on the node's side
    policy:   the number of the endpoint's policy; 0 where it isn't isolated
    identity: the peer's, 0 where it wasn't looked up
    block:    the identity of the ipBlocks that have the peer's address; 0 for none
    ports:    0 for a protocol without ports
    reason:   why it was denied; '' for allowed
    """

    time_ns: int
    endpoint: int
    direction: Direction
    allowed: bool
    protocol: str
    source: str
    destination: str
    source_port: int = 0
    destination_port: int = 0
    policy: int = 0
    identity: int = 0
    block: int = 0
    bytes: int = 0
    reason: DenyReason | Literal[""] = ""


def protocol_number(protocol: str) -> int:
    """Return the number of a protocol's name."""
    return _PROTOCOLS[protocol]


def prefix_key(prefix: Prefix) -> bytes:
    """Return the key of a CIDR in a map of addresses: struct address_key."""
    first = prefix.first << 96 if prefix.family == 4 else prefix.first
    return _ADDRESS_HEAD.pack(_ADDRESS_KEY_FIXED + prefix.length, prefix.family) + first.to_bytes(16, "big")


def address_key(block: str) -> bytes:
    """Return the key of an address or CIDR in a map of addresses: struct address_key. Raises UsageError."""
    try:
        network = ipaddress.ip_network(block)
    except ValueError as error:
        raise UsageError(f"{error}: write an address or a CIDR, like 10.0.0.0/8") from None
    return prefix_key(Prefix(network.version, int(network.network_address), network.prefixlen))


def number_value(number: int) -> bytes:
    """Return the value of an entry in a map of addresses."""
    return number.to_bytes(4, sys.byteorder)


def entry_key(entry: PolicyEntry) -> bytes:
    """Return the key of an entry in the map of policies: struct policy_key."""
    ports = entry.ports
    prefix = _POLICY_KEY_FIXED
    if ports.protocol != ALL_PROTOCOLS:
        prefix += 8 if ports.bits == ALL_PORTS else 8 + ports.bits
    return _POLICY_KEY.pack(
        prefix,
        entry.policy,
        entry.identity,
        _DIRECTIONS[entry.direction],
        ports.protocol,
        ports.port.to_bytes(2, "big"),
    )


def policy_key(
    policy: int, direction: Direction, identity: int = ANY, port: int = 0, protocol: Protocol | str = ""
) -> bytes:
    """Return the key of an entry in the map of policies; zeros and '' are wildcards.

    Raises UsageError for a port without a protocol.
    """
    if port and not protocol:
        raise UsageError(f"port {port} needs its protocol: add tcp, udp or sctp")
    number = _PROTOCOLS[protocol] if protocol else ALL_PROTOCOLS
    return entry_key(PolicyEntry(policy, direction, identity, PortKey(number, port, 16 if port else ALL_PORTS)))


def endpoint_value(entry: EndpointEntry) -> bytes:
    """Return the value of an entry in the map of endpoints: struct endpoint.

    Families without an address aren't judged; without any address both are, and no source is checked.
    """
    packed = {4: b"", 6: b""}
    for address in entry.addresses:
        found = ipaddress.ip_address(address)
        packed[found.version] = found.packed
    families = bool(packed[4]) | bool(packed[6]) << 1 or 3
    return _ENDPOINT.pack(
        entry.egress,
        entry.ingress,
        bool(entry.addresses),
        families,
        packed[4].ljust(16, b"\0"),
        packed[6].ljust(16, b"\0"),
    )


def settings_value(settings: EbpfSettings) -> bytes:
    """Return the value of the map `configuration`: struct settings."""
    reported = settings.reports_allows | settings.reports_denies << 1
    masquerade = settings.masquerades_ipv4 | settings.masquerades_ipv6 << 1
    return _SETTINGS.pack(settings.generation, reported, masquerade, MARK)


def decode_event(record: bytes) -> VerdictEvent:
    """Decode a record of the ring buffer: struct event. Raises WireError for anything else."""
    if len(record) != EVENT_BYTES:
        raise WireError(f"event of {len(record)} bytes, not {EVENT_BYTES}")
    (
        time_ns,
        endpoint,
        policy,
        identity,
        block,
        size,
        source,
        destination,
        *ports,
        family,
        protocol,
        direction,
        reason,
    ) = _EVENT.unpack_from(record)
    # A packet that can't be read may have no family.
    if family not in {0, 4, 6} or direction not in _DIRECTION_NAMES or (reason and reason not in _REASONS):
        raise WireError(f"event with family {family}, direction {direction} and reason {reason}")
    return VerdictEvent(
        time_ns=time_ns,
        endpoint=endpoint,
        direction=_DIRECTION_NAMES[direction],
        allowed=not reason,
        protocol=_PROTOCOL_NAMES.get(protocol, str(protocol)),
        source=_address(family, source),
        destination=_address(family, destination),
        source_port=int.from_bytes(ports[0], "big"),
        destination_port=int.from_bytes(ports[1], "big"),
        policy=policy,
        identity=identity,
        block=block,
        bytes=size,
        reason=_REASONS[reason] if reason else "",
    )


def _address(family: int, packed: bytes) -> str:
    if not family:
        return ""
    return str(ipaddress.ip_address(packed[:4] if family == 4 else packed))
