"""Batches in a real kernel: same result as nft, atomic, with the kernel's error and what it is about."""

from __future__ import annotations

import errno
import json
import os
import re
import socket
import struct
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nfagent.errors import HostError, KernelError, NfagentError, WireError
from nfagent.kernel import nft_socket
from nfagent.kernel.nft_client import NftClient
from nfagent.kernel.nft_socket import NftSocket, UnsentError
from nfagent.kernel.own_ports import OwnPorts
from nfagent.kernel.refusals import RefusedError
from nfagent.kernel.sockets import request_socket
from nfagent.kernel.table_queries import generation
from nfagent.model.netaddr import Family, Range, parse_cidr, single, text
from nfagent.netlink.codec import attribute, message
from nfagent.netlink.nft_batch import encode_batch
from nfagent.netlink.nft_messages import NFPROTO_BRIDGE
from nfagent.netlink.nft_rule_handles import RuleHandle
from nfagent.nftables.diff import diff
from nfagent.nftables.matches import AddressInSet, CtSeenReply, FibLocalSource, IpAddress, PacketPort, Within
from nfagent.nftables.objects import (
    ABSENT,
    Chain,
    Drop,
    Element,
    Goto,
    Hook,
    Jump,
    Log,
    Masquerade,
    NamedSet,
    PortRange,
    Rule,
    Ruleset,
    VerdictMap,
    VmapLookup,
)
from nfagent.nftables.set_sizes import with_desired_sizes
from nfagent.nftables.transaction import (
    AddChain,
    AddCounter,
    AddMap,
    AddRule,
    AddSet,
    AddTable,
    ChangeElements,
    ChangeMapElements,
    Command,
    Delete,
    FlushChain,
    RewriteChain,
    transaction_text,
)
from tests.properties.strategies import desired, worlds
from tests.support.own_namespace import own_namespace

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: network namespaces and nf_tables"),
]

SPREAD = tuple(parse_cidr(f"10.{number}.0.0/24") for number in range(200))
DONE = message(3, 2, 1, bytes(4))  # NLMSG_DONE
PRIVATE = parse_cidr("10.0.0.0/8")
MULTICAST = parse_cidr("224.0.0.0/3")
EMPTY = Ruleset(
    sets={
        "address4": NamedSet("address", 4),
        "address6": NamedSet("address", 6),
        "range4": NamedSet("range", 4),
        "range6": NamedSet("range", 6),
        "port4": NamedSet("port", 4),
        "port6": NamedSet("port", 6),
        "ports": NamedSet("ports", 4),
        "family": NamedSet("family", 4),
        "flow4": NamedSet("flow", 4),
        "flow6": NamedSet("flow", 6),
    },
    maps={"map4": VerdictMap(4, {}), "map6": VerdictMap(6, {})},
    chains={"egress/shop/web": Chain(), "egress/shop/db": Chain()},
)


@pytest.fixture(autouse=True)
def _namespace() -> Iterator[None]:
    """Enter a new network namespace with this thread."""
    with own_namespace("elements"):
        yield


@pytest.fixture
def nftables(_namespace: None) -> Iterator[NftClient]:
    """Return libnftables, in this thread, with EMPTY loaded."""
    kernel = NftClient()
    kernel.commit_now(diff(ABSENT, EMPTY))
    yield kernel
    kernel.close()


@pytest.fixture
def elements(_namespace: None) -> Iterator[NftSocket]:
    with closing(NftSocket()) as opened:
        yield opened


def nft(text: str) -> None:
    """Run commands by nft, as another program would."""
    subprocess.run(["nft", "-f", "-"], input=text, check=True, capture_output=True, text=True)


def add(name: str, *members: Element) -> ChangeElements:
    return ChangeElements("add", name, members)


def delete(name: str, *members: Element) -> ChangeElements:
    return ChangeElements("delete", name, members)


def route(verb: str, *pairs: tuple[str, str]) -> ChangeMapElements:
    return ChangeMapElements("add" if verb == "add" else "delete", "map4", pairs)


def holding(**sets: frozenset[Element] | dict[str, str]) -> Ruleset:
    """Return EMPTY with elements in some of its sets and maps."""
    made = msgspec.structs.replace(EMPTY, sets=dict(EMPTY.sets), maps=dict(EMPTY.maps))
    for name, members in sets.items():
        if isinstance(members, dict):
            made.maps[name] = VerdictMap(made.maps[name].family, members)
        else:
            made.sets[name] = msgspec.structs.replace(made.sets[name], elements=members)
    return made


@pytest.mark.parametrize(
    "wanted",
    [
        pytest.param(holding(address4=frozenset({"10.0.0.1", "0.0.0.0", "255.255.255.255"})), id="IPv4 addresses"),  # noqa: S104
        pytest.param(holding(address6=frozenset({"2001:db8::1", "::"})), id="IPv6 addresses"),
        pytest.param(holding(range4=frozenset({PRIVATE, single("11.0.0.0"), single("12.0.0.9")})), id="IPv4 ranges"),
        pytest.param(holding(range4=frozenset({single("0.0.0.0"), MULTICAST})), id="the first and last IPv4 range"),  # noqa: S104
        pytest.param(holding(range4=frozenset({parse_cidr("0.0.0.0/0")})), id="all of IPv4"),
        pytest.param(holding(range4=frozenset({single("255.255.255.255")})), id="the last IPv4 address alone"),
        pytest.param(holding(range6=frozenset({parse_cidr("2001:db8::/32")})), id="an IPv6 range"),
        pytest.param(holding(range6=frozenset({parse_cidr("::/8"), parse_cidr("ff00::/8")})), id="the first and last"),
        pytest.param(holding(port4=frozenset({("10.0.0.1", "tcp", 80), ("10.0.0.1", "udp", 53)})), id="IPv4 ports"),
        pytest.param(holding(port6=frozenset({("2001:db8::1", "sctp", 65_535)})), id="an IPv6 port"),
        pytest.param(holding(ports=frozenset({PortRange(80, 80), PortRange(8000, 8080)})), id="ranges of ports"),
        pytest.param(
            holding(ports=frozenset({PortRange(1, 1), PortRange(65_535, 65_535)})), id="the first and last port"
        ),
        pytest.param(holding(ports=frozenset({PortRange(1, 65_535)})), id="all ports"),
        pytest.param(holding(family=frozenset({4})), id="a family"),
        pytest.param(holding(family=frozenset({4, 6})), id="both families"),
        pytest.param(holding(map4={"10.0.0.1": "egress/shop/web", "10.0.0.2": "egress/shop/db"}), id="IPv4 to chains"),
        pytest.param(holding(map6={"2001:db8::1": "egress/shop/web"}), id="IPv6 to a chain"),
    ],
)
def test_elements_of_each_kind_come_and_go(nftables: NftClient, elements: NftSocket, wanted: Ruleset) -> None:
    elements.commit(diff(EMPTY, wanted))
    assert nftables.read_now() == wanted

    elements.commit(diff(wanted, EMPTY))
    assert nftables.read_now() == EMPTY


