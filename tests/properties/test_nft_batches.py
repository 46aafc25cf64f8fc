"""Batches of any commands: bytes or WireError, one sequence number a message, and a part at any offset."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from nfagent.errors import WireError
from nfagent.model.netaddr import Range
from nfagent.netlink.codec import messages
from nfagent.netlink.nft_batch import Batch, encode_batch
from nfagent.nftables.objects import Chain, Hook, LinkName, PortRange, ProtocolPort
from nfagent.nftables.transaction import (
    AddChain,
    AddCounter,
    AddTable,
    ChangeElements,
    ChangeMapElements,
    Command,
    Delete,
    FlushChain,
)

REQUEST, ACK = 0x1, 0x4
NAMES = st.text(max_size=4) | st.sampled_from(["k", "deny/x", "n" * 255, "n" * 256, "n" * 70_000, "\ud800", "a\0"])
NUMBERS = st.integers(-(1 << 65), 1 << 65) | st.sampled_from(
    [0, 1, 80, 65_535, (1 << 32) - 1, (1 << 128) - 1, 1 << 128]
)
ADDRESSES = st.text(max_size=3) | st.sampled_from(["10.0.0.1", "2001:db8::1", "10.0.0", "1.2.3.256", "::g", ""])
PROTOCOLS = st.sampled_from(["tcp", "udp", "sctp", "icmp", ""])
ELEMENTS: st.SearchStrategy[object] = st.one_of(
    ADDRESSES,
    st.builds(Range, st.sampled_from([4, 6]), NUMBERS, NUMBERS),
    st.builds(PortRange, NUMBERS, NUMBERS),
    st.integers(0, 9),
    st.builds(LinkName, NAMES),
    st.builds(ProtocolPort, PROTOCOLS, NUMBERS),
    st.tuples(ADDRESSES, ADDRESSES),
    st.tuples(ADDRESSES, PROTOCOLS, NUMBERS),
    st.tuples(ADDRESSES, PROTOCOLS, NUMBERS, ADDRESSES, NUMBERS),
)
VERBS = st.sampled_from(["add", "delete"])
KINDS = st.sampled_from(["table", "chain", "set", "map", "counter", "flowtable", "ct helper", "odd", ""])
HOOKS = st.builds(
    Hook, st.sampled_from(["filter", "nat", "\ud800", "x" * 70_000]), st.sampled_from(["input", ""]), NUMBERS
)
COMMANDS: st.SearchStrategy[Command] = st.one_of(
    st.just(AddTable()),
    st.builds(AddChain, NAMES, st.builds(Chain, st.just(()), st.none() | HOOKS)),
    st.builds(AddCounter, NAMES),
    st.builds(FlushChain, NAMES),
    st.builds(Delete, KINDS, NAMES),
    st.builds(ChangeElements, VERBS, NAMES, st.lists(ELEMENTS, max_size=4).map(tuple)),
    st.builds(ChangeMapElements, VERBS, NAMES, st.lists(st.tuples(ADDRESSES, NAMES), max_size=4).map(tuple)),
)
TRANSACTIONS = st.lists(COMMANDS, max_size=5)


def encoded(transaction: list[Command], first: int) -> Batch | None:
    try:
        return encode_batch(transaction, first)
    except WireError:
        return None


@given(TRANSACTIONS, st.integers(0, 0xFFFF_FFFF))
def test_any_transaction_is_a_batch_or_a_wire_error(transaction: list[Command], first: int) -> None:
    batch = encoded(transaction, first)
    if batch is None or not batch.requests:
        assert batch is None or batch.data == b""
        return
    begin, *asked, end = messages(batch.data)

    assert [begin.sequence, *(one.sequence for one in asked), end.sequence] == [
        (first + number) & 0xFFFF_FFFF for number in range(len(asked) + 2)
    ]
    assert [one.sequence for one in asked] == list(batch.requests)
    assert all(one.flags & REQUEST for one in (begin, *asked, end))
    assert [one.sequence for one in (begin, *asked, end) if one.flags & ACK] == [batch.last]
    assert batch.following == (end.sequence + 1) & 0xFFFF_FFFF


@given(TRANSACTIONS)
def test_a_transaction_is_its_commands_in_order(transaction: list[Command]) -> None:
    batch = encoded(transaction, 1)
    if batch is None:
        return
    one_by_one = [encode_batch([command], 1) for command in transaction]

    found = [message.payload for message in list(messages(batch.data))[1:-1]]
    assert found == [message.payload for one in one_by_one for message in list(messages(one.data))[1:-1]]


@given(COMMANDS, st.none() | st.integers(-5, 400) | st.integers())
def test_any_offset_is_that_of_a_part_or_of_none(command: Command, offset: int | None) -> None:
    batch = encoded([command], 1)
    for request in batch.requests.values() if batch is not None else ():
        assert isinstance(request.part_at(offset), str)
        assert request.describe()
