"""Every form of match, verdict, statement and set that exists, with extreme values: a ruleset of each, and strategies.

Those that are of family bridge only are in the ruleset of the bridge table.
"""

from __future__ import annotations

from collections.abc import Iterator

from hypothesis import strategies as st

from nfagent.model.netaddr import Family, Range, parse_cidr, single
from nfagent.model.objects import Protocol
from nfagent.nftables.bridge_table import FRAMES
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
    Within,
)
from nfagent.nftables.objects import (
    FLOW_SET_SIZE,
    Accept,
    Chain,
    Drop,
    Element,
    Goto,
    Hook,
    Jump,
    LinkName,
    Log,
    MarkSet,
    Masquerade,
    NamedSet,
    PortElement,
    PortRange,
    ProtocolPort,
    Return,
    Rule,
    Ruleset,
    SourceNat,
    Verdict,
    VerdictMap,
    VmapLookup,
)

FAMILIES: tuple[Family, Family] = (4, 6)
_PROTOCOLS: tuple[Protocol, ...] = ("tcp", "udp", "sctp")
_LAST = {4: (1 << 32) - 1, 6: (1 << 128) - 1}
_HIGHEST = {4: "255.255.255.255", 6: "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"}
_LOWEST = {4: "0.0.0.0", 6: "::"}  # noqa: S104 - nothing is bound to it
_SOME = {4: "10.64.0.10", 6: "2001:db8::10"}
_STATES = ("invalid", "established", "related", "new", "untracked")
_ICMPV6 = (
    *("nd-router-solicit", "nd-router-advert", "nd-neighbor-solicit", "nd-neighbor-advert"),
    *("mld-listener-query", "mld-listener-report", "mld-listener-done", "mld2-listener-report"),
)
_L4 = ("icmp", "tcp", "udp", "icmpv6", "sctp", "4", "41", "47", "132")
TARGET, COUNTER = "allow/a.target_chain", "drop/a.counter-"
LONGEST_COMMENT = "ö" * 63
LONGEST_PREFIX = "p" * 127


def _named(kind: str, family: Family) -> str:
    return f"{kind}{family}"


def _sets() -> Iterator[tuple[str, NamedSet]]:
    for family in FAMILIES:
        low, some, high = (addresses[family] for addresses in (_LOWEST, _SOME, _HIGHEST))
        last = _LAST[family]
        yield _named("address", family), NamedSet("address", family, frozenset((low, some, high)), "three addresses")
        yield _named("empty", family), NamedSet("address", family)
        yield _named("counted", family), NamedSet("counted", family, frozenset((low, some, high)), "with counters")
        yield _named("uncounted", family), NamedSet("counted", family)
        yield (
            _named("range", family),
            NamedSet(
                "range",
                family,
                frozenset(
                    (Range(family, 0, 0), Range(family, 5, 9), Range(family, 11, 99), Range(family, 1 << 30, last))
                ),
                LONGEST_COMMENT,
            ),
        )
        yield _named("all", family), NamedSet("range", family, frozenset((Range(family, 0, last),)))
        yield _named("last", family), NamedSet("range", family, frozenset((Range(family, last, last),)))
        ports: set[PortElement] = {
            (address, protocol, port) for address in (low, high) for protocol in _PROTOCOLS for port in (1, 65535)
        }
        yield _named("port", family), NamedSet("port", family, frozenset(ports), "addresses with ports")
        yield _named("pair", family), NamedSet("pair", family, frozenset(((low, high), (some, some))))
        yield _named("flow", family), NamedSet("flow", family, comment="reply tuples")
        yield _named("wide", family), NamedSet("flow", family, size=FLOW_SET_SIZE * 4)
    port_ranges: tuple[Element, ...] = (PortRange(0, 0), PortRange(2, 79), PortRange(80, 80), PortRange(8000, 65535))
    yield "ports", NamedSet("ports", 4, frozenset(port_ranges), "some ports")
    yield "all-ports", NamedSet("ports", 4, frozenset((PortRange(0, 65535),)))
    yield "family", NamedSet("family", 4, frozenset(FAMILIES), "both")
    yield "link", NamedSet("link", 4, frozenset((LinkName("a"), LinkName("veth-of-15bytes"), LinkName("eth0.100"))))
    services: tuple[Element, ...] = (ProtocolPort("tcp", 1), ProtocolPort("sctp", 65535), ProtocolPort("udp", 53))
    yield "service", NamedSet("service", 4, frozenset(services), "ports of services")


