"""Counters of iptables and ipset: what packets add, what a reading gives, and how long a counter without use stays."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from nfagent.clock import SystemClock
from nfagent.desired.state import DesiredState
from nfagent.errors import HostError
from nfagent.kernel.ipset_socket import IpSetSocket
from nfagent.kernel.nfacct_socket import NfacctSocket
from nfagent.kernel.packet_counters import CounterReading
from nfagent.kernel.table_listings import TableListings
from nfagent.kernel.xt_client import XtClient
from nfagent.kernel.xt_listing import XtKernel
from nfagent.kernel.xt_programs import programs_of
from nfagent.metrics.packet_counts import PacketCounts, boot_id
from nfagent.model.admin_policy import Policy
from nfagent.model.networkpolicy import NetworkPolicy
from nfagent.model.objects import Namespace, Pod
from nfagent.nftables.objects import Ruleset
from nfagent.nftables.pod_counts import counted_set
from nfagent.nftables.verdict_keys import denied_by
from nfagent.xtables.counters import counting_set
from nfagent.xtables.names import account_name
from tests.support.own_namespace import own_iptables

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: network namespaces and iptables"),
]

WEB = {4: "127.0.0.1", 6: "::1"}
CLOSED = NetworkPolicy(namespace="shop", name="closed")
OTHER = NetworkPolicy(namespace="shop", name="other")
DENIED = "deny/ingress/shop/closed"
KEY = denied_by("ingress", (CLOSED.ref,))
PROGRAMS = {4: "iptables-legacy", 6: "ip6tables-legacy"}


@pytest.fixture(autouse=True)
def _namespace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Enter a new network namespace with this thread; the lock of iptables is this test's own."""
    with own_iptables("xtcounters", tmp_path, monkeypatch):
        run("ip", "link", "set", "lo", "up")
        yield


@pytest.fixture
def desired() -> DesiredState:
    state = DesiredState("a")
    state.put(Namespace("shop", ()))
    state.put(Pod("shop", "web", node="a", addresses=tuple(WEB.values())))
    state.put(CLOSED)
    return state


class Node:
    """A client, and the totals of its counters."""

    def __init__(
        self,
        desired: DesiredState,
        folder: Path,
        *,
        accounts: bool = True,
        known: Callable[[], Ruleset] | None = None,
    ) -> None:
        kernel = XtKernel(programs_of("legacy"), (4, 6), IpSetSocket(), NfacctSocket() if accounts else None)
        self.client = XtClient(kernel, known or desired.ruleset)
        self.desired = desired
        source = self.client.counters.source
        self.counts = PacketCounts(desired, folder, SystemClock(), boot=boot_id(), synced=lambda: True, source=source)
        self.counts.delete_by(self.client.commit_latest)
        self.client.defer_deletions(self.counts)

    def close(self) -> None:
        self.client.close()

    async def converge(self) -> None:
        wanted = self.desired.ruleset()
        self.desired.drain_changes()
        transaction = await self.client.difference(wanted)
        if transaction:
            await self.client.apply(transaction)

    async def change(self, policy: Policy | None) -> None:
        """Apply a change of the only policy; None: it is deleted."""
        if policy is None:
            self.desired.remove(CLOSED.ref)
        else:
            self.desired.put(policy)
        await self.client.apply(self.desired.drain_changes())

    async def packets(self) -> int | None:
        await self.counts.refresh()
        return self.counts.values.policies.get(KEY)


def run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, timeout=60)


def count_with(family: int, *match: str) -> None:
    """Have a rule of the test count each packet that leaves by lo, as a verdict's rule does."""
    run(PROGRAMS[family], "-w", "-t", "mangle", "-A", "OUTPUT", *match)


def send(family: int, count: int) -> None:
    """Send datagrams to an open port of the Pod's address."""
    kind = socket.AF_INET if family == 4 else socket.AF_INET6
    with socket.socket(kind, socket.SOCK_DGRAM) as server, socket.socket(kind, socket.SOCK_DGRAM) as client:
        server.bind((WEB[family], 0))
        for _ in range(count):
            client.sendto(b"x", server.getsockname()[:2])


