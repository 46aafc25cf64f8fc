"""Floating addresses whose holders are behind a router, with packets and agents: a tunnel leads to them."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator

import pytest

from nfagent.egress.tunnel import TUNNEL_PORT
from nfagent.lab import netns
from nfagent.lab.agents import LabCluster
from nfagent.lab.ip_commands import UPLINK
from nfagent.lab.listeners import Listeners
from nfagent.lab.topology import NetnsTopology
from nfagent.lab.topology_plan import NodePlan, OutsideHost
from nfagent.model.netaddr import family_of
from tests.support.egress_labs import NODES, listen_outside
from tests.support.gateway_labs import (
    FLOATING,
    GROUPS,
    OUTSIDE,
    PODS,
    expected_holders,
    gateways,
    held_on,
    labels_of,
    views,
    world,
)
from tests.support.packet_labs import ManifestLab, as_text, wait_until

pytestmark = pytest.mark.kernel

ROUTER = OutsideHost("router", ("192.0.2.254", "2001:db8:ffff::254"))
SELECTED = tuple(pod for pod in PODS if labels_of(pod)["gateway"] in GROUPS)
OF_GROUPS = {pod.name: set(FLOATING[labels_of(pod)["gateway"]]) for pod in SELECTED}
ALL = tuple(address for pair in FLOATING.values() for address in pair)


def put_behind_a_router(topology: NetnsTopology, node: NodePlan) -> None:
    """Route packets to the other nodes, but not to their Pods, by the router."""
    hops = {family_of(address): address for address in ROUTER.addresses}
    others = [address for other in NODES if other is not node for address in other.addresses]
    netns.ip_batch(
        [f"route add {address} via {hops[family_of(address)]} dev {UPLINK} onlink" for address in others],
        topology.node_namespace(node.name),
    )


def make_router(topology: NetnsTopology) -> None:
    name = topology.outside_namespace(ROUTER.name)
    forwards = {"ipv4/ip_forward": "1", "ipv6/conf/all/forwarding": "1"}
    netns.write_sysctls(name, forwards | {f"ipv4/conf/{link}/send_redirects": "0" for link in ("all", UPLINK)})
    count = (
        f"table inet count {{ chain c {{ type filter hook forward priority 0; udp dport {TUNNEL_PORT} counter; }}; }}"
    )
    subprocess.run(topology.command(name, ["nft", "-f", "-"]), input=count, text=True, check=True)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ManifestLab]:
    folder = tmp_path_factory.mktemp("lab")
    manifests = folder / "manifests"
    manifests.mkdir()
    (manifests / "cluster.yaml").write_text(as_text(world()), encoding="utf-8")
    with NetnsTopology(NODES, PODS, (OUTSIDE, ROUTER), tag="t") as topology, Listeners() as servers:
        make_router(topology)
        for node in NODES:
            put_behind_a_router(topology, node)
        listen_outside(topology, servers, OUTSIDE)
        with LabCluster(topology, manifests, folder / "agents") as cluster:
            made = ManifestLab(topology, servers, cluster)
            made.apply("gateways", *gateways())
            wanted = expected_holders(GROUPS)
            wait_until(lambda: held_on(topology, wanted) == wanted and not problems(made))
            yield made


def problems(lab: ManifestLab) -> list[str]:
    """Return the problems with gateways of all agents."""
    states = (agent.ask("/v1/dump/state")["agent"] for agent in lab.cluster.agents.values())
    return [problem for state in states for problem in state["gateways"]["problems"]]


def tunnelled(lab: ManifestLab) -> int:
    """Return the packets of tunnels that the router has forwarded."""
    name = lab.topology.outside_namespace(ROUTER.name)
    command = lab.topology.command(name, ["nft", "-j", "list", "table", "inet", "count"])
    listed = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)["nftables"]
    rule = next(item["rule"] for item in listed if "rule" in item)
    return sum(int(part["counter"]["packets"]) for part in rule["expr"] if "counter" in part)


def test_the_outside_sees_the_floating_addresses_from_pods_behind_a_router(lab: ManifestLab) -> None:
    assert problems(lab) == []
    before = tunnelled(lab)
    assert views(lab, SELECTED) == OF_GROUPS
    assert tunnelled(lab) > before
