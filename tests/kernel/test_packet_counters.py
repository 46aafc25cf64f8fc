"""Packet counters of real tables: named ones, and those of elements, while others change the table."""

from __future__ import annotations

import os
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest

from nfagent.errors import KernelError
from nfagent.kernel.packet_counters import (
    CounterReading,
    read_address_counters,
    read_elements,
    read_named_counters,
    read_named_values,
)
from nfagent.nftables.parse import CounterValue
from tests.support.own_namespace import own_namespace
from tests.support.packet_labs import wait_until

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: network namespaces and nf_tables"),
]

DEADLINE = 60.0
TABLE = """
table inet nfagent {
    counter drop/spoofed { packets 7 bytes 700 }
    counter deny/ingress/shop/web { packets 5000000000 bytes 1 }
    quota unrelated { 25 mbytes }
    set plain { type ipv4_addr; elements = { 10.0.0.9 } }
    set counted4 { type ipv4_addr; counter; elements = { 10.0.0.1 counter packets 3 bytes 9, 10.0.0.2 } }
    set counted6 { type ipv6_addr; counter; elements = { fd00::1 counter packets 4 bytes 9 } }
}
table inet other {
    counter drop/spoofed { packets 1 bytes 1 }
}
table ip nfagent {
    counter drop/revoked { packets 1 bytes 1 }
}
"""


def nft(text: str) -> None:
    subprocess.run(["nft", "-f", "-"], input=text, text=True, check=True)


@pytest.fixture(autouse=True)
def namespace() -> Iterator[None]:
    with own_namespace("counters"):
        yield


def test_without_the_table_there_are_no_counters() -> None:
    assert read_named_counters() == CounterReading({})
    assert read_named_values() == {}
    assert read_address_counters("counted4") == CounterReading({})


def test_named_counters_are_those_of_our_table_alone() -> None:
    nft(TABLE)
    found = {"drop/spoofed": 7, "deny/ingress/shop/web": 5_000_000_000}
    assert read_named_counters().packets == found
    values = {"drop/spoofed": CounterValue(7, 700), "deny/ingress/shop/web": CounterValue(5_000_000_000, 1)}
    assert read_named_values() == values


def test_elements_have_their_counters_by_address() -> None:
    nft(TABLE)
    assert read_address_counters("counted4") == CounterReading({"10.0.0.1": 3, "10.0.0.2": 0})
    assert read_address_counters("counted6") == CounterReading({"fd00::1": 4})
    assert read_address_counters("plain") == read_address_counters("absent") == CounterReading({})


def test_single_elements_are_read_by_set_and_address() -> None:
    nft(TABLE)
    found = {("counted4", "10.0.0.1"): 3, ("counted4", "10.0.0.2"): 0, ("counted6", "fd00::1"): 4}
    absent = [("counted4", "10.0.0.3"), ("nowhere4", "10.0.0.1")]
    assert read_elements([*found, *absent]) == found


def test_a_counter_that_is_made_anew_has_another_handle() -> None:
    nft(TABLE)
    before = read_named_counters().handles
    nft("delete counter inet nfagent drop/spoofed; add counter inet nfagent drop/spoofed")
    after = read_named_counters().handles
    assert {name for name, handle in after.items() if before[name] != handle} == {"drop/spoofed"}


def test_packets_are_counted_by_a_look_up() -> None:
    nft(TABLE)
    nft("add chain inet nfagent out { type filter hook output priority 0; }")
    nft("add rule inet nfagent out ip daddr @counted4 drop")
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    subprocess.run(["ip", "route", "add", "10.0.0.0/24", "dev", "lo"], check=True)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender, suppress(PermissionError):
        sender.sendto(b"dropped", ("10.0.0.2", 9))
    found = read_address_counters("counted4").packets
    assert (found["10.0.0.1"], found["10.0.0.2"]) == (3, 1)


@contextmanager
def changing() -> Iterator[None]:
    """Have another program commit without a pause."""
    done = threading.Event()

    def change() -> None:
        while not done.is_set():
            nft("add counter inet nfagent more; delete counter inet nfagent more")

    thread = threading.Thread(target=change)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def test_a_reading_that_meets_changes_has_every_counter_or_says_that_it_may_not() -> None:
    counters = "".join(f"counter c{number} {{ packets {number} bytes 1 }}\n" for number in range(3000))
    members = ", ".join(f"10.{number >> 8}.{number & 255}.1 counter packets 2 bytes 1" for number in range(3000))
    nft(f"table inet nfagent {{\n{counters}set counted4 {{ type ipv4_addr; counter; elements = {{ {members} }} }}\n}}")
    wanted = {f"c{number}": number for number in range(3000)}
    with changing():
        for _ in range(30):
            named = read_named_counters()
            found = {name: packets for name, packets in named.packets.items() if name != "more"}
            assert found.items() <= wanted.items()
            assert found == wanted or not named.is_whole
            elements = read_address_counters("counted4")
            assert set(elements.packets.values()) == {2}
            assert len(elements.packets) == 3000 or not elements.is_whole
            values = read_named_values(DEADLINE)
            assert {name: value.packets for name, value in values.items() if name != "more"} == wanted


def test_values_that_could_only_be_read_in_part_are_an_error() -> None:
    counters = "".join(f"counter c{number} {{ }}\n" for number in range(3000))
    nft(f"table inet nfagent {{\n{counters}}}")

    def refused() -> bool:
        try:
            assert len(read_named_values(0.0)) in {3000, 3001}
        except KernelError as error:
            return "another program keeps changing nf_tables" in error.reason
        return False

    with changing():
        wait_until(refused)
