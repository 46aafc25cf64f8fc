"""Prefixes, and the identities of ipBlocks that overlap."""

from __future__ import annotations

from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nfagent.lab.ebpf.blocks import BlockKey, BlockRef, BlockTable
from nfagent.lab.ebpf.prefixes import Prefix
from nfagent.model.netaddr import Range, aligned_blocks, disjoint
from nfagent.model.objects import ObjectRef

KEYS = [BlockRef(ObjectRef("NetworkPolicy", "x", name), "ingress", 0) for name in "abc"]
# Of 10.0.0.0/24: small enough to compare every address.
FIRST = 10 << 24
RANGES = st.lists(
    st.tuples(st.integers(0, 255), st.integers(0, 40)).map(
        lambda drawn: Range(4, FIRST + drawn[0], FIRST + min(255, drawn[0] + drawn[1]))
    ),
    max_size=5,
).map(disjoint)


@pytest.mark.parametrize(
    ("first", "last", "blocks"),
    [
        pytest.param(80, 80, [(80, 16)], id="one port"),
        pytest.param(0, 65535, [(0, 0)], id="all ports"),
        pytest.param(
            1024, 65535, [(1024, 6), (2048, 5), (4096, 4), (8192, 3), (16384, 2), (32768, 1)], id="high ports"
        ),
        pytest.param(8000, 8001, [(8000, 15)], id="a pair"),
        pytest.param(8001, 8002, [(8001, 16), (8002, 16)], id="two ports of different pairs"),
    ],
)
def test_a_range_is_the_fewest_blocks(first: int, last: int, blocks: list[tuple[int, int]]) -> None:
    assert list(aligned_blocks(first, last, 16)) == blocks


@given(st.integers(0, 65535), st.integers(0, 65535))
def test_the_blocks_of_a_range_are_the_range(one: int, other: int) -> None:
    first, last = min(one, other), max(one, other)
    found = [
        number for start, bits in aligned_blocks(first, last, 16) for number in range(start, start + (1 << (16 - bits)))
    ]
    assert found == list(range(first, last + 1))


@given(st.lists(st.tuples(st.sampled_from(KEYS), st.none() | RANGES, st.booleans()), max_size=12))
def test_the_longest_cidr_of_an_address_has_the_identity_of_all_ipblocks_that_have_it(
    changes: list[tuple[BlockRef, tuple[Range, ...] | None, bool]],
) -> None:
    table, written = BlockTable(count(256)), dict[Prefix, int]()
    known: dict[BlockKey, tuple[Range, ...]] = {}
    for key, ranges, drains in [*changes, (KEYS[0], None, True)]:
        if ranges is not None:
            table.put(key, ranges)
            known[key] = ranges
        elif key in known:
            table.remove(key)
            del known[key]
        if drains:
            puts, deletes = table.drain()
            written |= puts
            for prefix in deletes:
                del written[prefix]
            table.forget()
    covers = {number: cover for cover, number in table.numbers.items()}
    for address in range(FIRST, FIRST + 256):
        longest = max(
            (prefix for prefix in written if prefix.first <= address <= prefix.last),
            key=lambda prefix: prefix.length,
            default=None,
        )
        wanted = {key for key, ranges in known.items() if any(item.first <= address <= item.last for item in ranges)}
        assert (covers[written[longest]] if longest is not None else set()) == wanted
    assert set(written.values()) == set(covers), "no identity is left over"


def test_a_change_of_a_long_list_is_a_change_of_as_many_entries() -> None:
    table = BlockTable(count(256))
    ranges = [Range(4, FIRST + 8 * number, FIRST + 8 * number) for number in range(1000)]
    table.put(KEYS[0], tuple(ranges))
    assert len(table.drain()[0]) == 1000
    table.put(KEYS[0], tuple(ranges[:-1]))
    puts, deletes = table.drain()
    assert (puts, len(deletes)) == ({}, 1)
    assert len(table.numbers) == 1


@pytest.mark.parametrize("place", [pytest.param(0, id="its first address"), pytest.param(1, id="its last address")])
def test_a_single_address_of_a_cidr_has_the_ipblocks_of_both(place: int) -> None:
    table = BlockTable(count(256))
    table.put(KEYS[0], (Range(4, FIRST, FIRST + 1),))
    table.put(KEYS[1], (Range(4, FIRST + place, FIRST + place),))
    puts, _ = table.drain()
    covers = {number: cover for cover, number in table.numbers.items()}
    assert covers[puts[Prefix(4, FIRST + place, 32)]] == {KEYS[0], KEYS[1]}
    assert covers[puts[Prefix(4, FIRST, 31)]] == {KEYS[0]}
