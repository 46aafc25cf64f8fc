"""Matches of a rule in words of iptables, for packets of one family.

ipset looks up addresses and ports of the header. A match on the connection is one on the header, by the direction of
the packet: in FORWARD, INPUT and POSTROUTING, after DNAT and before source NAT, the header of a packet in original
direction has the client as source and the server as destination, that of a reply the other way round.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

from nfagent.model.netaddr import Family, Range
from nfagent.nftables.matches import (
    AddressInSet,
    ConntrackState,
    CtAddress,
    CtDirection,
    CtDirectionIs,
    CtFlowInSet,
    CtSeenReply,
    CtTranslated,
    CtUnconfirmed,
    FamilyInSet,
    FamilyIs,
    FibLocalSource,
    FibUnrouted,
    Fragment,
    FromBridge,
    FromInterface,
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
    NotLoopback,
    PacketNamedPort,
    PacketPort,
    PacketPortIn,
    PairInSet,
    RandomBelow,
    ServerPort,
    ServerPortIn,
    TcpReset,
    ToInterface,
    ToPort,
    UnicastDestination,
    Within,
)
from nfagent.nftables.objects import PortRange
from nfagent.xtables.context import (
    ALWAYS,
    NEVER,
    ORIGINAL,
    REPLY,
    Alternatives,
    Conjunction,
    RuleContext,
    Words,
    is_marked,
    side_of_end,
)
from nfagent.xtables.names import set_name
from nfagent.xtables.options import UnsupportedMatchError
from nfagent.xtables.set_parts import FLOW_PARTS, LINK_PARTS, SERVICE_PROTOCOLS, prefixes

_IPV6_HEADER = 40
_NO_PROTOCOL: tuple[str, ...] = ("",)
_PROTOCOLS = {"icmpv6": "ipv6-icmp"}
"""iptables' names of protocols, where they differ from nft's."""
_ICMPV6 = {
    "mld-listener-query": 130,
    "mld-listener-report": 131,
    "mld-listener-done": 132,
    "nd-router-solicit": 133,
    "nd-router-advert": 134,
    "nd-neighbor-solicit": 135,
    "nd-neighbor-advert": 136,
    "nd-redirect": 137,
    "mld2-listener-report": 143,
}
_STATES = ("invalid", "new", "related", "established", "untracked")
"""In the order in which iptables-save prints them."""
_HEADER_ORDER = ("-s", "-d", "-i", "-o", "-p", "-f")
_CONSTANT: dict[type, Conjunction] = {
    FibLocalSource: (("-m", "addrtype", "--src-type", "LOCAL"),),
    NotLoopback: (("!", "-i", "lo"),),
    TcpReset: (("-p", "tcp"), ("-m", "tcp", "--tcp-flags", "RST", "RST")),
    CtUnconfirmed: (("-m", "conntrack", "!", "--ctstatus", "CONFIRMED"),),
    CtSeenReply: (("-m", "conntrack", "--ctstatus", "SEEN_REPLY"),),
    CtTranslated: (("-m", "conntrack", "--ctstate", "SNAT"),),
}


def in_set(name: str, sides: str, *, negated: bool = False) -> Words:
    """Return the match of a look-up in an ipset."""
    return ("-m", "set", *(("!",) if negated else ()), "--match-set", name, sides)


def depends_on_direction(match: Match) -> bool:
    """Return whether the words of a match depend on the packet's direction."""
    match match:
        case AddressInSet(CtAddress()) | ServerPort() | ServerPortIn() | NamedPort():
            return True
        case _:
            return False


def conjunctions(matches: tuple[Match, ...], context: RuleContext) -> Alternatives:
    """Return the alternatives of all matches of a rule, in the order in which iptables-save prints them.

    Raises UnsupportedMatchError.
    """
    readings: tuple[tuple[Words, CtDirection], ...]
    if context.reading != "either":
        readings = (((), context.reading),)
    elif any(map(depends_on_direction, matches)):
        readings = ((ORIGINAL, "original"), (REPLY, "reply"))
    else:
        readings = (((), "original"),)
    return tuple(
        ordered
        for direction_words, direction in readings
        for found in _of_direction(matches, context, direction)
        if (ordered := _ordered((direction_words, *found) if direction_words else found)) is not None
    )


def _of_direction(matches: tuple[Match, ...], context: RuleContext, direction: CtDirection) -> Iterator[Conjunction]:
    protocols = next((match.names for match in matches if isinstance(match, L4Proto)), _NO_PROTOCOL)
    code = next((match.code for match in matches if isinstance(match, Icmpv6Code)), None)
    for protocol in protocols:
        alternatives = [_words(match, context, direction, protocol, code) for match in matches]
        for chosen in product(*alternatives):
            found = tuple(words for conjunction in chosen for words in conjunction)
            for words in found:
                if words[0] == "-m" and context.options.lacks(context.family, words[1]):
                    raise UnsupportedMatchError(words[1])
            yield found


