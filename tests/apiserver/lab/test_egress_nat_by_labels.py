"""Egress NAT through the API server: Pods by their labels, to the packets, with the conditions of the policies."""

from __future__ import annotations

import pytest

from nfagent.lab.probes.probe import Probe
from tests.apiserver.lab.conftest import OUTSIDE, PODS, PORTS
from tests.support.apiserver_labs import ApiLab
from tests.support.egress_labs import nat_policy
from tests.support.packet_labs import namespace_document, pod_document, wait_until

pytestmark = [pytest.mark.kernel, pytest.mark.apiserver, pytest.mark.usefixtures("all_kinds", "tidy")]

TO_OUTSIDE = ("198.51.100.0/24", "2001:db8:99::/64")
BLUE_A = {"namespaceSelector": {"matchLabels": {"team": "blue"}}, "podSelector": {"matchLabels": {"pod": "a"}}}


def views(lab: ApiLab, *pods: str) -> list[str]:
    """Return as whom the outside host sees each Pod, in both families: 'pod', 'node', or both if they differ."""
    found = []
    for path in pods:
        namespace, name = path.split("/")
        pod = lab.topology.pods[namespace, name]
        names = {**dict.fromkeys(pod.addresses, "pod"), **dict.fromkeys(lab.topology.nodes[pod.node].addresses, "node")}
        outcomes = lab.ask(Probe(lab.pod(path), address, "tcp", 443) for address in OUTSIDE[0].addresses)
        found.append(" and ".join(sorted({names.get(one.seen_from or "", "neither") for one in outcomes.values()})))
    return found


def test_a_pod_s_translation_follows_its_labels_and_those_of_its_namespace(lab: ApiLab) -> None:
    lab.cluster.put(nat_policy("blue", "NoSNAT", TO_OUTSIDE, BLUE_A))
    assert views(lab, "x/a", "x/b", "y/a") == ["node", "node", "node"]
    [plan] = [pod for pod in PODS if pod.key == ("x", "a")]
    try:
        lab.cluster.put(namespace_document("x", {"ns": "x", "team": "blue"}))
        assert views(lab, "x/a", "x/b", "y/a") == ["pod", "node", "node"]
        lab.cluster.put(pod_document(plan, {"pod": "other"}, ports=PORTS))
        assert views(lab, "x/a") == ["node"]
        lab.cluster.put(pod_document(plan, ports=PORTS))
        assert views(lab, "x/a") == ["pod"]
    finally:
        lab.cluster.put(pod_document(plan, ports=PORTS), namespace_document("x"))


def conditions(lab: ApiLab, name: str) -> dict[str, str]:
    found = (lab.client.get(nat_policy(name, "SNAT", TO_OUTSIDE)) or {}).get("status", {}).get("conditions", [])
    return {item["type"]: item["status"] for item in found}


def test_enforced_policies_say_so_and_policies_that_disagree_say_that(lab: ApiLab) -> None:
    enforced = {"Accepted": "True", "Programmed": "True"}
    lab.cluster.put(nat_policy("one", "SNAT", TO_OUTSIDE))
    wait_until(lambda: conditions(lab, "one") == enforced)
    assert conditions(lab, "one") == enforced
    lab.cluster.put(nat_policy("two", "NoSNAT", TO_OUTSIDE))
    assert views(lab, "x/a") == ["node"]
    wait_until(lambda: {conditions(lab, name).get("Programmed") for name in ("one", "two")} == {"False"})
    assert {conditions(lab, name).get("Programmed") for name in ("one", "two")} == {"False"}
    lab.cluster.delete(nat_policy("one", "SNAT", TO_OUTSIDE))
    assert views(lab, "x/a") == ["pod"]
    wait_until(lambda: conditions(lab, "two") == enforced)
    assert conditions(lab, "two") == enforced
