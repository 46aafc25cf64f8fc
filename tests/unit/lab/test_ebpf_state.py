"""The map entries of the eBPF path: what one change writes, and what isn't covered."""

from __future__ import annotations

import pytest

from nfagent.lab.ebpf.codec import ANY, HOST, PortKey
from nfagent.lab.ebpf.state import EbpfState
from nfagent.model.objects import ObjectRef
from nfagent.policy.evaluator import Flow
from tests.support.ebpf_maps import MapsModel
from tests.support.egress_labs import gateway_group, nat_policy
from tests.support.packet_labs import logging_document
from tests.support.two_node_cluster import (
    Document,
    decoded,
    labelled,
    namespace,
    node,
    pod,
    policy,
    port,
    service,
    tier_policy,
)

WEB = pod("shop/web", "a", 10, (port(80, "http"),), app="web")
TWIN = pod("shop/twin", "a", 11, (port(8080, "http"),), app="web")
CLIENT = pod("shop/client", "b", 10, app="client")
OTHER = pod("shop/other", "b", 11, app="client")
FROM_CLIENT = policy("shop/web", labelled(app="web"), ingress=[{"from": [{"podSelector": labelled(app="client")}]}])


class Cluster:
    """The state of node a with the maps that its changes made."""

    def __init__(self, *documents: Document) -> None:
        self.state = EbpfState("a")
        self.maps = MapsModel()
        self.put(namespace("shop"), node("a"), node("b"), *documents)

    def put(self, *documents: Document) -> None:
        for document in documents:
            self.state.put(decoded(document))
        self.drain()

    def remove(self, ref: ObjectRef) -> None:
        self.state.remove(ref)
        self.drain()

    def drain(self) -> None:
        self.change = self.state.drain()
        self.maps.apply(self.change)

    def reaches(self, client: str, server: str, number: int) -> bool:
        flow = Flow(self.address(client), self.address(server), "tcp", number)
        return self.maps.allows(("shop", server), "ingress", flow)

    def address(self, name: str) -> str:
        return self.state.cluster.pods["shop", name].addresses[0]


def test_a_pod_that_joins_the_peers_of_a_policy_is_an_entry_for_each_address() -> None:
    cluster = Cluster(WEB, CLIENT, FROM_CLIENT)
    cluster.put(OTHER)
    assert len(cluster.change.identity_puts) == len(cluster.state.cluster.pods["shop", "other"].addresses)
    assert (cluster.change.policy_puts, cluster.change.endpoints, cluster.change.revokes) == ([], {}, False)
    assert cluster.reaches("other", "web", 80)


def test_the_first_pod_of_its_labels_brings_the_entries_of_its_identity() -> None:
    cluster = Cluster(WEB, FROM_CLIENT)
    assert cluster.maps.policies == set()
    cluster.put(CLIENT)
    assert {entry.ports for entry in cluster.change.policy_puts} == {PortKey()}
    cluster.remove(ObjectRef("Pod", "shop", "client"))
    assert cluster.maps.policies == set()
    assert cluster.change.revokes


def test_pods_that_the_same_policies_select_share_a_policy_but_where_it_names_their_ports() -> None:
    cluster = Cluster(WEB, TWIN, FROM_CLIENT)
    endpoints = cluster.maps.endpoints
    assert endpoints["shop", "web"].ingress == endpoints["shop", "twin"].ingress != 0
    assert endpoints["shop", "web"].egress == 0
    named = [{"port": "http"}]
    cluster.put(CLIENT, policy("shop/web", labelled(app="web"), ingress=[{"ports": named}]))
    assert endpoints["shop", "web"].ingress != endpoints["shop", "twin"].ingress
    assert [cluster.reaches("client", "web", number) for number in (80, 8080)] == [True, False]
    assert [cluster.reaches("client", "twin", number) for number in (80, 8080)] == [False, True]


