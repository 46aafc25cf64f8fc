"""One rule of each form, as nft text and as our messages, in a real kernel: equal dumps and listings, and refusals."""

from __future__ import annotations

from collections.abc import Iterator
from typing import get_args

import pytest

from nfagent.kernel.refusals import RefusedError
from nfagent.model.netaddr import Range, parse_cidr, single
from nfagent.netlink.nft_messages import NFPROTO_BRIDGE, NFPROTO_INET
from nfagent.nftables.diff import diff
from nfagent.nftables.matches import (
    AddressInSet,
    ConntrackState,
    CtAddress,
    CtDirectionIs,
    CtFlowInSet,
    CtSeenReply,
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
    ServerPort,
    ServerPortIn,
    SetUpdate,
    ToPort,
    UnicastDestination,
    UnknownExpr,
    Within,
)
from nfagent.nftables.objects import (
    ABSENT,
    Accept,
    Chain,
    Drop,
    Goto,
    Hook,
    Jump,
    Log,
    Masquerade,
    NamedSet,
    Return,
    Rule,
    Ruleset,
    Verdict,
    VerdictMap,
    VmapLookup,
)
from nfagent.nftables.transaction import AddRule
from tests.support.twin_tables import TwinTables

pytestmark = pytest.mark.kernel

SOURCE4, SOURCE6, DESTINATION4 = IpAddress("saddr", 4), IpAddress("saddr", 6), IpAddress("daddr", 4)
CLIENT4, SERVER6 = CtAddress("client", 4), CtAddress("server", 6)
FROM4 = AddressInSet(SOURCE4, "address4")
REDIRECT = Icmpv6Type(("nd-redirect",))
COMPARED, TRANSLATED = "compared", "translated"
NAMED = Ruleset(
    {
        "address4": NamedSet("address", 4),
        "address6": NamedSet("address", 6),
        "pair4": NamedSet("pair", 4),
        "pair6": NamedSet("pair", 6),
        "port4": NamedSet("port", 4),
        "port6": NamedSet("port", 6),
        "flow4": NamedSet("flow", 4),
        "flow6": NamedSet("flow", 6),
        "ports": NamedSet("ports", 4),
        "families": NamedSet("family", 4),
        "links": NamedSet("link", 4),
        "services": NamedSet("service", 4),
    },
    {"map4": VerdictMap(4, {}), "map6": VerdictMap(6, {})},
    {"target": Chain(), COMPARED: Chain(), TRANSLATED: Chain((), Hook("nat", "postrouting", 100))},
    frozenset(("counted",)),
)
MATCHES: dict[str, tuple[Match, ...]] = {
    "client of a connection": (AddressInSet(CLIENT4, "address4"),),
    "server of a connection, not in a set": (AddressInSet(SERVER6, "address6", negated=True),),
    "source in a header": (FROM4,),
    "source and destination, one check of the family": (FROM4, AddressInSet(DESTINATION4, "address4", negated=True)),
    "source and client": (FROM4, AddressInSet(CLIENT4, "address4")),
    "client and source": (AddressInSet(CLIENT4, "address4"), FROM4),
    "source with the client": (PairInSet(CLIENT4, "pair4"),),
    "source with the server of IPv6": (PairInSet(SERVER6, "pair6", negated=True),),
    "source with itself": (PairInSet(SOURCE4, "pair4"),),
    "one address": (Within(SOURCE6, (single("fe80::1"),)),),
    "a prefix of whole bytes": (Within(SOURCE6, (parse_cidr("ff00::/8"),)),),
    "a prefix of bits": (Within(SOURCE6, (parse_cidr("fe80::/10"),)),),
    "all addresses": (Within(SOURCE4, (parse_cidr("0.0.0.0/0"),)),),
    "a range that is no prefix": (Within(SOURCE4, (Range(4, 1, 9),)),),
    "two addresses": (Within(SOURCE4, (single("10.0.0.1"), single("10.0.0.3"))),),
    "an address and a prefix": (Within(SOURCE6, (single("::"), parse_cidr("fe80::/10"))),),
    "ranges up to the last address": (Within(DESTINATION4, (Range(4, 5, 9), parse_cidr("224.0.0.0/3"))),),
    "ranges that touch": (Within(SOURCE4, (parse_cidr("10.0.0.0/9"), parse_cidr("10.128.0.0/9"))),),
    "a hop limit": (HopLimit(255),),
    "a payload's length": (MaxPayload(1240),),
    "frames for many": (MulticastFrame(),),
    "links of a bridge": (FromBridge(),),
    "addresses of many": (MulticastAddress(),),
    "addresses of one": (UnicastDestination(),),
    "one protocol": (L4Proto(("icmpv6",)),),
    "several protocols": (L4Proto(("icmp", "icmpv6", "47")),),
    "the server's port": (L4Proto(("tcp",)), ServerPort(80, 80)),
    "the server's port in a range": (L4Proto(("udp",)), ServerPort(80, 90)),
    "the server's port in a set": (L4Proto(("sctp",)), ServerPortIn("ports")),
    "a port": (PacketPort("tcp", 80, 80),),
    "a port in a range": (PacketPort("udp", 0, 65535),),
    "a port in a set": (PacketPortIn("sctp", "ports"),),
    "a port after its protocol": (L4Proto(("tcp",)), PacketPort("tcp", 80, 80)),
    "a named port of the server": (CtDirectionIs("original"), NamedPort(4, "port4")),
    "a named port in a reply": (CtDirectionIs("reply"), NamedPort(6, "port6", "reply")),
    "a named port of the packet": (PacketNamedPort(4, "port4"),),
    "a named port of a packet of IPv6": (PacketNamedPort(6, "port6"),),
    "a fragment": (Fragment(4),),
    "a fragment of IPv6": (Fragment(6),),
    "a family of a set": (FamilyInSet("families"),),
    "no family of a set": (FamilyInSet("families", negated=True),),
    "a family, before its header": (FamilyIs(4), FROM4),
    "an address of this machine": (FibLocalSource(),),
    "an interface other than the loopback one": (NotLoopback(),),
    "interfaces": (FromInterface("links"),),
    "no such interface": (FromInterface("links", negated=True),),
    "a source without a route back": (FibUnrouted(),),
    "a port of any protocol": (ToPort("services"),),
    "a flow, whose time starts again": (CtFlowInSet(4, "flow4"), SetUpdate(4, "flow4")),
    "a flow of IPv6": (CtFlowInSet(6, "flow6"),),
    "a flow of IPv6 that is only added": (SetUpdate(6, "flow6"),),
    "a state": (ConntrackState(("established",)),),
    "several states": (ConntrackState(("invalid", "new", "untracked")),),
    "an unconfirmed connection": (CtUnconfirmed(),),
    "a connection with a reply": (CtSeenReply(),),
    "a type of ICMPv6": (REDIRECT,),
    "a code of ICMPv6": (Icmpv6Code(0),),
    "a type and a code, in one comparison": (REDIRECT, Icmpv6Code(0)),
    "a code, another match, and a type": (Icmpv6Code(0), CtSeenReply(), REDIRECT, NotLoopback()),
    "a type after the family": (FamilyIs(6), REDIRECT),
    "a type after the protocol": (L4Proto(("icmpv6",)), REDIRECT),
    "a type after the other family's header": (Within(SOURCE4, (Range(4, 1, 9),)), REDIRECT),
    "neighbour discovery": (
        *(Icmpv6Type(("nd-router-advert", "nd-redirect")), Icmpv6Code(0), HopLimit(255)),
        *(Within(SOURCE6, (parse_cidr("fe80::/10"),)), MaxPayload(1240)),
    ),
}
FRAMES: dict[str, tuple[Match, ...]] = {
    "a type of frame": (EtherType((0x806,)),),
    "several types of frame": (EtherType((0x800, 0x806, 0x86DD)),),
    "links of a pair": (FromVeth(),),
}
ENDINGS: dict[str, Rule] = {
    "accept": Rule(verdict=Accept()),
    "drop": Rule(verdict=Drop()),
    "return": Rule(verdict=Return()),
    "goto": Rule(verdict=Goto("target")),
    "jump": Rule(verdict=Jump("target")),
    "the verdict of a map, by the client": Rule(verdict=VmapLookup(CLIENT4, "map4")),
    "the verdict of a map, by the source": Rule(verdict=VmapLookup(SOURCE6, "map6")),
    "the verdict of a map, after a match of the header": Rule((FROM4,), verdict=VmapLookup(SOURCE4, "map4")),
    "counter, log, verdict and comment": Rule((), "counted", Log("deny a b", 5), Drop(), "why"),
    "the longest prefix and comment": Rule((), "", Log("p" * 127, 65535), None, "ö" * 63),
}
TRANSLATIONS: dict[str, Rule] = {
    "masquerade": Rule(verdict=Masquerade(random_fully=False)),
    "masquerade with random ports": Rule((FROM4,), verdict=Masquerade(random_fully=True)),
}


