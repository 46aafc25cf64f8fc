"""One lab for all of these tests: two nodes whose agents follow a real API server, with the rights as shipped."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from nfagent.lab.cluster.agents_apiserver import kind_status
from nfagent.lab.machine.binaries import ControlPlaneBinaries
from nfagent.lab.probes.listeners import Endpoint, ProbeProtocol, pod_endpoints
from nfagent.lab.topology.plan import NodePlan, OutsideHost, PodPlan
from tests.support.apiserver_labs import ApiLab, running_api_lab, shipped_definitions, tier_definitions
from tests.support.packet_labs import namespace_document, pod_document, wait_until

# Nodes and Pods of the recorded conformance suites, so that a case can be replayed here.
NODES = (
    NodePlan("a", ("192.0.2.1", "2001:db8:ffff::1"), ("10.64.0.0/24", "2001:db8:0:a::/64")),
    NodePlan("b", ("192.0.2.2", "2001:db8:ffff::2"), ("10.64.1.0/24", "2001:db8:0:b::/64")),
)
PODS = tuple(
    PodPlan(namespace, name, node, (f"10.64.{number}.{last}", f"2001:db8:0:{node}::{last:x}"))
    for last, (namespace, name) in enumerate(((x, y) for x in "xyz" for y in "abc"), start=10)
    for number, node in ((0, "a") if last % 2 == 0 else (1, "b"),)
)
LISTENS: list[tuple[ProbeProtocol, int]] = [
    (protocol, port) for port in (80, 81) for protocol in ("tcp", "udp", "sctp")
]
PORTS = [
    {"containerPort": port, "name": f"serve-{port}-{protocol}", "protocol": protocol.upper()}
    for protocol, port in LISTENS
]
OUTSIDE = (
    OutsideHost("outside", ("198.51.100.10", "2001:db8:99::10")),
    OutsideHost("late", ("198.51.100.20", "2001:db8:99::20")),
)

LATE = (
    *("AdminNetworkPolicy", "BaselineAdminNetworkPolicy", "ClusterNetworkPolicy"),
    *("EgressNATPolicy", "NetworkGatewayGroup", "NetworkLogging"),
)
"""Kinds whose CRDs are created while the agents run."""
_LATE_SECONDS = 110.0


@pytest.fixture(scope="package")
def lab(binaries: ControlPlaneBinaries, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiLab]:
    """Return the lab. Policies have no cache in its API server, so that their lists are pages and their watches expire.

    It is a minute at most until the agents find the kinds whose definitions came after them.
    """
    documents = [*(namespace_document(name) for name in "xyz"), *(pod_document(pod, ports=PORTS) for pod in PODS)]
    with running_api_lab(
        tmp_path_factory.mktemp("lab"),
        NODES,
        PODS,
        OUTSIDE,
        documents,
        uncached=("networkpolicies.networking.k8s.io",),
        binaries=binaries,
    ) as running:
        running.client.put_all([*shipped_definitions(), *tier_definitions()])
        running.servers.listen(pod_endpoints(running.topology, LISTENS))
        running.servers.listen(
            Endpoint(running.topology.outside_namespace(host.name), address, "tcp", 443)
            for host in OUTSIDE
            for address in host.addresses
        )
        yield running


@pytest.fixture(scope="package")
def all_kinds(lab: ApiLab) -> None:
    """Wait, once, until both agents watch all of LATE: for the rest of their pause."""
    agents = lab.cluster.agents.values()
    wait_until(
        lambda: all(kind_status(agent, kind)["phase"] == "watching" for agent in agents for kind in LATE), _LATE_SECONDS
    )


@pytest.fixture
def tidy(lab: ApiLab) -> Iterator[None]:
    """Restore the API server's objects after the test, and wait until the agents have read them."""
    before = lab.client.inventory()
    yield
    lab.restore(before)