LAST: dict[Family, int] = {4: (1 << 32) - 1, 6: (1 << 128) - 1}


def addresses(family: Family) -> st.SearchStrategy[str]:
    return st.sampled_from([0, 1, 2, 10 << 24, LAST[family] - 1, LAST[family]]).map(lambda n: text(family, n))


@st.composite
def ranges(draw: st.DrawFn, family: Family) -> frozenset[Element]:
    """Draw disjoint ranges, some of which touch."""
    last = LAST[family]
    cuts = sorted(draw(st.sets(st.sampled_from([0, 1, 2, 7, 8, 10 << 24, (10 << 24) + 9, last - 1, last, last + 1]))))
    return frozenset(Range(family, first, after - 1) for first, after in pairwise(cuts) if draw(st.booleans()))


@st.composite
def port_ranges(draw: st.DrawFn) -> frozenset[Element]:
    cuts = sorted(draw(st.sets(st.sampled_from([1, 2, 80, 81, 443, 8000, 65_535, 65_536]))))
    return frozenset(PortRange(first, after - 1) for first, after in pairwise(cuts) if draw(st.booleans()))


@st.composite
def rulesets(draw: st.DrawFn) -> Ruleset:
    ports = st.tuples(st.sampled_from(["tcp", "udp", "sctp"]), st.sampled_from([1, 80, 256, 65_535]))
    sets: dict[str, frozenset[Element] | dict[str, str]] = {}
    families: tuple[Family, Family] = (4, 6)
    for family in families:
        address = addresses(family)
        sets[f"address{family}"] = draw(st.frozensets(address))
        sets[f"range{family}"] = draw(ranges(family))
        sets[f"port{family}"] = draw(st.frozensets(st.builds(lambda a, p: (a, *p), address, ports), max_size=4))
        sets[f"map{family}"] = draw(st.dictionaries(address, st.sampled_from(sorted(EMPTY.chains))))
    sets["ports"] = draw(port_ranges())
    sets["family"] = draw(st.frozensets(st.sampled_from(families)))
    return holding(**sets)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(st.lists(rulesets(), min_size=1, max_size=4), st.booleans())
def test_any_changes_do_what_nft_does_with_them(
    nftables: NftClient,
    elements: NftSocket,
    states: list[Ruleset],
    fast_first: bool,  # noqa: FBT001 - drawn
) -> None:
    # Each way finds what the other one left.
    before = nftables.read_now()
    for number, after in enumerate(states):
        transaction = diff(before, after)
        fast, slow = (elements.commit, lambda commands: nft(transaction_text(commands)))
        first, second = (fast, slow) if (number % 2 == 0) == fast_first else (slow, fast)
        first(transaction)
        listed = nftables.read_now()
        first(diff(after, before))
        assert nftables.read_now() == before
        second(transaction)
        assert nftables.read_now() == listed == after
        before = after


def test_an_address_that_is_there_already_is_no_error(nftables: NftClient, elements: NftSocket) -> None:
    elements.commit(
        (
            add("address4", "10.0.0.1"),
            add("port4", ("10.0.0.1", "tcp", 80)),
            route("add", ("10.0.0.1", "egress/shop/web")),
        )
    )
    before = nftables.read_now()

    elements.commit(
        (
            add("address4", "10.0.0.1"),
            add("port4", ("10.0.0.1", "tcp", 80)),
            route("add", ("10.0.0.1", "egress/shop/web")),
        )
    )

    assert nftables.read_now() == before


@pytest.mark.parametrize(
    ("name", "source", "destination"),
    [
        pytest.param("flow4", "10.0.0.1", "10.0.0.2", id="of IPv4"),
        pytest.param("flow6", "2001:db8::1", "2001:db8::2", id="of IPv6"),
    ],
)
def test_flows_are_remembered_for_their_time_and_no_part_of_what_is_compared(
    nftables: NftClient, elements: NftSocket, name: str, source: str, destination: str
) -> None:
    flows: list[Element] = [(source, "tcp", 80, destination, 40_000), (source, "sctp", 1, destination, 65_535)]
    for _ in range(2):  # one that is there already is no error
        elements.commit((add(name, *flows),))
    listed = subprocess.run(
        ["nft", "-j", "list", "set", "inet", "nfagent", name], check=True, capture_output=True, text=True
    )
    [held] = [entry["set"]["elem"] for entry in json.loads(listed.stdout)["nftables"] if "set" in entry]
    assert {tuple(item["elem"]["val"]["concat"]) for item in held} == set(flows)
    assert nftables.read_now() == EMPTY


