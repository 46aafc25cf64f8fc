"""Ranges against sets of numbers, on stretches small enough to count."""

from __future__ import annotations

import re
from ipaddress import IPv6Address, ip_address
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nfagent.model.netaddr import (
    AddressError,
    Family,
    Range,
    canonical,
    disjoint,
    number,
    parse_cidr,
    subtract,
    text,
)

FAMILIES: st.SearchStrategy[Family] = st.sampled_from([4, 6])
ENDS = st.integers(0, 40)


@st.composite
def ranges(draw: st.DrawFn, family: st.SearchStrategy[Family] = FAMILIES) -> Range:
    first, last = sorted((draw(ENDS), draw(ENDS)))
    return Range(draw(family), first, last)


Member = tuple[Family, int]


def members(items: list[Range] | tuple[Range, ...]) -> set[Member]:
    return {(item.family, value) for item in items for value in range(item.first, item.last + 1)}


def assert_in_order_and_apart(items: tuple[Range, ...]) -> None:
    assert list(items) == sorted(items)
    assert all(a.family != b.family or a.last + 1 < b.first for a, b in pairwise(items))


@given(st.lists(ranges(), max_size=8))
def test_disjoint_keeps_the_addresses_and_parts_the_ranges(items: list[Range]) -> None:
    merged = disjoint(items)
    assert members(merged) == members(items)
    assert_in_order_and_apart(merged)


@given(ranges(), st.lists(ranges(), max_size=8))
def test_subtract_takes_the_holes_and_nothing_else(whole: Range, holes: list[Range]) -> None:
    left = subtract(whole, holes)
    assert members(left) == members((whole,)) - members(holes)
    assert_in_order_and_apart(left)


@given(ranges(), ENDS, FAMILIES)
def test_a_range_holds_its_own_addresses_only(item: Range, value: int, family: Family) -> None:
    assert item.contains(text(family, value)) == ((family, value) in members((item,)))


@given(FAMILIES, st.integers(0, 2**128 - 1), st.integers(0, 128))
def test_a_prefix_written_is_the_prefix_read(family: Family, value: int, length: int) -> None:
    bits = 32 if family == 4 else 128
    cidr = parse_cidr(f"{text(family, value % 2**bits)}/{min(length, bits)}")
    assert cidr.last - cidr.first + 1 == 2 ** (bits - min(length, bits))
    assert cidr.contains(text(family, value % 2**bits))
    written = str(cidr)
    assert parse_cidr(written if "/" in written else f"{written}/{bits}") == cidr


@given(ranges())
def test_a_written_range_names_its_first_and_last_address(item: Range) -> None:
    written = str(item)
    if "/" in written:
        assert parse_cidr(written) == item
    else:
        first, _, last = written.partition("-")
        assert (number(first), number(last or first)) == (item.first, item.last)


@given(
    st.one_of(
        st.ip_addresses(v=4).map(str),
        st.ip_addresses(v=6).map(str),
        st.ip_addresses(v=6).map(lambda address: address.exploded),
        st.from_regex(r"[0-9a-f:.]{2,24}", fullmatch=True),
        st.lists(st.sampled_from(["0", "1", "a0", "ffff", "", "01", "10.0.0.1"]), min_size=3, max_size=9).map(":".join),
        st.lists(st.sampled_from(["0", "1", "255", "256", "01", "000", "0256", "08", ""]), min_size=3, max_size=5).map(
            ".".join
        ),
    )
)
def test_canonical_text_is_what_the_library_writes_without_leading_zeros(written: str) -> None:
    numbers = re.split("([:.])", written)
    try:
        parsed = ip_address("".join(number.lstrip("0") or number[-1:] for number in numbers))
    except ValueError:
        with pytest.raises(AddressError):
            canonical(written)
        return
    mapped = parsed.ipv4_mapped if isinstance(parsed, IPv6Address) else None
    assert canonical(written) == str(mapped or parsed)
