"""Connections with traffic during a change: denied ones end with its commit, allowed ones lose no packet.

Pods of the lab: `shop/db` (n1) serves port 7000 to `east/near` (n1) and `east/far` (n2), which a change may deny,
and to `west/pal` (n1) and `west/ally` (n2), which stay allowed. `shop/cache` (n2) serves all of them.
"""

from __future__ import annotations

import contextlib
import functools
import json
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from nfagent.kernel.conntrack import ConntrackClient, open_socket
from nfagent.lab.cluster.agents import LabAgent
from nfagent.lab.probes.packet_counter import StreamProtocol
from nfagent.lab.probes.traffic import StreamPlan, StreamSender, TrafficStream, TrafficStreams
from nfagent.lab.topology import netns
from nfagent.lab.topology.plan import Attachment, PodPlan, grid
from nfagent.model.netaddr import FAMILIES, Family, family_of
from nfagent.netlink.conntrack import ConntrackEntry
from nfagent.netlink.packet_header import TCP, UDP
from tests.support.packet_labs import (
    Document,
    ManifestLab,
    as_text,
    namespace_document,
    pod_document,
    running_lab,
    wait_until,
)

PORT, OTHER_PORT = 7000, 7001
INTERVAL = 0.004
PROTOCOLS = {"tcp": TCP, "udp": UDP}
LATER: dict[StreamProtocol, int] = {"udp": 25, "tcp": 1}
"""Number of packets that a speaker sends after the re-check; TCP retransmits its first one after a while."""
_REPEATED = 40.0
_HEARD = 8

PODS = {
    f"{namespace}/{name}": PodPlan(
        namespace, name, f"n{node}", (f"10.244.{node}.{last}", f"2001:db8:244:{node}::{last:x}")
    )
    for last, (namespace, name, node) in enumerate(
        [
            ("shop", "db", 1),
            ("shop", "cache", 2),
            ("east", "near", 1),
            ("east", "far", 2),
            ("west", "pal", 1),
            ("west", "ally", 2),
        ],
        start=10,
    )
}
_PORTS = [
    {"name": name, "containerPort": port, "protocol": protocol}
    for name, port, protocol in (
        ("sql-tcp", PORT, "TCP"),
        ("sql-udp", PORT, "UDP"),
        ("stat-tcp", OTHER_PORT, "TCP"),
        ("stat-udp", OTHER_PORT, "UDP"),
    )
]
_LABELS = {"shop/db": {"app": "db"}, "shop/cache": {"app": "cache"}}


def world(
    pods: Mapping[str, dict[str, str] | None] | None = None, namespaces: Mapping[str, dict[str, str]] | None = None
) -> list[Document]:
    """Return Namespaces and Pods, some with other labels than the default ones; None leaves a Pod out."""
    own: dict[str, dict[str, str] | None] = {path: _LABELS.get(path, {"app": "caller"}) for path in PODS}
    labels = {name: {"ns": name, "team": "blue"} for name in ("shop", "east", "west")} | dict(namespaces or {})
    found = [namespace_document(name, given) for name, given in labels.items()]
    for path, given in (own | dict(pods or {})).items():
        if given is not None:
            found.append(pod_document(PODS[path], given, _PORTS if path == "shop/db" else ()))
    return found


@contextlib.contextmanager
def revocation_lab(
    folder: Path, attachment: Attachment = "routed", *, backend: str | None = None
) -> Iterator[ManifestLab]:
    """Build the lab, with `world()` in world.yaml. backend: as in `running_lab`."""
    nodes, _, outside = grid(attachment)
    with running_lab(folder, nodes, tuple(PODS.values()), outside, backend=backend) as lab:
        for path in PODS:
            _shorten_rto(lab.pod(path))
        lab.apply("world", *world())
        yield lab


def _shorten_rto(namespace: str) -> None:
    """Set TCP's minimum retransmission timeout to 20 ms instead of 200: round trips are short here."""
    lines = []
    for family, everywhere in zip(FAMILIES, ("0.0.0.0/0", "::/0"), strict=True):
        command = ["ip", "-n", namespace, f"-{family}", "-json", "route", "show", "default"]
        [route] = json.loads(subprocess.run(command, capture_output=True, check=True, timeout=20).stdout)
        lines.append(f"route change {everywhere} via {route['gateway']} dev eth0 onlink rto_min 20ms")
    netns.ip_batch(lines, namespace)


