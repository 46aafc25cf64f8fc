"""Live connections: revocations over the lifecycle of a Pod, an agent and a table, with Pods on a bridge.

Pods share a bridge here; the kinds of changes are in test_revocations_lab.py.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

import msgspec
import pytest

from nfagent.lab.cluster.agents import LabAgent
from nfagent.lab.probes.packet_counter import PacketCounter
from nfagent.lab.probes.traffic import StreamPlan, StreamSender, TrafficStream, TrafficStreams
from nfagent.lab.topology import netns
from nfagent.lab.topology.plan import PodPlan
from nfagent.model.netaddr import FAMILIES, Family, family_of
from tests.support.kube_proxy_rules import ProxiedService, proxying
from tests.support.packet_labs import Document, ManifestLab, held, pod_document, policy_document, wait_until
from tests.support.removed_rules import remove_rules
from tests.support.revocation_traffic import (
    INTERVAL,
    PODS,
    PORT,
    Watch,
    every_kind,
    line,
    present,
    revocation_lab,
    suspected_at,
    watching,
    world,
)

pytestmark = [pytest.mark.kernel, pytest.mark.both_backends(asked=True)]

NODE = PODS["shop/db"].node
WEST = {"namespaceSelector": {"matchLabels": {"ns": "west"}}}
CALLERS = {"podSelector": {"matchLabels": {"app": "caller"}}, "namespaceSelector": {}}
SERVICE: dict[Family, str] = {4: "10.96.0.10", 6: "2001:db8:96::10"}
SERVICE_PORT = 80
_TRIES = 15
"""The agent may be faster than the test that kills it, which has no CPU for a moment on a busy machine."""
# A foreign rule with a ct expression: without any, the kernel stops connection tracking.
TRACKING = (
    "add table inet foreign",
    "add chain inet foreign c { type filter hook forward priority 10; }",
    "add rule inet foreign c ct state established counter",
)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory, backend: str) -> Iterator[ManifestLab]:
    with revocation_lab(tmp_path_factory.mktemp("lab"), "bridge", backend=backend) as running:
        for node in running.topology.nodes:
            for command in TRACKING:
                running.cluster.agent(node).nft(command)
        yield running


@pytest.fixture
def agent(lab: ManifestLab) -> Iterator[LabAgent]:
    """Return the agent of the db's node, and start it afterwards where the test ended it."""
    found = lab.cluster.agent(NODE)
    yield found
    if not found.is_running:
        found.start()


def isolating(*peers: Document, app: str = "db") -> Document:
    ingress = [{"from": list(peers)}] if peers else []
    return policy_document("shop", app, podSelector={"matchLabels": {"app": app}}, ingress=ingress)


CLOSED = isolating(WEST)


def from_east(lab: ManifestLab) -> dict[StreamPlan, str]:
    """Plan connections of each kind to the db, from its own node and from the other one; its agent is to end them."""
    near = every_kind(lab, "east/near > shop/db", first=4)
    far = every_kind(lab, "east/far > shop/db", first=6)
    return dict.fromkeys((*near, *far), NODE)


def from_west(lab: ManifestLab) -> list[StreamPlan]:
    return [
        line(lab, "west/ally > shop/db", "udp", "server", 4),
        line(lab, "west/pal > shop/db", "udp", "client", 6),
        line(lab, "west/ally > shop/db", "tcp", "server", 6),
    ]


def faults(watch: Watch, lab: ManifestLab) -> list[str]:
    return [*watch.late, *watch.lossy, *watch.mistracked(lab)]


def test_32_pods_of_one_bridge(lab: ManifestLab) -> None:
    present(lab, world(), [])
    with watching(from_east(lab), from_west(lab)) as watch:
        watch.through(lab, lambda: present(lab, world(), [CLOSED]))
        assert faults(watch, lab) == []


