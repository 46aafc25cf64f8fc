"""Handles of a chain's rules: the request, and one rule of the reply."""

from __future__ import annotations

import sys
from contextlib import suppress
from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nfagent.errors import WireError
from nfagent.netlink.codec import Message, messages
from nfagent.netlink.nft_messages import NFPROTO_BRIDGE, NFPROTO_INET
from nfagent.netlink.nft_rule_handles import RuleHandle, decode_rule_handle, encode_handles_request, is_interrupted
from nfagent.netlink.nft_rules import rule_messages, rule_userdata
from nfagent.nftables.objects import Rule

LITTLE_ENDIAN = pytest.mark.skipif(sys.byteorder != "little", reason="the bytes are those of a little-endian machine")
NEWRULE, GETRULE = 0xA06, 0xA07
NAMES = bytes.fromhex("0c000100 6e666167656e7400 06000200 6b000000")  # table nfagent, chain k


def rule(attributes: str, *, kind: int = NEWRULE, flags: int = 2) -> Message:
    return Message(kind, flags, 1, 0, bytes.fromhex("01000000") + NAMES + bytes.fromhex(attributes))


@LITTLE_ENDIAN
def test_the_request_is_a_dump_of_the_rules_of_one_chain() -> None:
    (request,) = messages(encode_handles_request("k", 9, family=NFPROTO_BRIDGE))

    assert (request.type, request.flags, request.sequence) == (GETRULE, 0x301, 9)
    assert request.payload == bytes.fromhex("07000000") + NAMES


def test_a_name_that_no_chain_can_have_is_not_asked_for() -> None:
    with pytest.raises(WireError, match="name of a chain"):
        encode_handles_request("", 1)


@LITTLE_ENDIAN
def test_the_handle_is_a_number_of_64_bits() -> None:
    assert decode_rule_handle(rule("0c000300 0000000100000007 04000480")) == RuleHandle((1 << 32) + 7)


@LITTLE_ENDIAN
def test_the_user_data_are_those_of_a_comment() -> None:
    (added,) = rule_messages("k", Rule(comment="é"), family=NFPROTO_INET, set_ids=count(1))
    reply = rule("0c000300 0000000000000007 04000480 09000700 0003c3a900 000000")
    assert decode_rule_handle(reply) == RuleHandle(7, rule_userdata(Rule(comment="é")))
    assert added.body.endswith(reply.payload[-12:])


@LITTLE_ENDIAN
@pytest.mark.parametrize(
    ("reply", "said"),
    [
        pytest.param(rule("", kind=3), "type 3 is no rule", id="another message"),
        pytest.param(rule("04000480"), "without a handle", id="a rule without a handle"),
        pytest.param(rule("08000300 00000007"), "without a handle", id="a handle of 32 bits"),
        pytest.param(rule("0c000300 00000000"), "bytes left", id="a truncated handle"),
    ],
)
def test_a_reply_that_has_no_handle_is_an_error(reply: Message, said: str) -> None:
    with pytest.raises(WireError, match=said):
        decode_rule_handle(reply)


def test_a_reply_says_where_rules_changed_meanwhile() -> None:
    assert is_interrupted(rule("", flags=0x12))
    assert not is_interrupted(rule("", flags=0x2))


@given(st.integers(0, 0xFFFF), st.binary(max_size=100))
def test_any_message_is_a_handle_or_a_wire_error(kind: int, payload: bytes) -> None:
    for one in (kind, NEWRULE):
        with suppress(WireError):
            assert 0 <= decode_rule_handle(Message(one, 0, 1, 0, payload)).number < 1 << 64