SETS = dict(_sets())
MAPS = {
    _named("map", family): VerdictMap(family, {_LOWEST[family]: TARGET, _HIGHEST[family]: "other"})
    for family in FAMILIES
}


def _keys() -> Iterator[CtAddress | IpAddress]:
    for family in FAMILIES:
        yield from (CtAddress("client", family), CtAddress("server", family))
        yield from (IpAddress("saddr", family), IpAddress("daddr", family))


def _by_set() -> Iterator[tuple[Match, ...]]:
    for key in _keys():
        for negated in (False, True):
            yield (AddressInSet(key, _named("address", key.family), negated),)
            yield (AddressInSet(key, _named("range", key.family), negated),)
            yield (PairInSet(key, _named("pair", key.family), negated),)
        yield (AddressInSet(key, _named("counted", key.family)),)
    for family in FAMILIES:
        yield (NamedPort(family, _named("port", family)),)
        yield (CtDirectionIs("reply"), NamedPort(family, _named("port", family), "reply"))
        yield (PacketNamedPort(family, _named("port", family)),)
        yield (CtFlowInSet(family, _named("flow", family)), SetUpdate(family, _named("flow", family)))
        yield (TcpReset(), SetUpdate(family, _named("flow", family), replies=True))
    yield (SetUpdate(4, "flow4", replies=True), TcpReset(), PacketPort("tcp", 80, 80))
    for negated in (False, True):
        yield (FamilyInSet("family", negated), FromInterface("link", negated))
    yield from ((NextHopInSet(family, _named("address", family)),) for family in FAMILIES)
    yield (ToInterface("a-link"), NextHopInSet(4, _named("address", 4)))
    yield (L4Proto(("tcp",)), ServerPortIn("ports"), ToPort("service"))
    yield from ((PacketPortIn(protocol, "ports"),) for protocol in _PROTOCOLS)


MARKS = (
    *((0xFF_0000, value) for value in (0, 0x1_0000, 0x80_0000, 0xFF_0000)),
    *((0x80_0000, 0x80_0000), (0xFF, 0x7F), (0xFF00_0000, 0x8100_0000), (1 << 31, 1 << 31)),
    *((0xFFFF_FFFF, value) for value in (0, 1, 0xFFFF_FFFF)),
)
"""Bits of the packet mark, and their values."""


