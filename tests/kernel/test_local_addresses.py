"""The machine's own addresses, read from its local routes in its network namespace."""

from __future__ import annotations

import functools
import os
import resource
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from nfagent.errors import KernelError
from nfagent.kernel.local_addresses import first_local_address, is_local_address
from nfagent.kernel.xt_tables import table_shape
from nfagent.lab.topology import netns
from tests.support.own_namespace import await_own_addresses

pytestmark = pytest.mark.kernel


@pytest.fixture(scope="module")
def machine() -> Iterator[str]:
    """Return a network namespace with some addresses, and a route to others."""
    name = f"{netns.prefix('t', os.getpid())}own"
    netns.make([name])
    try:
        netns.write_sysctls(name, {"ipv6/conf/all/accept_dad": "0", "ipv6/conf/default/accept_dad": "0"})
        lines = ["link set lo up", "link add d0 type veth peer name d1", "link set d0 up", "link set d1 up"]
        lines += [f"address add {address} dev d0 nodad" for address in ("192.0.2.1/24", "2001:db8::1/64", "fe80::7/64")]
        netns.ip_batch([*lines, "address add 198.51.100.7/32 dev lo"], name)
        netns.inside(name, functools.partial(await_own_addresses, "2001:db8::1", "fe80::7"))
        yield name
    finally:
        netns.remove([name])


@pytest.mark.parametrize("name", [b"\xc3\xa9th0", b"\xff0", b"a\x1c"], ids=repr)
def test_an_interface_may_have_any_bytes_in_its_name(machine: str, name: bytes) -> None:
    command = [b"ip", b"netns", b"exec", machine.encode(), b"ip", b"link"]
    subprocess.run([*command, b"add", name, b"type", b"bridge"], check=True)
    try:
        subprocess.run([*command, b"set", name, b"up"], check=True)
        assert netns.inside(machine, functools.partial(is_local_address, "fe80::7"))
        assert not netns.inside(machine, functools.partial(is_local_address, "fe80::1"))
    finally:
        subprocess.run([*command, b"delete", name], check=True)


@pytest.mark.parametrize("bind", ["0", "1"], ids=["binding to own addresses only", "binding to any address"])
@pytest.mark.parametrize(
    ("address", "own"),
    [
        pytest.param("192.0.2.1", True, id="an interface's IPv4 address"),
        pytest.param("2001:db8::1", True, id="an interface's IPv6 address"),
        pytest.param("198.51.100.7", True, id="a loopback interface's"),
        pytest.param("127.0.0.1", True, id="loopback"),
        pytest.param("fe80::7", True, id="an interface's link-local address"),
        pytest.param("fe80::1", False, id="another's link-local address"),
        pytest.param("192.0.2.2", False, id="a neighbour's"),
        pytest.param("2001:db8::2", False, id="a neighbour's IPv6 address"),
        pytest.param("203.0.113.1", False, id="one without a route"),
    ],
)
def test_an_address_is_own_where_the_machine_would_send_from_it(
    machine: str,
    bind: str,
    address: str,
    own: bool,  # noqa: FBT001 - a table's column
) -> None:
    netns.write_sysctls(machine, {"ipv4/ip_nonlocal_bind": bind, "ipv6/ip_nonlocal_bind": bind})
    assert netns.inside(machine, functools.partial(is_local_address, address)) is own


@contextmanager
def no_descriptor_left() -> Iterator[None]:
    """Have every socket that is opened fail with EMFILE."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.dup(0)
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_without_a_descriptor_it_is_an_error_that_is_tried_again() -> None:
    with no_descriptor_left(), pytest.raises(KernelError, match="Too many open files"):
        first_local_address(("192.0.2.1",))


def test_a_link_local_address_too() -> None:
    with no_descriptor_left(), pytest.raises(KernelError, match="Too many open files"):
        is_local_address("fe80::7")


def test_a_table_of_iptables_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nfagent.kernel.xt_tables.legacy_tables", lambda _: frozenset(("mangle",)))
    with no_descriptor_left(), pytest.raises(KernelError, match="Too many open files"):
        table_shape(4, "mangle")
