"""Live connections: one that a change denies ends with the commit, one that stays allowed loses no packet.

Edge case 32 of docs/semantics.md: connections with traffic during every kind of change, counted at the receivers.
"""

from __future__ import annotations

import contextlib
import functools
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

import msgspec
import pytest

from nfagent.lab.probes.listeners import ABORT, DOMAINS
from nfagent.lab.probes.packet_counter import PacketCounter
from nfagent.lab.probes.traffic import StreamPlan, TrafficStream
from nfagent.lab.topology import netns
from nfagent.model.netaddr import FAMILIES, Family
from nfagent.netlink.packet_header import TCP
from tests.support.packet_labs import SECONDS, Document, ManifestLab, policy_document, wait_until
from tests.support.revocation_traffic import (
    OTHER_PORT,
    PODS,
    PORT,
    cidrs,
    connections,
    dropped,
    entries_at,
    every_kind,
    line,
    present,
    revocation_lab,
    revocation_rounds,
    watching,
    world,
)

pytestmark = pytest.mark.kernel

DB, CACHE, CALLER = ({"matchLabels": {"app": app}} for app in ("db", "cache", "caller"))
EAST, WEST = ({"namespaceSelector": {"matchLabels": {"ns": name}}} for name in ("east", "west"))
BLUE = {"namespaceSelector": {"matchLabels": {"team": "blue"}}}
CALLERS = {"podSelector": CALLER, "namespaceSelector": {}}
_TRIES = 10
"""A busy machine may be so slow that the revoker comes first."""
CALLING = {"east/near": "n1", "east/far": "n2"}
"""Who is cut off, and where that Pod is."""
OTHER = policy_document("west", "pals", podSelector={}, ingress=[{"from": [WEST]}])
"""After the round of re-check of this change, the next round waits."""
HERE, THERE = ({"ipBlock": {"cidr": cidr}} for cidr in ("0.0.0.0/0", "::/0"))


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory, backend: str) -> Iterator[ManifestLab]:
    with revocation_lab(tmp_path_factory.mktemp("lab"), backend=backend) as running:
        yield running


def isolating(*peers: Document, app: str = "db", ports: Sequence[Document] = ()) -> Document:
    """Return the NetworkPolicy of shop: the allowed peers of an app's Pods, and ports; no peers allow all."""
    rule: Document = {"ports": list(ports)} if ports else {}
    rule |= {"from": list(peers)} if peers else {}
    return policy_document("shop", "db", podSelector={"matchLabels": {"app": app}}, ingress=[rule])


def both(port: int | str, last: int | None = None) -> list[Document]:
    """Return a port for TCP and UDP."""
    return [
        {"protocol": protocol, "port": f"{port}-{protocol.lower()}" if isinstance(port, str) else port}
        | ({"endPort": last} if last else {})
        for protocol in ("TCP", "UDP")
    ]


def to_cache() -> Document:
    """Return a policy that allows east's Pods egress to the cache only."""
    cache = {"podSelector": CACHE, "namespaceSelector": {}}
    return policy_document("east", "to-cache", podSelector={}, policyTypes=["Egress"], egress=[{"to": [cache]}])


def tier(version: str, kind: str, name: str, **spec: object) -> Document:
    return {
        "apiVersion": f"policy.networking.k8s.io/{version}",
        "kind": kind,
        "metadata": {"name": name},
        "spec": spec,
    }


def admin(action: str) -> Document:
    """Return an AdminNetworkPolicy with this action for east's connections to the db."""
    subject = {"pods": {"namespaceSelector": {}, "podSelector": DB}}
    rule = {"action": action, "from": [{"namespaces": EAST["namespaceSelector"]}]}
    return tier("v1alpha1", "AdminNetworkPolicy", "east", priority=5, subject=subject, ingress=[rule])


def baseline() -> Document:
    """Deny traffic from east to the db where no NetworkPolicy decides."""
    denying = admin("Deny")["spec"]
    del denying["priority"]
    return tier("v1alpha1", "BaselineAdminNetworkPolicy", "default", **denying)


