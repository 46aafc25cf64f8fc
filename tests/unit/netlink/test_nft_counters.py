"""The decoder of counters is total: values or a WireError, for any bytes."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nfagent.errors import WireError
from nfagent.netlink.codec import Message, attribute, nested, nfgen
from nfagent.netlink.nft_counters import decode_element_counters, decode_named_counter, decode_named_value
from nfagent.netlink.nft_messages import NEWOBJ, NEWSETELEM

COUNTER = attribute(1, (100).to_bytes(8, "big")) + attribute(2, (7).to_bytes(8, "big"))


def reply(kind: int, *members: bytes) -> Message:
    return Message(kind, 0, 1, 0, nfgen(1, 0) + b"".join(members))


def element(*members: bytes) -> Message:
    return reply(NEWSETELEM, nested(3, nested(1, nested(1, attribute(1, bytes([10, 0, 0, 1]))), *members)))


def expression(name: bytes) -> bytes:
    return attribute(1, name + b"\0") + nested(2, COUNTER)


@pytest.mark.parametrize(
    ("found", "packets"),
    [
        pytest.param(element(nested(7, expression(b"counter"))), [7], id="one expression"),
        pytest.param(
            element(nested(11, nested(1, expression(b"limit")), nested(1, expression(b"counter")))),
            [7],
            id="the second of two expressions",
        ),
        pytest.param(element(nested(7, expression(b"last"))), [], id="another expression"),
        pytest.param(element(), [], id="no expression"),
    ],
)
def test_an_elements_counter_is_found_among_its_expressions(found: Message, packets: list[int]) -> None:
    assert [value for _, value in decode_element_counters(found)] == packets


@pytest.mark.parametrize(
    "members",
    [
        pytest.param((attribute(2, b"drop/x\0"),), id="no value"),
        pytest.param((nested(4, COUNTER),), id="no name"),
        pytest.param((attribute(2, b"drop/x\0"), nested(4, attribute(2, b"1"))), id="a value of one byte"),
        pytest.param((attribute(2, b"drop/x\0"), nested(4, attribute(1, bytes(8)))), id="bytes without packets"),
    ],
)
def test_a_named_counter_without_name_or_value_is_refused(members: tuple[bytes, ...]) -> None:
    handle = attribute(6, (9).to_bytes(8, "big"))
    whole = reply(NEWOBJ, attribute(2, b"drop/x\0"), nested(4, COUNTER), handle)
    assert decode_named_counter(whole) == ("drop/x", 7, 9)
    assert decode_named_value(whole) == ("drop/x", 7, 100)
    for decode in (decode_named_counter, decode_named_value):
        with pytest.raises(WireError):
            decode(reply(NEWOBJ, *members))


@given(st.sampled_from([NEWOBJ, NEWSETELEM, 3]), st.binary(max_size=200))
def test_any_bytes_give_values_or_a_typed_error(kind: int, payload: bytes) -> None:
    message = Message(kind, 0, 1, 0, payload)
    for decode in (decode_named_counter, decode_named_value):
        with suppress(WireError):
            decode(message)
    with suppress(WireError):
        list(decode_element_counters(message))