def test_one_element_among_those_that_fill_a_message_is_named(nftables: NftClient, elements: NftSocket) -> None:
    many = tuple(f"10.0.{n >> 8}.{n & 255}" for n in range(2_000))
    elements.commit((add("address4", *many),))

    with pytest.raises(RefusedError) as caught:
        elements.commit((delete("address4", *many[:1_500], "10.9.9.9", *many[1_500:]),))
    assert (caught.value.errno, caught.value.part) == (errno.ENOENT, "10.9.9.9")

    elements.commit((delete("address4", *many),))
    assert nftables.read_now() == EMPTY


HELD = holding(
    address4=frozenset({"10.0.0.1"}), range4=frozenset({PRIVATE, MULTICAST}), map4={"10.0.0.1": "egress/shop/web"}
)


@pytest.mark.parametrize(
    ("command", "blamed", "words"),
    [
        pytest.param(
            delete("address4", "10.0.0.1", "10.0.0.9"),
            (errno.ENOENT, "10.0.0.9"),
            "delete element inet nfagent address4 { 2 elements }: 10.0.0.9: it isn't in the set (ENOENT)",
            id="an address to delete that isn't there",
        ),
        pytest.param(
            delete("range4", parse_cidr("10.0.0.0/9")),
            (errno.ENOENT, "10.0.0.0/9"),
            "delete element inet nfagent range4 { 10.0.0.0/9 }: it isn't in the set (ENOENT)",
            id="a range to delete that ends elsewhere",
        ),
        pytest.param(
            route("delete", ("10.0.0.1", "egress/shop/web"), ("10.0.0.2", "egress/shop/web")),
            (errno.ENOENT, "10.0.0.2 : goto egress/shop/web"),
            "map4 { 2 elements }: 10.0.0.2 : goto egress/shop/web: it isn't in the map (ENOENT)",
            id="an address to delete from a map that isn't there",
        ),
        pytest.param(
            route("add", ("10.0.0.2", "egress/shop/db"), ("10.0.0.1", "egress/shop/db")),
            (errno.EEXIST, "10.0.0.1 : goto egress/shop/db"),
            "map4 { 2 elements }: 10.0.0.1 : goto egress/shop/db: the address has another target already (EEXIST)",
            id="an address that a map sends elsewhere",
        ),
        pytest.param(
            route("add", ("10.0.0.3", "egress/shop/cache")),
            (errno.ENOENT, "10.0.0.3 : goto egress/shop/cache"),
            "map4 { 10.0.0.3 : goto egress/shop/cache }: there is no chain of that name (ENOENT)",
            id="a chain that isn't there",
        ),
        pytest.param(
            add("nothing", "10.0.0.7"),
            (errno.ENOENT, "set nothing"),
            "add element inet nfagent nothing { 10.0.0.7 }: there is no set nothing (ENOENT)",
            id="a set that isn't there",
        ),
        pytest.param(
            ChangeMapElements("add", "nothing", (("10.0.0.7", "egress/shop/web"), ("10.0.0.8", "egress/shop/web"))),
            (errno.ENOENT, "map nothing"),
            "add element inet nfagent nothing { 2 elements }: there is no map nothing (ENOENT)",
            id="a map that isn't there",
        ),
        pytest.param(
            add("address4", "10.0.0.7", "2001:db8::1"),
            (errno.EINVAL, "2001:db8::1"),
            "address4 { 2 elements }: 2001:db8::1: it isn't of the set's type (EINVAL)",
            id="an address of the other family",
        ),
    ],
)
def test_a_refusal_names_the_element_and_leaves_nothing_behind(
    nftables: NftClient,
    elements: NftSocket,
    command: ChangeElements | ChangeMapElements,
    blamed: tuple[int, str],
    words: str,
) -> None:
    elements.commit(diff(EMPTY, HELD))

    with pytest.raises(RefusedError) as caught:
        elements.commit((add("address6", "2001:db8::7"), command, delete("address4", "10.0.0.1")))

    refused = caught.value
    name = command.set if isinstance(command, ChangeElements) else command.map
    assert refused.command.startswith(f"{command.verb} element inet nfagent {name} {{ ")
    assert (refused.errno, refused.part) == blamed
    assert words in str(refused)
    assert nftables.read_now() == HELD

    elements.commit((delete("address4", "10.0.0.1"),))
    assert nftables.read_now().sets["address4"].elements == frozenset()


@pytest.mark.parametrize("addresses", [("10.0.0.1",), ("10.0.0.1", "10.0.0.2")], ids=["one", "several"])
def test_an_element_that_leads_to_rules_which_the_hook_does_not_take_says_so(
    nftables: NftClient, elements: NftSocket, addresses: tuple[str, ...]
) -> None:
    masquerading = AddRule("egress/shop/web", Rule(verdict=Masquerade(random_fully=False)))
    looking_up = AddRule("base", Rule(verdict=VmapLookup(IpAddress("saddr", 4), "map4")))
    base = AddChain("base", Chain((), Hook("filter", "output", 0)))
    elements.commit((base, looking_up, masquerading))
    before = nftables.read_now()

    with pytest.raises(RefusedError, match="rules that can't be used from the hooks that lead to the map"):
        elements.commit((route("add", *((address, "egress/shop/web") for address in addresses)),))

    assert nftables.read_now() == before


@pytest.mark.parametrize(
    "other",
    [
        pytest.param("10.0.0.0/8", id="that is there already"),
        pytest.param("10.0.0.0/9", id="with the same start"),
        pytest.param("10.128.0.0/9", id="with the same end"),
        pytest.param("10.1.0.0/16", id="within one that is there"),
        pytest.param("10.0.0.0/7", id="around one that is there"),
        pytest.param("8.0.0.0/6", id="around one that is there, with the same end"),
        pytest.param("225.0.0.0/8", id="within the one to the last address"),
        pytest.param("224.0.0.0/4", id="with the start of the one to the last address"),
        pytest.param("240.0.0.0/4", id="to the last address within another one"),
    ],
)
def test_a_range_is_refused(nftables: NftClient, elements: NftSocket, other: str) -> None:
    elements.commit(diff(EMPTY, HELD))

    with pytest.raises(RefusedError, match="overlaps") as caught:
        elements.commit((add("address4", "10.0.0.2"), add("range4", single("1.0.0.1"), parse_cidr(other))))

    assert (caught.value.errno, caught.value.part) == (errno.EEXIST, str(parse_cidr(other)))
    assert nftables.read_now() == HELD


