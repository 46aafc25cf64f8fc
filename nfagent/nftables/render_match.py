"""Renders one match in nft syntax."""

from __future__ import annotations

from typing import TypeAlias

from nfagent.model.netaddr import Family
from nfagent.nftables.matches import (
    AddressInSet,
    ConntrackState,
    CtAddress,
    CtDirectionIs,
    CtFlowInSet,
    CtSeenReply,
    CtTranslated,
    CtUnconfirmed,
    EtherType,
    FamilyInSet,
    FamilyIs,
    FibLocalSource,
    FibUnrouted,
    Fragment,
    FromBridge,
    FromInterface,
    FromVeth,
    HopLimit,
    Icmpv6Code,
    Icmpv6Type,
    IpAddress,
    L4Proto,
    MarkIs,
    Match,
    MaxPayload,
    MulticastAddress,
    MulticastFrame,
    NamedPort,
    NextHopInSet,
    NotLoopback,
    PacketNamedPort,
    PacketPort,
    PacketPortIn,
    PairInSet,
    RandomBelow,
    ServerPort,
    ServerPortIn,
    SetUpdate,
    TcpReset,
    ToInterface,
    ToPort,
    UnicastDestination,
    UnknownExpr,
    Within,
)

_IP = {4: "ip", 6: "ip6"}
NFPROTO = {4: "ipv4", 6: "ipv6"}
"""Families by the names of `meta nfproto`."""
ETHER_TYPES = {0x0800: "ip", 0x0806: "arp", 0x86DD: "ip6"}
"""nft's names of EtherTypes; it lists others as numbers."""
_Header: TypeAlias = (
    PacketPort | Fragment | FamilyIs | EtherType | Icmpv6Type | Icmpv6Code | HopLimit | MaxPayload | Within
)
_CONSTANT: dict[type[Match], str] = {
    FibLocalSource: "fib saddr type local",
    NotLoopback: 'iifname != "lo"',
    FromBridge: 'meta iifkind "bridge"',
    FromVeth: 'meta iifkind "veth"',
    MulticastFrame: "meta pkttype { broadcast, multicast }",
    MulticastAddress: "fib daddr type { broadcast, multicast }",
    UnicastDestination: "fib daddr type { unicast, local }",
    FibUnrouted: "fib saddr . iif oif missing",
    TcpReset: "tcp flags rst",
}
_END = {"client": "ct original {} saddr", "server": "ct reply {} saddr"}


def key_text(key: CtAddress | IpAddress) -> str:
    """Return the address of a match in nft syntax."""
    if isinstance(key, IpAddress):
        return f"{_IP[key.family]} {key.side}"
    return _END[key.end].format(_IP[key.family])


def match_text(match: Match) -> str:
    """Return a match in nft syntax."""
    match match:
        case (
            AddressInSet() | PairInSet() | NamedPort() | PacketNamedPort() | FamilyInSet() | CtFlowInSet() | SetUpdate()
        ):
            return _by_set_text(match)
        case ServerPortIn() | PacketPortIn() | ToPort() | FromInterface() | NextHopInSet():
            return f"{_in_set_key(match)} @{match.set}"
        case L4Proto(names):
            return f"meta l4proto {_one_of(names)}"
        case RandomBelow() | MarkIs():
            return _number_text(match)
        case ToInterface(name):
            return f'oifname "{name}"'
        case ServerPort(first, last):
            return f"ct reply proto-src {_numbers(first, last)}"
        case UnknownExpr(expression):
            return f"# not nfagent's: {expression}"
        case CtDirectionIs() | ConntrackState() | CtUnconfirmed() | CtSeenReply() | CtTranslated():
            return _tracked_text(match)
        case (
            FibLocalSource()
            | NotLoopback()
            | FromBridge()
            | FromVeth()
            | MulticastFrame()
            | MulticastAddress()
            | UnicastDestination()
            | FibUnrouted()
            | TcpReset()
        ):
            return _CONSTANT[type(match)]
        case _:
            return _header_text(match)


