"""Floating addresses under the hardened unit: their announcement needs two rights, which a drop-in gives."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.nspawn_machine import NspawnMachine
from tests.support.nspawn_service import NspawnService

pytestmark = pytest.mark.kernel

FLOATING = "10.0.1.100"
GROUP = f"""
apiVersion: networking.gke.io/v1
kind: NetworkGatewayGroup
metadata: {{name: gw, namespace: kube-system}}
spec: {{floatingIPs: [{FLOATING}]}}
---
apiVersion: networking.gke.io/v1
kind: EgressNATPolicy
metadata: {{name: partner}}
spec:
  action: SNAT
  gatewayRef: {{name: gw, namespace: kube-system}}
  sources: [{{podSelector: {{matchLabels: {{app: web}}}}}}]
  destinations: [{{cidr: 203.0.113.0/24}}]
"""
DROP_IN = "CapabilityBoundingSet=CAP_NET_RAW\nRestrictAddressFamilies=AF_PACKET"
HELD_BY_ANOTHER = f"ip -n web neigh replace {FLOATING} lladdr 02:00:00:00:00:99 dev eth0 nud stale"


@pytest.fixture
def neighbour(machine: NspawnMachine, service: NspawnService) -> Iterator[str]:
    """Give a host on the floating address' link an entry of the holder before; return the command that shows it."""
    del service
    machine.run(HELD_BY_ANOTHER)
    try:
        yield f"ip -n web neigh show {FLOATING}"
    finally:
        machine.run("rm /etc/manifests/gateway.yaml; systemctl reload nfagent")
        machine.wait_until(f"! ip addr show dev web | grep -q {FLOATING}")


def test_without_the_rights_the_agent_says_which_are_missing(
    machine: NspawnMachine, service: NspawnService, neighbour: str
) -> None:
    machine.write("/etc/manifests/gateway.yaml", GROUP)
    machine.wait_until(f"ip addr show dev web | grep -q {FLOATING}")
    machine.wait_until("journalctl --quiet --output=cat --unit=nfagent | grep -q 'cannot announce'")
    (problem,) = service.state()["gateways"]["problems"]
    for line in DROP_IN.splitlines():
        assert line in problem
    assert "02:00:00:00:00:99" in machine.run(neighbour)


def test_with_the_drop_in_a_host_on_the_link_learns_the_holder(
    machine: NspawnMachine, service: NspawnService, neighbour: str
) -> None:
    service.restart(drop_in=DROP_IN)
    machine.write("/etc/manifests/gateway.yaml", GROUP)
    (ours,) = machine.run("cat /sys/class/net/web/address").split()
    machine.wait_until(f"{neighbour} | grep -q {ours}")
    assert service.state()["gateways"]["problems"] == []