def test_a_missing_table_is_reported(nftables: NftClient, elements: NftSocket) -> None:
    nftables.commit_now(diff(EMPTY, ABSENT))

    with pytest.raises(RefusedError, match=r"no table inet nfagent \(ENOENT\); 1 more of the batch's") as caught:
        elements.commit((add("address4", "10.0.0.1"), add("address6", "::1")))

    refused = caught.value
    assert (refused.command, refused.part) == (
        "add element inet nfagent address4 { 10.0.0.1 }",
        "table inet nfagent",
    )
    assert nftables.read_now() == ABSENT


def test_a_loop_of_chains_is_refused(nftables: NftClient, elements: NftSocket) -> None:
    dispatch = Chain((Rule(verdict=VmapLookup(IpAddress("saddr", 4), "map4")),))
    base = msgspec.structs.replace(dispatch, hook=Hook("filter", "forward", 0))
    looping = msgspec.structs.replace(EMPTY, chains={**EMPTY.chains, "egress/shop/web": dispatch, "forward": base})
    nftables.commit_now(diff(EMPTY, looping))

    with pytest.raises(KernelError, match=r"too many links: .*in a circle.* \(EMLINK\)"):
        elements.commit((add("address4", "10.0.0.1"), route("add", ("10.0.0.1", "egress/shop/web"))))

    assert nftables.read_now() == looping


def test_a_hundred_thousand_elements_come_together_or_not_at_all(nftables: NftClient, elements: NftSocket) -> None:
    many = tuple(f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}" for n in range(100_000))

    with pytest.raises(RefusedError) as caught:
        elements.commit((add("address4", *many), delete("address6", "2001:db8::1")))
    assert caught.value.part == "2001:db8::1"
    assert nftables.read_now() == EMPTY

    elements.commit((add("address4", *many),))
    # A listing may miss elements while the kernel makes the set's hash table larger; a deletion finds all of them.
    elements.commit((delete("address4", *many),))
    assert nftables.read_now() == EMPTY


def test_a_batch_beyond_the_largest_is_refused_and_a_smaller_one_is_committed(nftables: NftClient) -> None:
    many = tuple(f"10.0.{n >> 8}.{n & 255}" for n in range(2_000))
    with closing(NftSocket(send_buffer=2_048, largest_batch=8_192)) as narrow:
        with pytest.raises(UnsentError, match="exceeds the largest, 8192"):
            narrow.commit((add("address4", *many),))
        assert nftables.read_now() == EMPTY

        narrow.commit((add("address4", *many[:10]),))
    assert nftables.read_now().sets["address4"].elements == frozenset(many[:10])


def test_refusals_that_overflow_the_receive_buffer_are_refusals_all_the_same(nftables: NftClient) -> None:
    with closing(NftSocket(receive_buffer=4_096)) as narrow:
        with pytest.raises(RefusedError, match="there is no set nothing0") as caught:
            narrow.commit((add("address4", "10.0.0.1"), *(add(f"nothing{n}", "10.0.0.1") for n in range(500))))
        assert caught.value.part == "set nothing0"
        assert nftables.read_now() == EMPTY

        narrow.commit((add("address4", "10.0.0.1"),))
    assert nftables.read_now().sets["address4"].elements == frozenset({"10.0.0.1"})


def test_an_empty_transaction_sends_nothing(nftables: NftClient, elements: NftSocket) -> None:
    elements.commit(())
    assert nftables.read_now() == EMPTY


def test_a_name_that_nothing_can_have_is_refused_before_anything_is_sent(
    nftables: NftClient, elements: NftSocket
) -> None:
    with pytest.raises(WireError, match="can't be the name of a set or map"):
        elements.commit((add("address4", "10.0.0.1"), add("n" * 256, "10.0.0.7")))
    assert nftables.read_now() == EMPTY


def test_without_the_capability_the_error_has_a_hint(nftables: NftClient, elements: NftSocket) -> None:
    os.seteuid(65_534)
    try:
        with pytest.raises(HostError, match="needs root"):
            NftSocket()
        with pytest.raises(HostError, match="needs root"):
            elements.commit((add("address4", "10.0.0.1"),))
    finally:
        os.seteuid(0)
    assert nftables.read_now() == EMPTY


HOOKED = AddChain("base", Chain((), Hook("filter", "forward", 0)))
FOREIGN = """
add chain inet nfagent base { type filter hook forward priority 0; }
add chain inet nfagent unused
add counter inet nfagent drops
add rule inet nfagent base ip saddr @address4 counter name drops goto egress/shop/web
add rule inet nfagent base ip saddr vmap @map4
"""
"""Rules of another program, which refer to one object of each kind."""


