"""An interpreter of ruleset objects: the verdict that the kernel would have for a packet.

A packet goes in, a verdict with its logs and counters comes out. Base chains run as in netfilter: by
hook, in order of priority; `accept` ends one base chain, `drop` ends all; nat chains see first packets only.
Lookups are compiled once for each ruleset, so that property tests can run thousands of packets a second.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from functools import lru_cache
from ipaddress import ip_address
from typing import Literal, NamedTuple, TypeAlias

import msgspec

from nfagent.model.netaddr import Family, Range, family_of, number
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
    Within,
)
from nfagent.nftables.objects import (
    Accept,
    Drop,
    Goto,
    Jump,
    LinkName,
    Log,
    MarkSet,
    Masquerade,
    NamedSet,
    PortRange,
    ProtocolPort,
    Return,
    Rule,
    Ruleset,
    SourceNat,
    Verdict,
    VmapLookup,
)
from nfagent.policy.evaluator import Flow

HookName: TypeAlias = Literal["prerouting", "forward", "input", "output"]
State: TypeAlias = Literal["new", "established", "related", "invalid", "untracked"]
_REMEMBERED = 64
_END = "end"


class Conntrack(NamedTuple):
    """The conntrack state of a packet's connection; the state alone where it is invalid or untracked.

    answered:   whether its server has sent something; asked of related packets alone
    translated: whether its source is
    """

    state: State = "new"
    client: str = ""
    server: str = ""
    server_port: int = 0
    confirmed: bool = False
    way: CtDirection = "original"
    answered: bool = True
    translated: bool = False

    @property
    def known(self) -> bool:
        return self.state not in {"invalid", "untracked"}


class HookPacket(NamedTuple):
    """A packet at a hook. `protocol`: nft's keyword, or a number as text.

    link: its input interface; unrouted: the reverse path to its source isn't by that interface; reset: TCP's RST is set
    out_link, next_hop: interface and next hop of its route
    """

    family: Family
    saddr: str
    daddr: str
    protocol: str
    conntrack: Conntrack
    sport: int = 0
    dport: int = 0
    icmpv6_type: str = ""
    local_source: bool = False
    loopback: bool = False
    fragment: bool = False
    icmpv6_code: int = 0
    hop_limit: int = 63
    payload: int = 64
    group_frame: bool = False
    bridged: bool = True
    link: str = ""
    unrouted: bool = False
    reset: bool = False
    drawn: int = 0
    mark: int = 0
    out_link: str = ""
    next_hop: str = ""


class PacketResult(NamedTuple):
    """The result of a packet.

    translated: masquerade changed its source; source: the address that SNAT gave it; mark: its mark behind the hook
    """

    verdict: Literal["accept", "drop"]
    logs: tuple[Log, ...] = ()
    counters: tuple[str, ...] = ()
    translated: bool = False
    source: str = ""
    mark: int = 0

    @property
    def accepted(self) -> bool:
        return self.verdict == "accept"


def opening(flow: Flow) -> HookPacket:
    """Return a connection's first packet."""
    port = flow.port or 0
    conntrack = Conntrack("new", flow.source, flow.destination, port)
    icmpv6_type = "echo-request" if flow.protocol == "icmpv6" else ""
    ends = (family_of(flow.source), flow.source, flow.destination)
    return HookPacket(*ends, flow.protocol, conntrack, 40000, port, icmpv6_type)


def later(flow: Flow) -> HookPacket:
    """Return a packet of the client, once the server has answered."""
    first = opening(flow)
    return first._replace(conntrack=first.conntrack._replace(state="established", confirmed=True))


def reply(flow: Flow) -> HookPacket:
    """Return the server's reply packet of a flow."""
    sent = later(flow)
    conntrack = sent.conntrack._replace(way="reply")
    return sent._replace(saddr=sent.daddr, daddr=sent.saddr, sport=sent.dport, dport=sent.sport, conntrack=conntrack)


def seen_at(hook: HookName, packet: HookPacket) -> HookPacket:
    """Return a packet with an unspoofed source as a hook sees it: at output, the source is the node's own."""
    return packet._replace(local_source=hook == "output")


def stray(flow: Flow, state: State, icmpv6_type: str = "") -> HookPacket:
    """Return a packet without a conntrack entry."""
    hops = 255 if icmpv6_type.startswith("nd-") else 63
    return opening(flow)._replace(conntrack=Conntrack(state), icmpv6_type=icmpv6_type, hop_limit=hops)


