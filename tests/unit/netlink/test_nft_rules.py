"""Rules as messages: expressions and their order, checks before matches of headers, anonymous sets, errors."""

from __future__ import annotations

from itertools import count

import pytest

from nfagent.errors import WireError
from nfagent.model.netaddr import Range, parse_cidr, single
from nfagent.netlink.codec import NFGEN_SIZE, attributes
from nfagent.netlink.nft_messages import (
    HEADERS_SIZE,
    NEWRULE,
    NEWSET,
    NEWSETELEM,
    NFPROTO_BRIDGE,
    NFPROTO_INET,
    NftMessage,
)
from nfagent.netlink.nft_rules import rule_messages
from nfagent.nftables.matches import (
    AddressInSet,
    ConntrackState,
    CtAddress,
    CtDirectionIs,
    FamilyInSet,
    FamilyIs,
    FibLocalSource,
    Fragment,
    HopLimit,
    Icmpv6Code,
    Icmpv6Type,
    IpAddress,
    L4Proto,
    Match,
    MaxPayload,
    NamedPort,
    PacketPort,
    PairInSet,
    RandomBelow,
    ServerPort,
    UnknownExpr,
    Within,
)
from nfagent.nftables.objects import Accept, Drop, Goto, Jump, Log, Masquerade, PortRange, Return, Rule, VmapLookup

APPEND, CREATE = 0x800, 0x400
SOURCE4, SOURCE6, CLIENT4 = IpAddress("saddr", 4), IpAddress("saddr", 6), CtAddress("client", 4)
PEERS = AddressInSet(CLIENT4, "peers")
FROM4 = AddressInSet(SOURCE4, "peers")
TYPE = Icmpv6Type(("nd-redirect",))
LINK_LOCAL = parse_cidr("fe80::/10")
FAMILY, PROTOCOL = ("meta", "cmp"), ("meta", "cmp")
BY_SET, BY_VALUE, BY_BITS = ("payload", "lookup"), ("payload", "cmp"), ("payload", "bitwise", "cmp")


def encoded(rule: Rule, *, family: int = NFPROTO_INET, position: int = 0) -> list[NftMessage]:
    return list(rule_messages("c", rule, family=family, set_ids=count(7), position=position))


def expressions(rule: Rule) -> list[tuple[str, bytes]]:
    """Return name and content of each expression of a rule."""
    written = dict(attributes(encoded(rule)[-1].body, NFGEN_SIZE))[4]
    parts = [dict(attributes(one)) for _, one in attributes(written)]
    return [(part[1].rstrip(b"\0").decode(), part[2]) for part in parts]


def names(*matches: Match) -> tuple[str, ...]:
    return tuple(name for name, _ in expressions(Rule(matches)))


