"""NFLOG groups in the rules of nf_tables, as bytes; tests/kernel/test_check_log_group.py has the kernel's own."""

from __future__ import annotations

import struct
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nfagent.errors import WireError
from nfagent.netlink.codec import NFGEN_SIZE, Message, attribute, messages, nested, nfgen
from nfagent.netlink.nft_log_rules import LogRule, decode_log_rules, encode_all_rules_request
from nfagent.netlink.nft_messages import GETRULE, NEWRULE, NEWSET


def rule(*expressions: bytes, family: int = 2, kind: int = NEWRULE, handle: bytes = struct.pack("!Q", 7)) -> Message:
    names = attribute(1, b"filter\0") + attribute(2, b"INPUT\0") + attribute(3, handle)
    payload = nfgen(family, 0) + names + nested(4, *expressions)
    return Message(kind, 0, 1, 0, payload)


def expression(name: str, *fields: bytes) -> bytes:
    return nested(1, attribute(1, name.encode() + b"\0"), nested(2, *fields))


def log(group: int) -> bytes:
    return expression("log", attribute(2, b"prefix\0"), attribute(1, struct.pack("!H", group)))


def target(name: bytes, info: bytes) -> bytes:
    return expression("target", attribute(1, name + b"\0"), attribute(2, struct.pack("!I", 0)), attribute(3, info))


NFLOG = struct.pack("=IHHHH64s", 0, 100, 0, 0, 0, b"prefix")


@pytest.mark.parametrize(
    ("expressions", "groups"),
    [
        pytest.param([log(100)], [100], id="a log statement of nft"),
        pytest.param([log(1), expression("counter"), log(65535)], [1, 65535], id="two of them"),
        pytest.param([expression("log", attribute(2, b"x\0"))], [], id="a log statement without a group"),
        pytest.param([expression("log", attribute(1, b"\0"))], [], id="a group of another size"),
        pytest.param([target(b"NFLOG", NFLOG)], [100], id="the target of xtables"),
        pytest.param([target(b"NFLOG", b"\0\0")], [], id="a target that is cut"),
        pytest.param([target(b"LOG", NFLOG)], [], id="another target"),
        pytest.param([expression("counter", attribute(9, b"log\0"))], [], id="another expression with this word"),
        pytest.param([], [], id="a rule without expressions"),
    ],
)
def test_the_groups_of_a_rule(expressions: list[bytes], groups: list[int]) -> None:
    found = decode_log_rules(rule(*expressions))
    assert found == tuple(LogRule("ip", "filter", "INPUT", 7, group) for group in groups)


@pytest.mark.parametrize(("number", "name"), [(1, "inet"), (5, "netdev"), (7, "bridge"), (10, "ip6"), (77, "77")])
def test_the_family_has_the_name_that_nft_gives_it(number: int, name: str) -> None:
    assert decode_log_rules(rule(log(5), family=number))[0].family == name


def test_another_message_and_a_rule_without_a_handle_are_errors() -> None:
    for wrong in (rule(log(1), kind=NEWSET), rule(log(1), handle=b"\0")):
        with pytest.raises(WireError):
            decode_log_rules(wrong)


def test_the_request_names_no_table_and_no_family() -> None:
    [request] = messages(encode_all_rules_request(9))
    assert (request.type, request.sequence, request.payload) == (GETRULE, 9, nfgen(0, 0))
    assert len(request.payload) == NFGEN_SIZE


@given(st.binary(max_size=80), st.lists(st.sampled_from([0, 3, 9, 20, 25, 40, 60]), max_size=3), st.data())
def test_any_bytes_are_rules_or_a_wire_error(raw: bytes, places: list[int], data: st.DataObject) -> None:
    whole = bytearray(rule(log(100), target(b"NFLOG", NFLOG)).payload)
    for place in places:
        whole[place] = data.draw(st.integers(0, 255))
    for payload in (raw, raw + b"log\0", bytes(whole), bytes(whole[: data.draw(st.integers(0, len(whole)))])):
        with suppress(WireError):
            assert all(0 <= found.group < 65536 for found in decode_log_rules(Message(NEWRULE, 0, 1, 0, payload)))
