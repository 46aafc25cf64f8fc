"""Acknowledgements: struct nlmsgerr, followed by the attributes of an extended acknowledgement."""

from __future__ import annotations

import struct

import pytest

from nfagent.errors import WireError
from nfagent.netlink.codec import Message, attribute
from nfagent.netlink.extack import Acknowledgement, decode_acknowledgement

CAPPED, TLVS = 0x100, 0x200
WORDS = attribute(1, b"no such thing\0")
OFFSET = attribute(2, struct.pack("=I", 60))


def reply(error: int, flags: int, behind: bytes = b"", *, asked: int = 16) -> Message:
    """Make an answer to a message of `asked` bytes."""
    head = struct.pack("=iIHHII", error, asked, 0x0A0C, 1, 9, 0)
    return Message(2, flags, 9, 0, head + behind)


@pytest.mark.parametrize(
    ("message", "answer"),
    [
        pytest.param(reply(0, CAPPED), Acknowledgement(9, 0), id="done"),
        pytest.param(reply(-2, CAPPED, asked=500), Acknowledgement(9, 2), id="an errno alone"),
        pytest.param(
            reply(-17, CAPPED | TLVS, WORDS + OFFSET, asked=500),
            Acknowledgement(9, 17, "no such thing", 60),
            id="words and offset behind the header",
        ),
        pytest.param(
            reply(-17, TLVS, b"12345\0\0\0" + OFFSET, asked=21),
            Acknowledgement(9, 17, "", 60),
            id="behind the whole message",
        ),
        pytest.param(
            reply(0, CAPPED | TLVS, WORDS), Acknowledgement(9, 0, "no such thing"), id="a warning though it is done"
        ),
        pytest.param(
            reply(-22, CAPPED | TLVS, attribute(1, b"\xff\0") + attribute(9, b"new") + attribute(2, b"short")),
            Acknowledgement(9, 22, "�"),
            id="what can't be read is passed over",
        ),
    ],
)
def test_an_answer_is_read(message: Message, answer: Acknowledgement) -> None:
    assert decode_acknowledgement(message) == answer


@pytest.mark.parametrize(
    "message",
    [
        pytest.param(Message(3, 0, 9, 0, bytes(20)), id="another type"),
        pytest.param(Message(2, TLVS, 9, 0, bytes(19)), id="no whole header"),
        pytest.param(reply(-1, CAPPED | TLVS, b"\x09\0\1\0abcd"), id="an attribute that isn't whole"),
        pytest.param(reply(1, CAPPED), id="a positive errno"),
    ],
)
def test_what_is_no_answer_is_refused(message: Message) -> None:
    with pytest.raises(WireError):
        decode_acknowledgement(message)