def _number_text(match: RandomBelow | MarkIs) -> str:
    if isinstance(match, RandomBelow):
        return f"numgen random mod {match.modulus} < {match.below}"
    return f"meta mark & {match.mask:#010x} {'!=' if match.negated else '=='} {match.value:#010x}"


def _in_set_key(match: ServerPortIn | PacketPortIn | ToPort | FromInterface | NextHopInSet) -> str:
    match match:
        case ServerPortIn():
            return "ct reply proto-src"
        case PacketPortIn(protocol):
            return f"{protocol} dport"
        case ToPort():
            return "meta l4proto . th dport"
        case FromInterface(_, negated):
            return "iifname !=" if negated else "iifname"
        case NextHopInSet(family):
            return f"rt {_IP[family]} nexthop"


def _header_text(match: _Header) -> str:
    match match:
        case FamilyIs(family):
            return f"meta nfproto {NFPROTO[family]}"
        case PacketPort(protocol, first, last):
            return f"{protocol} dport {_numbers(first, last)}"
        case Fragment(family):
            return "ip frag-off & 0x1fff != 0" if family == 4 else "exthdr frag exists"
        case EtherType(numbers):
            return f"ether type {_one_of(tuple(ETHER_TYPES.get(number, hex(number)) for number in numbers))}"
        case Icmpv6Type(names):
            return f"icmpv6 type {_one_of(names)}"
        case Icmpv6Code(code):
            return f"icmpv6 code {code}"
        case HopLimit(hops):
            return f"ip6 hoplimit {hops}"
        case MaxPayload(size):
            return f"ip6 length <= {size}"
        case Within(key, ranges):
            return f"{key_text(key)} {_one_of(tuple(map(str, ranges)))}"


def _numbers(first: int, last: int) -> str:
    return str(first) if first == last else f"{first}-{last}"


def _by_set_text(
    match: AddressInSet | PairInSet | NamedPort | PacketNamedPort | FamilyInSet | CtFlowInSet | SetUpdate,
) -> str:
    match match:
        case AddressInSet(key, name, negated):
            return f"{key_text(key)} {'!= ' if negated else ''}@{name}"
        case PairInSet(other, name, negated):
            pair = f"{key_text(IpAddress('saddr', other.family))} . {key_text(other)}"
            return f"{pair} {'!= ' if negated else ''}@{name}"
        case NamedPort(family, name, direction):
            port = "dport" if direction == "original" else "sport"
            return f"{key_text(CtAddress('server', family))} . meta l4proto . th {port} @{name}"
        case PacketNamedPort(family, name):
            return f"{key_text(IpAddress('daddr', family))} . meta l4proto . th dport @{name}"
        case FamilyInSet(name, negated):
            return f"meta nfproto {'!= ' if negated else ''}@{name}"
        case CtFlowInSet(family, name):
            return f"{_flow_text(family)} @{name}"
        case SetUpdate(family, name, replies):
            return f"update @{name} {{ {_flow_text(family, replies=replies)} }}"


def _flow_text(family: Family, *, replies: bool = False) -> str:
    first, second = ("d", "s") if replies else ("s", "d")
    ip = _IP[family]
    return f"{ip} {first}addr . meta l4proto . th {first}port . {ip} {second}addr . th {second}port"


def _tracked_text(match: CtDirectionIs | ConntrackState | CtUnconfirmed | CtSeenReply | CtTranslated) -> str:
    match match:
        case CtDirectionIs(direction):
            return f"ct direction {direction}"
        case ConntrackState(states):
            return f"ct state {','.join(states)}"
        case CtUnconfirmed():
            return "ct status ! confirmed"
        case CtSeenReply():
            return "ct status seen-reply"
        case CtTranslated():
            return "ct status snat"


def _one_of(names: tuple[str, ...]) -> str:
    return names[0] if len(names) == 1 else f"{{ {', '.join(names)} }}"