@pytest.mark.parametrize(
    ("command", "blamed", "words"),
    [
        pytest.param(
            FlushChain("nothing"),
            (errno.ENOENT, "chain nothing"),
            "flush chain inet nfagent nothing: there is no chain nothing (ENOENT)",
            id="a chain to flush that isn't there",
        ),
        pytest.param(
            Delete("set", "nothing"),
            (errno.ENOENT, "set nothing"),
            "delete set inet nfagent nothing: there is no set nothing (ENOENT)",
            id="a set to delete that isn't there",
        ),
        pytest.param(
            Delete("quota", "nothing"),
            (errno.ENOENT, "quota nothing"),
            "delete quota inet nfagent nothing: there is no quota nothing (ENOENT)",
            id="an object of another kind that isn't there",
        ),
        pytest.param(
            Delete("chain", "egress/shop/web"),
            (errno.EBUSY, "chain egress/shop/web"),
            "delete chain inet nfagent egress/shop/web: rules or elements still refer to it (EBUSY)",
            id="a chain that a rule leads to",
        ),
        pytest.param(
            Delete("set", "address4"),
            (errno.EBUSY, "set address4"),
            "delete set inet nfagent address4: rules or elements still refer to it (EBUSY)",
            id="a set that a rule looks up",
        ),
        pytest.param(
            Delete("map", "map4"),
            (errno.EBUSY, "map map4"),
            "delete map inet nfagent map4: rules or elements still refer to it (EBUSY)",
            id="a map that a rule looks up",
        ),
        pytest.param(
            Delete("counter", "drops"),
            (errno.EBUSY, "counter drops"),
            "delete counter inet nfagent drops: rules or elements still refer to it (EBUSY)",
            id="a counter that a rule counts with",
        ),
        pytest.param(
            AddChain("base", Chain((), Hook("filter", "input", 0))),
            (errno.EOPNOTSUPP, ""),
            "policy accept; }: a chain of this name has another hook or none",
            id="a base chain that has another hook",
        ),
        pytest.param(
            AddChain("unused", Chain((), Hook("filter", "input", 0))),
            (errno.EOPNOTSUPP, "policy accept"),
            "policy accept; }: policy accept: a chain of this name has another hook or none",
            id="a base chain whose name a chain without a hook has",
        ),
        pytest.param(
            AddChain("nat", Chain((), Hook("nat", "forward", 0))),
            (errno.EOPNOTSUPP, ""),
            "or this kernel has no base chain of this type and hook (EOPNOTSUPP)",
            id="a hook that doesn't take this type of chain",
        ),
        pytest.param(
            AddChain("odd", Chain((), Hook("odd", "forward", 0))),  # type: ignore[arg-type]
            (errno.ENOENT, "type odd"),
            "policy accept; }: type odd: this kernel lacks it (ENOENT)",
            id="a type of chain that the kernel lacks",
        ),
        pytest.param(
            route("add", ("10.0.0.9", "base")),
            (errno.EOPNOTSUPP, "10.0.0.9 : goto base"),
            "add element inet nfagent map4 { 10.0.0.9 : goto base }: its chain has a hook, so nothing may lead there",
            id="an element that leads to a base chain",
        ),
    ],
)
@pytest.mark.usefixtures("nftables")
def test_a_refusal_names_the_object_and_leaves_nothing_behind(
    elements: NftSocket, command: Command, blamed: tuple[int, str], words: str
) -> None:
    assert_refused(elements, command, blamed, words)


def assert_refused(elements: NftSocket, command: Command, blamed: tuple[int, str], words: str) -> None:
    nft(FOREIGN)
    before = nft_listing()

    with pytest.raises(RefusedError) as caught:
        elements.commit((add("address4", "10.0.0.1"), command, AddCounter("last")))

    assert (caught.value.errno, caught.value.part) == blamed
    assert words in str(caught.value)
    assert nft_listing() == before
    elements.commit((AddCounter("last"), Delete("counter", "last")))
    assert nft_listing() == before


MASQUERADES = Rule(verdict=Masquerade(random_fully=True))
LOGS = Rule(log=Log("deny", 5), verdict=Drop())


def test_an_element_that_leads_to_rules_for_another_hook_is_refused_for_them(
    nftables: NftClient, elements: NftSocket
) -> None:
    hooked = (
        AddChain("filtered", Chain((), Hook("filter", "forward", 0))),
        AddRule("filtered", Rule(verdict=VmapLookup(IpAddress("saddr", 4), "map4"))),
        AddRule("egress/shop/web", MASQUERADES),
    )
    with pytest.raises(RefusedError) as caught:
        elements.commit((*hooked, route("add", ("10.0.0.9", "egress/shop/web"))))

    assert (caught.value.errno, caught.value.part) == (errno.EOPNOTSUPP, "10.0.0.9 : goto egress/shop/web")
    assert "egress/shop/web }: it leads to a chain with a hook, or to rules that can't be used" in str(caught.value)
    assert nftables.read_now() == EMPTY


@pytest.mark.parametrize(
    ("command", "blamed", "words"),
    [
        pytest.param(
            AddRule("nothing", LOGS),
            (errno.ENOENT, "chain nothing"),
            'add rule inet nfagent nothing log prefix "deny" group 5 drop: there is no chain nothing (ENOENT)',
            id="a rule of a chain that isn't there",
        ),
        pytest.param(
            AddRule("egress/shop/web", Rule((AddressInSet(IpAddress("saddr", 4), "nothing"),), verdict=Drop())),
            (errno.ENOENT, "lookup"),
            "ip saddr @nothing drop: lookup: the set or map nothing that it refers to is missing (ENOENT)",
            id="a rule that looks up a set that isn't there",
        ),
        pytest.param(
            AddRule(
                "egress/shop/web",
                Rule((Within(IpAddress("saddr", 4), SPREAD), AddressInSet(IpAddress("daddr", 4), "nothing"))),
            ),
            (errno.ENOENT, "lookup"),
            "…: lookup: the set or map nothing that it refers to is missing (ENOENT)",
            id="a long rule, of which the set that isn't there is not shown",
        ),
        pytest.param(
            AddRule("egress/shop/web", Rule(verdict=Goto("nothing"))),
            (errno.ENOENT, "immediate"),
            "goto nothing: immediate: the chain nothing that it refers to is missing (ENOENT)",
            id="a rule that leads to a chain that isn't there",
        ),
        pytest.param(
            AddRule("egress/shop/web", Rule(counter="nothing", verdict=Drop())),
            (errno.ENOENT, "objref"),
            "drop: objref: the named counter nothing that it refers to is missing (ENOENT)",
            id="a rule that counts with a counter that isn't there",
        ),
        pytest.param(
            AddRule("egress/shop/web", Rule((AddressInSet(IpAddress("saddr", 4), "address6"),), verdict=Drop())),
            (errno.ENODATA, "lookup"),
            "ip saddr @address6 drop: lookup: it reads more than the rule has loaded (ENODATA)",
            id="a rule that looks up an address in a set of another type",
        ),
        pytest.param(
            AddRule("egress/shop/web", Rule(verdict=Jump("base"))),
            (errno.EOPNOTSUPP, "immediate"),
            "jump base: immediate: its chain has a hook, so nothing may lead there (EOPNOTSUPP)",
            id="a rule that leads to a base chain",
        ),
        pytest.param(
            AddRule("base", MASQUERADES),
            (errno.EOPNOTSUPP, ""),
            "masquerade fully-random: this kernel lacks it, or doesn't take it at this hook (EOPNOTSUPP)",
            id="a masquerade where nothing is translated",
        ),
        pytest.param(
            AddSet("address4", NamedSet("address", 6)),
            (errno.EEXIST, "set address4"),
            "set address4: there is one of this name already, with other properties (EEXIST)",
            id="a set of another type than the one of its name",
        ),
        pytest.param(
            AddMap("map4", VerdictMap(6, {})),
            (errno.EEXIST, "map map4"),
            "map map4: there is one of this name already, with other properties (EEXIST)",
            id="a map of another type than the one of its name",
        ),
    ],
)
@pytest.mark.usefixtures("nftables")
def test_a_refusal_names_what_a_rule_or_set_lacks(
    elements: NftSocket, command: Command, blamed: tuple[int, str], words: str
) -> None:
    assert_refused(elements, command, blamed, words)