def cluster(action: str, priority: int) -> Document:
    """Return a ClusterNetworkPolicy with this action for east's egress to the db."""
    rule = {"action": action, "to": [{"pods": {"namespaceSelector": {}, "podSelector": DB}}]}
    spec: Document = {"tier": "Admin", "priority": priority, "subject": {"namespaces": EAST["namespaceSelector"]}}
    return tier("v1alpha2", "ClusterNetworkPolicy", f"east-{priority}", **spec, egress=[rule])


def audited(policy: Document) -> Document:
    return policy | {"metadata": policy["metadata"] | {"annotations": {"nfagent.io/audit": "true"}}}


def but_for_callers(block: Document, family: int) -> Document:
    excepted = [cidrs(path)[family] for path in CALLING]
    return {"ipBlock": {**block["ipBlock"], "except": excepted}}


class PolicyChange(msgspec.Struct, frozen=True):
    """What the folder holds before a change, and after it.

    policies, then:   the policies before and after
    pods, namespaces: labels that are others after it; None for a Pod that is gone
    at:               the end of its connections at which they are revoked
    open_port:        a port of the db that stays allowed for all
    """

    policies: tuple[Document, ...]
    then: tuple[Document, ...]
    pods: Mapping[str, dict[str, str] | None] = {}
    namespaces: Mapping[str, dict[str, str]] = {}
    at: Literal["client", "server"] = "server"
    open_port: int = 0


def relabelled(policy: Document, **changed: Mapping[str, dict[str, str] | None]) -> PolicyChange:
    return PolicyChange((policy,), (policy,), **changed)  # type: ignore[arg-type]


