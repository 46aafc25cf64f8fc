"""Objects as kubectl writes them, to packets: each kind of change takes effect on both nodes."""

from __future__ import annotations

import pytest

from nfagent.lab.probes.listeners import pod_endpoints
from nfagent.lab.probes.probe import Probe
from nfagent.lab.topology.plan import PodPlan
from nfagent.model.netaddr import FAMILIES
from tests.apiserver.lab.conftest import NODES, OUTSIDE
from tests.support.apiserver_labs import ApiLab
from tests.support.packet_labs import Document, namespace_document, node_document, pod_document, policy_document

pytestmark = [pytest.mark.kernel, pytest.mark.apiserver, pytest.mark.usefixtures("tidy")]

A = {"matchLabels": {"pod": "a"}}
FRIEND = PodPlan("y", "friend", "b", ("10.64.1.50", "2001:db8:0:b::50"))
STRANGER = PodPlan("y", "stranger", "b", FRIEND.addresses)


def from_pods(**labels: str) -> list[Document]:
    return [{"from": [{"namespaceSelector": {}, "podSelector": {"matchLabels": labels}}]}]


def from_namespaces(**labels: str) -> list[Document]:
    return [{"from": [{"namespaceSelector": {"matchLabels": labels}}]}]


def seen(lab: ApiLab, host: int) -> list[str]:
    """Return the source that an outside host sees for x/a, by family: 'pod' or 'node'."""
    pod, node = lab.topology.pods["x", "a"], lab.topology.nodes[lab.topology.pods["x", "a"].node]
    probes = [Probe(lab.pod("x/a"), address, "tcp", 443) for address in OUTSIDE[host].addresses]
    came = [outcome.seen_from for outcome in lab.ask(probes).values()]
    return ["node" if source in node.addresses else "pod" if source in pod.addresses else "unknown" for source in came]


def test_a_policy_holds_from_its_creation_through_its_change_to_its_deletion(lab: ApiLab) -> None:
    policy = policy_document("x", "p", podSelector=A, ingress=from_pods(pod="b"))
    lab.cluster.put(policy)
    assert (lab.reach("y/a", "x/a"), lab.reach("y/b", "x/a")) == ({False}, {True})
    policy["spec"]["ingress"] = from_pods(pod="a")
    lab.cluster.put(policy)
    assert (lab.reach("y/a", "x/a"), lab.reach("y/b", "x/a")) == ({True}, {False})
    lab.cluster.delete(policy)
    assert (lab.reach("y/a", "x/a"), lab.reach("y/b", "x/a")) == ({True}, {True})


def test_a_pod_is_judged_by_its_labels_from_its_start_to_its_end_and_its_address_by_its_next_holder(
    lab: ApiLab,
) -> None:
    lab.cluster.put(policy_document("x", "p", podSelector=A, ingress=from_pods(role="friend")))
    lab.topology.add_pod(FRIEND)
    try:
        lab.cluster.put(pod_document(FRIEND, {"role": "friend"}))
        lab.cluster.wait_for_links()
        assert lab.reach("y/friend", "x/a") == {True}
        lab.cluster.put(pod_document(FRIEND, {"role": "foe"}))
        assert lab.reach("y/friend", "x/a") == {False}
        lab.cluster.put(pod_document(FRIEND, {"role": "friend"}))
        assert lab.reach("y/friend", "x/a") == {True}
        lab.cluster.delete(pod_document(FRIEND))
        assert lab.reach("y/friend", "x/a") == {False}, "no Pod has the address"
    finally:
        lab.topology.remove_pod("y", "friend")
    lab.topology.add_pod(STRANGER)
    try:
        lab.servers.listen(pod_endpoints(lab.topology, [("tcp", 80)])[-2:])
        lab.cluster.put(
            pod_document(STRANGER, {"role": "stranger"}),
            policy_document("y", "q", podSelector={"matchLabels": {"role": "stranger"}}, policyTypes=["Ingress"]),
        )
        lab.cluster.wait_for_links()
        assert lab.reach("y/stranger", "x/a") == {False}
        assert lab.reach("x/b", "y/stranger") == {False}, "its own policy holds"
        lab.cluster.put(pod_document(STRANGER, {"role": "friend"}))
        assert lab.reach("y/stranger", "x/a") == {True}
        assert lab.reach("x/b", "y/stranger") == {True}
    finally:
        lab.servers.stop(lab.pod("y/stranger"))
        lab.topology.remove_pod("y", "stranger")