def present(lab: ManifestLab, documents: Iterable[Document], policies: Sequence[Document]) -> None:
    """Replace all objects but the nodes, and wait until the agents enforce the new ones."""
    lab.cluster.place("world.yaml", as_text(documents))
    if policies:
        lab.cluster.place("policies.yaml", as_text(policies))
    else:
        (lab.cluster.manifests / "policies.yaml").unlink(missing_ok=True)
    lab.cluster.wait_until_enforced()


def line(
    lab: ManifestLab,
    ends: str,
    protocol: StreamProtocol,
    speaker: StreamSender,
    family: Family,
    *,
    port: int = PORT,
    answered: bool = True,
) -> StreamPlan:
    """Return the plan of a connection between two Pods, written `east/near > shop/db`."""
    client, _, server = ends.partition(" > ")
    return StreamPlan(
        client=lab.pod(client),
        server=lab.pod(server),
        address=lab.address(server, family),
        protocol=protocol,
        port=port,
        speaker=speaker,
        answered=answered,
    )


def every_kind(lab: ManifestLab, ends: str, first: Family = 4) -> Iterator[StreamPlan]:
    """Plan a connection of each kind, alternating families: TCP and UDP, either end sends, UDP never answered."""
    other: Family = 6 if first == 4 else 4
    yield line(lab, ends, "tcp", "client", first)
    yield line(lab, ends, "tcp", "server", other)
    yield line(lab, ends, "udp", "server", first)
    yield line(lab, ends, "udp", "client", other)
    yield line(lab, ends, "udp", "client", first, answered=False)


def suspected_at(agent: LabAgent) -> float:
    """Return when an agent last committed addresses under re-check, by time.monotonic()."""
    return float(agent.ask("/v1/dump/state")["agent"]["revoke"]["suspected_at"])


def revocation_rounds(agent: LabAgent) -> int:
    """Return how many rounds of re-check an agent has begun."""
    return int(agent.ask("/v1/dump/state")["agent"]["revoke"]["rounds"])


def dropped(agent: LabAgent) -> int:
    """Return the number of dropped packets of revoked connections: replies without a conntrack entry."""
    drops = agent.ask("/v1/dump/counters")["drops"]
    return sum(drop["packets"] for drop in drops if drop["name"] == "drop/revoked")


@contextlib.contextmanager
def connections(lab: ManifestLab, node: str) -> Iterator[ConntrackClient]:
    """Open a node's conntrack table."""
    opened = ConntrackClient(functools.partial(netns.inside, lab.topology.node_namespace(node), open_socket))
    try:
        yield opened
    finally:
        opened.close()


def entries_at(lab: ManifestLab, node: str) -> list[ConntrackEntry]:
    """Return a node's conntrack entries of all Pods."""
    with connections(lab, node) as table:
        return table.entries(frozenset(address for pod in PODS.values() for address in pod.addresses))


