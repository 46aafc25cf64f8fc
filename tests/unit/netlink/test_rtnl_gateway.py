"""rtnetlink messages of addresses, and of rules by packet mark: what is written is read back, and nothing else."""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Callable

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nfagent.errors import WireError
from nfagent.netlink.codec import Message, attribute, messages
from nfagent.netlink.rtnl_address import RTM_NEWADDR, InterfaceAddress, decode_address, encode_new_address
from nfagent.netlink.rtnl_route import RTM_NEWROUTE, decode_neighbour_link
from nfagent.netlink.rtnl_rule import RTM_NEWRULE, MarkRule, decode_rule, encode_new_rule

numbers = st.integers(0, 2**32 - 1)
octets = st.integers(0, 255)


@given(
    st.builds(InterfaceAddress, st.ip_addresses().map(str), st.integers(1, 2**31 - 1), numbers),
    numbers,
)
def test_an_address_is_read_as_written(held: InterfaceAddress, sequence: int) -> None:
    (written,) = messages(encode_new_address(sequence, held, 78))
    assert decode_address(written) == held


@given(st.builds(MarkRule, st.sampled_from((4, 6)), numbers, numbers, numbers, octets, numbers))
def test_a_rule_is_read_as_written(rule: MarkRule) -> None:
    for each in (rule, msgspec.structs.replace(rule, table=0, discards=True)):
        (written,) = messages(encode_new_rule(1, each))
        assert decode_rule(written) == each


def rule_message(action: int, flags: int, *said: bytes, family: int = 2) -> Message:
    return Message(RTM_NEWRULE, 0, 1, 0, struct.pack("=8BI", family, 0, 0, 0, 0, 0, 0, action, flags) + b"".join(said))


@pytest.mark.parametrize(
    "message",
    [rule_message(7, 0), rule_message(1, 2), rule_message(3, 0), rule_message(1, 0, family=129)],
    ids=["it answers with an error", "it is inverted", "it jumps to another rule", "it is of another family"],
)
def test_a_rule_of_another_form_is_not_ours(message: Message) -> None:
    assert decode_rule(message) is None


@pytest.mark.parametrize(
    ("decode", "message", "complaint"),
    [
        (decode_rule, Message(RTM_NEWADDR, 0, 1, 0, bytes(12)), "type 20 and 12 bytes is not an RTM_NEWRULE"),
        (decode_rule, Message(RTM_NEWRULE, 0, 1, 0, bytes(11)), "type 32 and 11 bytes is not an RTM_NEWRULE"),
        (decode_rule, rule_message(1, 0, attribute(10, bytes(3))), "number of a routing rule has 3 bytes, not 4"),
        (decode_address, Message(RTM_NEWADDR, 0, 1, 0, bytes(7)), "type 20 and 7 bytes is not an RTM_NEWADDR"),
        (
            decode_address,
            Message(RTM_NEWADDR, 0, 1, 0, struct.pack("=4BI", 2, 32, 0, 0, 7) + attribute(2, bytes(3))),
            "address of 3 bytes in address family 2",
        ),
    ],
)
def test_what_cannot_be_read_is_refused(decode: Callable[[Message], object], message: Message, complaint: str) -> None:
    with pytest.raises(WireError, match=complaint):
        decode(message)


@given(st.sampled_from((decode_rule, decode_address, decode_neighbour_link)), st.binary(max_size=80))
def test_decoders_are_total(decode: Callable[[Message], object], payload: bytes) -> None:
    for kind in (RTM_NEWADDR, RTM_NEWRULE, RTM_NEWROUTE):
        with contextlib.suppress(WireError):
            decode(Message(kind, 0, 1, 0, payload))


OUT, GATEWAY, SEVERAL = (
    attribute(4, struct.pack("=i", 7)),
    attribute(5, bytes(4)),
    attribute(9, bytes([8, 0, 0, 0, 7, 0, 0, 0])),
)


@pytest.mark.parametrize(
    ("said", "prefix", "kind", "link"),
    [
        pytest.param((OUT,), 24, 1, 7, id="a neighbour"),
        pytest.param((OUT,), 0, 1, 7, id="a neighbour by the default route"),
        pytest.param((OUT, GATEWAY), 0, 1, 0, id="behind a gateway"),
        pytest.param((SEVERAL,), 24, 1, 0, id="by several ways"),
        pytest.param((OUT,), 32, 2, 0, id="this machine's own"),
        pytest.param((), 24, 1, 0, id="by no interface"),
    ],
)
def test_an_address_is_a_neighbour(said: tuple[bytes, ...], prefix: int, kind: int, link: int) -> None:
    head = struct.pack("=8BI", 2, prefix, 0, 0, 254, 3, 253, kind, 0)
    assert decode_neighbour_link(Message(RTM_NEWROUTE, 0, 1, 0, head + b"".join(said))) == link
