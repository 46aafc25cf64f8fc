"""Conntrack statistics of a CPU: decoding, sums, and counters that wrap around."""

from __future__ import annotations

import struct

import pytest

from nfagent.errors import WireError
from nfagent.netlink import codec
from nfagent.netlink.conntrack_stats import ConntrackStatistics, decode_statistics


def body(**found: int) -> bytes:
    kinds = {"found": 2, "insert_failed": 9, "drop": 10}
    members = (codec.attribute(kinds[name], struct.pack("!I", value)) for name, value in found.items())
    return codec.nfgen(0, 1) + b"".join(members)


@pytest.mark.parametrize(
    ("payload", "decoded"),
    [
        (body(found=9, insert_failed=3, drop=5), ConntrackStatistics(3, 5)),
        (body(drop=5), ConntrackStatistics(0, 5)),
        (body(), ConntrackStatistics()),
    ],
    ids=["both counters", "a kernel without one of them", "a kernel without both"],
)
def test_counters_are_decoded(payload: bytes, decoded: ConntrackStatistics) -> None:
    assert decode_statistics(payload) == decoded


def test_cpus_add_up() -> None:
    assert sum([ConntrackStatistics(1, 2), ConntrackStatistics(3, 4)], ConntrackStatistics()) == ConntrackStatistics(
        4, 6
    )


def test_a_counter_that_wraps_around_still_gives_the_difference() -> None:
    assert ConntrackStatistics(1, 7).since(ConntrackStatistics(0xFFFF_FFFF, 7)) == ConntrackStatistics(2, 0)


def test_a_counter_of_a_wrong_size_is_refused() -> None:
    with pytest.raises(WireError, match="wrong size"):
        decode_statistics(codec.nfgen(0, 0) + codec.attribute(9, b"\0\0"))