def test_an_address_that_changes_its_pods_while_a_policy_is_new_leaves_no_entry() -> None:
    """Its identity of two Pods is gone with the same change that makes the policy's entries."""
    cluster = Cluster(WEB, CLIENT, pod("shop/second", "b", 10, app="client"))
    cluster.state.put(decoded(FROM_CLIENT))
    cluster.put(pod("shop/second", "b", 12, app="client"))
    identities = {entry.identity for entry in cluster.maps.policies}
    assert identities <= {ANY, *cluster.maps.identities.values()}


def test_the_nodes_own_addresses_are_the_host() -> None:
    cluster = Cluster(WEB)
    own = cluster.state.cluster.nodes["a"].addresses
    assert {cluster.maps.identities[address] for address in own} == {HOST}


@pytest.mark.parametrize(
    ("documents", "reason"),
    [
        pytest.param(
            [tier_policy("AdminNetworkPolicy", "first", {"namespaces": {}}, priority=1)],
            "AdminNetworkPolicy first is a policy of a tier",
            id="a policy of a tier",
        ),
        pytest.param(
            [FROM_CLIENT | {"metadata": {**FROM_CLIENT["metadata"], "annotations": {"nfagent.io/audit": "true"}}}],
            "NetworkPolicy shop/web is audited",
            id="an audited policy",
        ),
        pytest.param(
            [
                policy(
                    "shop/web",
                    labelled(app="web"),
                    policyTypes=["Egress"],
                    egress=[{"to": [{"ipBlock": {"cidr": "10.0.0.0/8"}}], "ports": [{"port": "http"}]}],
                )
            ],
            "names a port of an ipBlock",
            id="a named port of an ipBlock",
        ),
        pytest.param(
            [WEB | {"metadata": {**WEB["metadata"], "name": "copy"}}], "another Pod of this node", id="a shared address"
        ),
    ],
)
def test_what_is_not_covered_closes_its_pods_and_is_named(documents: list[Document], reason: str) -> None:
    cluster = Cluster(WEB, CLIENT, *documents)
    assert any(reason in refusal for refusal in cluster.state.coverage.refusals)
    assert any("Pod shop/web is closed" in refusal for refusal in cluster.state.coverage.refusals)
    assert not cluster.reaches("client", "web", 80)
    assert cluster.maps.endpoints["shop", "web"].egress != 0


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        pytest.param(
            nat_policy("some", "NoSNAT", ["203.0.113.0/24"], {"podSelector": labelled(app="web")}),
            "EgressNATPolicy some has sources",
            id="a translation of some Pods",
        ),
        pytest.param(
            gateway_group("kube-system/gw", ["203.0.113.1"]), "NetworkGatewayGroup kube-system/gw", id="a gateway"
        ),
        pytest.param(
            logging_document(allow=True, deny=True)
            | {"spec": {"cluster": {"allow": {"log": True, "delegate": True}, "deny": {"log": True}}}},
            "NetworkLogging default delegates",
            id="delegated logging",
        ),
    ],
)
def test_what_has_no_pods_to_close_is_named(document: Document, reason: str) -> None:
    cluster = Cluster(WEB, document)
    assert any(reason in refusal for refusal in cluster.state.coverage.refusals)
    assert cluster.maps.endpoints["shop", "web"].ingress == 0


def test_a_service_is_closed_to_isolated_pods_also_where_an_ipblock_has_its_address() -> None:
    egress = [{"to": [{"ipBlock": {"cidr": "10.96.0.0/16"}}]}]
    restricted = policy("shop/web", labelled(app="web"), policyTypes=["Egress"], egress=egress)
    cluster = Cluster(WEB, CLIENT, restricted, service("shop/api", {"app": "api"}, clusterIP="10.96.0.7"))
    flows = [Flow(cluster.address("web"), address, "tcp", 80) for address in ("10.96.0.7", "10.96.0.8")]
    assert [cluster.maps.allows(("shop", "web"), "egress", flow) for flow in flows] == [False, True]
    cluster.remove(ObjectRef("Service", "shop", "api"))
    assert cluster.maps.allows(("shop", "web"), "egress", flows[0])