def test_a_namespace_that_is_relabelled_takes_its_pods_along(lab: ApiLab) -> None:
    lab.cluster.put(policy_document("x", "p", podSelector=A, ingress=from_namespaces(team="blue")))
    assert lab.reach("y/a", "x/a") == {False}
    lab.cluster.put(namespace_document("y", {"ns": "y", "team": "blue"}))
    assert (lab.reach("y/a", "x/a"), lab.reach("z/a", "x/a")) == ({True}, {False})
    lab.cluster.put(namespace_document("y"))
    assert lab.reach("y/a", "x/a") == {False}


def test_a_policy_may_select_by_the_label_that_the_server_gives_every_namespace(lab: ApiLab) -> None:
    named = {"kubernetes.io/metadata.name": "z"}
    lab.cluster.put(policy_document("x", "p", podSelector=A, ingress=from_namespaces(**named)))
    assert (lab.reach("y/a", "x/a"), lab.reach("z/a", "x/a")) == ({False}, {True})


def test_towards_a_node_that_joins_pods_keep_their_addresses(lab: ApiLab) -> None:
    assert seen(lab, 1) == ["node", "node"]
    joining = node_document(NODES[0]) | {"metadata": {"name": "late"}, "spec": {}}
    joining["status"] = {"addresses": [{"type": "InternalIP", "address": one} for one in OUTSIDE[1].addresses]}
    lab.cluster.put(joining)
    assert (seen(lab, 0), seen(lab, 1)) == (["node", "node"], ["pod", "pod"])
    lab.cluster.delete(joining)
    assert seen(lab, 1) == ["node", "node"]


def test_the_masquerade_list_is_followed_and_no_other_config_map(lab: ApiLab) -> None:
    def config_map(name: str) -> Document:
        meta = {"namespace": "kube-system", "name": name}
        data = {"config": 'nonMasqueradeCIDRs: ["198.51.100.0/24", "2001:db8:99::/64"]'}
        return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "data": data}

    lab.cluster.put(config_map("ip-masq-agent-2"))
    assert seen(lab, 0) == ["node", "node"]
    lab.cluster.put(config_map("ip-masq-agent"))
    assert seen(lab, 0) == ["pod", "pod"]
    lab.cluster.delete(config_map("ip-masq-agent"))
    assert seen(lab, 0) == ["node", "node"]


def test_explain_asks_the_server_for_services_when_it_is_asked(lab: ApiLab) -> None:
    service: Document = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"namespace": "x", "name": "web"},
        "spec": {"selector": {"pod": "a"}, "ports": [{"port": 8080, "targetPort": 80}], "clusterIP": "10.96.0.77"},
    }
    lab.client.put(service)
    lab.cluster.put(policy_document("x", "p", podSelector=A, ingress=from_pods(pod="b")))
    agent = lab.cluster.agent("a")
    for called in ("svc/x/web:8080", "10.96.0.77:8080"):
        allowed, denied = agent.run("explain", "y/b", called), agent.run("explain", "y/a", called)
        assert (allowed.returncode, denied.returncode) == (0, 1), (allowed, denied)
        assert "x/a" in denied.stdout
        assert "x/p" in denied.stdout


@pytest.mark.parametrize("family", FAMILIES)
def test_every_pod_reaches_every_other_without_a_policy(lab: ApiLab, family: int) -> None:
    pods = [f"{pod.namespace}/{pod.name}" for pod in lab.topology.pods.values()]
    expected = {
        Probe(lab.pod(source), lab.address(destination, family), "tcp", 80): True
        for source in pods
        for destination in pods
        if source != destination
    }
    assert lab.wrong(expected) == []
