from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nfagent.model.netaddr import AddressError, Range, canonical, disjoint, parse_cidr, subtract


@pytest.mark.parametrize(
    ("written", "read"),
    [
        pytest.param("10.0.0.1", "10.0.0.1", id="IPv4 stays as it is"),
        pytest.param("2001:DB8:0::1", "2001:db8::1", id="IPv6 is written short and small"),
        pytest.param("::ffff:10.0.0.1", "10.0.0.1", id="[26] an IPv4-mapped address becomes IPv4"),
        pytest.param("010.064.000.030", "10.64.0.30", id="leading zeros are decimal, not octal"),
        pytest.param("0000000010.0.0.08", "10.0.0.8", id="any number of leading zeros, and digits that octal lacks"),
        pytest.param("2001:00db8:0000::0001", "2001:db8::1", id="leading zeros of IPv6 groups"),
        pytest.param("64:ff9b::010.0.0.01", "64:ff9b::a00:1", id="leading zeros of IPv4 inside IPv6"),
        pytest.param("::ffff:010.0.0.01", "10.0.0.1", id="[26] leading zeros of an IPv4-mapped address"),
    ],
)
def test_canonical(written: str, read: str) -> None:
    assert canonical(written) == read


@pytest.mark.parametrize("written", ["", "10.0.0", "10.0.0.1/32", "10.0.0.0256", "0", "0:0", "fe80::1%eth0", "web"])
def test_what_is_no_address_is_refused(written: str) -> None:
    with pytest.raises(AddressError):
        canonical(written)


@pytest.mark.parametrize(
    ("cidr", "written"),
    [
        ("10.0.0.0/8", "10.0.0.0/8"),
        ("10.1.2.3/8", "10.0.0.0/8"),
        ("10.0.0.1/32", "10.0.0.1"),
        ("0.0.0.0/0", "0.0.0.0/0"),
        ("::/0", "::/0"),
        ("2001:db8::1/127", "2001:db8::/127"),
        ("10.064.000.030/032", "10.64.0.30"),
        ("10.0.0.0/00", "0.0.0.0/0"),
        ("2001:00db8::/032", "2001:db8::/32"),
    ],
)
def test_host_bits_of_a_cidr_are_masked_away(cidr: str, written: str) -> None:
    assert str(parse_cidr(cidr)) == written


@pytest.mark.parametrize(
    "cidr",
    [
        pytest.param("10.0.0.0", id="no length"),
        pytest.param("10.0.0.0/33", id="a length that is too long"),
        pytest.param("10.0.0.0/", id="an empty length"),
        pytest.param("10.0.0.0/-1", id="a negative length"),
        pytest.param("10.0.0.0/255.0.0.0", id="a netmask, which the API server refuses"),
        pytest.param("10.0.0.0/0.255.255.255", id="a host mask, which the API server refuses"),
        pytest.param("::ffff:10.0.0.0/104", id="an IPv4-mapped range"),
        pytest.param("fe80::1%eth0/64", id="a zone"),
        pytest.param("/8", id="no address"),
    ],
)
def test_what_is_no_cidr_is_refused(cidr: str) -> None:
    with pytest.raises(AddressError):
        parse_cidr(cidr)


def test_strict_refuses_host_bits_and_says_what_to_write() -> None:
    with pytest.raises(AddressError, match=r"has host bits set; write 10\.0\.0\.0/8"):
        parse_cidr("10.1.2.3/8", strict=True)
    assert parse_cidr("10.0.0.0/8", strict=True) == parse_cidr("10.1.2.3/8")
    assert parse_cidr("010.000.000.000/08", strict=True) == parse_cidr("10.0.0.0/8")


def test_a_range_that_is_no_prefix_names_both_ends() -> None:
    assert str(Range(4, 1, 3)) == "0.0.0.1-0.0.0.3"


def test_families_never_merge_and_never_subtract() -> None:
    four, six = Range(4, 0, 9), Range(6, 5, 20)
    assert disjoint([six, four]) == (four, six)
    assert subtract(four, [six]) == (four,)


def test_neighbours_merge() -> None:
    assert disjoint([parse_cidr("10.0.1.0/24"), parse_cidr("10.0.0.0/24")]) == (parse_cidr("10.0.0.0/23"),)


CIDR_TEXTS = st.one_of(
    *(st.ip_addresses(v=family).map(str) for family in (4, 6)),
    st.builds("::ffff:{}".format, st.ip_addresses(v=4)),
    st.sampled_from(("::", "10.0.0.0", "010.0.0.0", "::ffff:0:0", "fe80::", "1.2.3", "fe80::%1", "::1.2.3.4")),
)


@given(CIDR_TEXTS, st.one_of(st.integers(0, 140).map(str), st.sampled_from(("08", "-1", "", "9" * 5000))))
def test_a_cidr_without_host_bits_is_what_ipaddress_reads(address: str, length: str) -> None:
    try:
        found = parse_cidr(f"{address}/{length}", strict=True)
    except AddressError:
        return
    network = ip_network(f"{'10.0.0.0' if address == '010.0.0.0' else address}/{length}")
    assert found == Range(network.version, int(network[0]), int(network[-1]))


@given(st.ip_addresses(), st.integers(0, 128))
def test_every_network_of_ipaddress_but_mapped_ones_is_read(address: IPv4Address | IPv6Address, length: int) -> None:
    network = ip_network(f"{address}/{min(length, address.max_prefixlen)}", strict=False)
    if network.version == 6 and network[0].ipv4_mapped is not None and network.prefixlen >= 96:
        return
    assert parse_cidr(str(network), strict=True) == Range(network.version, int(network[0]), int(network[-1]))
