"""A Pod of many labels among many policies: any tenant may make one, and an API server takes it."""

from __future__ import annotations

from nfagent.model.networkpolicy import NetworkPolicy, NetworkPolicyRule, PodPeer
from nfagent.model.objects import Labels, Pod
from nfagent.model.selectors import Requirement, Selector
from nfagent.state.cluster import ClusterState
from nfagent.state.policy_index import PolicyIndex
from tests.support.work_counts import CountedText, text_uses

LABELS: Labels = tuple((CountedText(f"key-{number:05}"), "value") for number in range(20_000))


def without(key: str) -> Selector:
    """Select Pods without a label: no index narrows these."""
    return Selector((Requirement(key, "DoesNotExist"),))


def test_matching_many_labels_with_many_selectors_costs_no_product_of_both() -> None:
    cluster = ClusterState("a")
    index = PolicyIndex(cluster)
    index.follow(cluster.put(Pod("shop", "other", (("app", "other"),), "a", ("10.0.0.1",))))
    for number in range(1_000):
        rule = NetworkPolicyRule(peers=(PodPeer(without(f"peer-{number}"), namespace="shop"),))
        name, pods = f"policy-{number}", without(f"pod-{number}")
        index.put(NetworkPolicy(namespace="shop", name=name, pods=pods, ingress=(rule,)))
    pod = Pod("shop", "web", LABELS, "a", ("10.0.0.2",))
    assert 0 < text_uses(lambda: index.follow(cluster.put(pod))) < 20 * len(LABELS)
    assert len(index.policies_of(Pod("shop", "web", LABELS, "a"))) == 1_000
