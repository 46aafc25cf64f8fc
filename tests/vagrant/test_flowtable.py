"""Another program's flowtable beside the rules: packets of its connections pass no forward chain."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest

from nfagent.errors import HostError
from tests.support.vagrant_vms import PATIENCE, WORKER, VagrantVms, policy

pytestmark = pytest.mark.vagrant

POD = "shop.web-1"
CLOSED = policy("web", "shop", {"podSelector": {"matchLabels": {"app": "web"}}, "policyTypes": ["Ingress"]})
TABLE = """table inet other {
  counter forwarded { }
  flowtable fast { hook ingress priority 0; devices = { eth1, %s }; }
  chain forward {
    type filter hook forward priority -100;
    meta l4proto udp counter name forwarded
    meta l4proto udp ct state established flow add @fast
  }
}
"""
# Kernel 6.1 looks once a second for connections that conntrack has forgotten.
SECONDS = 5.0


@pytest.fixture
def _flowtable(vms: VagrantVms) -> Iterator[None]:
    line = f"ip -o route get {vms.address(POD)} | sed 's/.* dev \\([^ ]*\\).*/\\1/'"
    vms.run(WORKER, "nft -f -", stdin=TABLE % vms.run(WORKER, line).strip())
    yield
    vms.run(WORKER, "nft delete table inet other")


def _forwarded(vms: VagrantVms) -> int:
    listed = json.loads(vms.run(WORKER, "nft -j list counter inet other forwarded"))
    return int(next(item["counter"]["packets"] for item in listed["nftables"] if "counter" in item))


def _wait_until_bypassed(vms: VagrantVms) -> None:
    """Wait until a hundred packets reached the Pod of which the forward hook saw hardly any."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        seen, got = _forwarded(vms), vms.received(POD)
        while vms.received(POD) - got < 100:
            if time.monotonic() > end:
                raise HostError("no packets reach the Pod")
        if _forwarded(vms) - seen < 10:
            return
    raise HostError("the flowtable takes no connection")


@pytest.mark.usefixtures("_flowtable")
def test_a_connection_in_a_flowtable_that_a_policy_denies_ends_within_seconds(
    vms: VagrantVms, facts: dict[str, Any]
) -> None:
    server = vms.echo(POD)
    sender = vms.send("cp", vms.address(POD), pause=0.01)
    try:
        _wait_until_bypassed(vms)
        vms.apply(CLOSED)
        enforced = vms.received(POD)
        time.sleep(SECONDS)
        later = vms.received(POD)
        time.sleep(SECONDS)
        facts["packets that a flowtable let pass in the 5 s after the policy was in force, and in the next 5 s"] = [
            later - enforced,
            vms.received(POD) - later,
        ]
        assert vms.received(POD) == later
    finally:
        vms.stop(sender)
        vms.stop(server)
        vms.delete(CLOSED)


@pytest.mark.usefixtures("_flowtable")
def test_check_names_the_flowtable_of_another_program(vms: VagrantVms) -> None:
    found = vms.json(WORKER, "/opt/nfagent/bin/nfagent check -o json", codes=(0, 2))
    named = [item for item in found["checks"] if "inet other fast" in item["found"]]
    assert [item["result"] for item in named] == ["warn"]
