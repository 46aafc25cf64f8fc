"""Element batches: encoding by linux/netfilter/nf_tables.h, equal to that of nft."""

from __future__ import annotations

import sys

import pytest

from nfagent.errors import WireError
from nfagent.model.netaddr import Range, parse_cidr, single
from nfagent.netlink.codec import NFGEN_SIZE, Message, attributes, messages
from nfagent.netlink.nft_batch import encode_batch
from nfagent.netlink.nft_elements import ElementCommand, ElementRequest
from nfagent.nftables.objects import Element
from nfagent.nftables.transaction import ChangeElements, ChangeMapElements

pytestmark = pytest.mark.skipif(sys.byteorder != "little", reason="the bytes are those of a little-endian machine")

BEGIN, NEW, DELETE, END = 16, 0x0A0C, 0x0A0E, 17
REQUEST, ACK, EXCL, CREATE = 0x1, 0x4, 0x200, 0x400
NAMES = b"\1\0\0\0\x0c\0\1\0nfagent\0\6\0\2\0s\0\0\0"  # NFPROTO_INET; table nfagent; set s
NAMES_END = 16 + len(NAMES) + 4  # with the message's header and the list's


def add(*elements: Element) -> ChangeElements:
    return ChangeElements("add", "s", elements)


def delete(*elements: Element) -> ChangeElements:
    return ChangeElements("delete", "s", elements)


def addresses(count: int) -> tuple[str, ...]:
    return tuple(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}" for number in range(count))


def between(*commands: ElementCommand) -> list[Message]:
    """Return a batch's messages without begin and end."""
    _, *found, _ = messages(encode_batch(commands, 1).data)
    return found


def element_requests(*commands: ElementCommand) -> list[ElementRequest]:
    """Return the requests of a batch's messages."""
    found = list(encode_batch(commands, 1).requests.values())
    return [request for request in found if isinstance(request, ElementRequest)]


def elements_in(message: Message) -> bytes:
    *_, (kind, value) = attributes(message.payload, NFGEN_SIZE)
    assert kind == 3
    return value


@pytest.mark.parametrize(
    ("command", "written"),
    [
        pytest.param(
            add("10.0.0.1"),
            "1000 0180 0c00 0180 0800 0100 0a000001",
            id="an IPv4 address is a key of four bytes",
        ),
        pytest.param(
            delete("10.0.0.1"),
            "1000 0180 0c00 0180 0800 0100 0a000001",
            id="a deletion names the key as an addition does",
        ),
        pytest.param(
            add("2001:db8::1"),
            "1c00 0180 1800 0180 1400 0100 20010db8000000000000000000000001",
            id="an IPv6 address is a key of sixteen bytes",
        ),
        pytest.param(
            add(parse_cidr("12.0.0.0/30")),
            "1000 0180 0c00 0180 0800 0100 0c000000  1800 0180 0800 0300 00000001 0c00 0180 0800 0100 0c000004",
            id="a range is its first address, and as its end the address behind its last",
        ),
        pytest.param(
            add(parse_cidr("224.0.0.0/3")),
            "1c00 0180 0c00 0180 0800 0100 e0000000  0a00 0600 0104 01000000 0000",
            id="a range to the last IPv4 address has no end, and nft's note that it is open",
        ),
        pytest.param(
            add(parse_cidr("ffff::/16")),
            "2800 0180 1800 0180 1400 0100 ffff0000000000000000000000000000  0a00 0600 0104 01000000 0000",
            id="a range to the last IPv6 address has no end either",
        ),
        pytest.param(
            add(single("0.0.0.0")),  # noqa: S104 - an element, nothing binds to it
            "1000 0180 0c00 0180 0800 0100 00000000  1800 0180 0800 0300 00000001 0c00 0180 0800 0100 00000001",
            id="a single address in an interval set has an end too",
        ),
        pytest.param(
            add(("10.0.0.1", "tcp", 80)),
            "1800 0180 1400 0180 1000 0100 0a000001 06000000 00500000",
            id="a port is address, protocol and port, each padded to four bytes",
        ),
        pytest.param(
            add(("::1", "sctp", 65_535)),
            "2400 0180 2000 0180 1c00 0100 00000000000000000000000000000001 84000000 ffff0000",
            id="a port of an IPv6 address likewise",
        ),
        pytest.param(
            add(6),
            "1000 0180 0c00 0180 0500 0100 0a000000",
            id="a family is its netfilter protocol, one byte with padding",
        ),
        pytest.param(
            add(("10.0.0.1", "udp", 53, "10.0.0.2", 4_000)),
            "2000 0180 1c00 0180 1800 0100 0a000001 11000000 00350000 0a000002 0fa00000",
            id="a flow is source, protocol, port, destination and port, each padded to four bytes",
        ),
        pytest.param(
            ChangeMapElements("add", "s", (("10.0.0.1", "c/d"),)),
            "2800 0180 0c00 0180 0800 0100 0a000001  1800 0280 1400 0280 0800 0100 fffffffc 0800 0200 632f6400",
            id="a map's element goes to a chain",
        ),
        pytest.param(
            ChangeMapElements("delete", "s", (("10.0.0.1", "c/d"),)),
            "1000 0180 0c00 0180 0800 0100 0a000001",
            id="a map's element is deleted by its key",
        ),
    ],
)
def test_an_element_is_written_as_nft_writes_it(command: ElementCommand, written: str) -> None:
    (message,) = between(command)

    assert elements_in(message) == bytes.fromhex(written)