def test_32_a_connection_to_a_service_is_revoked(lab: ManifestLab) -> None:
    present(lab, world(), [])
    services = [
        ProxiedService(address, SERVICE_PORT, protocol, ((lab.address("shop/db", family), PORT),))
        for family, address in SERVICE.items()
        for protocol in ("tcp", "udp")
    ]

    def translated(planned: StreamPlan) -> StreamPlan:
        address = SERVICE[family_of(planned.address)]
        return msgspec.structs.replace(planned, address=address, port=SERVICE_PORT, listens=PORT)

    with proxying(lab.topology, services):
        ended = {translated(planned): node for planned, node in from_east(lab).items()}
        with watching(ended, map(translated, from_west(lab))) as watch:
            watch.through(lab, lambda: present(lab, world(), [CLOSED]))
            assert faults(watch, lab) == []


def to_own_node(lab: ManifestLab, speaker: StreamSender) -> Iterator[StreamPlan]:
    """Plan calls from east/near to its own node, by each protocol and family."""
    for address in lab.topology.nodes[NODE].addresses:
        for protocol in ("tcp", "udp"):
            yield StreamPlan(
                client=lab.pod("east/near"),
                server=lab.topology.node_namespace(NODE),
                address=address,
                protocol=protocol,
                port=PORT,
                speaker=speaker,
                bound=address,
                counted="socket" if speaker == "client" else "interface",
            )


@pytest.mark.parametrize("speaker", ["client", "server"])
def test_32_a_pods_connection_to_its_own_node_is_revoked(lab: ManifestLab, speaker: StreamSender) -> None:
    present(lab, world(), [])
    to_cache = {"podSelector": {"matchLabels": {"app": "cache"}}, "namespaceSelector": {}}
    only = policy_document("east", "only", podSelector={}, policyTypes=["Egress"], egress=[{"to": [to_cache]}])
    kept = [line(lab, "east/near > shop/cache", "udp", "server", family) for family in FAMILIES]
    with watching(dict.fromkeys(to_own_node(lab, speaker), NODE), kept) as watch:
        watch.through(lab, lambda: present(lab, world(), [only]))
        assert faults(watch, lab) == []


def test_32_a_node_goes_on_reaching_its_own_pods_from_every_own_address(lab: ManifestLab) -> None:
    present(lab, world(), [])
    kept = [
        StreamPlan(
            client=lab.topology.node_namespace(NODE),
            server=lab.pod("shop/db"),
            address=lab.address("shop/db", family),
            protocol=protocol,
            port=PORT,
            speaker="server",
            counted="socket",
        )
        for family in FAMILIES
        for protocol in ("tcp", "udp")
    ]
    everything = policy_document("shop", "db", podSelector={}, policyTypes=["Ingress", "Egress"])
    ended = {line(lab, "east/near > shop/db", "udp", "server", 4): NODE}
    with watching(ended, kept) as watch:
        watch.through(lab, lambda: present(lab, world(), [everything]))
        TrafficStreams.wait_for(20, *watch.kept)
        assert [*watch.late, *watch.lossy] == []


@contextlib.contextmanager
def binding_to_anything(lab: ManifestLab) -> Iterator[None]:
    """Allow binding to non-local addresses on the node, as load balancers and keepalived do."""
    names = ("ipv4/ip_nonlocal_bind", "ipv6/ip_nonlocal_bind")
    node = lab.topology.node_namespace(NODE)
    netns.write_sysctls(node, dict.fromkeys(names, "1"))
    try:
        yield
    finally:
        netns.write_sysctls(node, dict.fromkeys(names, "0"))


def test_32_a_node_whose_programs_may_bind_to_any_address(lab: ManifestLab) -> None:
    present(lab, world(), [])
    with binding_to_anything(lab), watching(from_east(lab), from_west(lab)) as watch:
        watch.through(lab, lambda: present(lab, world(), [CLOSED]))
        assert faults(watch, lab) == []


@contextlib.contextmanager
def replaced(lab: ManifestLab, path: str, heir: PodPlan) -> Iterator[None]:
    """End a Pod and start another with its addresses; in the end it is there again."""
    namespace, name = path.split("/")
    lab.topology.remove_pod(namespace, name)
    lab.topology.add_pod(heir)
    try:
        yield
    finally:
        lab.topology.remove_pod(*heir.key)
        lab.topology.add_pod(PODS[path])


