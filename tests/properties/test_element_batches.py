"""Batches of element changes: every batch reads back as written, and any bytes decode or raise WireError."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from contextlib import suppress

from hypothesis import given
from hypothesis import strategies as st

from nfagent.errors import WireError
from nfagent.model.netaddr import Family, Range, text
from nfagent.model.objects import Protocol
from nfagent.netlink.codec import NFGEN_SIZE, Message, attributes, messages
from nfagent.netlink.extack import decode_acknowledgement
from nfagent.netlink.nft_batch import encode_batch
from nfagent.netlink.nft_elements import ElementCommand, ElementRequest, MapElement
from nfagent.nftables.objects import Element, PortRange
from nfagent.nftables.transaction import ChangeElements, ChangeMapElements

FAMILIES: st.SearchStrategy[Family] = st.sampled_from([4, 6])
NFPROTO: dict[int, Family] = {2: 4, 10: 6}
LAST: dict[Family, int] = {4: (1 << 32) - 1, 6: (1 << 128) - 1}
LAST_PORT = 65_535
FAMILY: dict[int, Family] = {4: 4, 16: 6}
PROTOCOLS: dict[int, Protocol] = {6: "tcp", 17: "udp", 132: "sctp"}
TRANSPORTS = list(PROTOCOLS.values())
VERBS = {0x0A0C: "add", 0x0A0E: "delete"}


def addresses(family: Family) -> st.SearchStrategy[str]:
    return st.integers(0, LAST[family]).map(lambda number: text(family, number))


def ranges(family: Family) -> st.SearchStrategy[Range]:
    number = st.integers(0, LAST[family]) | st.sampled_from([0, LAST[family]])
    return st.lists(number, min_size=2, max_size=2).map(lambda ends: Range(family, min(ends), max(ends)))


PORT_RANGES: st.SearchStrategy[Element] = st.lists(
    st.integers(0, LAST_PORT) | st.sampled_from([1, LAST_PORT]), min_size=2, max_size=2
).map(lambda ends: PortRange(min(ends), max(ends)))


def ports_of(
    family: Family,
) -> tuple[st.SearchStrategy[str], st.SearchStrategy[Protocol], st.SearchStrategy[int]]:
    return addresses(family), st.sampled_from(TRANSPORTS), st.integers(0, 65_535)


def elements(family: Family) -> st.SearchStrategy[list[Element]]:
    ports = st.tuples(*ports_of(family))
    ways = st.tuples(*ports_of(family), *ports_of(family)[::2])
    kinds: list[st.SearchStrategy[Element]] = [addresses(family), ranges(family), ports, ways, FAMILIES, PORT_RANGES]
    return st.sampled_from(kinds).flatmap(lambda kind: st.lists(kind, max_size=8))


NAMES = st.text("abz09_/", min_size=1, max_size=200)
SETS = st.builds(ChangeElements, st.sampled_from(["add", "delete"]), NAMES, FAMILIES.flatmap(elements).map(tuple))
MAPS = st.builds(
    ChangeMapElements,
    st.just("add"),
    NAMES,
    FAMILIES.flatmap(lambda family: st.lists(st.tuples(addresses(family), NAMES), max_size=8)).map(tuple),
)
COMMANDS: st.SearchStrategy[list[ElementCommand]] = st.lists(SETS | MAPS, max_size=4)


def decoded(message: Message) -> tuple[str, str, list[Element | MapElement]]:
    """Read one message back: verb, set, elements."""
    parts = dict(attributes(message.payload, NFGEN_SIZE))
    assert parts.keys() == {1, 2, 3}
    assert parts[1] == b"nfagent\0"
    return VERBS[message.type], parts[2].removesuffix(b"\0").decode(), list(_elements(parts[3]))


def _elements(written: bytes) -> Iterator[Element | MapElement]:
    found = [dict(attributes(value)) for _, value in attributes(written)]
    for position, element in enumerate(found):
        if 3 in element:
            assert element.keys() == {1, 3}
            assert element[3] == b"\0\0\0\1"
            continue
        follower = found[position + 1] if position + 1 < len(found) else {}
        yield _element(element, _key(follower) if 3 in follower else None)


def _element(element: dict[int, bytes], end: bytes | None) -> Element | MapElement:
    key = _key(element)
    if end is not None or 6 in element:
        return _interval(key, end)
    if len(key) in {20, 44}:
        size = (len(key) - 12) // 2
        source, middle, destination = key[:size], key[size : size + 8], key[size + 8 : -4]
        assert middle[1:4] + middle[6:] + key[-2:] == bytes(7)
        ports = int.from_bytes(middle[4:6]), int.from_bytes(key[-4:-2])
        ends = str(ipaddress.ip_address(source)), str(ipaddress.ip_address(destination))
        return ends[0], PROTOCOLS[middle[0]], ports[0], ends[1], ports[1]
    if len(key) in {12, 24}:
        assert key[-7:-4] + key[-2:] == bytes(5)
        return str(ipaddress.ip_address(key[:-8])), PROTOCOLS[key[-8]], int.from_bytes(key[-4:-2])
    if len(key) == 1:
        return NFPROTO[key[0]]
    address = str(ipaddress.ip_address(key))
    if 2 not in element:
        return address
    verdict = dict(attributes(dict(attributes(element[2]))[2]))
    assert int.from_bytes(verdict[1], signed=True) == -4
    return address, verdict[2].removesuffix(b"\0").decode()


def _interval(key: bytes, end: bytes | None) -> Range | PortRange:
    if len(key) == 2:
        return PortRange(int.from_bytes(key), LAST_PORT if end is None else int.from_bytes(end) - 1)
    family = FAMILY[len(key)]
    return Range(family, int.from_bytes(key), LAST[family] if end is None else int.from_bytes(end) - 1)


def _key(element: dict[int, bytes]) -> bytes:
    return dict(attributes(element[1]))[1]


def expected(command: ElementCommand) -> tuple[str, str, list[Element | MapElement]]:
    if isinstance(command, ChangeMapElements):
        return command.verb, command.map, list(command.elements)
    in_order = sorted(command.elements) if isinstance(command.elements[0], Range | PortRange) else command.elements
    return command.verb, command.set, list(in_order)


@given(COMMANDS, st.integers(0, 0xFFFF_FFFF))
def test_a_batch_reads_back_as_what_it_was_made_from(commands: list[ElementCommand], first: int) -> None:
    batch = encode_batch(commands, first)
    asked = list(messages(batch.data))[1:-1]

    assert [decoded(message) for message in asked] == [expected(command) for command in commands if command.elements]
    assert [message.sequence for message in asked] == list(batch.requests)
    requests = [request for request in batch.requests.values() if isinstance(request, ElementRequest)]
    assert [(one.verb, one.set, list(one.elements)) for one in requests] == list(map(decoded, asked))


@given(COMMANDS, st.data())
def test_the_kernel_s_offset_of_an_element_finds_it(commands: list[ElementCommand], data: st.DataObject) -> None:
    batch = encode_batch(commands, 1)
    for message in list(messages(batch.data))[1:-1]:
        request = batch.requests[message.sequence]
        assert isinstance(request, ElementRequest)
        written = dict(attributes(message.payload, NFGEN_SIZE))[3]
        starts = [16 + len(message.payload) - len(written)]
        for _, value in attributes(written):
            starts.append(starts[-1] + 4 + (len(value) + 3 & ~3))
        offset = data.draw(st.sampled_from(starts[:-1]))
        *_, (_, value) = attributes(written[: starts[starts.index(offset) + 1] - starts[0]])
        element = request.element_at(offset)
        assert element is not None
        key = _key(dict(attributes(value)))
        first = element[0] if isinstance(element, tuple) else element
        if isinstance(first, int):
            assert NFPROTO[key[0]] == first
        elif isinstance(first, Range | PortRange):
            assert int.from_bytes(key) in {first.first, first.last + 1}
        else:
            assert isinstance(first, str)
            assert key.startswith(ipaddress.ip_address(first).packed)


@given(st.binary(max_size=200), st.integers(0, 0xFFFF))
def test_any_bytes_are_an_answer_or_a_wire_error(raw: bytes, flags: int) -> None:
    with suppress(WireError):
        assert 0 <= decode_acknowledgement(Message(2, flags, 1, 0, raw)).errno <= 4095