@pytest.mark.parametrize(
    ("matches", "written"),
    [
        pytest.param((PEERS,), ("ct", "lookup"), id="an address of the connection needs no check of the family"),
        pytest.param((FROM4,), (*FAMILY, *BY_SET), id="an address of the header does"),
        pytest.param((FROM4, FROM4), (*FAMILY, *BY_SET, *BY_SET), id="once in a rule"),
        pytest.param((FamilyIs(4), FROM4), (*FAMILY, *BY_SET), id="a match of the family is such a check"),
        pytest.param((FamilyInSet("f"), FROM4), ("meta", "lookup", *FAMILY, *BY_SET), id="a set of families isn't"),
        pytest.param((PEERS, FROM4), ("ct", "lookup", *FAMILY, *BY_SET), id="nor is an address of the connection"),
        pytest.param((FROM4, HopLimit(1)), (*FAMILY, *BY_SET, *FAMILY, *BY_VALUE), id="each family is checked"),
        pytest.param((PacketPort("tcp", 1, 1),), (*PROTOCOL, *BY_VALUE), id="a port needs a check of the protocol"),
        pytest.param(
            (L4Proto(("tcp",)), PacketPort("tcp", 1, 1), ServerPort(1, 1)),
            (*PROTOCOL, *BY_VALUE, "ct", "cmp"),
            id="a match of one protocol is such a check",
        ),
        pytest.param(
            (L4Proto(("tcp", "udp")), PacketPort("tcp", 1, 1)),
            ("meta", "lookup", *PROTOCOL, *BY_VALUE),
            id="a match of two protocols isn't",
        ),
        pytest.param(
            (L4Proto(("udp",)), PacketPort("tcp", 1, 1)),
            (*PROTOCOL, *PROTOCOL, *BY_VALUE),
            id="nor is one of another protocol",
        ),
        pytest.param((PacketPort("udp", 1, 2),), (*PROTOCOL, "payload", "cmp", "cmp"), id="a range has two ends"),
        pytest.param((TYPE,), (*FAMILY, *PROTOCOL, *BY_VALUE), id="ICMPv6 needs checks of family and protocol"),
        pytest.param((L4Proto(("icmpv6",)), TYPE), (*PROTOCOL, *BY_VALUE), id="its protocol suffices"),
        pytest.param((HopLimit(1), TYPE), (*FAMILY, *BY_VALUE, *PROTOCOL, *BY_VALUE), id="or what its family has left"),
        pytest.param((TYPE, Icmpv6Code(0)), (*FAMILY, *PROTOCOL, *BY_VALUE), id="its type and code are one comparison"),
        pytest.param(
            (Icmpv6Code(0), HopLimit(1), TYPE),
            (*FAMILY, *PROTOCOL, *BY_VALUE, *BY_VALUE),
            id="at the place of its type",
        ),
        pytest.param(
            (Icmpv6Type(("nd-redirect", "echo-reply")), Icmpv6Code(0)),
            (*FAMILY, *PROTOCOL, *BY_SET, *BY_VALUE),
            id="but not several types",
        ),
        pytest.param((Fragment(4),), (*FAMILY, *BY_BITS), id="a fragment of IPv4 has an offset"),
        pytest.param((Fragment(6),), (*FAMILY, "exthdr", "cmp"), id="a fragment of IPv6 has a header"),
        pytest.param((Within(SOURCE6, (LINK_LOCAL,)),), (*FAMILY, *BY_BITS), id="a prefix of bits has a mask"),
        pytest.param((Within(SOURCE6, (parse_cidr("ff00::/8"),)),), (*FAMILY, *BY_VALUE), id="one of bytes has none"),
        pytest.param((Within(SOURCE4, (parse_cidr("0.0.0.0/0"),)),), (*FAMILY, *BY_BITS), id="all addresses have one"),
        pytest.param((Within(SOURCE4, (single("10.0.0.1"),)),), (*FAMILY, *BY_VALUE), id="an address is compared"),
        pytest.param(
            (Within(SOURCE4, (Range(4, 1, 2),)),), (*FAMILY, "payload", "cmp", "cmp"), id="a range has two ends too"
        ),
        pytest.param((MaxPayload(1), HopLimit(2)), (*FAMILY, *BY_VALUE, *BY_VALUE), id="one family, two fields"),
        pytest.param((PairInSet(CLIENT4, "p"),), (*FAMILY, "payload", "ct", "lookup"), id="a pair is one key"),
        pytest.param((NamedPort(4, "p"),), ("ct", "meta", "payload", "lookup"), id="a named port is a key of three"),
        pytest.param((ConntrackState(("new",)),), ("ct", "bitwise", "cmp"), id="a state is a bit"),
        pytest.param((CtDirectionIs("reply"), FibLocalSource()), ("ct", "cmp", "fib", "cmp"), id="direction, then fib"),
    ],
)
def test_a_match_is_these_expressions(matches: tuple[Match, ...], written: tuple[str, ...]) -> None:
    assert names(*matches) == written


