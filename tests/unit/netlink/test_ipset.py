"""ipset requests and listings: what is encoded is decoded again, and bytes of any form give a value or a WireError."""

from __future__ import annotations

import struct
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nfagent.errors import WireError
from nfagent.netlink import codec, ipset, nfacct
from nfagent.netlink.ipset_listing import SetPart, decode_answer, decode_name, decode_part, decode_type
from nfagent.xtables.objects import IpSet, SetMember

V4 = st.integers(0, 2**32 - 1).map(lambda value: ".".join(map(str, value.to_bytes(4, "big"))))
V6 = st.sampled_from(["::", "2001:db8::1", "fe80::1:0:0:2"])
ADDRESS = V4 | V6
PORT = st.integers(0, 65535)
PROTOCOL = st.sampled_from(["tcp", "udp", "sctp"])
LINK = st.from_regex(r"[a-z][a-z0-9.]{0,14}", fullmatch=True)
MEMBER = st.one_of(
    PORT,
    ADDRESS,
    st.tuples(ADDRESS, st.integers(1, 32)),
    st.tuples(ADDRESS, PROTOCOL, PORT),
    st.tuples(ADDRESS, PROTOCOL, PORT, ADDRESS),
    st.tuples(ADDRESS, st.integers(0, 32), LINK),
)


def listed(name: str, members: tuple[SetMember, ...]) -> list[SetPart]:
    """Return requests that add members as the kernel would list them."""
    made = []
    for part in ipset.member_requests("add", name, members, 1):
        (request,) = codec.messages(part.data)
        content = b"".join(
            codec.attribute(kind | codec.NLA_F_NESTED, without_lines(value)) if kind == ipset.ADT else b""
            for kind, value in codec.attributes(request.payload, codec.NFGEN_SIZE)
        )
        named = codec.attribute(ipset.SETNAME, name.encode() + b"\0")
        made.append(decode_part(codec.Message(ipset.LIST, 0, 1, 0, codec.nfgen(2, 0) + named + content)))
    return made


def without_lines(members: bytes) -> bytes:
    return b"".join(
        codec.nested(
            ipset.DATA,
            *(codec.attribute(kind, value) for kind, value in codec.attributes(member) if kind != ipset.LINENO),
        )
        for _, member in codec.attributes(members)
    )


@given(st.lists(MEMBER, max_size=5))
def test_members_are_decoded_as_they_were_encoded(members: list[SetMember]) -> None:
    assert [member for part in listed("nfa-x", tuple(members)) for member in part.members] == members


def test_many_members_go_into_as_many_messages_as_hold_them() -> None:
    members = tuple(f"10.{number >> 8}.{number & 255}.1" for number in range(6000))

    parts = list(ipset.member_requests("add", "nfa-x", members, 7))

    assert len(parts) > 1
    assert tuple(member for part in parts for member in part.members) == members
    assert all(len(part.data) < 65_536 for part in parts)


@pytest.mark.parametrize(
    "member",
    ["10.0.0.300", "10.0.0", ("10.0.0.0", 300), ("10.0.0.1", "icmp", 1), 70_000, ("10.0.0.0", 8, "x" * 16)],
    ids=["byte", "three bytes", "prefix length", "protocol", "port", "interface"],
)
def test_a_member_of_no_type_is_an_error_that_names_it(member: SetMember) -> None:
    with pytest.raises(WireError, match="can't be a member of an ipset"):
        list(ipset.member_requests("add", "nfa-x", [member], 1))


@pytest.mark.parametrize("name", ["", "x" * 32, "a\0b", "\ud800"], ids=["empty", "32 bytes", "zero", "no Unicode"])
def test_a_name_that_ipset_has_no_place_for_is_an_error(name: str) -> None:
    with pytest.raises(WireError, match="can't be the name of an ipset"):
        ipset.create_request(name, IpSet("hash:ip", 4), 4, 1)


def test_a_refused_member_is_known_by_its_line() -> None:
    (part,) = ipset.member_requests("add", "nfa-x", ["10.0.0.1", "10.0.0.2"], 9)
    sent = bytearray(part.data)
    sent[-4:] = struct.pack("=I", 1)  # the command's own line number, which the kernel sets
    reply = codec.Message(codec.NLMSG_ERROR, 0, 9, 0, struct.pack("=i", -4352) + bytes(sent))

    answer = decode_answer(reply)

    assert (answer.code, answer.line) == (4352, 1)


def test_a_member_with_nomatch_is_counted_as_unknown() -> None:
    address = codec.nested(ipset.IP, codec.attribute(ipset.IPADDR[4], bytes([10, 0, 0, 0])))
    nomatch = codec.attribute(ipset.CADT_FLAGS, struct.pack("!I", 4))
    member = codec.nested(ipset.DATA, address, codec.attribute(ipset.CIDR, b"\x08"), nomatch)
    named = codec.attribute(ipset.SETNAME, b"nfa-x\0")
    body = codec.nfgen(2, 0) + named + codec.nested(ipset.ADT, member)

    part = decode_part(codec.Message(ipset.LIST, 0, 1, 0, body))

    assert (part.members, part.unknown) == ((), 1)


ATTRIBUTES = st.lists(
    st.tuples(st.integers(0, 40) | st.integers(0x8000, 0x8010), st.binary(max_size=40)), max_size=8
).map(lambda many: b"".join(codec.attribute(*one) for one in many))
BODIES = st.one_of(st.binary(max_size=80), ATTRIBUTES, ATTRIBUTES.map(lambda inner: codec.nested(ipset.ADT, inner)))


@given(BODIES, st.sampled_from([ipset.LIST, ipset.TYPE, codec.NLMSG_ERROR, nfacct.NEW]))
def test_any_bytes_give_a_value_or_a_wire_error(body: bytes, kind: int) -> None:
    reply = codec.Message(kind, 0, 1, 0, codec.nfgen(2, 0) + codec.attribute(ipset.SETNAME, b"nfa-x\0") + body)
    for decode in (decode_answer, decode_name, decode_part, decode_type, nfacct.decode_account):
        with suppress(WireError):
            decode(reply)
        with suppress(WireError):
            decode(codec.Message(kind, 0, 1, 0, body))