def test_a_batch_is_begin_messages_and_end_and_asks_for_one_acknowledgement() -> None:
    batch = encode_batch([delete("10.0.0.2"), add("10.0.0.1"), add(single("10.0.0.3"))], 40)
    begin, *asked, end = messages(batch.data)

    assert (begin.type, begin.flags, begin.sequence, begin.payload) == (BEGIN, REQUEST, 40, b"\0\0\0\x0a")
    assert (end.type, end.flags, end.sequence, end.payload) == (END, REQUEST, 44, b"\0\0\0\x0a")
    assert [(one.type, one.flags, one.sequence) for one in asked] == [
        (DELETE, REQUEST, 41),
        (NEW, REQUEST | CREATE, 42),
        (NEW, REQUEST | CREATE | EXCL | ACK, 43),
    ]
    assert all(one.payload.startswith(NAMES) for one in asked)
    assert (batch.first, batch.last, batch.following) == (40, 43, 45)
    assert batch.requests == {
        41: ElementRequest("delete", "s", ("10.0.0.2",)),
        42: ElementRequest("add", "s", ("10.0.0.1",)),
        43: ElementRequest("add", "s", (single("10.0.0.3"),)),
    }


def test_nothing_to_change_is_no_bytes_and_no_sequence_number() -> None:
    empty: list[ElementCommand] = [add(), ChangeMapElements("add", "m", ())]
    for transaction in ([], empty):
        batch = encode_batch(transaction, 7)
        assert (batch.data, batch.requests, batch.following) == (b"", {}, 7)


def test_sequence_numbers_go_on_behind_the_last_of_32_bits() -> None:
    batch = encode_batch([add("10.0.0.1"), add("10.0.0.2")], 0xFFFF_FFFE)

    assert [message.sequence for message in messages(batch.data)] == [0xFFFF_FFFE, 0xFFFF_FFFF, 0, 1]
    assert (list(batch.requests), batch.last, batch.following) == ([0xFFFF_FFFF, 0], 0, 2)


def test_many_elements_are_split_into_messages_that_their_length_fields_can_count() -> None:
    wanted = addresses(10_000)
    asked = between(add(*wanted))
    requests = element_requests(add(*wanted))

    assert len(asked) == len(requests) == 3
    assert all(len(elements_in(message)) <= 60_000 for message in asked)
    assert tuple(element for request in requests for element in request.elements) == wanted