@pytest.mark.parametrize(
    ("rule", "part", "hint"),
    [
        pytest.param(
            Rule((FibLocalSource(),), verdict=Drop()),
            "fib",
            "modprobe nft_fib_inet, or run a kernel with CONFIG_NFT_FIB_INET",
            id="what the routing table says",
        ),
        pytest.param(
            Rule((CtSeenReply(),), verdict=Drop()),
            "ct",
            "modprobe nft_ct, or run a kernel with CONFIG_NFT_CT",
            id="connections",
        ),
        pytest.param(
            LOGS,
            "log",
            "modprobe -a nft_log nfnetlink_log, or run a kernel with CONFIG_NFT_LOG and CONFIG_NETFILTER_NETLINK_LOG",
            id="logging",
        ),
        pytest.param(MASQUERADES, "masq", "modprobe nft_masq, or run a kernel with CONFIG_NFT_MASQ", id="masquerading"),
        pytest.param(Rule(verdict=Drop()), "immediate", "", id="a part of nf_tables itself, which has no option"),
    ],
)
def test_an_expression_that_the_kernel_lacks_is_named_with_its_option(
    nftables: NftClient, elements: NftSocket, rule: Rule, part: str, hint: str
) -> None:
    batch = encode_batch((AddCounter("drops"), AddRule("egress/shop/web", rule), AddCounter("last")), 1)
    name = b"\1\0" + part.encode() + b"\0"  # the end of the attribute NFTA_EXPR_NAME
    assert batch.data.count(name) == 1
    unknown = msgspec.structs.replace(batch, data=batch.data.replace(name, name[:2] + b"?" + name[3:]))

    with pytest.raises(RefusedError) as caught:
        elements.commit_batch(unknown)

    assert (caught.value.errno, caught.value.part, caught.value.hint) == (errno.ENOENT, part, hint)
    assert nftables.read_now() == EMPTY


STAYING = tuple(Rule((PacketPort("tcp", port, port),), verdict=Drop()) for port in range(1, 21))


def handles_of(chain: str) -> list[int]:
    listed = subprocess.run(
        ["nft", "-a", "list", "chain", "inet", "nfagent", chain], check=True, capture_output=True, text=True
    )
    return [int(handle) for handle in re.findall(r"\t\t.*# handle (\d+)", listed.stdout)]


def test_rules_that_stay_keep_their_handles(nftables: NftClient, elements: NftSocket) -> None:
    name = "egress/shop/web"
    elements.commit(tuple(AddRule(name, rule) for rule in STAYING))
    first = handles_of(name)
    after = (*STAYING[:5], LOGS, *STAYING[7:])

    elements.commit((RewriteChain(name, STAYING, after),))

    assert nftables.read_now().chains[name].rules == after
    second = handles_of(name)
    assert (second[:5], second[6:]) == (first[:5], first[7:])
    assert second[5] not in first


def test_a_chain_that_another_program_changed_is_written_anew(nftables: NftClient, elements: NftSocket) -> None:
    name = "egress/shop/web"
    elements.commit(tuple(AddRule(name, rule) for rule in STAYING))
    nft(f"insert rule inet nfagent {name} accept")

    elements.commit((RewriteChain(name, STAYING, STAYING[1:]),))

    assert nftables.read_now().chains[name].rules == STAYING[1:]


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param("insert rule {0} accept\ndelete rule {0} handle {last}\n", id="moved by one"),
        pytest.param("replace rule {0} handle {first} accept\n", id="another rule in its place"),
        pytest.param('replace rule {0} handle {last} tcp dport 9 accept comment "ssh"\n', id="another comment"),
    ],
)
def test_a_chain_in_which_another_program_kept_the_number_of_rules_is_written_anew(
    nftables: NftClient, elements: NftSocket, changes: str
) -> None:
    name = "egress/shop/web"
    before = tuple(msgspec.structs.replace(rule, comment=f"rule {n}") for n, rule in enumerate(STAYING))
    after = (*before[:5], *before[6:])
    elements.commit(tuple(AddRule(name, rule) for rule in before))
    first, *_, last = handles_of(name)
    nft(changes.format(f"inet nfagent {name}", first=first, last=last))

    elements.commit((RewriteChain(name, before, after),))

    assert nftables.read_now().chains[name].rules == after


