"""The precedence of egress NAT with packets: the source address that an outside host sees, row by row.

Every row is asked by TCP, UDP, ICMP and SCTP; docs/egress-nat.md names the rows.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Literal, TypeAlias

import msgspec
import pytest

from nfagent.lab.probes.listeners import Endpoint, pod_endpoints
from nfagent.lab.probes.probe import Probe
from nfagent.lab.topology.plan import OutsideHost, PodPlan
from tests.support.egress_labs import (
    FAR,
    FAR_V6,
    NARROW,
    NODES,
    PARTNER,
    PARTNER_HOST,
    PARTNER_HOST_V6,
    PARTNER_V6,
    PROTOCOLS,
    WIDE,
    LiveConnection,
    config_map,
    listen_outside,
    nat_policy,
)
from tests.support.packet_labs import (
    Document,
    ManifestLab,
    namespace_document,
    node_document,
    pod_document,
    running_lab,
)
from tests.support.sctp_association import SctpAssociation

pytestmark = pytest.mark.kernel

PAYMENTS = PodPlan("pay", "api", "n1", ("10.244.1.10", "2001:db8:244:1::10"))
BATCH = PodPlan("pay", "batch", "n1", ("10.244.1.11", "2001:db8:244:1::11"))
CLASS_E = PodPlan("wide", "class-e", "n2", ("240.64.2.10", "2001:db8:244:2::10"))
PUBLIC = PodPlan("wide", "public", "n3", ("25.64.3.10", "2001:db8:244:3::10"))
LATE = PodPlan("pay", "late", "n1", ("10.244.1.99", "2001:db8:244:1::99"))
KNOWN = (PAYMENTS, BATCH, CLASS_E, PUBLIC)
PODS = (*KNOWN, LATE)
LABELS = {"api": {"egress": "onprem"}}

PRIVATE = "10.200.0.10"
LINK_LOCAL = "169.254.77.10"
OUTSIDE = OutsideHost("outside", (LINK_LOCAL, PRIVATE, PARTNER, PARTNER_HOST, FAR, PARTNER_V6, PARTNER_HOST_V6, FAR_V6))

Kind: TypeAlias = socket.SocketKind | Literal["sctp"]
KINDS: list[Kind] = [socket.SOCK_STREAM, socket.SOCK_DGRAM, "sctp"]
TO_PARTNERS = ((PARTNER, PARTNER_V6), (PARTNER_HOST, PARTNER_HOST_V6))
ONPREM = {"podSelector": {"matchLabels": {"egress": "onprem"}}}
IN_WIDE = {"namespaceSelector": {"matchLabels": {"ns": "wide"}}}


DOCUMENTS = [
    *map(namespace_document, ("pay", "wide")),
    *(pod_document(pod, LABELS.get(pod.name)) for pod in KNOWN),
]


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ManifestLab]:
    folder = tmp_path_factory.mktemp("lab")
    with running_lab(folder, NODES, PODS, (OUTSIDE,), documents=DOCUMENTS) as running:
        listen_outside(running.topology, running.servers, OUTSIDE)
        running.servers.listen(pod_endpoints(running.topology, PROTOCOLS))
        for node in NODES:
            name = running.topology.node_namespace(node.name)
            running.servers.listen(Endpoint(name, address, "tcp", 10250) for address in node.addresses)
        yield running


@pytest.fixture(autouse=True)
def _tidy(lab: ManifestLab) -> Iterator[None]:
    yield
    if (lab.cluster.manifests / "egress.yaml").exists():
        lab.delete("egress")


def seen(lab: ManifestLab, pod: PodPlan, *addresses: str) -> dict[str, str]:
    """As whom the holder of each address sees a Pod: 'pod' or 'node', or every view where protocols differ."""
    node = lab.topology.nodes[pod.node]
    names = {**dict.fromkeys(pod.addresses, "pod"), **dict.fromkeys(node.addresses, "node")}
    namespace = lab.topology.pod_namespace(*pod.key)
    probes = [Probe(namespace, address, protocol, port) for address in addresses for protocol, port in PROTOCOLS]
    outcomes = lab.ask(probes)
    views: dict[str, set[str]] = {address: set() for address in addresses}
    for probe, outcome in outcomes.items():
        view = names.get(outcome.seen_from or "", f"{outcome.seen_from} by {probe.protocol}")
        views[probe.destination].add(view if outcome.reached else f"{view}, no answer by {probe.protocol}")
    return {address: " and ".join(sorted(found)) for address, found in views.items()}


EVERYTHING = config_map("nonMasqueradeCIDRs: []")
SNAT_WIDE = nat_policy("wide", "SNAT", WIDE)
KEEP_NARROW = nat_policy("narrow", "NoSNAT", NARROW)
KEEP_WIDE = nat_policy("wide", "NoSNAT", WIDE)
SNAT_NARROW = nat_policy("narrow", "SNAT", NARROW)

ROWS = [
    pytest.param((), PAYMENTS, {FAR: "node", FAR_V6: "node", PARTNER: "node"}, id="nothing names it: masquerade"),
    pytest.param((), PAYMENTS, {PRIVATE: "pod"}, id="the built-in list keeps private destinations"),
    pytest.param(
        (config_map('nonMasqueradeCIDRs: ["198.51.100.0/24", "2001:db8:99::/64"]'),),
        PAYMENTS,
        {FAR: "pod", FAR_V6: "pod", PRIVATE: "node"},
        id="the ip-masq-agent list replaces the built-in one",
    ),
    pytest.param(
        (config_map('masqueradeCIDRs: ["198.51.100.0/24", "10.200.0.0/16"]'),),
        PAYMENTS,
        {FAR: "node", PRIVATE: "node", FAR_V6: "pod", PARTNER: "pod"},
        id="the inverse list masquerades its destinations alone",
    ),
    pytest.param(
        (EVERYTHING, nat_policy("default", "NoSNAT", ("198.51.100.0/24", "2001:db8:99::/64"))),
        PAYMENTS,
        {FAR: "pod", FAR_V6: "pod", PRIVATE: "node", PARTNER: "node"},
        id="the policy default replaces the ip-masq-agent list",
    ),
    pytest.param(
        (
            nat_policy("default", "NoSNAT", ()),
            nat_policy("one", "NoSNAT", WIDE[:1]),
            nat_policy("two", "NoSNAT", WIDE[1:]),
        ),
        PAYMENTS,
        {PARTNER: "pod", PARTNER_V6: "pod", FAR: "node", PRIVATE: "node"},
        id="policies add up",
    ),
    pytest.param(
        (nat_policy("some", "NoSNAT", WIDE, ONPREM),),
        PAYMENTS,
        {PARTNER: "pod", PARTNER_V6: "pod", FAR: "node"},
        id="a policy with sources keeps the address of the Pods that it selects",
    ),
    pytest.param(
        (nat_policy("some", "NoSNAT", WIDE, ONPREM),),
        BATCH,
        {PARTNER: "node", PARTNER_V6: "node", PRIVATE: "pod"},
        id="a policy with sources doesn't concern other Pods",
    ),
    pytest.param(
        (nat_policy("some", "NoSNAT", WIDE, IN_WIDE),),
        CLASS_E,
        {PARTNER: "pod", PARTNER_V6: "pod", FAR: "node"},
        id="sources by Namespace",
    ),
    pytest.param(
        (nat_policy("some", "SNAT", ("10.200.0.0/16",), ONPREM),),
        PAYMENTS,
        {PRIVATE: "node"},
        id="a SNAT policy takes a destination out of the base list",
    ),
    pytest.param(
        (nat_policy("some", "SNAT", ("10.200.0.0/16",), ONPREM),),
        BATCH,
        {PRIVATE: "pod"},
        id="for the Pods that it selects alone",
    ),
    pytest.param(
        (SNAT_WIDE, KEEP_NARROW),
        PAYMENTS,
        {PARTNER: "node", PARTNER_V6: "node", PARTNER_HOST: "pod", PARTNER_HOST_V6: "pod"},
        id="the longer prefix wins: NoSNAT inside SNAT",
    ),
    pytest.param(
        (KEEP_WIDE, SNAT_NARROW),
        PAYMENTS,
        {PARTNER: "pod", PARTNER_V6: "pod", PARTNER_HOST: "node", PARTNER_HOST_V6: "node"},
        id="the longer prefix wins: SNAT inside NoSNAT",
    ),
    pytest.param(
        (nat_policy("all", "SNAT", ("0.0.0.0/0", "::/0")),),
        PAYMENTS,
        {PRIVATE: "node", FAR: "node", FAR_V6: "node", CLASS_E.addresses[0]: "pod", PUBLIC.addresses[1]: "pod"},
        id="a policy for the whole space doesn't translate the cluster's own addresses",
    ),
    pytest.param(
        (KEEP_WIDE, nat_policy("other", "SNAT", WIDE[:1])),
        PAYMENTS,
        {PARTNER: "node", PARTNER_V6: "pod"},
        id="policies that disagree about a prefix: neither applies, and it is masqueraded",
    ),
    pytest.param(
        (KEEP_WIDE, nat_policy("other", "SNAT", WIDE, ONPREM)),
        BATCH,
        {PARTNER: "pod", PARTNER_V6: "pod"},
        id="but for the Pods that both select alone",
    ),
    pytest.param((EVERYTHING,), PAYMENTS, {LINK_LOCAL: "pod"}, id="link-local destinations see the Pod's address"),
    pytest.param(
        (config_map("masqLinkLocal: true"),),
        PAYMENTS,
        {LINK_LOCAL: "node", PRIVATE: "pod"},
        id="unless masqLinkLocal is set",
    ),
    pytest.param(
        (nat_policy("some", "NoSNAT", WIDE[:1], ONPREM), nat_policy("all", "NoSNAT", ("198.51.100.0/24",))),
        LATE,
        {PARTNER: "node", FAR: "pod", PRIVATE: "pod", FAR_V6: "node"},
        id="a Pod that isn't known yet has what holds for every Pod of its node's range",
    ),
    pytest.param((), CLASS_E, {FAR: "node", FAR_V6: "node", PRIVATE: "pod"}, id="a Pod of class E is masqueraded"),
    pytest.param(
        (), PUBLIC, {FAR: "node", FAR_V6: "node", PRIVATE: "pod"}, id="a Pod of a public range is masqueraded"
    ),
    pytest.param(
        (EVERYTHING,),
        CLASS_E,
        {PAYMENTS.addresses[0]: "pod", PUBLIC.addresses[0]: "pod", PUBLIC.addresses[1]: "pod"},
        id="Pods of class E and public ranges see Pod addresses",
    ),
]


@pytest.mark.parametrize(("documents", "pod", "expected"), ROWS)
def test_the_outside_sees(
    lab: ManifestLab, documents: tuple[Document, ...], pod: PodPlan, expected: dict[str, str]
) -> None:
    if documents:
        lab.apply("egress", *documents)
    assert seen(lab, pod, *expected) == expected


def test_nodes_see_pod_addresses_whatever_policies_say(lab: ManifestLab) -> None:
    lab.apply("egress", nat_policy("all", "SNAT", ("0.0.0.0/0", "::/0")))
    namespace = lab.topology.pod_namespace(*PAYMENTS.key)
    probes = [Probe(namespace, address, "tcp", 10250) for node in NODES for address in node.addresses]
    assert {outcome.seen_from for outcome in lab.ask(probes).values()} == set(PAYMENTS.addresses)


def test_an_unknown_pod_outside_its_node_s_ranges_keeps_its_address(lab: ManifestLab) -> None:
    ipv4_only = msgspec.structs.replace(NODES[0], pod_cidrs=NODES[0].pod_cidrs[:1])
    lab.apply("cluster", *map(node_document, (ipv4_only, *NODES[1:])), *DOCUMENTS)
    try:
        assert seen(lab, LATE, FAR, FAR_V6) == {FAR: "node", FAR_V6: "pod"}
        assert seen(lab, PAYMENTS, FAR, FAR_V6) == {FAR: "node", FAR_V6: "node"}
    finally:
        lab.apply("cluster", *map(node_document, NODES), *DOCUMENTS)


@pytest.mark.parametrize("destination", [PARTNER, PARTNER_V6], ids=["IPv4", "IPv6"])
@pytest.mark.parametrize("kind", KINDS, ids=["TCP", "UDP", "SCTP"])
def test_a_change_leaves_live_connections_their_translation(lab: ManifestLab, kind: Kind, destination: str) -> None:
    """The change is undone too: a connection that kept the Pod's address goes on with it."""
    for before, after, documents in (("node", "pod", (KEEP_WIDE,)), ("pod", "node", (SNAT_WIDE,))):
        with live_connection(lab, PAYMENTS, destination, kind) as live:
            first = live.ask(b"before")
            lab.apply("egress", *documents)
            assert live.ask(b"after") == first
        assert _whose(first, PAYMENTS) == before
        assert seen(lab, PAYMENTS, destination) == {destination: after}