def test_an_interval_and_its_end_share_a_message() -> None:
    ranges = [Range(4, first, first + 1) for first in range(0, 30_000, 3)]
    asked = between(add(*ranges))

    assert len(asked) > 1
    assert all(elements_in(message)[-20:-12] == bytes.fromhex("08000300 00000001") for message in asked)


def test_ranges_ascend_so_that_the_one_without_an_end_is_the_last_of_its_message() -> None:
    last, first = parse_cidr("224.0.0.0/3"), parse_cidr("10.0.0.0/8")

    assert elements_in(between(add(last, first))[0]) == elements_in(between(add(first, last))[0])
    assert [request.elements for request in element_requests(add(last, first))] == [(first, last)]


@pytest.mark.parametrize(
    ("offset", "element"),
    [
        pytest.param(NAMES_END, "10.0.0.0", id="the first element starts behind the names"),
        pytest.param(NAMES_END + 16, "10.0.0.1", id="the second starts where the first ends"),
        pytest.param(NAMES_END + 20, "10.0.0.1", id="an attribute inside an element is that element's"),
        pytest.param(NAMES_END + 48, None, id="behind the last there is none"),
        pytest.param(NAMES_END - 4, None, id="the list itself is no element"),
        pytest.param(32, None, id="the set's name is no element"),
        pytest.param(None, None, id="where the kernel doesn't say it may be any of them"),
    ],
)
def test_an_element_is_found_by_its_offset(offset: int | None, element: str | None) -> None:
    (request,) = element_requests(add(*addresses(3)))

    assert request.element_at(offset) == element


def test_a_range_is_found_by_the_offset_of_either_end() -> None:
    ranges = (single("10.0.0.1"), single("10.0.0.5"))
    (request,) = element_requests(add(*ranges))

    assert [request.element_at(NAMES_END + at) for at in (0, 16, 40, 56)] == [*ranges[:1] * 2, *ranges[1:] * 2]


def test_a_family_is_found_by_its_offset() -> None:
    (request,) = element_requests(add(4, 6))

    assert [request.element_at(NAMES_END + at) for at in (0, 15, 16, 32)] == [4, 4, 6, None]


def test_a_lone_element_is_at_fault_where_the_kernel_does_not_say_which() -> None:
    (request,) = element_requests(add("10.0.0.1"))

    assert request.element_at(None) == "10.0.0.1"
    assert request.element_at(20) is None
    assert request.part_at(20) == "table inet nfagent"
    assert request.part_at(32) == "set s"


@pytest.mark.parametrize(
    "command",
    [
        pytest.param(add("10.0.0"), id="three numbers are no address"),
        pytest.param(add("10.0.0.256"), id="256 is no byte"),
        pytest.param(add("2001:db8::g"), id="g is no digit"),
        pytest.param(add(""), id="nothing is no address"),
        pytest.param(add(("10.0.0.1", "tcp", 65_536)), id="65536 is no port"),
        pytest.param(add(("10.0.0.1", "icmp", 1)), id="icmp has no ports"),  # type: ignore[arg-type]
        pytest.param(add(("10.0.0.1", "tcp", 1, "10.0.0.2", 65_536)), id="65536 is no port of a flow either"),
        pytest.param(add(5), id="5 is no family"),  # type: ignore[arg-type]
        pytest.param(add(Range(4, 1, 1 << 32)), id="a range beyond the family"),
        pytest.param(ChangeElements("add", "s", (("10.0.0.1", "c"),)), id="a map's element, or no address, in a set"),
    ],
)
def test_a_value_that_is_not_an_element_is_an_error_with_the_name_of_its_set(command: ElementCommand) -> None:
    with pytest.raises(WireError, match=r"of s can't be encoded"):
        encode_batch([command], 1)