def test_a_rule_before_one_that_another_program_has_just_deleted_is_refused(
    nftables: NftClient, elements: NftSocket
) -> None:
    name = "egress/shop/web"
    elements.commit(tuple(AddRule(name, rule) for rule in STAYING))
    gone = tuple(range(1_000_000, 1_000_000 + len(STAYING)))
    batch = encode_batch((RewriteChain(name, STAYING, (LOGS, *STAYING)),), 1, handles={name: gone})

    with pytest.raises(RefusedError, match=r"the rule before which it is to be inserted is missing \(ENOENT\)"):
        elements.commit_batch(batch)

    assert nftables.read_now().chains[name].rules == STAYING


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], max_examples=20)
@given(st.lists(worlds().map(lambda world: desired("a", world).ruleset()), min_size=1, max_size=3))
def test_any_ruleset_becomes_any_other_in_one_transaction_of_the_kernel(
    nftables: NftClient, elements: NftSocket, states: list[Ruleset]
) -> None:
    before = nftables.read_now()
    for after in states:
        transaction = diff(before, after)
        began = generation()
        elements.commit(transaction)
        assert generation() == began + bool(transaction)
        before = nftables.read_now(after)
        assert with_desired_sizes(before, after) == after


def nft_listing() -> str:
    return subprocess.run(["nft", "-a", "list", "ruleset"], check=True, capture_output=True, text=True).stdout


def test_a_table_comes_and_goes_whether_it_is_there_or_not(nftables: NftClient, elements: NftSocket) -> None:
    for _ in range(2):
        elements.commit((AddTable(), Delete("table")))
        assert nft_listing() == ""
    elements.commit((AddTable(), HOOKED, AddCounter("drops")))
    assert nftables.read_now() == Ruleset(chains={"base": HOOKED.shape}, counters=frozenset({"drops"}))


def test_the_table_of_another_family_is_another_table(nftables: NftClient, elements: NftSocket) -> None:
    elements.commit((AddTable(), HOOKED), family=NFPROTO_BRIDGE)
    assert "table bridge nfagent {" in nft_listing()
    assert nftables.read_now() == EMPTY

    elements.commit((Delete("table"),), family=NFPROTO_BRIDGE)
    assert "bridge" not in nft_listing()
    with pytest.raises(RefusedError, match="there is no table bridge nfagent"):
        elements.commit((Delete("table"),), family=NFPROTO_BRIDGE)


def answer(sequence: int, number: int, *attributes: bytes) -> bytes:
    """Return an acknowledgement as the kernel sends it, capped, with attributes (NLMSGERR_ATTR_*)."""
    request = struct.pack("=IHHII", 16, 0, 0, sequence, 0)
    return message(2, 0x300, sequence, struct.pack("=i", -number) + request + b"".join(attributes))