@pytest.mark.parametrize(("path", "speaker"), [("shop/db", "client"), ("east/near", "server")])
def test_32_a_pod_with_the_addresses_of_an_earlier_one_gets_no_packet_of_its_connections(
    lab: ManifestLab, agent: LabAgent, path: str, speaker: StreamSender
) -> None:
    policies = [isolating(CALLERS), isolating(WEST, app="heir")]
    present(lab, world(), policies)
    heir = PodPlan("shop", "heir", NODE, PODS[path].addresses)
    with contextlib.ExitStack() as stack:
        streams = stack.enter_context(TrafficStreams(INTERVAL))
        ended = [streams.open(line(lab, "east/near > shop/db", "udp", speaker, family)) for family in FAMILIES]
        streams.wait_for(10, *ended)
        stack.enter_context(replaced(lab, path, heir))
        counters = [stack.enter_context(heirs_counter(lab, stream)) for stream in ended]
        wait_until(lambda: all(len(counter.arrivals()) >= 10 for counter in counters))
        began = time.monotonic()
        present(lab, [*world({path: None}), pod_document(heir, {"app": "heir"})], policies)
        wait_until(lambda: suspected_at(agent) > began)
        committed = suspected_at(agent)
        lab.cluster.wait_for_recheck()
        streams.wait_until_sent(40, *ended)
        for stream, counter in zip(ended, counters, strict=True):
            assert len(counter.arrivals()) >= 10, "the heir has the addresses"
            assert [when - committed for when in stream.passed_of(counter.arrivals(), committed)] == []


def heirs_counter(lab: ManifestLab, stream: TrafficStream) -> PacketCounter:
    return PacketCounter(lab.pod("shop/heir"), family_of(stream.plan.address), "udp", stream.client_port)


def test_32_an_agent_that_starts_ends_what_was_revoked_while_none_ran(lab: ManifestLab, agent: LabAgent) -> None:
    present(lab, world(), [])
    with watching(from_east(lab), from_west(lab)) as watch:
        agent.stop()
        present(lab, world(), [CLOSED])
        watch.through(lab, agent.start)
        assert faults(watch, lab) == []


def test_32_a_denied_connection_from_while_the_table_was_missing_ends_when_it_is_back(
    lab: ManifestLab, agent: LabAgent
) -> None:
    present(lab, world(), [CLOSED])
    lab.cluster.wait_for_recheck()
    with contextlib.ExitStack() as stack:
        unnoticed = stack.enter_context(contextlib.ExitStack())
        unnoticed.enter_context(held(agent))
        remove_rules(lab, agent)
        watch = stack.enter_context(watching(from_east(lab), from_west(lab)))
        watch.through(lab, unnoticed.close)
        assert faults(watch, lab) == []


def test_32_an_agent_killed_before_it_deletes_entries_leaves_the_connections_denied(
    lab: ManifestLab, agent: LabAgent
) -> None:
    about_others = policy_document("west", "open", podSelector={}, ingress=[{}])
    for _attempt in range(_TRIES):
        present(lab, world(), [])
        lab.cluster.wait_for_recheck()
        with watching(from_east(lab), from_west(lab)) as watch:
            watch.wait_for(10)
            # It looks for connections of others, and rests for a moment before it looks again.
            present(lab, world(), [about_others])
            present(lab, world(), [about_others, CLOSED])
            watch.committed = {NODE: suspected_at(agent)}
            agent.stop(kill=True)
            tracked = watch.tracked(lab)
            if all(NODE in tracked[stream] for stream in watch.ended):
                watch.watch_on()
                assert [*watch.late, *watch.lossy] == []
                agent.start()
                lab.cluster.wait_for_recheck()
                watch.watch_on()
                assert faults(watch, lab) == []
                return
        agent.start()
    pytest.fail("the agent was never caught between commit and deletion")