def _ordered(words: Conjunction) -> Conjunction | None:
    """Return matches as iptables-save orders them; None if no packet can match all of them."""
    header: dict[str, Words] = {}
    modules: list[Words] = []
    for item in words:
        slot = item[1] if item[0] == "!" else item[0]
        if slot not in _HEADER_ORDER:
            modules.append(item)
        elif header.setdefault(slot, item) != item:
            if slot != "-p":
                raise UnsupportedMatchError(f"two matches of {slot}")
            return None
    return (*(header[slot] for slot in _HEADER_ORDER if slot in header), *modules)


def _words(match: Match, context: RuleContext, direction: CtDirection, protocol: str, code: int | None) -> Alternatives:
    """Return the alternatives of one match. protocol, code: those that further matches of the rule ask for."""
    constant = _CONSTANT.get(type(match))
    if constant is not None:
        return (constant,)
    match match:
        case AddressInSet() | PairInSet() | FamilyInSet() | CtFlowInSet() | NamedPort() | PacketNamedPort():
            return _by_set(match, context.family, direction)
        case ServerPort() | ServerPortIn() | PacketPort() | PacketPortIn() | ToPort():
            return _by_port(match, context, direction, protocol)
        case (
            FromInterface()
            | ToInterface()
            | FibUnrouted()
            | MulticastFrame()
            | FromBridge()
            | MulticastAddress()
            | UnicastDestination()
        ):
            return _by_link(match, context)
        case CtDirectionIs() | ConntrackState():
            return _by_state(match, context)
        case L4Proto():
            return ((("-p", _PROTOCOLS.get(protocol, protocol)),),)
        case RandomBelow(modulus, below):
            return ((("-m", "statistic", "--mode", "random", "--probability", f"{below / modulus:.11f}"),),)
        case MarkIs(mask, value, negated):
            return ((("-m", "mark", *(("!",) if negated else ()), "--mark", f"{value:#x}/{mask:#x}"),),)
        case Icmpv6Type() | Icmpv6Code() | HopLimit() | MaxPayload() | Within() | FamilyIs() | Fragment():
            return _by_header(match, context.family, code)
        case _:
            raise UnsupportedMatchError(type(match).__name__)


def _by_set(
    match: AddressInSet | PairInSet | FamilyInSet | CtFlowInSet | NamedPort | PacketNamedPort,
    family: Family,
    direction: CtDirection,
) -> Alternatives:
    match match:
        case AddressInSet(key, name, negated):
            if key.family != family:
                return NEVER
            return ((in_set(set_name(name, family), side(key, direction), negated=negated),),)
        case PairInSet(IpAddress("saddr", of), name, True):
            return ((in_set(set_name(name, family), "src", negated=True),),) if of == family else NEVER
        case PairInSet(other):
            if other.family != family:
                return NEVER
            raise UnsupportedMatchError("PairInSet")
        case FamilyInSet(name, negated):
            return ((in_set(set_name(name, family), "src", negated=negated),),)
        case CtFlowInSet(of, name):
            return (flow_words(name, family),) if of == family else NEVER
        case NamedPort() | PacketNamedPort():
            return _by_named_port(match, family, direction)


def _by_named_port(match: NamedPort | PacketNamedPort, family: Family, direction: CtDirection) -> Alternatives:
    if match.family != family or (isinstance(match, NamedPort) and match.direction != direction):
        return NEVER
    end = "dst" if isinstance(match, PacketNamedPort) else side_of_end("server", direction)
    return ((in_set(set_name(match.set, family), f"{end},{end}"),),)


def side(key: CtAddress | IpAddress, direction: CtDirection) -> str:
    """Return which address of a packet a match looks at: `src` or `dst`."""
    if isinstance(key, CtAddress):
        return side_of_end(key.end, direction)
    return "src" if key.side == "saddr" else "dst"


def flow_sides(*, replies: bool = False) -> tuple[str, str]:
    """Return the sides of both sets of reply tuples, for the flow of a packet or of replies to it."""
    return ("dst,dst,src", "dst,src,src") if replies else ("src,src,dst", "src,dst,dst")


def flow_words(name: str, family: Family) -> Conjunction:
    """Return the matches of a flow: both sets have it."""
    sides = zip(FLOW_PARTS, flow_sides(), strict=True)
    return tuple(in_set(set_name(name, family, part), words) for part, words in sides)


