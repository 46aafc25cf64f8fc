"""Netlink framing: encoding by linux/netlink.h, and errors for truncated messages."""

from __future__ import annotations

import struct

import pytest

from nfagent.errors import WireError
from nfagent.netlink import codec

HEADER = struct.Struct("=IHHII")


def test_a_message_is_laid_out_as_nlmsghdr() -> None:
    written = codec.message(0x0401, codec.NLM_F_REQUEST | codec.NLM_F_ACK, 7, b"abcde", port=9)

    assert HEADER.unpack_from(written) == (21, 0x0401, 5, 7, 9)
    assert written[HEADER.size :] == b"abcde\0\0\0"


def test_messages_of_a_datagram_come_in_order() -> None:
    datagram = codec.message(16, 0, 1, b"abc") + codec.message(17, 2, 2, b"", port=5)

    assert list(codec.messages(datagram)) == [
        codec.Message(16, 0, 1, 0, b"abc"),
        codec.Message(17, 2, 2, 5, b""),
    ]


def test_an_attribute_is_padded_and_its_length_is_not() -> None:
    assert codec.attribute(10, b"web\0x") == struct.pack("=HH", 9, 10) + b"web\0x\0\0\0"


def test_attributes_are_read_from_behind_another_header_and_without_their_flags() -> None:
    inner = codec.attribute(1, b"a") + codec.attribute(2, b"")
    body = codec.nfgen(10, 0x0102) + codec.nested(3, inner) + codec.attribute(1, b"last")

    assert body[: codec.NFGEN_SIZE] == b"\x0a\x00\x01\x02"
    read = list(codec.attributes(body, codec.NFGEN_SIZE))
    assert read == [(3, inner), (1, b"last")]
    assert list(codec.attributes(read[0][1])) == [(1, b"a"), (2, b"")]


def test_the_last_padding_may_be_missing() -> None:
    assert list(codec.attributes(codec.attribute(1, b"abcde")[:9])) == [(1, b"abcde")]
    assert [one.payload for one in codec.messages(codec.message(16, 0, 1, b"abcde")[:21])] == [b"abcde"]


def test_a_value_longer_than_its_length_field_is_refused() -> None:
    assert len(codec.attribute(1, bytes(65_531))) == 65_536
    with pytest.raises(WireError, match="value of 65532 bytes"):
        codec.attribute(1, bytes(65_532))


@pytest.mark.parametrize(
    ("datagram", "why"),
    [
        pytest.param(b"\x10\0\0", "a header has", id="three bytes are no message"),
        pytest.param(HEADER.pack(15, 16, 0, 0, 0), "length 15", id="a length below the header's own"),
        pytest.param(HEADER.pack(0, 16, 0, 0, 0), "length 0", id="a length of nothing, which would never end"),
        pytest.param(HEADER.pack(20, 16, 0, 0, 0) + b"abc", "with 19 bytes left", id="a length beyond the end"),
    ],
)
def test_a_truncated_message_is_an_error_after_those_before_it(datagram: bytes, why: str) -> None:
    reading = codec.messages(codec.message(16, 0, 1, b"whole") + datagram)

    assert next(reading).payload == b"whole"
    with pytest.raises(WireError, match=why):
        next(reading)


@pytest.mark.parametrize(
    ("rest", "why"),
    [
        pytest.param(b"\x04\0", "a header has", id="two bytes are no attribute"),
        pytest.param(struct.pack("=HH", 3, 1), "length 3", id="a length below the header's own"),
        pytest.param(struct.pack("=HH", 9, 1) + b"four", "with 8 bytes left", id="a length beyond the end"),
    ],
)
def test_a_truncated_attribute_is_an_error_after_those_before_it(rest: bytes, why: str) -> None:
    reading = codec.attributes(codec.attribute(1, b"whole") + rest)

    assert next(reading) == (1, b"whole")
    with pytest.raises(WireError, match=why):
        next(reading)


@pytest.mark.parametrize(
    ("code", "errno"),
    [pytest.param(0, 0, id="zero acknowledges"), pytest.param(-16, 16, id="a negative errno refuses")],
)
def test_an_acknowledgement_carries_an_errno(code: int, errno: int) -> None:
    assert codec.ack_errno(codec.Message(codec.NLMSG_ERROR, 0, 1, 0, struct.pack("=i", code) + b"rest")) == errno


@pytest.mark.parametrize(
    "reply",
    [
        pytest.param(codec.Message(codec.NLMSG_DONE, 0, 1, 0, bytes(4)), id="another type"),
        pytest.param(codec.Message(codec.NLMSG_ERROR, 0, 1, 0, b"\0\0"), id="too short for the code"),
        pytest.param(codec.Message(codec.NLMSG_ERROR, 0, 1, 0, struct.pack("=i", 5)), id="a positive code"),
        pytest.param(codec.Message(codec.NLMSG_ERROR, 0, 1, 0, struct.pack("=i", -5000)), id="no errno so large"),
    ],
)
def test_what_is_no_acknowledgement_is_refused(reply: codec.Message) -> None:
    with pytest.raises(WireError, match="acknowledgement"):
        codec.ack_errno(reply)