@pytest.mark.parametrize("family", [4, 6])
def test_packets_are_counted_by_name_and_by_pod(desired: DesiredState, tmp_path: Path, family: int) -> None:
    name = counted_set("deny", "ingress", 4 if family == 4 else 6)

    async def body() -> CounterReading:
        node = Node(desired, tmp_path)
        await node.converge()
        count_with(family, "-m", "nfacct", "--nfacct-name", account_name(DENIED, 4 if family == 4 else 6))
        count_with(family, "-m", "set", "--match-set", counting_set(name), "dst")
        await asyncio.to_thread(send, family, 6)
        assert node.client.counters.elements([(name, WEB[family]), (name, "192.0.2.1")]) == {(name, WEB[family]): 6}
        assert node.client.counters.values()[DENIED].packets == 6
        assert await node.packets() == 6
        reading = node.client.counters.read()
        node.close()
        return reading

    reading = asyncio.run(body())
    assert {name: packets for name, packets in reading.packets.items() if packets} == {
        DENIED: 6,
        f"{name} {WEB[family]}": 6,
    }


def test_a_count_outlives_its_policy_and_goes_on_when_it_comes_back(desired: DesiredState, tmp_path: Path) -> None:
    async def body() -> list[int | None]:
        node = Node(desired, tmp_path)
        await node.converge()
        found: list[int | None] = []
        for policy in (None, CLOSED):
            count_with(4, "-m", "nfacct", "--nfacct-name", account_name(DENIED, 4))
            await asyncio.to_thread(send, 4, 4)
            await node.change(policy)
            found.append(await node.packets())
        assert not await node.client.is_changed(with_content=True)
        node.close()
        return found

    assert asyncio.run(body()) == [4, 12]


def test_a_counter_that_waits_for_its_last_reading_is_no_difference(desired: DesiredState, tmp_path: Path) -> None:
    async def body() -> None:
        node = Node(desired, tmp_path)
        await node.converge()
        await node.change(None)
        wanted = desired.ruleset()
        listed = await node.client.read()
        assert listed.counters - wanted.counters == {DENIED}
        assert node.client.as_written(listed, wanted).counters == wanted.counters
        node.close()

    asyncio.run(body())


def test_what_was_counted_before_a_start_is_counted(desired: DesiredState, tmp_path: Path) -> None:
    async def killed() -> None:
        node = Node(desired, tmp_path)
        await node.converge()
        count_with(4, "-m", "nfacct", "--nfacct-name", account_name(DENIED, 4))
        await asyncio.to_thread(send, 4, 4)
        node.close()

    async def started() -> int | None:
        node = Node(desired, tmp_path)
        await node.converge()
        found = await node.packets()
        node.close()
        return found

    asyncio.run(killed())
    assert asyncio.run(started()) == 4


def test_a_kernel_without_named_counters_counts_by_pod_and_says_so(desired: DesiredState, tmp_path: Path) -> None:
    name = counted_set("deny", "ingress", 4)

    async def body() -> None:
        node = Node(desired, tmp_path, accounts=False)
        await node.converge()
        count_with(4, "-m", "set", "--match-set", counting_set(name), "dst")
        await asyncio.to_thread(send, 4, 4)
        await node.counts.refresh()
        assert node.counts.values.pods["shop", "web", "ingress", "deny"] == 4
        with pytest.raises(HostError, match="no named counters"):
            node.client.counters.values()
        node.close()

    asyncio.run(body())


def test_a_reading_in_a_thread_leaves_the_desired_state_to_the_event_loop(
    desired: DesiredState, tmp_path: Path
) -> None:
    """Another thread in the middle of a change would break it off, or leave a ruleset without some of it."""
    asked_in: set[threading.Thread] = set()

    def known() -> Ruleset:
        asked_in.add(threading.current_thread())
        return desired.ruleset()

    async def body() -> None:
        node = Node(desired, tmp_path, known=known)
        listings = TableListings(node.client.read_now, node.client.counters_now, prepare=node.client.note_names)
        await node.client.read()
        for _ in range(2):  # before the first comparison, and after it
            await node.counts.refresh()
            await listings.ruleset()
            await listings.counters()
            await node.converge()
        desired.put(OTHER)
        await node.client.apply(desired.drain_changes())
        found = await listings.counters()
        assert {name for name in desired.ruleset().counters if name.startswith("deny/")} <= found.keys() - {DENIED}
        node.close()

    asyncio.run(body())
    assert asked_in == {threading.current_thread()}
