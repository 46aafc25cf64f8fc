"""rtnetlink messages about interfaces, encoded and decoded."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nfagent.errors import WireError
from nfagent.model.netaddr import Family
from nfagent.netlink.codec import Message, attribute, attributes, messages, nested
from nfagent.netlink.rtnl_link import RTM_NEWLINK, Interface, decode_link, encode_link_dump

NAME, MASTER, LINKINFO, KIND, DATA = 3, 10, 18, 1, 2
NF_CALL_IPTABLES, NF_CALL_IP6TABLES = 36, 37


def told(index: int, *said: bytes) -> Message:
    return Message(RTM_NEWLINK, 2, 1, 0, struct.pack("=BxHiII", 0, 1, index, 0, 0) + b"".join(said))


def bridge(*options: bytes) -> Message:
    about = nested(LINKINFO, attribute(KIND, b"bridge\0"), nested(DATA, *options))
    return told(7, attribute(NAME, b"cbr0\0"), about)


def test_an_interface_of_no_kind_on_nothing_is_read() -> None:
    assert decode_link(told(2, attribute(NAME, b"eth0\0"))) == Interface(2, "eth0")


def test_a_veth_on_a_bridge_is_read() -> None:
    port = told(
        9,
        attribute(NAME, b"pod1\0"),
        attribute(MASTER, struct.pack("=i", 7)),
        nested(LINKINFO, attribute(KIND, b"veth\0"), attribute(4, b"bridge\0")),
    )
    assert decode_link(port) == Interface(9, "pod1", "veth", 7)


@pytest.mark.parametrize(
    ("options", "calls"),
    [
        ((), ()),
        ((attribute(NF_CALL_IPTABLES, b"\0"), attribute(NF_CALL_IP6TABLES, b"\0")), ()),
        ((attribute(NF_CALL_IPTABLES, b"\1"), attribute(NF_CALL_IP6TABLES, b"\0")), (4,)),
        ((attribute(NF_CALL_IPTABLES, b"\1"), attribute(NF_CALL_IP6TABLES, b"\1")), (4, 6)),
    ],
    ids=["not told", "neither family", "IPv4", "both families"],
)
def test_what_a_bridge_shows_to_netfilter_by_its_own_option(options: tuple[bytes, ...], calls: tuple[Family]) -> None:
    assert decode_link(bridge(*options)) == Interface(7, "cbr0", "bridge", nf_call=calls)


def test_options_of_another_kind_are_not_a_bridge_s() -> None:
    vlan = told(3, nested(LINKINFO, attribute(KIND, b"vlan\0"), nested(DATA, attribute(NF_CALL_IPTABLES, b"\1"))))
    assert decode_link(vlan).nf_call == ()


@pytest.mark.parametrize(
    ("kind", "option", "flags", "expected"),
    [
        (b"vxlan\0", attribute(15, b"\x21\x18"), 1, Interface(3, "t0", "vxlan", up=True, port=8472)),
        (b"geneve\0", attribute(5, b"\x17\xc1"), 1, Interface(3, "t0", "geneve", up=True, port=6081)),
        (b"bareudp\0", attribute(1, b"\x19\xeb"), 0, Interface(3, "t0", "bareudp", port=6635)),
        (b"vlan\0", attribute(5, b"\x17\xc1"), 1, Interface(3, "t0", "vlan", up=True)),
        (b"vxlan\0", attribute(1, b"\0\0\0\1"), 1, Interface(3, "t0", "vxlan", up=True)),
    ],
    ids=["vxlan", "geneve", "bareudp, switched off", "another kind", "a port that isn't told"],
)
def test_a_tunnels_port_is_read(kind: bytes, option: bytes, flags: int, expected: Interface) -> None:
    about = attribute(NAME, b"t0\0") + nested(LINKINFO, attribute(KIND, kind), nested(DATA, option))
    found = Message(RTM_NEWLINK, 2, 1, 0, struct.pack("=BxHiII", 0, 1, 3, flags, 0) + about)
    assert decode_link(found) == expected


def test_a_name_that_is_no_utf_8_is_shown_as_well_as_can_be() -> None:
    assert decode_link(told(3, attribute(NAME, b"br\xff\0"))).name == "br\ufffd"


@pytest.mark.parametrize(
    "wrong",
    [
        Message(3, 0, 1, 0, bytes(16)),
        Message(RTM_NEWLINK, 0, 1, 0, bytes(15)),
        told(1, attribute(MASTER, b"\0\0")),
        told(1, b"\x40\0\3\0"),
    ],
    ids=["another type", "a short head", "a short index", "an attribute longer than the message"],
)
def test_a_message_that_is_not_an_interface_is_an_error(wrong: Message) -> None:
    with pytest.raises(WireError):
        decode_link(wrong)


@given(st.binary(max_size=200))
def test_any_bytes_are_an_interface_or_refused(payload: bytes) -> None:
    try:
        found = decode_link(Message(RTM_NEWLINK, 0, 1, 0, payload))
    except WireError:
        return
    assert isinstance(found, Interface)


@pytest.mark.parametrize("master", [0, 7], ids=["anywhere", "on one bridge"])
def test_a_listing_asks_for_a_kind(master: int) -> None:
    [request] = messages(encode_link_dump(5, "veth", master))
    assert (request.type, request.flags, request.sequence) == (18, 0x301, 5)
    asked = dict(attributes(request.payload, 16))
    assert dict(attributes(asked[LINKINFO])) == {KIND: b"veth"}
    assert asked.get(MASTER) == (struct.pack("=i", 7) if master else None)


def test_a_listing_of_all_asks_for_no_kind() -> None:
    [request] = messages(encode_link_dump(5))
    assert LINKINFO not in dict(attributes(request.payload, 16))