@pytest.mark.parametrize(
    ("rule", "written"),
    [
        pytest.param(Rule(verdict=Accept()), ["immediate"], id="accept"),
        pytest.param(Rule(verdict=Drop(), counter="n"), ["objref", "immediate"], id="counted and dropped"),
        pytest.param(Rule(log=Log("p", 1), counter="n", verdict=Return()), ["objref", "log", "immediate"], id="logged"),
        pytest.param(Rule(verdict=Goto("d")), ["immediate"], id="goto"),
        pytest.param(Rule(verdict=Jump("d")), ["immediate"], id="jump"),
        pytest.param(Rule(verdict=VmapLookup(CLIENT4, "m")), ["ct", "lookup"], id="map by the connection's address"),
        pytest.param(
            Rule(verdict=VmapLookup(SOURCE4, "m")), ["meta", "cmp", "payload", "lookup"], id="map by the packet's"
        ),
        pytest.param(
            Rule((FROM4,), verdict=VmapLookup(SOURCE4, "m")),
            ["meta", "cmp", "payload", "lookup", "payload", "lookup"],
            id="map after a match of the same header",
        ),
        pytest.param(Rule(verdict=Masquerade(random_fully=True)), ["masq"], id="masquerade"),
        pytest.param(
            Rule((RandomBelow(3, 1),), verdict=Masquerade(random_fully=True, ports=PortRange(1, 2))),
            ["numgen", "byteorder", "cmp", "immediate", "immediate", "masq"],
            id="masquerade to a range of ports, for a part of the packets",
        ),
        pytest.param(Rule(), [], id="nothing"),
    ],
)
def test_statements_come_in_the_order_of_the_text(rule: Rule, written: list[str]) -> None:
    assert [name for name, _ in expressions(rule)] == written


def test_fields_of_a_key_are_in_registers_of_four_bytes_unless_sixteen_fit() -> None:
    found = [dict(attributes(content)) for name, content in expressions(Rule((NamedPort(4, "p"),))) if name != "lookup"]
    assert [int.from_bytes(one[1], "big") for one in found] == [1, 9, 10]
    found = [dict(attributes(content)) for name, content in expressions(Rule((NamedPort(6, "p"),))) if name != "lookup"]
    assert [int.from_bytes(one[1], "big") for one in found] == [1, 2, 13]


def test_a_rule_is_appended_or_comes_before_another_one() -> None:
    appended, inserted = encoded(Rule(verdict=Drop()))[0], encoded(Rule(verdict=Drop()), position=9)[0]
    assert (appended.type, appended.flags) == (NEWRULE, CREATE | APPEND)
    assert inserted.flags == CREATE
    assert 6 not in dict(attributes(appended.body, NFGEN_SIZE))
    assert dict(attributes(inserted.body, NFGEN_SIZE))[6] == bytes((0, 0, 0, 0, 0, 0, 0, 9))


def test_each_anonymous_set_comes_before_its_rule_with_a_number_of_its_own() -> None:
    rule = Rule((L4Proto(("tcp", "udp")), Icmpv6Type(("echo-reply", "nd-redirect"))))
    found = encoded(rule)
    assert [one.type for one in found] == [NEWSET, NEWSETELEM, NEWSET, NEWSETELEM, NEWRULE]
    numbers = [dict(attributes(one.body, NFGEN_SIZE)).get(10) for one in found if one.type == NEWSET]
    looked_up = [dict(attributes(content))[4] for name, content in expressions(rule) if name == "lookup"]
    assert numbers == looked_up == [bytes((0, 0, 0, 7)), bytes((0, 0, 0, 8))]
    assert all(one.request.describe() == found[-1].request.describe() for one in found)


