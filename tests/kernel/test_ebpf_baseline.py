"""The eBPF reference allows and denies real packets after its maps, and is removed completely."""

from __future__ import annotations

import contextlib
import functools
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from nfagent.errors import HostError, KernelError, UsageError
from nfagent.lab.ebpf import program as ebpf_program
from nfagent.lab.ebpf.baseline import EbpfPath, link_of
from nfagent.lab.ebpf.codec import address_key, policy_key
from nfagent.lab.ebpf.program import build
from nfagent.lab.probes.flow import LabFlow, next_nonce, open_flow
from nfagent.lab.probes.listeners import Listeners, ProbeProtocol, pod_endpoints
from nfagent.lab.probes.probe import Probe, run_probes
from nfagent.lab.topology import netns
from nfagent.lab.topology.netns_topology import NetnsTopology
from nfagent.lab.topology.plan import grid
from tests.support.packet_labs import wait_until

pytestmark = pytest.mark.kernel

PORTS: tuple[tuple[ProbeProtocol, int], ...] = (("tcp", 80), ("tcp", 81), ("udp", 80), ("sctp", 80), ("icmp", 0))
CLIENT, SERVER, STRANGER = ("x", "a"), ("x", "b"), ("y", "a")
CLIENTS, STRANGERS = 1001, 1002
Reach = dict[int, set[tuple[ProbeProtocol, int]]]
"""Family -> protocols and ports that are reached."""


@pytest.fixture(scope="module")
def topology() -> Iterator[NetnsTopology]:
    if lack := ebpf_program.missing():
        pytest.skip(lack)
    with NetnsTopology(*grid(), tag="tebpf") as built:
        yield built


@pytest.fixture(scope="module")
def servers(topology: NetnsTopology) -> Iterator[Listeners]:
    with Listeners() as serving:
        serving.listen(pod_endpoints(topology, PORTS))
        yield serving


@pytest.fixture
def path(topology: NetnsTopology) -> Iterator[EbpfPath]:
    """Return the program, loaded on the server's node, where the clients' identities are known."""
    with EbpfPath(topology.node_namespace(topology.pods[SERVER].node)) as loaded:
        for pod, identity in ((CLIENT, CLIENTS), (STRANGER, STRANGERS)):
            for address in topology.pods[pod].addresses:
                loaded.identify(address, identity)
        yield loaded


@pytest.fixture
def server(topology: NetnsTopology, path: EbpfPath) -> int:
    """Attach the server's Pod; nothing is allowed yet."""
    return path.attach(topology.pod_namespace(*SERVER))


def reached(
    topology: NetnsTopology, servers: Listeners, source: tuple[str, str] = CLIENT, to: tuple[str, str] = SERVER
) -> Reach:
    """Return the ports that are reached, for each family."""
    found: Reach = {}
    probes = {
        Probe(topology.pod_namespace(*source), address, protocol, port): (6 if ":" in address else 4)
        for address in topology.pods[to].addresses
        for protocol, port in PORTS
    }
    for probe, outcome in run_probes(servers, probes, 0.4).items():
        ports = found.setdefault(probes[probe], set())
        if outcome.reached:
            ports.add((probe.protocol, probe.port))
    return found


def both(*ports: tuple[ProbeProtocol, int]) -> Reach:
    return {4: set(ports), 6: set(ports)}


EVERYTHING = both(*PORTS)
NOTHING = both()


@pytest.mark.usefixtures("server")
def test_a_pod_without_entries_is_closed_in_both_directions_and_its_neighbours_are_free(
    topology: NetnsTopology, servers: Listeners
) -> None:
    assert reached(topology, servers) == NOTHING
    assert reached(topology, servers, SERVER, CLIENT) == NOTHING
    assert reached(topology, servers, CLIENT, STRANGER) == EVERYTHING


def test_an_identity_is_allowed_on_a_port_of_a_protocol_and_nothing_else(
    topology: NetnsTopology, servers: Listeners, path: EbpfPath, server: int
) -> None:
    path.allow(server, "ingress", CLIENTS, 80, "tcp")
    assert reached(topology, servers) == both(("tcp", 80))
    assert reached(topology, servers, STRANGER) == NOTHING
    path.allow(server, "ingress", CLIENTS, 80, "udp")
    path.allow(server, "ingress", CLIENTS, 80, "sctp")
    path.allow(server, "ingress", CLIENTS, protocol="icmp")
    path.allow(server, "ingress", CLIENTS, protocol="icmpv6")
    assert reached(topology, servers) == both(*(port for port in PORTS if port != ("tcp", 81)))


@pytest.mark.parametrize(
    ("entry", "reach"),
    [
        pytest.param((0, 81, "tcp"), both(("tcp", 81)), id="any identity on a port"),
        pytest.param((CLIENTS, 0, ""), EVERYTHING, id="an identity on every port"),
        pytest.param((0, 0, ""), EVERYTHING, id="everything"),
        pytest.param((STRANGERS, 0, ""), NOTHING, id="another address"),
    ],
)
def test_a_wildcard_entry_allows(
    topology: NetnsTopology,
    servers: Listeners,
    *,
    path: EbpfPath,
    server: int,
    entry: tuple[int, int, str],
    reach: Reach,
) -> None:
    path.allow(server, "ingress", *entry)
    assert reached(topology, servers) == reach