def _by_value() -> Iterator[tuple[Match, ...]]:
    for family in FAMILIES:
        key = IpAddress("saddr", family)
        ranges = (single(_LOWEST[family]), Range(family, 5, 9), Range(family, 1 << 20, (1 << 21) - 1))
        yield from ((FamilyIs(family), Fragment(family)), (Within(key, ranges),), (Within(key, ranges[1:2]),))
        yield (Within(key, (single(_SOME[family]),)), Within(IpAddress("daddr", family), ranges[2:]))
        yield (Within(key, (*ranges[:2], Range(family, _LAST[family] - 7, _LAST[family]))),)
        yield (Within(key, (single(_SOME[family]), single(_HIGHEST[family]))),)
    yield (Within(IpAddress("saddr", 6), (single("::"), parse_cidr("fe80::/10"))), HopLimit(255), Icmpv6Code(0))
    for number in (0, 1, 255):
        yield (HopLimit(number), MaxPayload(number), Icmpv6Code(number))
    yield (MaxPayload(65535),)
    yield (MulticastFrame(), FromBridge(), FamilyIs(4), MulticastAddress())
    yield (UnicastDestination(), FibLocalSource(), NotLoopback(), FibUnrouted())
    yield from ((L4Proto((name,)),) for name in _L4)
    yield from ((L4Proto(("icmp", "icmpv6")),), (L4Proto(("tcp", "udp", "sctp", "47")),))
    for first, last in ((80, 80), (0, 0), (65535, 65535), (0, 65535), (1, 65535), (8000, 8080), (80, 81)):
        yield (L4Proto(("udp",)), ServerPort(first, last))
        yield from ((PacketPort(protocol, first, last),) for protocol in _PROTOCOLS)
    yield from ((ConntrackState((state,)),) for state in _STATES)
    yield from ((ConntrackState(_STATES),), (ConntrackState(("established",)), CtDirectionIs("original")))
    yield (CtUnconfirmed(), CtSeenReply())
    yield from ((Icmpv6Type((name,)),) for name in _ICMPV6)
    yield (Icmpv6Type(_ICMPV6),)
    for cidr in ("ff00::/8", "fe80::/10", "fe80::1/128", "::/0"):
        yield (Within(IpAddress("saddr", 6), (parse_cidr(cidr),)),)
    touching = tuple(map(parse_cidr, ("10.0.0.0/9", "10.128.0.0/9")))
    for others in (
        *((Range(4, 0, _LAST[4]),), (Range(4, 1, 9),), (single("10.0.0.1"), single("10.0.0.3")), touching),
        (Range(4, 5, 9), parse_cidr("224.0.0.0/3")),
    ):
        yield from ((Within(IpAddress(side, 4), others),) for side in ("saddr", "daddr"))
    yield from ((MaxPayload(1240),), (L4Proto(("icmp", "icmpv6", "47")),), (Icmpv6Type(("nd-redirect",)),))
    yield (ConntrackState(("invalid", "new", "untracked")),)
    yield from ((MarkIs(mask, value, negated),) for mask, value in MARKS for negated in (False, True))
    yield (CtTranslated(), MarkIs(0xFF_0000, 0, negated=True))
    yield (MarkIs(0xFF_0000, 0), FamilyIs(4), MarkIs(1, 1))
    yield from ((RandomBelow(modulus, below),) for modulus, below in ((2, 1), (64_512, 1), ((1 << 32) - 1, 1 << 31)))


def _one_after_another() -> Iterator[tuple[Match, ...]]:
    """Yield matches that set the same register one after another, and checks that one match leaves to the next."""
    from4, from6 = (AddressInSet(IpAddress("saddr", family), _named("address", family)) for family in FAMILIES)
    client4, redirect = AddressInSet(CtAddress("client", 4), "address4"), Icmpv6Type(("nd-redirect",))
    yield (from4, AddressInSet(IpAddress("daddr", 4), "address4", negated=True))
    yield from ((from4, client4), (client4, from4), (FamilyIs(4), from4))
    yield (CtDirectionIs("original"), NamedPort(4, "port4"))
    yield from ((L4Proto(("tcp",)), ServerPort(80, 80)), (L4Proto(("udp",)), ServerPort(80, 90)))
    yield (L4Proto(("sctp",)), ServerPortIn("ports"))
    yield (L4Proto(("tcp",)), PacketPort("tcp", 80, 80))
    yield from ((redirect, Icmpv6Code(0)), (Icmpv6Code(0), CtSeenReply(), redirect, NotLoopback()))
    advert = Icmpv6Type(("nd-router-advert",))
    yield from ((redirect, advert, Icmpv6Code(0)), (redirect, Icmpv6Code(0), Icmpv6Code(1)))
    yield from ((FamilyIs(6), redirect), (L4Proto(("icmpv6",)), redirect))
    yield (Within(IpAddress("saddr", 4), (Range(4, 1, 9),)), redirect)
    yield (
        *(Icmpv6Type(("nd-router-advert", "nd-redirect")), Icmpv6Code(0), HopLimit(255)),
        *(Within(IpAddress("saddr", 6), (parse_cidr("fe80::/10"),)), MaxPayload(1240)),
    )
    yield (L4Proto(("tcp",)), PacketPort("tcp", 80, 80), ServerPort(80, 80))
    yield (FamilyIs(6), Icmpv6Type(("nd-neighbor-solicit",)), HopLimit(255), Icmpv6Code(0), MaxPayload(64))
    yield (FamilyIs(4), from4, AddressInSet(IpAddress("daddr", 4), "range4"))
    yield (from4, AddressInSet(CtAddress("client", 4), "range4"))
    yield (from6, HopLimit(255), L4Proto(("icmpv6",)), Icmpv6Code(0))
    yield (L4Proto(("udp",)), PacketPort("udp", 1, 2), Fragment(4), PacketPortIn("udp", "ports"))
    yield (PacketPortIn("udp", "ports"), PacketNamedPort(6, "port6"), Fragment(6))
    yield (FamilyInSet("family"), FamilyIs(4), PairInSet(IpAddress("daddr", 4), "pair4"))


