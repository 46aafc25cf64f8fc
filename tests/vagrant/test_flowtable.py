"""Another program's flowtable beside the rules: packets of its connections pass no forward chain."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.vagrant_vms import WORKER, VagrantVms, policy

pytestmark = pytest.mark.vagrant

CLOSED = policy("web", "shop", {"podSelector": {"matchLabels": {"app": "web"}}, "policyTypes": ["Ingress"]})
TABLE = """table inet other {
  flowtable fast { hook ingress priority 0; devices = { eth1, %s }; }
  chain forward { type filter hook forward priority 100; ct state established meta l4proto udp flow add @fast; }
}"""
PAUSE = 0.01


@pytest.fixture
def _flowtable(vms: VagrantVms) -> Iterator[None]:
    device = vms.run(WORKER, f"ip -o route get {vms.address('shop.web-1')} | sed 's/.* dev \\([^ ]*\\).*/\\1/'").strip()
    vms.run(WORKER, "nft -f -", stdin=TABLE % device)
    yield
    vms.run(WORKER, "nft delete table inet other")


@pytest.mark.usefixtures("_flowtable")
def test_a_connection_in_a_flowtable_that_a_policy_denies_ends_within_seconds(
    vms: VagrantVms, facts: dict[str, Any]
) -> None:
    server = vms.echo("shop.web-1")
    sender = vms.send("cp", vms.address("shop.web-1"), pause=PAUSE)
    try:
        offloaded = "grep -c OFFLOAD /proc/net/nf_conntrack || conntrack -L 2>/dev/null | grep -c OFFLOAD"
        vms.wait_until(WORKER, f"[ $({offloaded} || true) -ge 1 ] || nft list flowtables | grep -q fast")
        before = vms.received("shop.web-1")
        vms.apply(CLOSED)
        after = vms.received("shop.web-1")
        time.sleep(5)
        later = vms.received("shop.web-1")
        facts["packets to a Pod from a flowtable: before the policy was enforced, in the 5 s after that"] = [
            after - before,
            later - after,
        ]
        assert later - after == 0
    finally:
        vms.stop(sender)
        vms.stop(server)
        vms.delete(CLOSED)


@pytest.mark.usefixtures("_flowtable")
def test_check_names_the_flowtable_of_another_program(vms: VagrantVms) -> None:
    found = vms.json(WORKER, "/opt/nfagent/bin/nfagent check -o json", codes=(0, 2))
    assert [item for item in found["checks"] if "inet other" in item["found"] and "fast" in item["found"]]
