"""Addresses to listen at."""

from __future__ import annotations

import pytest

from nfagent.model.listen_address import ListenAddress, parse_listen_address
from nfagent.model.netaddr import AddressError


@pytest.mark.parametrize(
    ("written", "address"),
    [
        pytest.param("127.0.0.1:9464", ListenAddress("127.0.0.1", 9464), id="IPv4"),
        pytest.param("[::1]:9464", ListenAddress("::1", 9464), id="IPv6 in brackets"),
        pytest.param("0.0.0.0:1", ListenAddress("0.0.0.0", 1), id="every IPv4 address"),  # noqa: S104 - a value
    ],
)
def test_an_address_with_a_port_is_read_and_written_back(written: str, address: ListenAddress) -> None:
    assert parse_listen_address(written) == address
    assert str(address) == written


@pytest.mark.parametrize(
    "written",
    [
        *("9464", ":9464", "127.0.0.1", "127.0.0.1:", "127.0.0.1:0", "127.0.0.1:65536", "127.0.0.1:http", "::1:9464"),
        *("[127.0.0.1]:9464", "[::ffff:127.0.0.1]:9464", "localhost:9464", "[::1%lo]:9464", "127.0.0.1:9464 ", ""),
    ],
)
def test_what_is_no_address_with_a_port_is_refused(written: str) -> None:
    with pytest.raises(AddressError):
        parse_listen_address(written)
