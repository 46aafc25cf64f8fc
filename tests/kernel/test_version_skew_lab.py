"""Upgrade and rollback between this version and the last release, under traffic: both start on the other's table.

`tests/support/other_version.py` names the version that stands for the last release.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from nfagent.lab.cluster.agents import LabAgent
from nfagent.lab.machine.patience import patient
from nfagent.lab.probes.connection_stream import ConnectionStream
from nfagent.lab.probes.listeners import pod_endpoints
from nfagent.lab.probes.packet_counter import StreamProtocol
from nfagent.lab.probes.probe import Probe
from nfagent.lab.probes.traffic import StreamPlan, StreamSender, TrafficStream, TrafficStreams
from nfagent.lab.topology.plan import NodePlan, PodPlan
from nfagent.model.netaddr import Family
from tests.support.denied_datagrams import DeniedDatagrams
from tests.support.other_version import check_out, last_release, use
from tests.support.packet_labs import (
    Document,
    ManifestLab,
    logging_document,
    namespace_document,
    pod_document,
    policy_document,
    running_lab,
    wait_until,
)

pytestmark = pytest.mark.kernel

NODE = NodePlan("n1", ("192.0.2.1", "2001:db8:ffff::1"), ("10.244.1.0/24", "2001:db8:244:1::/64"))
PODS = [
    PodPlan("shop", "web", "n1", ("10.244.1.10", "2001:db8:244:1::10")),
    PodPlan("shop", "db", "n1", ("10.244.1.11", "2001:db8:244:1::11")),
    PodPlan("shop", "guest", "n1", ("10.244.1.12", "2001:db8:244:1::12")),
]
OPEN, CLOSED, ENDED = 80, 443, 90
KEPT = range(100, 104)
LONG_LIVED: tuple[tuple[StreamProtocol, StreamSender, Family], ...] = (
    ("tcp", "client", 4),
    ("tcp", "server", 6),
    ("udp", "client", 6),
    ("udp", "server", 4),
)
_EVERY = 0.001
_PACKETS = 50


def from_web(*ports: int) -> Document:
    """Describe a policy: the database is reached by web, at these ports."""
    listed = [{"port": port, "protocol": protocol} for port in ports for protocol in ("TCP", "UDP")]
    peer = [{"podSelector": {"matchLabels": {"pod": "web"}}}]
    selector = {"matchLabels": {"pod": "db"}}
    return policy_document("shop", "db", podSelector=selector, ingress=[{"from": peer, "ports": listed}])


ADMIN = {
    "apiVersion": "policy.networking.k8s.io/v1alpha1",
    "kind": "AdminNetworkPolicy",
    "metadata": {"name": "guests"},
    "spec": {
        "priority": 1,
        "subject": {"pods": {"namespaceSelector": {}, "podSelector": {"matchLabels": {"pod": "guest"}}}},
        "ingress": [{"action": "Deny", "from": [{"namespaces": {}}]}],
    },
}
MASQUERADE = {
    "apiVersion": "v1",
    "kind": "ConfigMap",
    "metadata": {"namespace": "kube-system", "name": "ip-masq-agent"},
    "data": {"config": "nonMasqueradeCIDRs: [10.0.0.0/8]"},
}
EVERYTHING = [
    namespace_document("shop"),
    *map(pod_document, PODS),
    ADMIN,
    MASQUERADE,
    logging_document(allow=True, deny=True),
]


class Traffic(NamedTuple):
    """Packets every millisecond, before, in and after each change of the version.

    kept:    long-lived connections that are allowed
    ended:   long-lived connections that were allowed, and no longer are
    since:   when they had ended, by time.monotonic()
    opened:  new connections that are allowed
    refused: new connections that are denied
    """

    kept: list[TrafficStream]
    ended: list[TrafficStream]
    since: float
    opened: list[ConnectionStream]
    refused: list[DeniedDatagrams]

    def flow(self) -> None:
        """Wait until more packets of each were sent, and those that are allowed have arrived."""
        TrafficStreams.wait_for(_PACKETS, *self.kept)
        for opened in self.opened:
            opened.wait_for(_PACKETS)
        for refused in self.refused:
            refused.wait_for(_PACKETS)


@contextlib.contextmanager
def traffic(lab: ManifestLab) -> Iterator[Traffic]:
    """Start the traffic. Some of the long-lived connections were opened before the policy that denies them."""
    web, db, guest = (lab.pod(f"shop/{name}") for name in ("web", "db", "guest"))
    addresses = {family: lab.address("shop/db", family) for family in (4, 6)}
    protocols: tuple[StreamProtocol, ...] = ("tcp", "udp")

    def plan(client: str, protocol: StreamProtocol, port: int, speaker: StreamSender, family: int) -> StreamPlan:
        to = addresses[family]
        return StreamPlan(client=client, server=db, address=to, protocol=protocol, port=port, speaker=speaker)

    with contextlib.ExitStack() as stack:
        streams = stack.enter_context(TrafficStreams(_EVERY))
        kept = [
            streams.open(plan(web, protocol, port, speaker, family))
            for port, (protocol, speaker, family) in zip(KEPT, LONG_LIVED, strict=True)
        ]
        ended = [streams.open(plan(guest, protocol, ENDED, "server", 4)) for protocol in protocols]
        lab.apply("policy", from_web(OPEN, *KEPT))
        lab.cluster.wait_for_recheck()
        yield Traffic(
            kept,
            ended,
            time.monotonic(),
            [
                stack.enter_context(ConnectionStream(lab.servers, Probe(web, address, "udp", OPEN), _EVERY, patient(5)))
                for address in addresses.values()
            ],
            [stack.enter_context(DeniedDatagrams(guest, db, address, CLOSED)) for address in addresses.values()],
        )


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the last release's files."""
    version = last_release()
    if not version:
        pytest.skip("no history here: no release's tag, and no baseline commit (tests/support/other_version.py)")
    return check_out(version, tmp_path_factory.mktemp("release") / "files")


