"""A continuous probe reports each wrong verdict, and no right one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from nfagent.lab.probes.continuous_probe import ContinuousProbe
from nfagent.lab.probes.listeners import Listeners, pod_endpoints
from nfagent.lab.probes.probe import Probe
from nfagent.lab.topology.netns_topology import NetnsTopology
from nfagent.lab.topology.plan import NodePlan, PodPlan

pytestmark = pytest.mark.kernel

NODE = NodePlan("n1", ("192.0.2.1",), ("10.244.1.0/24",))
PODS = (PodPlan("x", "a", "n1", ("10.244.1.10",)), PodPlan("x", "b", "n1", ("10.244.1.11",)))
OPEN, CLOSED = 80, 81


@pytest.fixture(scope="module")
def lab() -> Iterator[tuple[NetnsTopology, Listeners]]:
    with NetnsTopology([NODE], PODS, tag="tv") as topology, Listeners() as servers:
        servers.listen(pod_endpoints(topology, [("tcp", OPEN)]))
        yield topology, servers


@pytest.mark.parametrize(
    ("port", "allowed", "found"),
    [
        pytest.param(OPEN, True, None, id="what is answered as expected"),
        pytest.param(CLOSED, False, None, id="what isn't, as expected"),
        pytest.param(OPEN, False, "passed", id="what is answered and shouldn't be"),
        pytest.param(CLOSED, True, "Connection refused", id="what should be answered and isn't"),
    ],
)
def test_a_round_finds(lab: tuple[NetnsTopology, Listeners], port: int, *, allowed: bool, found: str | None) -> None:
    topology, servers = lab
    source = topology.pod_namespace("x", "a")
    probe = Probe(source, PODS[1].addresses[0], "tcp", port)
    with ContinuousProbe(servers, {probe: allowed}) as probing:
        probing.wait_for(1)
    assert probing.asked >= 2
    assert set(probing.wrong) == ({f"{source} -> 10.244.1.11 {port}/tcp: {found}"} if found else set())