Test: TypeAlias = Callable[[HookPacket], bool]
Address: TypeAlias = Callable[[HookPacket], str]
"""Reads the address of a key; '' where the expression breaks."""


class _Step(NamedTuple):
    tests: tuple[Test, ...]
    counter: str
    log: Log | None
    mark: MarkSet | None
    verdict: Verdict | None
    address: Address | None


class _Machine:
    """One ruleset with compiled lookups."""

    def __init__(self, ruleset: Ruleset) -> None:
        self.ruleset = ruleset
        self.chains = {name: tuple(map(self._step, chain.rules)) for name, chain in ruleset.chains.items()}
        self.base: dict[tuple[str, str], list[str]] = {}
        hooked = [(chain.hook, name) for name, chain in ruleset.chains.items() if chain.hook is not None]
        for hook, name in sorted(hooked, key=lambda pair: (pair[0].priority, pair[1])):
            self.base.setdefault((hook.type, hook.name), []).append(name)

    def run(self, hook: HookName, packet: HookPacket) -> PacketResult:
        trail = _Trail(mark=packet.mark)
        for name in self.base.get(("filter", hook), ()):
            if self._walk(name, packet, trail) == "drop":
                return PacketResult("drop", tuple(trail.logs), tuple(trail.counters))
            packet = _marked(packet, trail)
        conntrack = packet.conntrack
        if hook in {"forward", "output"} and conntrack.state in {"new", "related"} and not conntrack.confirmed:
            for name in self.base.get(("nat", "postrouting"), ()):
                if self._walk(name, packet, trail) == "drop":
                    return PacketResult("drop", tuple(trail.logs), tuple(trail.counters))
        logs, counters = tuple(trail.logs), tuple(trail.counters)
        return PacketResult("accept", logs, counters, trail.translated, trail.source, trail.mark)

    def _walk(self, chain: str, packet: HookPacket, trail: _Trail) -> str:
        for tests, counter, log, mark, verdict, address in self.chains[chain]:
            for test in tests:
                if not test(packet):
                    break
            else:
                if counter:
                    trail.counters.append(counter)
                if log is not None:
                    trail.logs.append(log)
                if mark is not None:
                    trail.mark = trail.mark & ~mark.mask | mark.value
                    packet = _marked(packet, trail)
                decided = self._act(verdict, address, packet, trail) if verdict is not None else ""
                if decided:
                    return "" if decided == _END else decided
                packet = _marked(packet, trail)
        return ""

    def _act(self, verdict: Verdict, address: Address | None, packet: HookPacket, trail: _Trail) -> str:
        """Return 'accept' or 'drop', '' to go on with the next rule, or _END to leave the chain undecided."""
        match verdict:
            case VmapLookup(_, name):
                found = self.ruleset.maps[name].elements.get(address(packet)) if address is not None else None
                # A map's verdict is a goto: where that chain ends without a verdict, so does this one.
                return self._walk(found, packet, trail) or _END if found is not None else ""
            case Goto(target):
                return self._walk(target, packet, trail) or _END
            case Jump(target):
                return self._walk(target, packet, trail)
            case Accept() | Drop():
                return "accept" if isinstance(verdict, Accept) else "drop"
            case Masquerade() | SourceNat():
                return _translated(verdict, packet, trail)
            case Return():
                return _END

    def _step(self, rule: Rule) -> _Step:
        address = _address(rule.verdict.key) if isinstance(rule.verdict, VmapLookup) else None
        return _Step(tuple(map(self._test, rule.matches)), rule.counter, rule.log, rule.mark, rule.verdict, address)

    def _test(self, match: Match) -> Test:
        match match:
            case AddressInSet(key, name, negated):
                return _in_set(_address(key), self.ruleset.sets[name], negated=negated)
            case PairInSet():
                return _pair_in_set(match, self.ruleset.sets[match.set])
            case NamedPort() | PacketNamedPort() | FromInterface() | ToPort():
                return _by_element(match, self.ruleset.sets[match.set])
            case ServerPortIn() | PacketPortIn():
                return _port_in(match, self.ruleset.sets[match.set])
            case CtFlowInSet() | FamilyInSet() | NextHopInSet():
                return _by_elements(match, self.ruleset.sets[match.set])
            case _:
                return _alone(match)


def _alone(match: Match) -> Test:
    match match:
        case CtDirectionIs() | ConntrackState() | CtUnconfirmed() | CtSeenReply() | CtTranslated() | ServerPort():
            return _tracked(match)
        case _:
            return _header(match) or _machine(match)