class Watch:
    """Connections with traffic, and the effect of a change on them.

    ended:     those that the change must end, each with the node whose agent ends it
    kept:      those that must go on
    committed: when each of these agents had committed the change, by time.monotonic()
    """

    def __init__(self, ended: Mapping[TrafficStream, str], kept: Sequence[TrafficStream]) -> None:
        self.ended = dict(ended)
        self.kept = list(kept)
        self.committed: dict[str, float] = {}

    def wait_for(self, more: int) -> None:
        """Wait until this many more packets of every connection have arrived."""
        TrafficStreams.wait_for(more, *self.ended, *self.kept)

    def wait_until_sent(self, more: int) -> None:
        """Wait until this many more packets of every connection were sent."""
        TrafficStreams.wait_until_sent(more, *self.ended, *self.kept)

    def through(self, lab: ManifestLab, change: Callable[[], object]) -> None:
        """Make a change, wait until no address is under re-check, and for some more packets."""
        self.wait_for(_HEARD)
        began = time.monotonic()
        change()
        agents = {node: lab.cluster.agent(node) for node in set(self.ended.values())}
        wait_until(lambda: all(suspected_at(agent) > began for agent in agents.values()))
        self.committed = {node: suspected_at(agent) for node, agent in agents.items()}
        assert all(when > began for when in self.committed.values()), "no address was put under re-check"
        lab.cluster.wait_for_recheck()
        self.watch_on()

    def watch_on(self) -> None:
        """Wait for further packets: sent on the ended connections, arrived on the others."""
        wanted = {stream: stream.sent + LATER[stream.plan.protocol] for stream in self.ended}
        # TCP repeats a packet after twice the time of the last one: 12.8 s after the seventh.
        wait_until(lambda: all(stream.sent >= enough for stream, enough in wanted.items()), _REPEATED)
        assert [str(stream.plan) for stream, enough in wanted.items() if stream.sent < enough] == [], (
            "a connection sends no more"
        )
        TrafficStreams.wait_for(_HEARD, *self.kept)

    @property
    def late(self) -> list[str]:
        """Describe the connections with packets that passed after the commit that revoked them."""
        found = []
        for stream, node in self.ended.items():
            after = [when - self.committed[node] for when in stream.passed_after(self.committed[node])]
            if after:
                found.append(f"{len(after)} packets until {max(after) * 1e3:.1f} ms after: {stream.plan}")
        return found

    @property
    def lossy(self) -> list[str]:
        """Describe the kept connections that lost a UDP packet; TCP retransmits lost ones."""
        found = []
        for stream in self.kept:
            numbers = stream.numbers() if stream.plan.protocol == "udp" else []
            if numbers != list(range(1, len(numbers) + 1)):
                lost = sorted(set(range(1, max(numbers) + 1)) - set(numbers))
                found.append(f"{len(numbers)} of {max(numbers)} packets came, not {lost[:5]}: {stream.plan}")
        return found

    def tracked(self, lab: ManifestLab) -> dict[TrafficStream, set[str]]:
        """Return the nodes that have a conntrack entry of each connection."""
        known: dict[TrafficStream, set[str]] = {stream: set() for stream in (*self.ended, *self.kept)}
        owners = {address: lab.pod(path) for path, pod in PODS.items() for address in pod.addresses}
        for plan in lab.topology.nodes.values():
            owners |= dict.fromkeys(plan.addresses, lab.topology.node_namespace(plan.name))
        for node in lab.topology.nodes:
            # Client ports are used again while conntrack still has the entry of an earlier connection.
            found = {
                (owners.get(one.client), one.client_port, owners.get(one.server), one.server_port, one.protocol, family)
                for one in entries_at(lab, node)
                for family in [family_of(one.client)]
            }
            for stream, nodes in known.items():
                planned = stream.plan
                client, server = (planned.client, stream.client_port), (planned.server, planned.listens or planned.port)
                if (*client, *server, PROTOCOLS[planned.protocol], family_of(planned.address)) in found:
                    nodes.add(node)
        return known

    def mistracked(self, lab: ManifestLab) -> list[str]:
        """Describe the ended connections with a conntrack entry, and the kept ones without."""
        tracked = self.tracked(lab)
        left = [f"left: {stream.plan}" for stream, node in self.ended.items() if node in tracked[stream]]
        missing = {stream: passed(lab, stream.plan) - tracked[stream] for stream in self.kept}
        return left + [f"gone from {sorted(nodes)}: {stream.plan}" for stream, nodes in missing.items() if nodes]


def passed(lab: ManifestLab, planned: StreamPlan) -> set[str]:
    """Return the nodes that a connection of two Pods passes."""
    ends = {planned.client, planned.server}
    return {pod.node for pod in lab.topology.pods.values() if lab.pod("/".join(pod.key)) in ends}


@contextlib.contextmanager
def watching(ended: Mapping[StreamPlan, str], kept: Iterable[StreamPlan]) -> Iterator[Watch]:
    """Open connections; of those that are to end, with the node whose agent ends them."""
    with TrafficStreams(INTERVAL) as streams:
        to_end = {streams.open(planned): node for planned, node in ended.items()}
        yield Watch(to_end, [streams.open(planned) for planned in kept])


def cidrs(path: str) -> list[str]:
    """Return a Pod's addresses as CIDRs, IPv4's first."""
    return [f"{address}/{32 if family_of(address) == 4 else 128}" for address in PODS[path].addresses]