def _alone(groups: tuple[tuple[Match, ...], ...]) -> Iterator[tuple[Match, ...]]:
    """Yield each match that is only in groups by itself, but for those that nft takes only behind a protocol."""
    matches = dict.fromkeys(match for group in groups for match in group)
    for match in matches:
        if (match,) not in groups and not isinstance(match, ServerPort | ServerPortIn):
            yield (match,)


_GROUPS = (*_by_set(), *_by_value(), *_one_after_another())
MATCHES = (*_GROUPS, *_alone(_GROUPS))
SEVERAL_SETS = Rule(
    (
        *(MulticastFrame(), Icmpv6Type(("nd-router-advert", "nd-redirect")), Icmpv6Code(0), HopLimit(255)),
        *(Within(IpAddress("saddr", 6), (single("::"), parse_cidr("fe80::/10"))), MaxPayload(1240), MulticastAddress()),
    ),
    verdict=Accept(),
)
"""A rule with several anonymous sets."""


def _endings() -> Iterator[Rule]:
    verdicts: tuple[Verdict, ...] = (
        Accept(),
        Drop(),
        Goto(TARGET),
        Jump(TARGET),
        Return(),
        *(VmapLookup(key, _map(key)) for key in _keys()),
    )
    for verdict in verdicts:
        yield Rule(verdict=verdict)
        yield Rule((NotLoopback(),), COUNTER, Log("x", 0), verdict, "why")
    of_packet = AddressInSet(IpAddress("saddr", 4), "address4")
    yield Rule((of_packet,), verdict=VmapLookup(IpAddress("saddr", 4), "map4"))
    for mask, value in MARKS:
        yield Rule(mark=MarkSet(mask, value))
        yield Rule((of_packet,), COUNTER, Log("x", 0), Accept(), "why", MarkSet(mask, value))
    yield Rule(counter=COUNTER)
    yield Rule(log=Log(LONGEST_PREFIX, 65535), comment=LONGEST_COMMENT)
    yield from (Rule(log=Log(prefix, group)) for prefix, group in (("a b: ", 1), (LONGEST_PREFIX, 65535)))
    yield from (Rule(verdict=Accept(), comment=comment) for comment in ("c", LONGEST_COMMENT, "x" * 127))
    yield Rule()


def _map(key: CtAddress | IpAddress) -> str:
    return _named("map", key.family)


_TRANSLATIONS = (
    Rule(verdict=Masquerade(random_fully=False)),
    Rule((AddressInSet(IpAddress("daddr", 4), "all4", negated=True),), verdict=Masquerade(random_fully=True)),
    Rule((AddressInSet(IpAddress("saddr", 4), "address4"),), verdict=Masquerade(random_fully=True)),
    Rule((FamilyIs(6),), COUNTER, verdict=Masquerade(random_fully=True), comment="translated"),
    *(
        Rule((*matches, RandomBelow(modulus, below)), verdict=Masquerade(random_fully, PortRange(*ports)))
        for matches in ((L4Proto(("tcp", "udp", "sctp")),), (FamilyIs(4), L4Proto(("udp",))))
        for modulus, below, random_fully, ports in (
            (65_000, 30_000, True, (1024, 29_999)),
            (2, 1, False, (5, 5)),
            ((1 << 32) - 1, (1 << 32) - 2, False, (1, 65_535)),
        )
    ),
    Rule((L4Proto(("sctp",)),), COUNTER, verdict=Masquerade(random_fully=False, ports=PortRange(65_535, 65_535))),
    *(
        Rule((*matches, MarkIs(0xFF_0000, 0x7F_0000)), counter, verdict=SourceNat(address))
        for address in ("192.0.2.10", "255.255.255.254", "2001:db8::10", "::ffff:0:1")
        for matches, counter in (((), ""), ((FamilyIs(6 if ":" in address else 4),), COUNTER))
    ),
    Rule(verdict=SourceNat("192.0.2.1")),
)