def _by_elements(match: CtFlowInSet | FamilyInSet | NextHopInSet, item: NamedSet) -> Test:
    if isinstance(match, NextHopInSet):
        return lambda packet: packet.family == match.family and packet.next_hop in item.elements
    if isinstance(match, CtFlowInSet):
        return lambda packet: _flow(packet) in item.elements
    return lambda packet: (packet.family in item.elements) != match.negated


def _tracked(match: CtDirectionIs | ConntrackState | CtUnconfirmed | CtSeenReply | CtTranslated | ServerPort) -> Test:
    match match:
        case CtDirectionIs(way):
            return lambda packet: packet.conntrack.known and packet.conntrack.way == way
        case ConntrackState(states):
            return lambda packet: packet.conntrack.state in states
        case CtUnconfirmed():
            return lambda packet: packet.conntrack.known and not packet.conntrack.confirmed
        case CtSeenReply():
            return lambda packet: packet.conntrack.known and packet.conntrack.answered
        case CtTranslated():
            return lambda packet: packet.conntrack.known and packet.conntrack.translated
        case ServerPort(first, last):
            return lambda packet: packet.conntrack.known and first <= packet.conntrack.server_port <= last


def _header(match: Match) -> Test | None:
    match match:
        case L4Proto(names):
            return lambda packet: packet.protocol in names
        case PacketPort(protocol, first, last):
            return lambda packet: packet.protocol == protocol and _has_port(packet) and first <= packet.dport <= last
        case TcpReset():
            return lambda packet: packet.protocol == "tcp" and packet.reset
        case FamilyIs(family):
            return lambda packet: packet.family == family
        case Fragment(family):
            return lambda packet: packet.fragment and packet.family == family
        case _:
            return _ipv6_header(match)


def _ipv6_header(match: Match) -> Test | None:
    match match:
        case Icmpv6Type(names):
            return lambda packet: packet.protocol == "icmpv6" and packet.icmpv6_type in names
        case Icmpv6Code(code):
            return lambda packet: packet.protocol == "icmpv6" and packet.icmpv6_code == code
        case HopLimit(hops):
            return lambda packet: packet.family == 6 and packet.hop_limit == hops
        case MaxPayload(size):
            return lambda packet: packet.family == 6 and packet.payload <= size
        case Within(key, ranges):
            return _within(_address(key), ranges)
        case _:
            return None


def _machine(match: Match) -> Test:
    match match:
        case FibLocalSource():
            return lambda packet: packet.local_source
        case NotLoopback():
            return lambda packet: not packet.loopback
        case SetUpdate():
            return lambda packet: True  # noqa: ARG005 - the elements that it adds change no other rule's test here
        case _:
            return _arrival(match)


def _arrival(match: Match) -> Test:
    match match:
        case FromBridge():
            return lambda packet: packet.bridged
        case MulticastFrame():
            return lambda packet: packet.group_frame
        case MulticastAddress():
            return lambda packet: _is_group(packet.daddr)
        case RandomBelow() | MarkIs():
            return _by_number(match)
        case ToInterface() | FibUnrouted():
            return _by_route(match)
        case UnicastDestination():
            return lambda packet: not _is_group(packet.daddr)
        case _:
            raise ValueError(match)


def _by_route(match: ToInterface | FibUnrouted) -> Test:
    if isinstance(match, ToInterface):
        return lambda packet: packet.out_link == match.name
    return lambda packet: packet.unrouted


def _by_number(match: RandomBelow | MarkIs) -> Test:
    if isinstance(match, MarkIs):
        return lambda packet: (packet.mark & match.mask == match.value) != match.negated
    return lambda packet: packet.drawn % match.modulus < match.below


class _Trail(msgspec.Struct):
    """The logs and counters of a packet so far."""

    logs: list[Log] = []
    counters: list[str] = []
    translated: bool = False
    source: str = ""
    mark: int = 0


def _translated(verdict: Masquerade | SourceNat, packet: HookPacket, trail: _Trail) -> str:
    if isinstance(verdict, Masquerade):
        trail.translated = True
    elif family_of(verdict.address) == packet.family:
        trail.source = verdict.address
    else:
        return ""
    return "accept"


def _marked(packet: HookPacket, trail: _Trail) -> HookPacket:
    return packet if packet.mark == trail.mark else packet._replace(mark=trail.mark)


