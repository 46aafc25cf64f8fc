"""The prober finds the first packet with a changed verdict, of a new and of an established connection."""

from __future__ import annotations

import functools
import re
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from nfagent.errors import HostError, KernelError
from nfagent.lab.latency.prober import Prober
from nfagent.lab.topology.netns_topology import NetnsTopology
from nfagent.lab.topology.plan import grid
from tests.support.packet_labs import wait_until

pytestmark = pytest.mark.kernel
_MANY = 300
_TABLE = "add table inet judge; add chain inet judge forward { type filter hook forward priority 0; }; "
_NEW = "add rule inet judge forward meta l4proto udp ct state new counter drop"
_ALL = _TABLE + "add rule inet judge forward meta l4proto udp drop"


@pytest.fixture(scope="module")
def topology() -> Iterator[NetnsTopology]:
    nodes, pods, _ = grid()
    with NetnsTopology(nodes, pods[:2], tag="tprober") as built:
        yield built


@contextmanager
def started(made: Prober) -> Iterator[Prober]:
    """Start a prober; skip the test without a compiler."""
    with ExitStack() as stack:
        try:
            stack.enter_context(made)
        except HostError as lack:
            pytest.skip(str(lack))
        yield made


@pytest.fixture
def prober(topology: NetnsTopology) -> Iterator[Prober]:
    server, client = topology.pods.values()
    pods = topology.pod_namespace(*client.key), topology.pod_namespace(*server.key)
    with started(Prober(*pods, server.addresses[0])) as made:
        yield made


def change(topology: NetnsTopology, rules: str, node: str = "") -> tuple[float, float]:
    """Load rules on a node, by default the server's; return the time before and after, by time.monotonic()."""
    node = node or next(iter(topology.pods.values())).node
    before = time.monotonic()
    subprocess.run(topology.command(topology.node_namespace(node), ["nft", rules]), check=True, timeout=10)
    return before, time.monotonic()


def dropped(topology: NetnsTopology) -> int:
    """Return the packets that the rule about new connections dropped."""
    node = next(iter(topology.pods.values())).node
    command = topology.command(topology.node_namespace(node), ["nft", "list", "table", "inet", "judge"])
    found = re.search(r"packets (\d+)", subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return int(found[1]) if found else 0


_allow = functools.partial(change, rules="delete table inet judge")


def test_the_first_packet_is_between_the_start_of_a_change_and_the_packet_after_its_end(
    topology: NetnsTopology, prober: Prober
) -> None:
    for rules, blocked in (_ALL, True), ("delete table inet judge", False):
        prober.watch(blocked=blocked)
        before, after = change(topology, rules)
        first = prober.first()
        assert before < first.fresh
        assert first.fresh - first.gap < after
        assert before < first.live


def test_an_established_connection_is_distinguished_from_a_new_one(topology: NetnsTopology, prober: Prober) -> None:
    """A rule about new connections doesn't block the established one; the watch lasts until both are blocked."""
    # The kernel tracks connections only where a rule asks.
    change(topology, _TABLE + "add rule inet judge forward ct state new accept")
    prober.watch(blocked=True)
    change(topology, "flush chain inet judge forward; " + _NEW)
    wait_until(lambda: dropped(topology) > _MANY)
    before, _ = change(topology, "add rule inet judge forward meta l4proto udp drop")
    try:
        first = prober.first()
    finally:
        _allow(topology)
    assert first.fresh < before < first.live


@pytest.mark.parametrize("is_masqueraded", [False, True], ids=["not translated any more", "translated"])
def test_the_first_packet_with_another_source_address_is_found(
    topology: NetnsTopology, prober: Prober, *, is_masqueraded: bool
) -> None:
    pod = list(topology.pods.values())[1]
    node = topology.nodes[pod.node]
    nat = "add table inet judge; add chain inet judge nat { type nat hook postrouting priority 100; }; "
    rules = [nat + "add rule inet judge nat meta l4proto udp masquerade", "delete table inet judge"]
    sources = [node.addresses[0], pod.addresses[0]]
    if not is_masqueraded:
        change(topology, rules[0], pod.node)
        rules, sources = rules[::-1], sources[::-1]
    prober.watch_source(sources[0])
    before, after = change(topology, rules[0], pod.node)
    first = prober.first()
    if is_masqueraded:
        with pytest.raises(KernelError, match=f"packets arrive from {sources[0]} before the change"):
            prober.watch_source(sources[0])
        change(topology, rules[1], pod.node)
    assert before < first.fresh
    assert first.fresh - first.gap < after


def test_a_watch_that_starts_with_the_expected_verdict_is_an_error(prober: Prober) -> None:
    with pytest.raises(KernelError, match="packets pass before the change"):
        prober.watch(blocked=False)


def test_a_missing_namespace_is_an_error() -> None:
    prober = Prober("nfa-there-is-none", "nfa-there-is-none", "10.244.1.10")
    with started(prober), pytest.raises(KernelError):
        prober.watch(blocked=True)