@pytest.mark.parametrize("kind", KINDS, ids=["TCP", "UDP", "SCTP"])
def test_masqueraded_connections_have_source_ports_of_the_given_ranges(lab: ManifestLab, kind: Kind) -> None:
    agent = lab.cluster.agent(PAYMENTS.node)
    agent.stop()
    agent.start({"NFAGENT_MASQUERADE_TO_PORTS": "20000-20199,30000-30199"})
    try:
        ports = []
        for destination in (FAR, FAR_V6) * 20:
            with live_connection(lab, PAYMENTS, destination, kind) as live:
                assert _whose(live.ask(b"port"), PAYMENTS) == "node"
                ports.append(live.seen_port)
        assert [port for port in ports if not (20000 <= port <= 20199 or 30000 <= port <= 30199)] == []
        assert {port // 10000 for port in ports} == {2, 3}, "both ranges are used"
        assert seen(lab, PAYMENTS, FAR, FAR_V6) == {FAR: "node", FAR_V6: "node"}
    finally:
        agent.stop()
        agent.start()


def live_connection(lab: ManifestLab, pod: PodPlan, destination: str, kind: Kind) -> LiveConnection | SctpAssociation:
    ends = lab.topology.pod_namespace(*pod.key), lab.topology.outside_namespace("outside")
    if isinstance(kind, socket.SocketKind):
        return LiveConnection(*ends, destination, kind)
    return SctpAssociation(*ends, destination)


def _whose(address: str, pod: PodPlan) -> str:
    return "pod" if address in pod.addresses else "node"