def _address(key: CtAddress | IpAddress) -> Address:
    family = key.family
    if isinstance(key, CtAddress):
        end = 1 if key.end == "client" else 2
        return lambda packet: packet.conntrack[end] if packet.family == family else ""  # type: ignore[return-value]
    if key.side == "saddr":
        return lambda packet: packet.saddr if packet.family == family else ""
    return lambda packet: packet.daddr if packet.family == family else ""


def _in_set(address: Address, item: NamedSet, *, negated: bool) -> Test:
    holds = _among_ranges(item) if item.kind == "range" else item.elements.__contains__

    def test(packet: HookPacket) -> bool:
        value = address(packet)
        return bool(value) and holds(value) != negated

    return test


def _pair_in_set(match: PairInSet, item: NamedSet) -> Test:
    source, other = _address(IpAddress("saddr", match.other.family)), _address(match.other)

    def test(packet: HookPacket) -> bool:
        pair = source(packet), other(packet)
        return all(pair) and (pair in item.elements) != match.negated

    return test


def _within(address: Address, ranges: tuple[Range, ...]) -> Test:
    def test(packet: HookPacket) -> bool:
        value = address(packet)
        return bool(value) and any(item.first <= _number(value) <= item.last for item in ranges)

    return test


@lru_cache(maxsize=65536)
def _is_group(address: str) -> bool:
    """Return whether fib has an address as multicast or broadcast; these tests have no subnet broadcast address."""
    return ip_address(address).is_multicast or address in {"0.0.0.0", "255.255.255.255"}  # noqa: S104 - not bound to


def _among_ranges(item: NamedSet) -> Callable[[str], bool]:
    ranges = sorted((element.first, element.last) for element in item.elements if isinstance(element, Range))
    firsts = [first for first, _ in ranges]

    def holds(address: str) -> bool:
        value = _number(address)
        at = bisect_right(firsts, value) - 1
        return at >= 0 and value <= ranges[at][1]

    return holds


def _port_in(match: ServerPortIn | PacketPortIn, item: NamedSet) -> Test:
    ranges = [element for element in item.elements if isinstance(element, PortRange)]

    def holds(port: int) -> bool:
        return any(element.first <= port <= element.last for element in ranges)

    if isinstance(match, ServerPortIn):
        return lambda packet: packet.conntrack.known and holds(packet.conntrack.server_port)
    return lambda packet: packet.protocol == match.protocol and _has_port(packet) and holds(packet.dport)


def _flow(packet: HookPacket) -> tuple[str, str, int, str, int]:
    return packet.saddr, packet.protocol, packet.sport, packet.daddr, packet.dport


def _by_element(match: NamedPort | PacketNamedPort | FromInterface | ToPort, item: NamedSet) -> Test:
    if isinstance(match, FromInterface):
        return lambda packet: (LinkName(packet.link) in item.elements) != match.negated
    if isinstance(match, ToPort):
        return lambda packet: _has_port(packet) and _service(packet) in item.elements
    return _named_port(match, item)


def _service(packet: HookPacket) -> ProtocolPort | None:
    return ProtocolPort(packet.protocol, packet.dport) if packet.protocol in {"tcp", "udp", "sctp"} else None  # type: ignore[arg-type]


def _named_port(match: NamedPort | PacketNamedPort, item: NamedSet) -> Test:
    if isinstance(match, PacketNamedPort):
        own = _address(IpAddress("daddr", match.family))
        return lambda packet: _has_port(packet) and (own(packet), packet.protocol, packet.dport) in item.elements
    server = _address(CtAddress("server", match.family))
    if match.direction == "original":
        return lambda packet: (server(packet), packet.protocol, packet.dport) in item.elements
    return lambda packet: (server(packet), packet.protocol, packet.sport) in item.elements


def _has_port(packet: HookPacket) -> bool:
    return not packet.fragment


@lru_cache(maxsize=65536)
def _number(address: str) -> int:
    return number(address)


_machines: dict[int, _Machine] = {}


def run(ruleset: Ruleset, hook: HookName, packet: HookPacket) -> PacketResult:
    """Run a packet through a ruleset at a hook; one that forward or output accepts goes on to postrouting."""
    machine = _machines.get(id(ruleset))
    if machine is None:
        if len(_machines) >= _REMEMBERED:
            _machines.clear()
        # The machine holds the ruleset, so its id stays taken for as long as it's remembered here.
        machine = _machines[id(ruleset)] = _Machine(ruleset)
    return machine.run(hook, packet)