def test_a_comment_is_user_data() -> None:
    body = encoded(Rule(verdict=Drop(), comment="why"))[0].body
    assert dict(attributes(body, NFGEN_SIZE))[7] == b"\0\x04why\0"


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        pytest.param(Rule((UnknownExpr('{"quota":1}'),)), '{"quota":1}', id="what we don't write"),
        pytest.param(Rule((AddressInSet(CLIENT4, "s" * 256),)), "s" * 256, id="a name of 256 bytes"),
        pytest.param(Rule((AddressInSet(CLIENT4, ""),)), "''", id="no name"),
        pytest.param(Rule(verdict=Goto("a\0b")), "a\\x00b", id="a name with a zero"),
        pytest.param(Rule(counter="\ud800"), "ud800", id="a name that isn't Unicode"),
        pytest.param(Rule(comment="x" * 128), "x" * 128, id="a comment of 128 bytes"),
        pytest.param(Rule(log=Log("p" * 128, 1)), "p" * 128, id="a log prefix of 128 bytes"),
        pytest.param(Rule(log=Log("p", 65536)), "group=65536", id="no log group"),
        pytest.param(Rule((L4Proto(()),)), "L4Proto", id="no protocol"),
        pytest.param(Rule((L4Proto(("ipv6-icmp",)),)), "ipv6-icmp", id="a name that isn't nft's"),
        pytest.param(Rule((L4Proto(("256",)),)), "256", id="a protocol above 255"),
        pytest.param(Rule((ConntrackState(()),)), "ConntrackState", id="no state"),
        pytest.param(Rule((ConntrackState(("odd",)),)), "odd", id="an unknown state"),
        pytest.param(Rule((Icmpv6Type(("odd",)),)), "odd", id="an unknown type of ICMPv6"),
        pytest.param(
            Rule((PacketPort("tcp", 2, 1),)), "first=2, last=1", id="a range of ports that ends before it starts"
        ),
        pytest.param(Rule((PacketPort("tcp", 1, 65536),)), "65536", id="a port above 65535"),
        pytest.param(Rule((HopLimit(256),)), "HopLimit(hop_limit=256)", id="a hop limit above 255"),
        pytest.param(Rule((Within(SOURCE4, ()),)), "Within", id="no address"),
        pytest.param(Rule((Within(SOURCE4, (LINK_LOCAL,)),)), "family=6", id="a range of the other family"),
        pytest.param(Rule((Within(SOURCE4, (Range(4, 2, 1),)),)), "Within", id="a range that ends before it starts"),
        pytest.param(
            Rule((Within(SOURCE4, tuple(Range(4, 9 * number, 9 * number + 2) for number in range(2000))),)),
            "",
            id="more elements than a message holds",
        ),
    ],
)
def test_what_has_no_encoding_is_an_error_with_the_chain_and_the_value(rule: Rule, words: str) -> None:
    with pytest.raises(WireError) as raised:
        encoded(rule)
    assert "chain c" in str(raised.value)
    assert words in str(raised.value)


def test_a_name_that_no_chain_has_is_an_error() -> None:
    with pytest.raises(WireError, match="nnn"):
        list(rule_messages("n" * 256, Rule(), family=NFPROTO_INET, set_ids=count()))


def test_a_header_of_ip_has_no_match_in_a_bridges_table() -> None:
    with pytest.raises(WireError, match="AddressInSet"):
        encoded(Rule((FROM4,)), family=NFPROTO_BRIDGE)


def test_the_part_at_an_offset_is_table_chain_or_expression() -> None:
    rule = Rule((Icmpv6Type(("echo-reply", "nd-redirect")), FibLocalSource()), verdict=Drop(), comment="why")
    message = encoded(rule)[-1]
    written = dict(attributes(message.body, NFGEN_SIZE))[4]
    start = HEADERS_SIZE + message.body.index(written) - NFGEN_SIZE
    found, offset = [], start
    for _, one in attributes(written):
        found += [message.request.part_at(offset), message.request.part_at(offset + 3 + len(one))]
        offset += 4 + len(one)
    expected = ["meta", "cmp", "meta", "cmp", "payload", "lookup", "fib", "cmp", "immediate"]
    assert found == [name for name in expected for _ in range(2)]
    assert message.request.part_at(offset) == ""
    assert message.request.part_at(None) == message.request.part_at(0) == ""
    assert message.request.part_at(HEADERS_SIZE) == "table inet nfagent"
    assert message.request.part_at(HEADERS_SIZE + 12) == "chain c"
    assert encoded(rule)[0].request.part_at(HEADERS_SIZE + 12) == "set"
    assert message.request.describe().startswith("add rule inet nfagent c icmpv6 type { echo-reply, nd-redirect }")