FOR_ANY_RULE = Ruleset(
    SETS, MAPS, {TARGET: Chain(), "other": Chain((Rule(verdict=Drop()),))}, frozenset((COUNTER, "unused"))
)
"""What the rules refer to, and chain `other` for them."""


def _chains() -> Iterator[tuple[str, Chain]]:
    yield from FOR_ANY_RULE.chains.items()
    yield "matches", Chain(tuple(Rule(matches, verdict=Accept()) for matches in MATCHES))
    endings = tuple(rule for rule in _endings() if rule != Rule())
    yield "endings", Chain(endings)
    yield "several-sets", Chain((SEVERAL_SETS,) * 3)
    for name, priority in (("prerouting", -300), ("forward", 0), ("input", -2147483648), ("output", 2147483647)):
        yield f"{name}-hook", Chain((Rule(verdict=Jump("endings")),), Hook("filter", name, priority))  # type: ignore[arg-type]
    yield "postrouting", Chain(_TRANSLATIONS, Hook("nat", "postrouting", 99))


EVERY_FORM = Ruleset(SETS, MAPS, dict(_chains()), FOR_ANY_RULE.counters)
"""Family inet: every form but those of family bridge."""

ETHER_TYPES = ((0,), (0x800,), (0x806,), (0x86DD,), (0x8100,), (0xFFFF,), (0, 0x800, 0x806, 0x8035, 0x86DD, 0xFFFF))
_FRAME_RULES = tuple(
    Rule(matches, verdict=Accept())
    for matches in (
        *((EtherType(numbers), FromVeth()) for numbers in ETHER_TYPES),
        *((EtherType(numbers),) for numbers in ETHER_TYPES),
        (FromVeth(),),
    )
)
EVERY_FRAME = Ruleset(
    chains={**FRAMES.chains, "frames": Chain((*_FRAME_RULES, Rule((FromBridge(), FromVeth()), verdict=Drop())))},
    counters=FRAMES.counters,
)
"""Family bridge."""


@st.composite
def rules(draw: st.DrawFn) -> Rule:
    """Draw a rule of any forms, in any order, with any values; it fits FOR_ANY_RULE."""
    matches = draw(st.lists(_drawn_matches(), max_size=5))
    ending = draw(st.sampled_from([rule for rule in _endings() if rule != Rule()]))
    return Rule(tuple(matches), ending.counter, ending.log, ending.verdict, ending.comment, ending.mark)


def _drawn_matches() -> st.SearchStrategy[Match]:
    known = st.sampled_from(sorted({match for matches in MATCHES for match in matches}, key=repr))
    port = st.integers(0, 65535)
    ports = st.tuples(port, port).map(sorted)
    byte = st.integers(0, 255)
    return st.one_of(
        known,
        ports.map(lambda both: ServerPort(*both)),
        st.builds(lambda name, both: PacketPort(name, *both), st.sampled_from(_PROTOCOLS), ports),
        byte.map(HopLimit),
        byte.map(Icmpv6Code),
        port.map(MaxPayload),
        st.lists(st.sampled_from(_STATES), min_size=1, unique=True).map(
            lambda names: ConntrackState(tuple(state for state in _STATES if state in names))
        ),
        st.lists(st.sampled_from(_ICMPV6), min_size=1, unique=True).map(
            lambda names: Icmpv6Type(tuple(name for name in _ICMPV6 if name in names))
        ),
        st.lists(st.sampled_from(_L4), min_size=1, unique=True).map(lambda names: L4Proto(tuple(names))),
        st.one_of(*map(_within, FAMILIES)),
    )


@st.composite
def _within(draw: st.DrawFn, family: Family) -> Match:
    """Draw a match on disjoint ranges that don't touch, in ascending order."""
    numbers = sorted(draw(st.sets(st.integers(0, _LAST[family]), min_size=2, max_size=8)))
    pairs = zip(numbers[::2], numbers[1::2], strict=False)
    ranges: list[Range] = []
    for first, last in pairs:
        if not ranges or ranges[-1].last + 1 < first:
            ranges.append(Range(family, first, last))
    return Within(IpAddress(draw(st.sampled_from(("saddr", "daddr"))), family), tuple(ranges))
