"""Batches of any commands: bytes or WireError, one sequence number a message, and a part at any offset."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from nfagent.errors import WireError
from nfagent.model.netaddr import Family, Range
from nfagent.netlink.codec import NFGEN_SIZE, attributes, messages
from nfagent.netlink.nft_batch import Batch, encode_batch
from nfagent.nftables.matches import (
    AddressInSet,
    CtAddress,
    HopLimit,
    IpAddress,
    L4Proto,
    PacketPort,
    ServerPort,
    UnknownExpr,
    Within,
)
from nfagent.nftables.objects import (
    Chain,
    Drop,
    Goto,
    Hook,
    LinkName,
    Log,
    NamedSet,
    PortRange,
    ProtocolPort,
    Rule,
    VerdictMap,
    VmapLookup,
)
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
)

REQUEST, ACK = 0x1, 0x4
NEWSET, SET_ID = 0xA09, 10  # NFT_MSG_NEWSET, NFTA_SET_ID
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
FAMILIES: st.SearchStrategy[Family] = st.sampled_from([4, 6])
MATCHES = st.one_of(
    st.builds(AddressInSet, st.builds(IpAddress, st.sampled_from(["saddr", "daddr"]), FAMILIES), NAMES),
    st.builds(PacketPort, PROTOCOLS, NUMBERS, NUMBERS),
    st.builds(ServerPort, NUMBERS, NUMBERS),
    st.builds(HopLimit, NUMBERS),
    st.builds(L4Proto, st.lists(st.sampled_from(["tcp", "icmp", "odd", ""]), max_size=3).map(tuple)),
    st.builds(
        Within,
        st.builds(IpAddress, st.sampled_from(["saddr", "daddr"]), FAMILIES),
        st.lists(st.builds(Range, FAMILIES, NUMBERS, NUMBERS), max_size=3).map(tuple),
    ),
    st.builds(UnknownExpr, NAMES),
)
VERDICTS = st.one_of(
    st.just(Drop()),
    st.builds(Goto, NAMES),
    st.builds(VmapLookup, st.builds(CtAddress, st.just("client"), FAMILIES), NAMES),
)
RULES = st.builds(
    Rule,
    st.lists(MATCHES, max_size=3).map(tuple),
    st.just("") | NAMES,
    st.none() | st.builds(Log, NAMES, NUMBERS),
    st.none() | VERDICTS,
    st.just("") | NAMES,
)
SHAPES = st.builds(
    NamedSet, st.sampled_from(["address", "range", "flow", "odd"]), FAMILIES, comment=st.just("") | NAMES, size=NUMBERS
)
LISTS = st.lists(RULES, max_size=3).map(tuple)
COMMANDS: st.SearchStrategy[Command] = st.one_of(
    st.just(AddTable()),
    st.builds(AddSet, NAMES, SHAPES),
    st.builds(AddMap, NAMES, st.builds(VerdictMap, FAMILIES, st.just({}))),
    st.builds(AddRule, NAMES, RULES),
    st.builds(RewriteChain, NAMES, LISTS, LISTS),
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

    found = [(message.type, batch.requests[message.sequence]) for message in list(messages(batch.data))[1:-1]]
    assert found == [
        (message.type, one.requests[message.sequence])
        for one in one_by_one
        for message in list(messages(one.data))[1:-1]
    ]


@given(st.lists(st.builds(RewriteChain, st.sampled_from(["a", "b"]), LISTS, LISTS), max_size=3))
def test_no_two_sets_of_a_batch_have_the_same_number(transaction: list[Command]) -> None:
    batch = encoded([*transaction, AddSet("s", NamedSet("address", 4)), AddMap("m", VerdictMap(4, {}))], 1)
    if batch is None:
        return
    made = [dict(attributes(one.payload, NFGEN_SIZE)) for one in messages(batch.data) if one.type == NEWSET]

    assert len({one[SET_ID] for one in made}) == len(made)


@given(COMMANDS, st.none() | st.integers(-5, 400) | st.integers())
def test_any_offset_is_that_of_a_part_or_of_none(command: Command, offset: int | None) -> None:
    batch = encoded([command], 1)
    for request in batch.requests.values() if batch is not None else ():
        assert isinstance(request.part_at(offset), str)
        assert request.describe()