def test_one_map_update_changes_the_verdict_of_the_next_connection(
    topology: NetnsTopology, servers: Listeners, path: EbpfPath, server: int
) -> None:
    assert reached(topology, servers) == NOTHING
    path.allow(server, "ingress", CLIENTS)
    assert reached(topology, servers) == EVERYTHING
    assert path.revoke(server, "ingress", CLIENTS)
    assert reached(topology, servers) == NOTHING
    assert not path.revoke(server, "ingress", CLIENTS)


def test_an_identity_that_moves_takes_its_rights_along(
    topology: NetnsTopology, servers: Listeners, path: EbpfPath, server: int
) -> None:
    path.allow(server, "ingress", CLIENTS)
    for address in topology.pods[CLIENT].addresses:
        assert path.forget(address)
    assert reached(topology, servers) == NOTHING
    for cidr in topology.nodes[topology.pods[CLIENT].node].pod_cidrs:
        path.identify(cidr, CLIENTS)
    assert reached(topology, servers) == EVERYTHING
    for address in topology.pods[CLIENT].addresses:
        path.identify(address, STRANGERS)
    assert reached(topology, servers) == NOTHING, "the longer prefix is the closer one"


def test_egress_and_ingress_have_separate_verdicts(
    topology: NetnsTopology, servers: Listeners, path: EbpfPath, server: int
) -> None:
    path.allow(server, "egress", CLIENTS, 80, "tcp")
    assert reached(topology, servers, SERVER, CLIENT) == both(("tcp", 80))
    assert reached(topology, servers, SERVER, STRANGER) == NOTHING
    assert reached(topology, servers, CLIENT, SERVER) == NOTHING


def test_an_established_connection_goes_on_after_its_entry_is_gone(
    topology: NetnsTopology, servers: Listeners, path: EbpfPath, server: int
) -> None:
    path.allow(server, "ingress", CLIENTS)
    client, address = topology.pod_namespace(*CLIENT), topology.pods[SERVER].addresses[0]
    flow = netns.inside(client, functools.partial(open_flow, "tcp", address, 80))
    try:
        for keep in (True, False):
            nonce = next_nonce()
            flow.send(nonce)
            heard: list[int] = []
            wait_until(functools.partial(hear, flow, heard))
            assert heard == [nonce]
            if keep:
                assert path.revoke(server, "ingress", CLIENTS)
        assert reached(topology, servers) == NOTHING
    finally:
        flow.close()


def test_nothing_is_left_after_it(topology: NetnsTopology, servers: Listeners) -> None:
    node = topology.node_namespace(topology.pods[SERVER].node)
    with EbpfPath(node) as path:
        path.attach(topology.pod_namespace(*SERVER))
        assert "clsact" in qdiscs(node)
        assert len(descriptors()) == 12  # ten maps, two programs
        assert reached(topology, servers) == NOTHING
    assert "clsact" not in qdiscs(node)
    assert descriptors() == []
    assert not list(Path("/sys/fs/bpf").glob("**/*"))
    assert reached(topology, servers) == EVERYTHING
    path.close()


def test_closing_after_the_lab_is_down_succeeds() -> None:
    if lack := ebpf_program.missing():
        pytest.skip(lack)
    nodes, pods, _ = grid(nodes=1)
    with NetnsTopology(nodes, pods[:1], tag="tebpf") as topology:
        path = EbpfPath(topology.node_namespace("n1"))
        path.__enter__()
        path.attach(topology.pod_namespace(*pods[0].key))
    path.close()
    assert descriptors() == []


def test_a_missing_pod_is_an_error() -> None:
    with pytest.raises(KernelError, match="no eth0 in nowhere"):
        link_of("nowhere")


def test_use_before_loading_raises_with_a_hint() -> None:
    with pytest.raises(UsageError, match="`with` block"):
        EbpfPath("nowhere").identify("10.0.0.1", 7)


@pytest.mark.parametrize("block", ["10.0.0.1/8", "web", ""])
def test_what_is_no_address_and_no_cidr_has_no_key(block: str) -> None:
    with pytest.raises(UsageError, match=r"write an address or a CIDR"):
        address_key(block)


def test_a_port_without_a_protocol_has_no_key() -> None:
    with pytest.raises(UsageError, match="port 80 needs its protocol"):
        policy_key(3, "ingress", port=80)


def test_without_clang_it_names_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert ebpf_program.missing() == "the eBPF path needs clang: apt-get install clang libbpf-dev"
    with pytest.raises(HostError, match="apt-get install clang"):
        build(tmp_path / "policy.o")


def hear(flow: LabFlow, heard: list[int]) -> bool:
    heard.extend(flow.answers())
    return bool(heard)


def qdiscs(node: str) -> str:
    done = subprocess.run(["tc", "-n", node, "qdisc", "show"], capture_output=True, text=True, check=True, timeout=30)
    return done.stdout


def descriptors() -> list[str]:
    """List this process's own eBPF maps and programs."""
    found = []
    for link in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found.append(str(link.readlink()))
    return [target for target in found if "bpf-map" in target or "bpf-prog" in target]
