"""How long the layouts of NFLOG records are kept."""

from __future__ import annotations

import struct

import pytest

from nfagent.netlink import codec
from nfagent.netlink.nflog import decode_packet
from nfagent.netlink.nflog_layouts import RecordLayouts

BEGIN = 1_700_000_000
FIRST, SECOND, THIRD = 1, 2, 3
"""Indexes of interfaces."""


def body(interface: int, seconds: int) -> bytes:
    """Return a record of a forwarded packet, from its nfgenmsg on."""
    return codec.nfgen(2, 100) + b"".join(
        (
            codec.attribute(1, struct.pack("!HBx", 0x800, 2)),
            codec.attribute(10, b"deny/ingress/shop/rest\0"),
            codec.attribute(4, struct.pack("!I", interface)),
            codec.attribute(3, struct.pack("!QQ", seconds, 0)),
            codec.attribute(12, struct.pack("!I", 7)),
            codec.attribute(9, b"packet"),
        )
    )


def layouts(*records: tuple[int, int]) -> RecordLayouts:
    """Return the layouts after records of these interfaces at these seconds."""
    found = RecordLayouts()
    for interface, seconds in records:
        datagram = codec.message(0x400, 0, 0, body(interface, seconds))
        assert found.decode(datagram).packets == [decode_packet(body(interface, seconds))]
    return found


def test_layouts_are_known_together_for_five_minutes() -> None:
    found = layouts((FIRST, BEGIN), (SECOND, BEGIN + 299))
    for interface in (FIRST, SECOND):
        assert found.known(body(interface, BEGIN + 299)) == decode_packet(body(interface, BEGIN + 299))


@pytest.mark.parametrize(
    "later",
    [
        pytest.param(BEGIN + 300, id="five minutes later"),
        pytest.param(BEGIN - 300, id="when the clock was set back"),
    ],
)
def test_a_new_layout_has_those_of_interfaces_that_may_be_gone_forgotten(later: int) -> None:
    found = layouts((FIRST, BEGIN), (SECOND, BEGIN + 299), (THIRD, later))
    assert found.known(body(FIRST, later)) is None
    assert found.known(body(SECOND, later)) is None
    assert found.known(body(THIRD, later)) == decode_packet(body(THIRD, later))


def test_a_record_that_another_cpu_stamped_earlier_leaves_the_others_known() -> None:
    found = layouts((FIRST, BEGIN), (SECOND, BEGIN - 1))
    assert found.known(body(FIRST, BEGIN)) == decode_packet(body(FIRST, BEGIN))


def test_a_layout_that_is_used_again_is_known_again() -> None:
    found = layouts((FIRST, BEGIN), (SECOND, BEGIN + 300), (FIRST, BEGIN + 300))
    assert found.known(body(FIRST, BEGIN + 301)) == decode_packet(body(FIRST, BEGIN + 301))