def _by_port(
    match: ServerPort | ServerPortIn | PacketPort | PacketPortIn | ToPort,
    context: RuleContext,
    direction: CtDirection,
    protocol: str,
) -> Alternatives:
    server = side_of_end("server", direction)
    match match:
        case ServerPort(first, last):
            return ((_port_words(protocol, server, first, last),),)
        case ServerPortIn(name):
            return _ports_in(name, context, server, protocol)
        case PacketPort(of, first, last):
            return ((("-p", of), _port_words(of, "dst", first, last)),)
        case PacketPortIn(of, name):
            return tuple((("-p", of), *words) for words in _ports_in(name, context, "dst", of))
        case ToPort(name):
            return tuple((("-p", of), in_set(set_name(name, 4, of), "dst")) for of in SERVICE_PROTOCOLS)


def _port_words(protocol: str, side: str, first: int, last: int) -> Words:
    if protocol not in ("tcp", "udp", "sctp"):
        raise UnsupportedMatchError(f"a port of protocol {protocol or 'any'}")
    numbers = str(first) if first == last else f"{first}:{last}"
    return ("-m", protocol, "--sport" if side == "src" else "--dport", numbers)


def _ports_in(name: str, context: RuleContext, side: str, protocol: str) -> Alternatives:
    """Return the alternatives of a set of ports. bitmap:port knows TCP and UDP only: for SCTP one for each range.

    The name of such a set is a digest of its ranges: they never change.
    """
    if protocol != "sctp":
        return ((in_set(set_name(name, 4), side),),)
    ranges = sorted(item for item in context.sets[name].elements if isinstance(item, PortRange))
    return tuple((_port_words(protocol, side, item.first, item.last),) for item in ranges)


def _by_link(
    match: FromInterface
    | ToInterface
    | FibUnrouted
    | MulticastFrame
    | FromBridge
    | MulticastAddress
    | UnicastDestination,
    context: RuleContext,
) -> Alternatives:
    match match:
        case FromInterface(name, negated):
            parts = [in_set(set_name(name, context.family, part), "src,src", negated=negated) for part in LINK_PARTS]
            return (tuple(parts),) if negated else tuple((part,) for part in parts)
        case ToInterface(name):
            return ((("-o", name),),)
        case FibUnrouted():
            return ((is_marked(context.options.unrouted_bit),),)
        case MulticastFrame():
            return tuple((("-m", "pkttype", "--pkt-type", kind),) for kind in ("broadcast", "multicast"))
        case FromBridge():
            return ALWAYS  # saves nftables a look-up for packets from elsewhere, which no router forwards to a group
        case MulticastAddress():
            kinds = "BROADCAST,MULTICAST" if context.family == 4 else "MULTICAST"
            return ((("-m", "addrtype", "--dst-type", kinds),),)
        case UnicastDestination():
            # Of several types IPv4 must be of one, and IPv6 of all; there a local address is a unicast one too.
            kinds = "UNICAST,LOCAL" if context.family == 4 else "UNICAST"
            return ((("-m", "addrtype", "--dst-type", kinds),),)


def _by_state(match: CtDirectionIs | ConntrackState, context: RuleContext) -> Alternatives:
    if isinstance(match, ConntrackState):
        states = ",".join(state.upper() for state in _STATES if state in match.states)
        return ((("-m", "conntrack", "--ctstate", states),),)
    if context.reading == "reply":
        return ALWAYS if match.direction == "reply" else NEVER
    if context.reading == "original" and match.direction == "reply":
        return NEVER
    return ((REPLY if match.direction == "reply" else ORIGINAL,),)


def _by_header(
    match: Icmpv6Type | Icmpv6Code | HopLimit | MaxPayload | Within | FamilyIs | Fragment,
    family: Family,
    code: int | None,
) -> Alternatives:
    match match:
        case FamilyIs(of):
            return ALWAYS if of == family else NEVER
        case Within(key, ranges):
            return _within(key, ranges) if key.family == family else NEVER
        case Fragment(of):
            if of != family:
                return NEVER
            return ((("-f",),),) if family == 4 else ((("-m", "ipv6header", "--header", "ipv6-frag", "--soft"),),)
        case _ if family == 4:
            return NEVER
        case Icmpv6Type(names):
            suffix = "" if code is None else f"/{code}"
            return tuple(
                (("-p", "ipv6-icmp"), ("-m", "icmp6", "--icmpv6-type", f"{_ICMPV6[name]}{suffix}")) for name in names
            )
        case Icmpv6Code():
            return ALWAYS  # a part of the match of the type
        case HopLimit(hops):
            return ((("-m", "hl", "--hl-eq", str(hops)),),)
        case MaxPayload(size):
            return ((("-m", "length", "--length", f"0:{size + _IPV6_HEADER}"),),)


def _within(key: IpAddress, ranges: tuple[Range, ...]) -> Alternatives:
    option = "-s" if key.side == "saddr" else "-d"
    return tuple(((option, f"{address}/{length}"),) for item in ranges for address, length in prefixes(item))
