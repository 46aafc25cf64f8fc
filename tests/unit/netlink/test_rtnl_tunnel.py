"""rtnetlink messages of the tunnel of gateways: what a kernel reads in them, and replies that can't be read."""

from __future__ import annotations

import contextlib
import ipaddress
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nfagent.errors import WireError
from nfagent.model.netaddr import Family
from nfagent.netlink.codec import Message, attribute, attributes, messages
from nfagent.netlink.rtnl_link import RTM_NEWLINK, decode_link
from nfagent.netlink.rtnl_route import RTM_NEWROUTE, decode_neighbour_link
from nfagent.netlink.rtnl_rule import RTM_NEWRULE, decode_rule
from nfagent.netlink.rtnl_tunnel import (
    LocalMark,
    TunnelHop,
    decode_mtu,
    encode_link_request,
    encode_local_mark,
    encode_new_tunnel,
    encode_tunnel_route,
)


def test_a_tunnel_is_made_up_with_its_port() -> None:
    (written,) = messages(encode_new_tunnel(1, "nfagent-gw", 4790))
    found = decode_link(written)
    assert (found.name, found.kind, found.port, found.up) == ("nfagent-gw", "vxlan", 4790, True)


@pytest.mark.parametrize(
    ("family", "address", "source", "encap"),
    [
        (4, "198.51.100.3", "192.0.2.1", 2),
        (4, "198.51.100.3", "", 2),
        (6, "2001:db8:9::3", "2001:db8::1", 4),
    ],
    ids=["IPv4", "without a source", "IPv6"],
)
def test_a_route_names_the_other_end(family: Family, address: str, source: str, encap: int) -> None:
    (written,) = messages(encode_tunnel_route(1, family, 0x6E6601, 78, TunnelHop(address, source, 7, 1464)))
    assert (written.type, decode_neighbour_link(written)) == (RTM_NEWROUTE, 7)
    found = dict(attributes(written.payload, 12))
    assert struct.unpack("=H", found[21]) == (encap,)
    end = dict(attributes(found[22]))
    assert end[2] == _packed(address)
    assert end.get(3, b"") == (_packed(source) if source else b"")
    assert end[6] == b"\0\1", "with a checksum"
    assert dict(attributes(found[8])) == {2: struct.pack("=I", 1464)}


def _packed(address: str) -> bytes:
    return ipaddress.ip_address(address).packed


def test_the_rule_that_another_one_leads_to_is_made_first_and_removed_last() -> None:
    wanted = LocalMark(6, 0x8000000, 1077, 1080, 78)
    made = [next(messages(request)) for request in encode_local_mark(1, wanted)]
    removed = [next(messages(request)) for request in encode_local_mark(1, wanted, delete=True)]
    assert [part.payload for part in made] == [part.payload for part in reversed(removed)]
    assert {part.type for part in made} == {RTM_NEWRULE}
    assert [decode_rule(part) for part in made] == [None, None], "neither is taken for a rule of a route"
    begin = dict(attributes(made[1].payload, 12))
    assert begin[4] == struct.pack("=I", 1080), "it leads to the last one"
    assert begin[3] == b"lo\0", "for what the node itself sends"


@pytest.mark.parametrize("which", [7, "nfagent-gw"], ids=["by index", "by name"])
def test_an_interface_is_asked_for(which: int | str) -> None:
    (written,) = messages(encode_link_request(1, which))
    index = struct.unpack_from("=i", written.payload, 4)[0]
    name = dict(attributes(written.payload, 16)).get(3, b"").rstrip(b"\0").decode()
    assert which in {index, name}


def link_message(*said: bytes) -> Message:
    return Message(RTM_NEWLINK, 0, 1, 0, bytes(16) + b"".join(said))


def test_the_mtu_of_an_interface_is_read() -> None:
    assert decode_mtu(link_message(attribute(4, struct.pack("=I", 9000)))) == 9000


@pytest.mark.parametrize(
    ("message", "complaint"),
    [
        (Message(RTM_NEWROUTE, 0, 1, 0, bytes(16)), "type 24 and 16 bytes is not an RTM_NEWLINK"),
        (Message(RTM_NEWLINK, 0, 1, 0, bytes(15)), "type 16 and 15 bytes is not an RTM_NEWLINK"),
        (link_message(), "MTU of an interface has 0 bytes, not 4"),
        (link_message(attribute(4, bytes(3))), "MTU of an interface has 3 bytes, not 4"),
    ],
)
def test_a_reply_that_cannot_be_read_is_refused(message: Message, complaint: str) -> None:
    with pytest.raises(WireError, match=complaint):
        decode_mtu(message)


@given(st.binary(max_size=80))
def test_the_decoder_is_total(payload: bytes) -> None:
    with contextlib.suppress(WireError):
        decode_mtu(Message(RTM_NEWLINK, 0, 1, 0, payload))
