"""rtnetlink messages about the route to one address, encoded and decoded."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nfagent.errors import WireError
from nfagent.netlink.codec import Message, attribute, attributes, messages
from nfagent.netlink.rtnl_route import RTM_NEWROUTE, Route, decode_route, encode_route_request

DST, OIF, GATEWAY, VIA = 1, 4, 5, 18
UNICAST, LOCAL, BLACKHOLE = 1, 2, 6
OUT = attribute(OIF, struct.pack("=i", 7))


WAYS = attribute(9, struct.pack("=HBBi", 8, 0, 0, 7) + struct.pack("=HBBi", 16, 0, 0, 8) + attribute(5, bytes(4)))


def told(*said: bytes, kind: int = UNICAST, prefix: int = 32) -> Message:
    return Message(RTM_NEWROUTE, 0, 1, 0, struct.pack("=8BI", 2, prefix, 0, 0, 254, 3, 253, kind, 0) + b"".join(said))


@pytest.mark.parametrize(
    ("message", "route"),
    [
        (told(OUT), Route((7,))),
        (told(OUT, attribute(GATEWAY, bytes(4))), Route((7,), on_link=False)),
        (told(OUT, attribute(VIA, bytes(18))), Route((7,), on_link=False)),
        (told(OUT, prefix=0), Route((7,), on_link=False)),
        (told(WAYS), Route((7, 8), on_link=False)),
        (told(OUT, kind=LOCAL), None),
        (told(OUT, kind=BLACKHOLE), None),
        (told(), None),
    ],
    ids=[
        "on the link",
        "by a router",
        "by a router of the other family",
        "a default route",
        "several ways",
        "own",
        "nowhere",
        "by no interface",
    ],
)
def test_a_route_is_read(message: Message, route: Route | None) -> None:
    assert decode_route(message) == route


@pytest.mark.parametrize("address", ["10.0.0.1", "2001:db8::1"])
def test_one_address_is_asked_for(address: str) -> None:
    [request] = messages(encode_route_request(5, address))
    family, length = request.payload[:2]
    asked = dict(attributes(request.payload, 12))
    assert (request.type, request.flags, request.sequence) == (26, 1, 5)
    assert (family, length, len(asked[DST])) == ((10, 128, 16) if ":" in address else (2, 32, 4))


@pytest.mark.parametrize(
    "wrong",
    [
        Message(16, 0, 1, 0, bytes(12)),
        Message(RTM_NEWROUTE, 0, 1, 0, bytes(11)),
        told(attribute(OIF, b"\0")),
        told(attribute(9, bytes(7))),
        told(attribute(9, bytes(8))),
    ],
    ids=["another type", "a short head", "a short index", "a short way", "a way of no length"],
)
def test_a_message_that_is_not_a_route_is_an_error(wrong: Message) -> None:
    with pytest.raises(WireError):
        decode_route(wrong)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_route_or_none_or_refused(payload: bytes) -> None:
    try:
        found = decode_route(Message(RTM_NEWROUTE, 0, 1, 0, payload))
    except WireError:
        return
    assert found is None or isinstance(found, Route)
