"""nft syntax of one match."""

from __future__ import annotations

from typing import TypeAlias

from nfagent.cluster.address import Family
from nfagent.ruleset.matches import (
    Answered,
    Connection,
    ConntrackState,
    FamilyInSet,
    FamilyIs,
    FlowInSet,
    Foreign,
    Fragment,
    FromBridge,
    FromLink,
    GroupAddress,
    GroupFrame,
    HopLimit,
    Icmpv6Code,
    Icmpv6Type,
    InSet,
    LocalSource,
    LongestPayload,
    Match,
    NamedPort,
    NotLoopback,
    OnesAddress,
    Packet,
    PacketNamedPort,
    PacketPort,
    PacketPortIn,
    PairInSet,
    ProtocolIs,
    Refresh,
    ServerPort,
    ServerPortIn,
    ToPort,
    Unconfirmed,
    Unrouted,
    WayIs,
    Within,
)

_IP = {4: "ip", 6: "ip6"}
NFPROTO = {4: "ipv4", 6: "ipv6"}
"""What nft calls a family where a packet is asked for it."""
_Header: TypeAlias = PacketPort | Fragment | FamilyIs | Icmpv6Type | Icmpv6Code | HopLimit | LongestPayload | Within
_MACHINE: dict[type[Match], str] = {
    LocalSource: "fib saddr type local",
    NotLoopback: 'iifname != "lo"',
    FromBridge: 'meta iifkind "bridge"',
    GroupFrame: "meta pkttype { broadcast, multicast }",
    GroupAddress: "fib daddr type { broadcast, multicast }",
    OnesAddress: "fib daddr type { unicast, local }",
    Unrouted: "fib saddr . iif oif missing",
}
_END = {"client": "ct original {} saddr", "server": "ct reply {} saddr"}


def key_text(key: Connection | Packet) -> str:
    """Write which address is looked up."""
    if isinstance(key, Packet):
        return f"{_IP[key.family]} {key.side}"
    return _END[key.end].format(_IP[key.family])


def match_text(match: Match) -> str:
    """Write one match."""
    match match:
        case InSet() | PairInSet() | NamedPort() | PacketNamedPort() | FamilyInSet() | FlowInSet() | Refresh():
            return _by_set_text(match)
        case ServerPortIn() | PacketPortIn() | ToPort() | FromLink():
            return f"{_in_set_key(match)} @{match.set}"
        case ProtocolIs(names):
            return f"meta l4proto {_one_of(names)}"
        case ServerPort(first, last):
            return f"ct reply proto-src {_numbers(first, last)}"
        case Foreign(expression):
            return f"# not nfagent's: {expression}"
        case WayIs() | ConntrackState() | Unconfirmed() | Answered():
            return _tracked_text(match)
        case LocalSource() | NotLoopback() | FromBridge() | GroupFrame() | GroupAddress() | OnesAddress() | Unrouted():
            return _MACHINE[type(match)]
        case _:
            return _header_text(match)


def _in_set_key(match: ServerPortIn | PacketPortIn | ToPort | FromLink) -> str:
    match match:
        case ServerPortIn():
            return "ct reply proto-src"
        case PacketPortIn(protocol):
            return f"{protocol} dport"
        case ToPort():
            return "meta l4proto . th dport"
        case FromLink(_, negated):
            return "iifname !=" if negated else "iifname"


def _header_text(match: _Header) -> str:
    match match:
        case FamilyIs(family):
            return f"meta nfproto {NFPROTO[family]}"
        case PacketPort(protocol, first, last):
            return f"{protocol} dport {_numbers(first, last)}"
        case Fragment(family):
            return "ip frag-off & 0x1fff != 0" if family == 4 else "exthdr frag exists"
        case Icmpv6Type(names):
            return f"icmpv6 type {_one_of(names)}"
        case Icmpv6Code(code):
            return f"icmpv6 code {code}"
        case HopLimit(hops):
            return f"ip6 hoplimit {hops}"
        case LongestPayload(size):
            return f"ip6 length <= {size}"
        case Within(key, ranges):
            return f"{key_text(key)} {_one_of(tuple(map(str, ranges)))}"


def _numbers(first: int, last: int) -> str:
    return str(first) if first == last else f"{first}-{last}"


def _by_set_text(match: InSet | PairInSet | NamedPort | PacketNamedPort | FamilyInSet | FlowInSet | Refresh) -> str:
    match match:
        case InSet(key, name, negated):
            return f"{key_text(key)} {'!= ' if negated else ''}@{name}"
        case PairInSet(other, name, negated):
            pair = f"{key_text(Packet('saddr', other.family))} . {key_text(other)}"
            return f"{pair} {'!= ' if negated else ''}@{name}"
        case NamedPort(family, name, way):
            port = "dport" if way == "original" else "sport"
            return f"{key_text(Connection('server', family))} . meta l4proto . th {port} @{name}"
        case PacketNamedPort(family, name):
            return f"{key_text(Packet('daddr', family))} . meta l4proto . th dport @{name}"
        case FamilyInSet(name, negated):
            return f"meta nfproto {'!= ' if negated else ''}@{name}"
        case FlowInSet(family, name):
            return f"{_flow_text(family)} @{name}"
        case Refresh(family, name):
            return f"update @{name} {{ {_flow_text(family)} }}"


def _flow_text(family: Family) -> str:
    return f"{_IP[family]} saddr . meta l4proto . th sport . {_IP[family]} daddr . th dport"


def _tracked_text(match: WayIs | ConntrackState | Unconfirmed | Answered) -> str:
    match match:
        case WayIs(way):
            return f"ct direction {way}"
        case ConntrackState(states):
            return f"ct state {','.join(states)}"
        case Unconfirmed():
            return "ct status ! confirmed"
        case Answered():
            return "ct status seen-reply"


def _one_of(names: tuple[str, ...]) -> str:
    return names[0] if len(names) == 1 else f"{{ {', '.join(names)} }}"
