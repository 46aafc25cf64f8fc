"""Packets at full speed through rules that get other interval sets all the time: none is lost, none let through.

The kernel fills new interval sets at the end of a commit, after its rules are in force (`nftables.commit_parts`).
"""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress

import pytest

from nfagent.kernel.nft_client import NftClient
from nfagent.model.netaddr import parse_cidr
from nfagent.nftables.diff import diff
from nfagent.nftables.matches import AddressInSet, IpAddress, L4Proto
from nfagent.nftables.objects import ABSENT, Accept, Chain, Drop, Hook, Jump, NamedSet, Rule, Ruleset
from tests.support.own_namespace import own_namespace
from tests.support.packet_labs import wait_until

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: network namespaces and nf_tables"),
]

PORT, CHANGES, MORE = 7000, 200, 100
WHOLE, HALF = frozenset({parse_cidr("127.0.0.0/8")}), frozenset({parse_cidr("127.0.0.0/9"), parse_cidr("192.0.2.0/24")})


@pytest.fixture(autouse=True)
def _namespace() -> Iterator[None]:
    """Enter a new network namespace with this thread and its threads."""
    with own_namespace("intervals"):
        yield


def ruleset(number: int) -> Ruleset:
    """Return rules that allow packets from loopback by an interval set, whose name and elements each number changes."""
    name, elements = f"blocks4/{number}", (WHOLE, HALF)[number % 2]
    source = AddressInSet(IpAddress("saddr", 4), name)
    judged = (Rule((source,), verdict=Accept()), Rule(counter="lost", verdict=Drop()))
    return Ruleset(
        sets={name: NamedSet("range", 4, elements)},
        chains={
            "base": Chain((Rule((L4Proto(("udp",)),), verdict=Jump("judged")),), Hook("filter", "output", 0)),
            "judged": Chain(judged),
        },
        counters=frozenset({"lost"}),
    )


@contextmanager
def sending() -> Iterator[list[int]]:
    """Send packets from and to loopback as fast as one thread can; yield a list whose item is how many were sent."""
    stop, sent = threading.Event(), [0]

    def send() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            while not stop.is_set():
                with suppress(PermissionError, ConnectionRefusedError):  # dropped; or no receiver
                    sender.sendto(b"x", ("127.0.0.1", PORT))
                sent[0] += 1

    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield sent
    finally:
        stop.set()
        thread.join()


def wait_for_more(sent: list[int]) -> None:
    enough = sent[0] + MORE
    wait_until(lambda: sent[0] >= enough)


def test_rules_that_get_another_interval_set_lose_no_packet_that_both_allow() -> None:
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)

    with closing(NftClient()) as kernel:
        asyncio.run(kernel.apply(diff(ABSENT, ruleset(0))))
        with sending() as sent:
            for number in range(CHANGES):
                asyncio.run(kernel.apply(diff(ruleset(number), ruleset(number + 1))))
                wait_for_more(sent)
        assert asyncio.run(kernel.difference(ruleset(CHANGES))) == ()
        assert kernel.counters_now()["lost"].packets == 0