CHANGES = {
    "a NetworkPolicy is created": PolicyChange((), (isolating(WEST),)),
    "a NetworkPolicy for egress is created": PolicyChange((), (to_cache(),), at="client"),
    "a rule loses a peer": PolicyChange((isolating(EAST, WEST),), (isolating(WEST),)),
    "ipBlocks get exceptions": PolicyChange(
        (isolating(HERE, THERE),), (isolating(but_for_callers(HERE, 0), but_for_callers(THERE, 1)),)
    ),
    "a rule begins at a later port": PolicyChange(
        (isolating(ports=both(PORT, 7009)),), (isolating(ports=both(OTHER_PORT, 7009)),), open_port=OTHER_PORT
    ),
    "a rule loses a named port": PolicyChange(
        (isolating(ports=both("sql") + both("stat")),), (isolating(ports=both("stat")),), open_port=OTHER_PORT
    ),
    "an AdminNetworkPolicy that allows goes, NetworkPolicy decides": PolicyChange(
        (admin("Allow"), isolating(WEST)), (isolating(WEST),)
    ),
    "a ClusterNetworkPolicy that accepts goes, the next one decides": PolicyChange(
        (cluster("Accept", 1), cluster("Deny", 2)), (cluster("Deny", 2),), at="client"
    ),
    "a NetworkPolicy goes, the baseline decides": PolicyChange((isolating(), baseline()), (baseline(),)),
    "an AdminNetworkPolicy that denies is created": PolicyChange((isolating(),), (isolating(), admin("Deny"))),
    "a ClusterNetworkPolicy that denies egress is created": PolicyChange((), (cluster("Deny", 1),), at="client"),
    "a NetworkPolicy's audit mode ends": PolicyChange((audited(isolating(WEST)),), (isolating(WEST),)),
    "an AdminNetworkPolicy's audit mode ends": PolicyChange(
        (isolating(), audited(admin("Deny"))), (isolating(), admin("Deny"))
    ),
    "an allow goes below an audited deny": PolicyChange(
        (audited(admin("Deny")), isolating(EAST, WEST)), (audited(admin("Deny")), isolating(WEST))
    ),
    "peers are relabelled": relabelled(isolating(CALLERS), pods={path: {"app": "stranger"} for path in CALLING}),
    "the Pod is relabelled": relabelled(isolating(WEST, app="vault"), pods={"shop/db": {"app": "vault"}}),
    "a Namespace is relabelled": relabelled(isolating(BLUE), namespaces={"east": {"ns": "east", "team": "red"}}),
    "peers are deleted": relabelled(isolating(CALLERS), pods=dict.fromkeys(CALLING)),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
@pytest.mark.both_backends
def test_32_no_denied_packet_passes_after_the_commit_and_allowed_connections_lose_none(
    lab: ManifestLab, change: PolicyChange
) -> None:
    present(lab, world(), change.policies)
    ended = {
        planned: node if change.at == "client" else "n1"
        for first, (client, node) in enumerate(CALLING.items())
        for planned in every_kind(lab, f"{client} > shop/db", first=(4, 6)[first])
    }
    with watching(ended, others(lab, change.open_port)) as watch:
        watch.through(lab, lambda: present(lab, world(change.pods, change.namespaces), change.then))
        assert watch.late == []
        assert watch.lossy == []
        assert watch.mistracked(lab) == []


def others(lab: ManifestLab, open_port: int) -> Iterator[StreamPlan]:
    """Plan connections that a change leaves alone, with the Pods that it cuts off from each other among their ends."""
    port = open_port or PORT
    yield line(lab, "west/ally > shop/db", "udp", "server", 4, port=port)
    yield line(lab, "west/ally > shop/db", "tcp", "client", 6, port=port)
    yield line(lab, "west/pal > shop/db", "udp", "client", 6, port=port)
    yield line(lab, "east/near > shop/cache", "udp", "client", 4)
    yield line(lab, "east/far > shop/cache", "udp", "server", 6)
    if open_port:
        yield line(lab, "east/near > shop/db", "udp", "server", 6, port=port)
        yield line(lab, "east/far > shop/db", "tcp", "client", 4, port=port)


@pytest.mark.both_backends
def test_32_a_revoked_server_that_goes_on_sending_is_no_client_and_may_be_reached_again(lab: ManifestLab) -> None:
    present(lab, world(), [])
    agent = lab.cluster.agent(PODS["shop/db"].node)
    ended = [line(lab, "east/far > shop/db", "udp", "server", family) for family in (4, 6)]
    with watching(dict.fromkeys(ended, agent.node), []) as watch:
        watch.through(lab, lambda: present(lab, world(), [isolating(WEST)]))
        before = dropped(agent)
        watch.wait_until_sent(10)
        wait_until(lambda: dropped(agent) >= before + 10)
        present(lab, world(), [])
        watch.wait_until_sent(10)
        assert watch.late == []
    with watching({}, ended) as watch:
        watch.wait_for(10)


@contextlib.contextmanager
def strict_tracking(lab: ManifestLab) -> Iterator[None]:
    """Turn off nf_conntrack_tcp_loose on the db's node: TCP packets from mid-connection are invalid."""
    node = lab.topology.node_namespace(PODS["shop/db"].node)
    netns.write_sysctls(node, {"netfilter/nf_conntrack_tcp_loose": "0"})
    try:
        yield
    finally:
        netns.write_sysctls(node, {"netfilter/nf_conntrack_tcp_loose": "1"})


def test_32_packets_of_a_revoked_server_are_dropped_also_where_they_are_invalid(lab: ManifestLab) -> None:
    present(lab, world(), [])
    ended = [line(lab, "east/near > shop/db", "tcp", "server", family) for family in FAMILIES]
    with strict_tracking(lab), watching(dict.fromkeys(ended, "n1"), []) as watch:
        watch.through(lab, lambda: present(lab, world(), [isolating(WEST)]))
        assert watch.late == []


def test_32_a_fin_of_a_revoked_server_is_dropped(lab: ManifestLab) -> None:
    present(lab, world(), [])
    ended = line(lab, "east/far > shop/db", "tcp", "client", 4)
    with watching({ended: "n1"}, []) as watch:
        [stream] = watch.ended
        with PacketCounter(ended.client, 4, "tcp", stream.client_port) as answers:
            watch.through(lab, lambda: present(lab, world(), [isolating(WEST)]))
            before, began = dropped(lab.cluster.agent("n1")), time.monotonic()
            stream.send_fin()
            wait_until(lambda: dropped(lab.cluster.agent("n1")) > before)
            assert [when - began for when, _ in answers.arrivals() if when > began] == []


@pytest.mark.parametrize("family", FAMILIES)
def test_32_a_client_that_resets_its_connection_and_opens_the_ports_again_opens_nothing_for_the_server(
    lab: ManifestLab, family: Family
) -> None:
    """The kernel then deletes the entry of the revoked connection itself, before the revoker has read it."""
    agent = lab.cluster.agent("n1")
    plan, client = line(lab, "east/near > shop/db", "tcp", "server", family), lab.address("east/near", family)

    def change(stream: TrafficStream, rounds: list[int]) -> None:
        present(lab, world(), [OTHER])
        wait_until(agent.recheck_is_done)
        present(lab, world(), [OTHER, isolating(WEST)])
        rounds.append(revocation_rounds(agent))
        stream.reset_and_reopen()
        # Other connections, also ended ones, may have the same port.
        its = (client, stream.client_port, TCP)
        wait_until(lambda: its not in {(one.client, one.client_port, one.protocol) for one in entries_at(lab, "n1")})
        rounds.append(revocation_rounds(agent))

    for _ in range(_TRIES):
        present(lab, world(), [])
        lab.cluster.wait_for_recheck()
        rounds: list[int] = []
        with watching({plan: "n1"}, []) as watch:
            [stream] = watch.ended
            watch.through(lab, functools.partial(change, stream, rounds))
            assert watch.late == []
            watch.watch_on()
            assert watch.late == []
        if rounds[0] == rounds[1]:
            return
    pytest.fail("in every try a round came before the entry was gone")


@pytest.mark.parametrize("family", FAMILIES)
def test_32_a_client_may_open_the_ports_again_of_a_connection_that_its_server_reset_under_re_check(
    lab: ManifestLab, family: Family
) -> None:
    agent = lab.cluster.agent("n1")
    for _ in range(_TRIES):
        present(lab, world(), [])
        lab.cluster.wait_for_recheck()
        with contextlib.ExitStack() as stack:
            listener = stack.enter_context(netns.inside(lab.pod("shop/db"), functools.partial(listening, family)))
            call = functools.partial(calling, family, lab.address("shop/db", family))
            client = stack.enter_context(netns.inside(lab.pod("east/near"), call))
            serving = stack.enter_context(listener.accept()[0])
            present(lab, world(), [OTHER])
            wait_until(agent.recheck_is_done)
            present(lab, world(), [OTHER, isolating(EAST)])
            rounds = revocation_rounds(agent)
            serving.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, ABORT)
            serving.close()
            with pytest.raises(ConnectionResetError):
                client.recv(1)
            in_between = revocation_rounds(agent) == rounds
            port = client.getsockname()[1]
            client.close()
            with connections(lab, "n1") as table:  # as if it had expired
                its = (lab.address("east/near", family), port, TCP)
                known = (one for one in entries_at(lab, "n1") if (one.client, one.client_port, one.protocol) == its)
                assert table.delete(known) == 1
            stack.enter_context(netns.inside(lab.pod("east/near"), functools.partial(call, port)))
        if in_between:
            return
    pytest.fail("in every try a round came before the reset")


def listening(family: Family) -> socket.socket:
    """Listen on the port of the db, in the network namespace of this thread."""
    sock = socket.socket(DOMAINS[family])
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.settimeout(SECONDS)
    sock.bind(("", PORT))
    sock.listen()
    return sock


def calling(family: Family, server: str, own_port: int = 0) -> socket.socket:
    """Connect to the db, from the network namespace of this thread. Raises TimeoutError."""
    sock = socket.socket(DOMAINS[family])
    sock.settimeout(SECONDS)
    try:
        sock.bind(("", own_port))
        sock.connect((server, PORT))
    except OSError:
        sock.close()
        raise
    return sock
