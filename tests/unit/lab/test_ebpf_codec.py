"""The bytes of the eBPF program's maps: keys and values as in ebpf/maps.h, and a total decoder of its events."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nfagent.errors import UsageError, WireError
from nfagent.lab.ebpf.codec import (
    EVENT_BYTES,
    EbpfSettings,
    EndpointEntry,
    VerdictEvent,
    address_key,
    decode_event,
    endpoint_value,
    policy_key,
    settings_value,
)

_EVENT = struct.Struct("=QIIIII16s16sHHHBBI")


def event(family: int = 4, direction: int = 1, reason: int = 0, protocol: int = 6) -> bytes:
    """Return a record as the program writes it."""
    ends = (bytes([10, 0, 0, 1]).ljust(16, b"\0"), bytes([10, 0, 0, 2]).ljust(16, b"\0"))
    ports = (int.from_bytes(struct.pack("!H", port), "little") for port in (40000, 80))
    return _EVENT.pack(7, 3, 5, 300, 0, 60, *ends, *ports, family, protocol, direction, reason)


@pytest.mark.parametrize(
    ("block", "bits", "family", "first"),
    [
        pytest.param("10.0.0.1", 64, 4, bytes([10, 0, 0, 1]), id="an IPv4 address"),
        pytest.param("10.0.0.0/8", 40, 4, bytes([10, 0, 0, 0]), id="an IPv4 CIDR"),
        pytest.param("2001:db8::/32", 64, 6, bytes.fromhex("20010db8"), id="an IPv6 CIDR"),
        pytest.param("::/0", 32, 6, b"", id="every IPv6 address"),
    ],
)
def test_an_address_key_counts_the_bits_before_the_address_too(
    block: str, bits: int, family: int, first: bytes
) -> None:
    assert address_key(block) == struct.pack("=II", bits, family) + first.ljust(16, b"\0")


@pytest.mark.parametrize(
    ("port", "protocol", "prefix"),
    [
        pytest.param(0, "", 72, id="every protocol"),
        pytest.param(0, "udp", 80, id="every port of a protocol"),
        pytest.param(80, "tcp", 96, id="a port"),
    ],
)
def test_a_policy_key_ends_where_its_wildcard_begins(port: int, protocol: str, prefix: int) -> None:
    key = policy_key(5, "ingress", 300, port, protocol)
    assert struct.unpack("=III", key[:12]) == (prefix, 5, 300)
    assert key[12:] == bytes([1, {"": 0, "tcp": 6, "udp": 17}[protocol]]) + port.to_bytes(2, "big")


def test_an_endpoint_without_addresses_checks_no_source_and_judges_both_families() -> None:
    assert struct.unpack("=IIII", endpoint_value(EndpointEntry(1, 2))[:16]) == (1, 2, 0, 3)
    known = endpoint_value(EndpointEntry(1, 2, ("2001:db8::1",)))
    assert struct.unpack("=IIII", known[:16]) == (1, 2, 1, 2), "IPv4 isn't known"


def test_settings_are_flags() -> None:
    settings = EbpfSettings(9, reports_allows=True, reports_denies=True, masquerades_ipv6=True)
    assert struct.unpack("=IIII", settings_value(settings)) == (9, 3, 2, 0x20000)


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        pytest.param(event(), {"allowed": True, "direction": "ingress", "reason": ""}, id="allowed"),
        pytest.param(event(direction=0, reason=2), {"allowed": False, "direction": "egress"}, id="denied"),
        pytest.param(event(protocol=50), {"protocol": "50"}, id="a protocol without a name"),
        pytest.param(event(family=0, reason=4), {"source": "", "reason": "unreadable"}, id="an unreadable packet"),
    ],
)
def test_an_event_is_decoded(record: bytes, expected: dict[str, object]) -> None:
    found = decode_event(record)
    assert {name: getattr(found, name) for name in expected} == expected
    assert (found.source_port, found.destination_port, found.identity, found.bytes) == (40000, 80, 300, 60)


@pytest.mark.parametrize(
    "record",
    [
        pytest.param(event()[:-1], id="too short"),
        pytest.param(event() + b"\0", id="too long"),
        pytest.param(event(family=5), id="another family"),
        pytest.param(event(direction=2), id="another direction"),
        pytest.param(event(reason=99), id="another reason"),
    ],
)
def test_what_is_no_event_is_an_error(record: bytes) -> None:
    with pytest.raises(WireError):
        decode_event(record)


@given(st.binary(min_size=EVENT_BYTES, max_size=EVENT_BYTES) | st.binary(max_size=2 * EVENT_BYTES))
def test_any_bytes_are_an_event_or_an_error(record: bytes) -> None:
    try:
        found = decode_event(record)
    except WireError:
        return
    assert isinstance(found, VerdictEvent)


def test_a_policy_key_of_a_port_without_a_protocol_is_refused() -> None:
    with pytest.raises(UsageError, match="port 80 needs its protocol"):
        policy_key(3, "ingress", port=80)