@pytest.fixture(scope="module")
def made() -> Iterator[TwinTables]:
    with TwinTables() as twins:
        yield twins


@pytest.fixture
def twins(made: TwinTables) -> TwinTables:
    made.clear()
    made.apply(diff(ABSENT, NAMED))
    return made


def test_every_match_and_every_verdict_has_a_form() -> None:
    matches = {type(match) for form in (*MATCHES.values(), *FRAMES.values()) for match in form}
    assert matches == {*get_args(Match)} - {UnknownExpr}
    endings = (*ENDINGS.values(), *TRANSLATIONS.values())
    assert {type(rule.verdict) for rule in endings if rule.verdict is not None} == {*get_args(Verdict)}


@pytest.mark.parametrize("matches", MATCHES.values(), ids=MATCHES)
def test_a_match_is_dumped_and_listed_as_that_of_nft(twins: TwinTables, matches: tuple[Match, ...]) -> None:
    twins.apply((AddRule(COMPARED, Rule(matches, verdict=Accept())),))
    assert twins.differences() == {}


@pytest.mark.parametrize("matches", FRAMES.values(), ids=FRAMES)
def test_a_match_of_frames_is_dumped_and_listed_as_that_of_nft(twins: TwinTables, matches: tuple[Match, ...]) -> None:
    frames = Ruleset(chains={COMPARED: Chain((Rule(matches, verdict=Accept()),))})
    twins.apply(diff(ABSENT, frames), family=NFPROTO_BRIDGE)
    assert twins.differences() == {}


