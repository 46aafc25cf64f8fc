"""The prober finds the packet at which a verdict changes, of a new connection and of a live one."""

from __future__ import annotations

import functools
import re
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from benchmarks.harness.prober import Prober
from nfagent.errors import HostError, KernelError
from nfagent.lab.topology import NetnsTopology
from nfagent.lab.topology_plan import grid
from tests.support.packet_labs import wait_until

pytestmark = pytest.mark.kernel
_MANY = 300
_TABLE = "add table inet judge; add chain inet judge forward { type filter hook forward priority 0; }; "
_NEW = "add rule inet judge forward meta l4proto udp ct state new counter drop"
_ALL = _TABLE + "add rule inet judge forward meta l4proto udp drop"


@pytest.fixture(scope="module")
def fabric() -> Iterator[NetnsTopology]:
    nodes, pods, _ = grid()
    with NetnsTopology(nodes, pods[:2], tag="tprober") as built:
        yield built


@contextmanager
def started(made: Prober) -> Iterator[Prober]:
    """Start a prober; skip the test where there is no compiler."""
    with ExitStack() as stack:
        try:
            stack.enter_context(made)
        except HostError as lack:
            pytest.skip(str(lack))
        yield made


@pytest.fixture
def prober(fabric: NetnsTopology) -> Iterator[Prober]:
    server, client = fabric.pods.values()
    pods = fabric.pod_namespace(*client.key), fabric.pod_namespace(*server.key)
    with started(Prober(*pods, server.addresses[0])) as made:
        yield made


def change(fabric: NetnsTopology, rules: str) -> tuple[float, float]:
    """Load rules on the server's node; give the time before and after, by time.monotonic()."""
    node = next(iter(fabric.pods.values())).node
    before = time.monotonic()
    subprocess.run(fabric.command(fabric.node_namespace(node), ["nft", rules]), check=True, timeout=10)
    return before, time.monotonic()


def dropped(fabric: NetnsTopology) -> int:
    """Count what the rule about new connections has dropped."""
    node = next(iter(fabric.pods.values())).node
    command = fabric.command(fabric.node_namespace(node), ["nft", "list", "table", "inet", "judge"])
    found = re.search(r"packets (\d+)", subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return int(found[1]) if found else 0


_allow = functools.partial(change, rules="delete table inet judge")


def test_a_packet_is_named_between_a_changes_beginning_and_the_packet_after_its_end(
    fabric: NetnsTopology, prober: Prober
) -> None:
    for rules, blocked in (_ALL, True), ("delete table inet judge", False):
        prober.watch(blocked=blocked)
        before, after = change(fabric, rules)
        first = prober.first()
        assert before < first.fresh
        assert first.fresh - first.gap < after
        assert before < first.live


def test_a_live_connection_is_told_from_a_new_one(fabric: NetnsTopology, prober: Prober) -> None:
    """What blocks new connections alone leaves the live one as it is, and the watch goes on until both are blocked."""
    # The kernel tracks connections only where a rule asks.
    change(fabric, _TABLE + "add rule inet judge forward ct state new accept")
    prober.watch(blocked=True)
    change(fabric, "flush chain inet judge forward; " + _NEW)
    wait_until(lambda: dropped(fabric) > _MANY)
    before, _ = change(fabric, "add rule inet judge forward meta l4proto udp drop")
    try:
        first = prober.first()
    finally:
        _allow(fabric)
    assert first.fresh < before < first.live


def test_a_watch_that_begins_with_the_wanted_verdict_is_refused(prober: Prober) -> None:
    with pytest.raises(KernelError, match="packets pass before the change"):
        prober.watch(blocked=False)


def test_packets_of_nowhere_are_an_error() -> None:
    prober = Prober("nfa-there-is-none", "nfa-there-is-none", "10.244.1.10")
    with started(prober), pytest.raises(KernelError):
        prober.watch(blocked=True)
