from __future__ import annotations

from ipaddress import ip_network
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nfagent.model.netaddr import Range, parse_cidr
from nfagent.nftables.objects import LinkName, NamedSet, PortRange, ProtocolPort
from nfagent.xtables.lowering import lower_set
from nfagent.xtables.objects import IpSet, SetMember
from nfagent.xtables.options import LoweringOptions
from nfagent.xtables.set_parts import LINK_PARTS, LINKS_EACH, link_part, prefixes
from nfagent.xtables.text import create_text

OPTIONS = LoweringOptions()
BITS = {4: 32, 6: 128}


def only(item: NamedSet) -> IpSet:
    (lowered,) = lower_set("name", item, OPTIONS).sets.values()
    return lowered


@given(st.sampled_from([4, 6]), st.data())
def test_the_prefixes_of_a_range_are_its_addresses_and_none_is_of_length_0(family: int, data: st.DataObject) -> None:
    numbers = st.integers(0, (1 << BITS[family]) - 1) | st.sampled_from([0, (1 << BITS[family]) - 1])
    first, last = sorted(data.draw(st.tuples(numbers, numbers)))
    found = [ip_network(f"{address}/{length}") for address, length in prefixes(Range(family, first, last))]  # type: ignore[arg-type]
    assert int(found[0].network_address) == first
    assert int(found[-1].broadcast_address) == last
    assert all(item.prefixlen > 0 for item in found)
    assert all(int(item.broadcast_address) + 1 == int(after.network_address) for item, after in pairwise(found))
    assert len(found) <= 2 * BITS[family]


def test_a_set_of_families_is_both_halves_of_the_addresses_of_one_family_alone() -> None:
    lowered = lower_set("logging-allows", NamedSet("family", 4, frozenset({6})), OPTIONS).sets.values()
    assert {item.family: item.members for item in lowered} == {4: frozenset(), 6: {("::", 1), ("8000::", 1)}}


@pytest.mark.parametrize(
    ("item", "kind", "members"),
    [
        pytest.param(NamedSet("address", 4, frozenset({"10.0.0.1"})), "hash:ip", {"10.0.0.1"}, id="addresses"),
        pytest.param(
            NamedSet("range", 4, frozenset({parse_cidr("10.0.0.0/8")})), "hash:net", {("10.0.0.0", 8)}, id="ranges"
        ),
        pytest.param(
            NamedSet("port", 4, frozenset({("10.0.0.1", "sctp", 99)})),
            "hash:ip,port",
            {("10.0.0.1", "sctp", 99)},
            id="ports of addresses",
        ),
        pytest.param(NamedSet("ports", 4, frozenset({PortRange(80, 82)})), "bitmap:port", {80, 81, 82}, id="ports"),
        pytest.param(
            NamedSet("pair", 4, frozenset({("10.0.0.1", "10.0.0.1")})), "hash:ip", {"10.0.0.1"}, id="pairs of equals"
        ),
    ],
)
def test_elements_become_members_of_the_type_that_looks_them_up(
    item: NamedSet, kind: str, members: set[SetMember]
) -> None:
    found = only(item)
    assert found.type == kind
    assert found.members == members


def test_elements_that_count_keep_their_counters() -> None:
    assert create_text("x", only(NamedSet("counted", 6))) == "create x hash:ip family inet6 maxelem 1048576 counters"


def test_reply_tuples_are_two_sets_that_forget() -> None:
    lowered = list(lower_set("revoked4", NamedSet("flow", 4, size=70000), OPTIONS).sets.values())
    assert [(item.type, item.timeout, item.size) for item in lowered] == [("hash:ip,port,ip", 300, 70000)] * 2


def test_a_tunnel_s_port_is_in_the_set_of_its_protocol() -> None:
    lowered = lower_set("tunnels", NamedSet("service", 4, frozenset({ProtocolPort("udp", 8472)})), OPTIONS)
    assert sorted(map(sorted, (item.members for item in lowered.sets.values()))) == [[], [8472]]


def test_250_interfaces_are_spread_so_that_no_set_reaches_the_kernel_s_limit_of_one_prefix() -> None:
    names = [f"veth{number:08x}" for number in range(250)]
    found = [link_part(name) for name in names]
    assert max(found.count(part) for part in LINK_PARTS) < LINKS_EACH
    links = frozenset(map(LinkName, names))
    lowered = lower_set("podlinks", NamedSet("link", 4, links), LoweringOptions(families=(4,)))
    assert sum(len(item.members) for item in lowered.sets.values()) == 250


def test_interfaces_beyond_the_kernel_s_limit_are_left_out_and_reported() -> None:
    links = frozenset(LinkName(f"veth{number}") for number in range(8 * LINKS_EACH + 1))
    lowered = lower_set("podlinks", NamedSet("link", 4, links), OPTIONS)
    assert max(len(item.members) for item in lowered.sets.values()) == LINKS_EACH
    assert [item.chain for item in lowered.unavailable] == ["podlinks"]