@pytest.mark.parametrize("rule", ENDINGS.values(), ids=ENDINGS)
def test_the_end_of_a_rule_is_dumped_and_listed_as_that_of_nft(twins: TwinTables, rule: Rule) -> None:
    twins.apply((AddRule(COMPARED, rule),))
    assert twins.differences() == {}


@pytest.mark.parametrize("rule", TRANSLATIONS.values(), ids=TRANSLATIONS)
def test_a_translation_is_dumped_and_listed_as_that_of_nft(twins: TwinTables, rule: Rule) -> None:
    twins.apply((AddRule(TRANSLATED, rule),))
    assert twins.differences() == {}


def test_several_anonymous_sets_of_several_rules_are_those_of_nft(twins: TwinTables) -> None:
    forms = ("frames for many", "neighbour discovery", "an address and a prefix", "addresses of many")
    rule = Rule(tuple(match for form in forms for match in MATCHES[form]), verdict=Accept())
    twins.apply(tuple(AddRule(COMPARED, rule) for _ in range(3)))
    assert twins.differences() == {}


@pytest.mark.parametrize(
    ("chain", "rule", "part"),
    [
        pytest.param(COMPARED, Rule((FamilyIs(4), FromInterface("no")), verdict=Drop()), "lookup", id="no such set"),
        pytest.param(COMPARED, Rule((FROM4,), "no", None, Drop()), "objref", id="no such counter"),
        pytest.param(COMPARED, Rule((FROM4,), verdict=Goto("no")), "immediate", id="no such chain to go to"),
        pytest.param(COMPARED, Rule(verdict=VmapLookup(CLIENT4, "address4")), "lookup", id="a set in a map's place"),
        pytest.param("no", Rule(verdict=Drop()), "chain no", id="no such chain"),
    ],
)
def test_a_refused_rule_is_named_with_its_part(twins: TwinTables, chain: str, rule: Rule, part: str) -> None:
    with pytest.raises(RefusedError) as raised:
        twins.commit((AddRule(chain, rule),), family=NFPROTO_INET)
    assert raised.value.part == part
    assert twins.differences() == {}