def replace(lab: ManifestLab, checkout: Path | None, *, kill: bool) -> None:
    """Replace the node's agent by another version's, which enforces the same manifests, and a change of them."""
    agent = lab.cluster.agent(NODE.name)
    agent.stop(kill=kill)
    use(agent, checkout)
    agent.start()
    lab.cluster.wait_until_enforced()
    wait_until(lambda: agent.ask("/v1/dump/diff")["equal"])  # unequal for a moment, as re-checks end
    lab.apply("more", policy_document("shop", "more", podSelector={}, policyTypes=["Egress"], egress=[{}]))
    lab.delete("more")
    lab.cluster.wait_for_recheck()
    difference = agent.run("dump", "diff")
    assert difference.returncode == 0, difference.stdout + difference.stderr


def test_no_packet_tells_that_the_version_changed(release: Path, tmp_path: Path) -> None:
    with running_lab(tmp_path, [NODE], PODS, documents=EVERYTHING) as lab:
        lab.servers.listen(pod_endpoints(lab.topology, [("udp", OPEN)]))
        agent = lab.cluster.agent(NODE.name)
        replace(lab, release, kill=False)
        tables = []
        with traffic(lab) as packets:
            # What can't be read stays in force as it was read last: over versions, by what the other one has kept.
            lab.cluster.place("policy.yaml", "{:")
            lab.cluster.wait_until_enforced()
            for checkout, kill in ((None, False), (release, True), (None, True), (release, False)):
                packets.flow()
                replace(lab, checkout, kill=kill)
                tables.append(table_names(agent))
            packets.flow()
        assert tables[0] == tables[2] != tables[1] == tables[3]
        assert [refused.arrived for refused in packets.refused] == [0, 0]
        passed = [when - packets.since for stream in packets.ended for when in stream.passed_after(packets.since)]
        assert passed == []
        assert [len(opened.lost) for opened in packets.opened] == [0, 0]
        lost = {
            str(stream.plan): stream.sent - len(stream.numbers())
            for stream in packets.kept
            if stream.plan.protocol == "udp"
        }
        assert lost == dict.fromkeys(lost, 0)


def table_names(agent: LabAgent) -> list[str]:
    """Return the names of the table's chains, sets and maps."""
    listed = json.loads(agent.nft("-j", "list", "table", "inet", "nfagent"))["nftables"]
    kinds = {"chain", "set", "map"}
    return sorted(f"{kind} {item['name']}" for entry in listed for kind, item in entry.items() if kind in kinds)
