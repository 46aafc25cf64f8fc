"""Another program's masquerade defeats the list of nfagent: packets show it, and so do the agent and `check`."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest
from pyroute2 import netns

from nfagent.cli.check_nat import nat_checks
from nfagent.cli.check_result import Check
from nfagent.lab.probes.listeners import Endpoint
from nfagent.lab.probes.probe import Probe
from nfagent.lab.topology.plan import OutsideHost, PodPlan, grid
from tests.support.packet_labs import ManifestLab, pod_document, running_lab, wait_until

pytestmark = pytest.mark.kernel

NODES = grid(nodes=1)[0]
[NODE] = NODES
POD = PodPlan("x", "a", NODE.name, ("10.244.1.10", "2001:db8:244:1::a"))
OUTSIDE = OutsideHost("outside", ("10.200.0.10",))
PATIENCE = 120.0
"""The agent pauses for nine times as long as its last look took."""
THEIRS = "table ip theirs {{ chain post {{ type nat hook postrouting priority 100; ip saddr {} masquerade; }}\n}}"


@pytest.fixture(name="lab", scope="module")
def _lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ManifestLab]:
    folder = tmp_path_factory.mktemp("lab")
    with running_lab(folder, NODES, (POD,), (OUTSIDE,), documents=[pod_document(POD)]) as running:
        outside = running.topology.outside_namespace("outside")
        running.servers.listen([Endpoint(outside, OUTSIDE.addresses[0], "tcp", 443)])
        yield running


def load(lab: ManifestLab, text: str) -> None:
    node = lab.topology.node_namespace(NODE.name)
    subprocess.run(["ip", "netns", "exec", node, "nft", "-f", "-"], input=text, text=True, check=True)


def seen(lab: ManifestLab) -> str | None:
    probe = Probe(lab.pod("x/a"), OUTSIDE.addresses[0], "tcp", 443)
    return lab.ask([probe])[probe].seen_from


def reported(lab: ManifestLab) -> list[str]:
    nat = lab.cluster.agent(NODE.name).ask("/v1/dump/state")["agent"]["nat"]
    return [item["message"] for item in nat["conflicts"]]


def checked(lab: ManifestLab) -> list[Check]:
    netns.pushns(lab.topology.node_namespace(NODE.name))
    try:
        return list(nat_checks(root=True))
    finally:
        netns.popns()


def test_a_rule_that_takes_a_kept_address_is_reported_until_it_is_gone(lab: ManifestLab) -> None:
    assert seen(lab) == POD.addresses[0]
    assert [(item.result, reported(lab)) for item in checked(lab)] == [("ok", [])]
    load(lab, THEIRS.format("10.244.0.0/16"))
    assert seen(lab) == NODE.addresses[0]
    wait_until(lambda: bool(reported(lab)), PATIENCE)
    [message] = reported(lab)
    assert message.startswith("table ip theirs, chain post: rule `ip saddr 10.244.0.0/16 masquerade` translates")
    [found] = checked(lab)
    assert (found.result, found.found) == ("warn", message)
    assert found.fix.endswith("or delete it; to see it: nft -a list chain ip theirs post")
    load(lab, "delete table ip theirs")
    assert seen(lab) == POD.addresses[0]
    wait_until(lambda: not reported(lab), PATIENCE)


def test_a_rule_of_another_network_changes_nothing_and_is_not_reported(lab: ManifestLab) -> None:
    load(lab, THEIRS.format("172.17.0.0/16"))
    assert seen(lab) == POD.addresses[0]
    assert [item.result for item in checked(lab)] == ["ok"]
    load(lab, "delete table ip theirs")