@contextmanager
def answered(monkeypatch: pytest.MonkeyPatch, *answers: bytes) -> Iterator[NftSocket]:
    """Return a socket whose batches go nowhere, to which these answers come; the next one that it opens is real."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
    opened = [ours]

    def opening(needs_root: str, **options: Any) -> socket.socket:  # noqa: ANN401 - passed on as they are
        return opened.pop() if opened else request_socket(needs_root, **options)

    monkeypatch.setattr(nft_socket, "request_socket", opening)
    with theirs, closing(NftSocket()) as made:
        for one in answers:
            theirs.send(one)
        yield made


OFFSET = 2  # NLMSGERR_ATTR_OFFS


@pytest.mark.parametrize(
    ("answers", "kind", "words"),
    [
        pytest.param(
            [answer(2, errno.ENOBUFS)],
            RefusedError,
            "add table inet nfagent: the kernel has no memory for it (ENOBUFS)",
            id="ENOBUFS: no memory for a message",
        ),
        pytest.param(
            [answer(2, errno.EOPNOTSUPP)],
            RefusedError,
            "table inet nfagent: this kernel doesn't support it (EOPNOTSUPP); run a kernel with CONFIG_NF_TABLES_INET",
            id="EOPNOTSUPP: a kernel without the family",
        ),
        pytest.param(
            [answer(3, errno.ENOENT, attribute(OFFSET, struct.pack("=I", 40)))],
            RefusedError,
            "type nat: this kernel lacks it (ENOENT); modprobe nft_chain_nat, or run a kernel with CONFIG_NFT_NAT",
            id="ENOENT: a kernel without chains of type nat",
        ),
        pytest.param(
            [answer(2, errno.EPERM, attribute(OFFSET, struct.pack("=I", 20)))],
            RefusedError,
            "another process owns the table, which alone may change it (EPERM)",
            id="EPERM: a table that has an owner",
        ),
        pytest.param(
            [answer(3, errno.EINVAL)],
            RefusedError,
            "policy accept; }: the kernel doesn't take it in this form (EINVAL)",
            id="EINVAL: a kernel that doesn't say which attribute",
        ),
        pytest.param(
            [answer(3, errno.EDOM, attribute(1, b"no way\0"))],
            RefusedError,
            "(EDOM); the kernel says: no way",
            id="an errno without words of ours, in the kernel's",
        ),
        pytest.param(
            [answer(2, errno.EINVAL), answer(3, errno.EEXIST)],
            RefusedError,
            "1 more of the batch's messages were refused",
            id="two refusals",
        ),
        pytest.param(
            [answer(1, errno.EPERM)], HostError, "nf_tables needs root (CAP_NET_ADMIN)", id="EPERM: the whole batch"
        ),
        pytest.param(
            [answer(1, errno.EOPNOTSUPP)],
            HostError,
            "this kernel has no nf_tables; modprobe",
            id="EOPNOTSUPP: no nf_tables",
        ),
        pytest.param(
            [answer(1, errno.ENOMEM)],
            KernelError,
            "a batch of 2 messages as a whole: the kernel has no memory for it (ENOMEM)",
            id="ENOMEM: the whole batch",
        ),
        pytest.param(
            [],
            KernelError,
            "the outcome of a batch of 2 messages is unknown: no reply",
            id="an acknowledgement that never comes",
        ),
        pytest.param(
            [answer(77, 0)],
            KernelError,
            "is unknown: no reply from the kernel",
            id="the acknowledgement of another batch",
        ),
        pytest.param([b"\1\2\3"], KernelError, "cannot decode the reply to a batch", id="bytes that are no message"),
        pytest.param(
            [message(2, 0, 3, b"\0")],
            KernelError,
            "cannot decode the reply to a batch",
            id="a truncated acknowledgement",
        ),
    ],
)
def test_an_answer_is_an_error_and_the_socket_goes_on(
    nftables: NftClient,
    monkeypatch: pytest.MonkeyPatch,
    answers: list[bytes],
    kind: type[NfagentError],
    words: str,
) -> None:
    with answered(monkeypatch, *answers) as opened:
        with pytest.raises(kind) as caught:
            opened.commit((AddTable(), AddChain("n", Chain((), Hook("nat", "postrouting", 100)))))
        assert words in str(caught.value)
        assert nftables.read_now() == EMPTY

        opened.close()
        opened.commit((add("address4", "10.0.0.1"),))
    assert nftables.read_now().sets["address4"].elements == frozenset({"10.0.0.1"})


@pytest.mark.parametrize(
    ("answers", "handles"),
    [
        pytest.param(
            [message(0xA06, 2, 1, bytes.fromhex("01000000 0c000300 0000000000000007")), DONE],
            (RuleHandle(7),),
            id="one rule",
        ),
        pytest.param([answer(1, errno.ENOENT)], None, id="an error of the kernel's"),
        pytest.param(
            [message(0xA06, 0x12, 1, bytes.fromhex("01000000 0c000300 0000000000000007")), DONE], None, id="interrupted"
        ),
    ],
)
def test_the_reply_to_a_request_for_handles_is_read(
    monkeypatch: pytest.MonkeyPatch, answers: list[bytes], handles: tuple[RuleHandle, ...] | None
) -> None:
    with answered(monkeypatch, *answers) as opened:
        assert opened.rule_handles("k") == handles


def test_a_send_buffer_that_is_too_small_grows(nftables: NftClient) -> None:
    many = tuple(f"10.0.{n >> 8}.{n & 255}" for n in range(20_000))
    with closing(NftSocket(send_buffer=2_048)) as narrow:
        narrow.commit((add("address4", *many),))
        narrow.commit((delete("address4", *many),))
    assert nftables.read_now() == EMPTY


def test_a_batch_that_no_send_buffer_takes_is_unsent(nftables: NftClient, monkeypatch: pytest.MonkeyPatch) -> None:
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams:
        datagrams.connect(("127.0.0.1", 9))  # whatever its buffer: a datagram of UDP has 64 KiB at most
        monkeypatch.setattr(nft_socket, "request_socket", lambda _, **__: datagrams)
        with closing(NftSocket()) as opened, pytest.raises(UnsentError, match="exceeds the largest send buffer"):
            opened.commit((add("address4", *(f"10.0.{n >> 8}.{n & 255}" for n in range(5_000))),))
    assert nftables.read_now() == EMPTY


@pytest.mark.parametrize("count", [0, 1, 3, 2_000], ids="{} rules".format)
@pytest.mark.usefixtures("nftables")
def test_the_handles_of_a_chain_are_those_that_nft_lists(elements: NftSocket, count: int) -> None:
    numbered = "".join(f"add rule inet nfagent egress/shop/web tcp dport {port} drop\n" for port in range(1, count + 1))
    other = "add rule inet nfagent egress/shop/db drop\n"
    first = "insert rule inet nfagent egress/shop/web accept\n" if count else ""
    nft(numbered + other + first)

    expected = tuple(handles_of("egress/shop/web"))
    assert elements.rule_handles("egress/shop/web") == tuple(map(RuleHandle, expected))
    assert len(expected) == count + bool(count)


def test_a_chain_that_is_not_there_has_no_handles(nftables: NftClient, elements: NftSocket) -> None:
    assert elements.rule_handles("nothing") == ()
    nftables.commit_now(diff(EMPTY, ABSENT))
    assert elements.rule_handles("egress/shop/web") == ()


def test_the_port_of_a_socket_is_own_while_it_is_open_and_for_a_while_after(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[socket.socket] = []

    def opening(needs_root: str, **options: Any) -> socket.socket:  # noqa: ANN401 - passed on as they are
        opened.append(request_socket(needs_root, **options))
        return opened[-1]

    monkeypatch.setattr(nft_socket, "request_socket", opening)
    now = 0.0
    ports = OwnPorts(lambda: now)
    with closing(NftSocket(ports=ports)):
        port = opened[0].getsockname()[0]
        assert ports.owns(port)
        now = 60.0
        assert ports.owns(port)
    assert ports.owns(port)
    now = 120.0
    assert not ports.owns(port)


def broken(opened: socket.socket, *, ended: bool) -> None:
    """Replace a socket by one that never commits."""
    ours, theirs = socket.socketpair()
    with ours, theirs, Path("/dev/null").open("r+b", buffering=0) as nothing:
        os.dup2(ours.fileno() if ended else nothing.fileno(), opened.fileno())


@pytest.mark.parametrize("ended", [True, False], ids=["has ended", "is no socket any more"])
def test_a_socket_is_opened_anew_where_it(nftables: NftClient, *, ended: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[socket.socket] = []

    def opening(needs_root: str, **options: Any) -> socket.socket:  # noqa: ANN401 - passed on as they are
        opened.append(request_socket(needs_root, **options))
        return opened[-1]

    monkeypatch.setattr(nft_socket, "request_socket", opening)
    with closing(NftSocket(ports=OwnPorts())) as elements:
        broken(opened[0], ended=ended)
        with pytest.raises(KernelError, match="cannot send"):
            elements.commit((add("address4", "10.0.0.1"),))
        elements.commit((add("address4", "10.0.0.1"),))
        assert len(opened) == 2
    assert nftables.read_now().sets["address4"].elements == frozenset({"10.0.0.1"})
