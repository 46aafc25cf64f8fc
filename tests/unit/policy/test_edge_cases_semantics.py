"""docs/semantics.md, edge cases 1 to 9 and 16 to 20: which Pods are isolated, and which connections are allowed."""

from __future__ import annotations

import pytest

from nfagent.model.objects import ObjectRef
from tests.support.edge_cases import BOTH, CLUSTER, HTTP, EdgeCase, blocks, check, cidrs
from tests.support.two_node_cluster import TwoNodeCluster, labelled, namespace, pod, policy

CASES = {
    "[1] ingress for all does not bleed into the egress that allows none": EdgeCase(
        [policy("shop/p", types=BOTH, ingress=[{}], egress=[])],
        passing=("ops/spy > shop/web 80/tcp",),
        dropped=("shop/web > shop/db 80/tcp", "shop/web > shop/cache 80/tcp", "shop/web > outside 80/tcp"),
    ),
    "[1] egress for all does not bleed into the ingress that allows none": EdgeCase(
        [policy("shop/p", types=BOTH, ingress=[], egress=[{}])],
        passing=("shop/web > ops/spy 80/tcp", "shop/web > outside 80/tcp"),
        dropped=("ops/spy > shop/web 80/tcp", "shop/web > shop/db 80/tcp", "shop/web > shop/cache 80/tcp"),
    ),
    "[2] a named port that resolves nowhere allows nothing": EdgeCase(
        [policy("shop/p", labelled(app="web"), types=["Ingress"], ingress=[{"ports": [{"port": "nowhere"}]}])],
        dropped=("ops/spy > shop/web 80/tcp", "ops/spy > shop/web 1/tcp"),
    ),
    "[2] an egress named port that resolves nowhere allows nothing": EdgeCase(
        [policy("shop/p", labelled(app="web"), types=["Egress"], egress=[{"ports": [{"port": "nowhere"}]}])],
        dropped=("shop/web > ops/spy 9000/tcp", "shop/web > outside 80/tcp"),
    ),
    "[2] a named port that resolves nowhere takes nothing from the number beside it": EdgeCase(
        [policy("shop/p", labelled(app="web"), ingress=[{"ports": [{"port": "nowhere"}, {"port": 81}]}])],
        passing=("ops/spy > shop/web 81/tcp",),
        dropped=("ops/spy > shop/web 80/tcp",),
    ),
    "[3] second block inside the first's except still allows": EdgeCase(
        [
            policy(
                "shop/p",
                labelled(app="web"),
                types=["Ingress"],
                ingress=[
                    {"from": blocks({"cidr": "10.64.0.0/15", "except": ["10.64.1.0/24"]}, {"cidr": "10.64.1.20/32"})}
                ],
            )
        ],
        passing=("ops/spy > shop/web 80/tcp", "shop/cache > shop/web 80/tcp"),
        dropped=("shop/db > shop/web 80/tcp", "outside > shop/web 80/tcp"),
    ),
    "[3] and so it does on egress, whichever comes first": EdgeCase(
        [
            policy(
                "shop/p",
                types=["Egress"],
                egress=[
                    {"to": blocks({"cidr": "10.64.1.20/32"}, {"cidr": "10.64.0.0/15", "except": ["10.64.1.0/24"]})}
                ],
            )
        ],
        passing=("shop/web > ops/spy 80/tcp", "shop/web > shop/cache 80/tcp"),
        dropped=("shop/web > shop/db 80/tcp", "shop/web > outside 80/tcp"),
    ),
    "[4] except equal to the whole block allows no address": EdgeCase(
        [
            policy(
                "shop/p",
                types=["Ingress"],
                ingress=[{"from": blocks({"cidr": "10.64.0.0/16", "except": ["10.64.0.0/16"]})}],
            )
        ],
        dropped=("ops/spy > shop/web 80/tcp", "outside > shop/web 80/tcp"),
    ),
    "[4] both halves of everything allow every address": EdgeCase(
        [
            policy(
                "shop/p", types=["Ingress"], ingress=[{"from": blocks({"cidr": "0.0.0.0/1"}, {"cidr": "128.0.0.0/1"})}]
            )
        ],
        passing=("ops/spy > shop/web 80/tcp", "outside > shop/web 80/tcp"),
    ),
    "[4] overlapping blocks of two policies add up": EdgeCase(
        [
            policy(
                "shop/p",
                types=["Ingress"],
                ingress=[{"from": blocks({"cidr": "10.64.1.0/27", "except": ["10.64.1.10/32"]})}],
            ),
            policy("shop/q", types=["Ingress"], ingress=[{"from": blocks({"cidr": "10.64.1.8/29"})}]),
        ],
        passing=("shop/db > shop/web 80/tcp", "ops/spy > shop/web 80/tcp"),
        dropped=("shop/cache > shop/web 80/tcp",),
    ),
    "[4] both halves of everything allow every address by IPv6 too": EdgeCase(
        [policy("shop/p", types=["Ingress"], ingress=[{"from": cidrs("::/1", "8000::/1")}])],
        passing=("ops/spy > shop/web 80/tcp", "outside > shop/web 80/tcp"),
        dropped=("fe80::1 > shop/web 80/tcp",),
        family=6,
    ),
    "[5] ::/0 includes 64:ff9b::/96 and fc00::/8; no rule opens link-local": EdgeCase(
        [policy("shop/p", types=["Egress"], egress=[{"to": blocks({"cidr": "::/0"})}])],
        passing=("shop/web > 64:ff9b::1 80/tcp", "shop/web > fc00::1 80/tcp"),
        dropped=("shop/web > fe80::1 80/tcp",),
        family=6,
    ),
    "[5] ::/0 says nothing about IPv4": EdgeCase(
        [policy("shop/p", types=["Egress"], egress=[{"to": blocks({"cidr": "::/0"})}])],
        dropped=("shop/web > outside 80/tcp",),
    ),
    "[6] ingress: [] allows none": EdgeCase(
        [policy("shop/p", ingress=[])], dropped=("ops/spy > shop/web 80/tcp",), passing=("shop/web > ops/spy 80/tcp",)
    ),
    "[6] absent ingress under policyTypes Egress isolates no ingress": EdgeCase(
        [policy("shop/p", types=["Egress"])],
        passing=("ops/spy > shop/web 80/tcp",),
        dropped=("shop/web > ops/spy 80/tcp",),
    ),
    "[6] ingress: [{}] allows all": EdgeCase([policy("shop/p", ingress=[{}])], passing=("ops/spy > shop/web 80/tcp",)),
    "[6] absent ingress under policyTypes Ingress allows none": EdgeCase(
        [policy("shop/p", types=["Ingress"])],
        dropped=("ops/spy > shop/web 80/tcp",),
        passing=("shop/web > ops/spy 80/tcp",),
    ),
    "[6] egress: [] and absent egress under policyTypes Egress allow none": EdgeCase(
        [
            policy("shop/p", labelled(app="web"), types=["Egress"], egress=[]),
            policy("shop/q", labelled(app="cache"), types=["Egress"]),
        ],
        dropped=("shop/web > ops/spy 80/tcp", "shop/cache > ops/spy 80/tcp"),
        passing=("ops/spy > shop/web 80/tcp", "shop/db > ops/spy 80/tcp"),
    ),
    "[6] egress: [{}] allows all": EdgeCase(
        [policy("shop/p", types=["Egress"], egress=[{}])],
        passing=("shop/web > ops/spy 80/tcp", "shop/web > outside icmp"),
    ),
    "[6] egress rules under policyTypes Ingress alone isolate no egress": EdgeCase(
        [policy("shop/p", types=["Ingress"], egress=[{"ports": [{"port": 443}]}])],
        passing=("shop/web > ops/spy 80/tcp",),
        dropped=("ops/spy > shop/web 80/tcp",),
    ),
    "[7] from: [] and ports: [] mean all peers and all ports": EdgeCase(
        [policy("shop/p", ingress=[{"from": [], "ports": []}])],
        passing=("ops/spy > shop/web 80/tcp", "outside > shop/web icmp", "outside > shop/web 1/sctp"),
    ),
    "[7] to: [] and ports: null mean all peers and all ports": EdgeCase(
        [policy("shop/p", types=["Egress"], egress=[{"to": [], "ports": None}])],
        passing=("shop/web > ops/spy 80/tcp", "shop/web > outside icmp", "shop/web > outside 1/sctp"),
    ),
    "[7] from: [] beside ports means all peers on these ports": EdgeCase(
        [policy("shop/p", types=["Ingress"], ingress=[{"from": [], "ports": [{"port": 80}]}])],
        passing=("ops/spy > shop/web 80/tcp", "outside > shop/web 80/tcp"),
        dropped=("ops/spy > shop/web 81/tcp", "outside > shop/web icmp"),
    ),
    "[7] ports: [] beside peers means all ports of these peers": EdgeCase(
        [policy("shop/p", types=["Ingress"], ingress=[{"from": [{"podSelector": {}}], "ports": []}])],
        passing=("shop/db > shop/web 1/tcp", "shop/db > shop/web icmp"),
        dropped=("ops/spy > shop/web 1/tcp",),
    ),
    "[8] podSelector {} means every Pod of the policy's own namespace": EdgeCase(
        [policy("shop/p", ingress=[{"from": [{"podSelector": {}}]}])],
        passing=("shop/db > shop/web 80/tcp",),
        dropped=("ops/spy > shop/web 80/tcp", "outside > shop/web 80/tcp"),
    ),
    "[8] namespaceSelector {} means every Pod of every namespace": EdgeCase(
        [policy("shop/p", ingress=[{"from": [{"namespaceSelector": {}}]}])],
        passing=("shop/db > shop/web 80/tcp", "ops/spy > shop/web 80/tcp"),
        dropped=("outside > shop/web 80/tcp",),
    ),
    "[8] one peer with both selectors means Pods that match both": EdgeCase(
        [
            policy(
                "shop/p",
                ingress=[{"from": [{"namespaceSelector": labelled(team="red"), "podSelector": labelled(app="web")}]}],
            )
        ],
        passing=("shop/web > shop/db 80/tcp",),
        dropped=("ops/spy > shop/db 80/tcp", "shop/cache > shop/db 80/tcp"),
    ),
    "[8] two peers mean Pods that match either": EdgeCase(
        [
            policy(
                "shop/p",
                ingress=[
                    {"from": [{"namespaceSelector": labelled(team="blue")}, {"podSelector": labelled(app="web")}]}
                ],
            )
        ],
        passing=("shop/web > shop/db 80/tcp", "ops/spy > shop/db 80/tcp"),
        dropped=("shop/cache > shop/db 80/tcp",),
    ),
    "[8] podSelector null beside a namespaceSelector takes every Pod of those Namespaces": EdgeCase(
        [policy("shop/p", ingress=[{"from": [{"namespaceSelector": labelled(team="blue"), "podSelector": None}]}])],
        passing=("ops/spy > shop/web 80/tcp",),
        dropped=("shop/db > shop/web 80/tcp",),
    ),
    "[8] namespaceSelector null beside a podSelector means the policy's own namespace": EdgeCase(
        [policy("shop/p", ingress=[{"from": [{"namespaceSelector": None, "podSelector": labelled(app="web")}]}])],
        passing=("shop/web > shop/db 80/tcp",),
        dropped=("ops/spy > shop/db 80/tcp",),
    ),
    "[8] namespaceSelector {} beside a podSelector means such Pods everywhere": EdgeCase(
        [policy("shop/p", ingress=[{"from": [{"namespaceSelector": {}, "podSelector": labelled(app="web")}]}])],
        passing=("shop/web > shop/db 80/tcp", "ops/spy > shop/db 80/tcp"),
        dropped=("shop/cache > shop/db 80/tcp", "outside > shop/db 80/tcp"),
    ),
    "[9] policyTypes omitted without egress rules isolates ingress alone": EdgeCase(
        [policy("shop/p")], dropped=("ops/spy > shop/web 80/tcp",), passing=("shop/web > ops/spy 80/tcp",)
    ),
    "[9] policyTypes omitted with egress rules isolates both": EdgeCase(
        [policy("shop/p", egress=[{"ports": [{"port": 443}]}])],
        dropped=("ops/spy > shop/web 80/tcp", "shop/web > ops/spy 80/tcp"),
        passing=("shop/web > ops/spy 443/tcp",),
    ),
    "[9] policyTypes omitted with egress: [] isolates ingress alone": EdgeCase(
        [policy("shop/p", egress=[])], dropped=("ops/spy > shop/web 80/tcp",), passing=("shop/web > ops/spy 80/tcp",)
    ),
    "[9] policyTypes: [] is policyTypes omitted": EdgeCase(
        [policy("shop/p", types=[], egress=[{"ports": [{"port": 443}]}])],
        dropped=("ops/spy > shop/web 80/tcp", "shop/web > ops/spy 80/tcp"),
        passing=("shop/web > ops/spy 443/tcp",),
    ),
    "[16] NotIn and DoesNotExist match a missing label": EdgeCase(
        [
            policy(
                "shop/p",
                ingress=[
                    {
                        "from": [
                            {
                                "podSelector": {
                                    "matchExpressions": [
                                        {"key": "tier", "operator": "NotIn", "values": ["back"]},
                                        {"key": "zone", "operator": "DoesNotExist"},
                                    ]
                                }
                            }
                        ]
                    }
                ],
            )
        ],
        passing=("shop/db > shop/web 80/tcp",),
        dropped=("shop/cache > shop/web 80/tcp",),
    ),
    "[16] NotIn selects a Pod without the label": EdgeCase(
        [
            policy(
                "shop/p",
                {"matchExpressions": [{"key": "tier", "operator": "NotIn", "values": ["back"]}]},
                types=["Ingress"],
            )
        ],
        passing=("ops/spy > shop/cache 80/tcp",),
        dropped=("ops/spy > shop/web 80/tcp", "ops/spy > shop/db 80/tcp"),
    ),
    "[16] DoesNotExist takes a Namespace without the label": EdgeCase(
        [
            policy(
                "shop/p",
                types=["Ingress"],
                ingress=[
                    {
                        "from": [
                            {"namespaceSelector": {"matchExpressions": [{"key": "zone", "operator": "DoesNotExist"}]}}
                        ]
                    }
                ],
            )
        ],
        more=(namespace("shop", zone=""),),
        passing=("ops/spy > shop/web 80/tcp",),
        dropped=("shop/db > shop/web 80/tcp",),
    ),
    "[17] a Namespace without kubernetes.io/metadata.name is found by it": EdgeCase(
        [
            policy(
                "shop/p",
                ingress=[{"from": [{"namespaceSelector": labelled(**{"kubernetes.io/metadata.name": "ops"})}]}],
            )
        ],
        passing=("ops/spy > shop/web 80/tcp",),
        dropped=("shop/db > shop/web 80/tcp",),
    ),
    "[17] and so is one that no document describes": EdgeCase(
        [
            policy(
                "shop/p",
                ingress=[{"from": [{"namespaceSelector": labelled(**{"kubernetes.io/metadata.name": "lone"})}]}],
            )
        ],
        more=(pod("lone/x", "b", 30),),
        passing=("lone/x > shop/web 80/tcp",),
        dropped=("ops/spy > shop/web 80/tcp",),
    ),
    "[19] a selector that can't be read fails closed for every Pod that it could select": EdgeCase(
        [policy("shop/p", {"matchExpressions": [{"key": "app", "operator": "Like", "values": ["web"]}]}, ingress=[{}])],
        dropped=("ops/spy > shop/web 80/tcp", "ops/spy > shop/db 80/tcp"),
        passing=("shop/db > ops/spy 80/tcp",),
    ),
    "[19] a rule that can't be read fails closed for the Pods that are selected, and for no other": EdgeCase(
        [
            policy("shop/p", labelled(app="web"), ingress=[{"from": blocks({"cidr": "10.0.0.0/33"})}]),
            policy("shop/q", labelled(app="db"), ingress=[{"ports": [{"port": 5432}]}]),
        ],
        dropped=("shop/db > shop/web 80/tcp", "shop/web > shop/db 80/tcp"),
        passing=("shop/web > shop/db 5432/tcp", "ops/spy > shop/cache 80/tcp", "shop/web > ops/spy 80/tcp"),
    ),
    "[19] a peer's selector that can't be read fails closed for the Pods that are selected": EdgeCase(
        [
            policy(
                "shop/p",
                labelled(app="web"),
                types=["Ingress"],
                ingress=[
                    {},
                    {"from": [{"podSelector": {"matchExpressions": [{"key": "a b", "operator": "Exists"}]}}]},
                ],
            )
        ],
        dropped=("shop/db > shop/web 80/tcp",),
        passing=("ops/spy > shop/db 80/tcp", "shop/web > shop/db 80/tcp"),
    ),
    "[19] policyTypes that can't be read close both directions": EdgeCase(
        [policy("shop/p", labelled(app="web"), types=["Inwards"], ingress=[{}], egress=[{}])],
        passing=("shop/db > shop/cache 80/tcp",),
        dropped=("shop/db > shop/web 80/tcp", "shop/web > shop/db 80/tcp"),
    ),
    "[19] a rule with a field that isn't known opens nothing: `form` for `from` would allow every source": EdgeCase(
        [policy("shop/p", ingress=[{"form": [{"podSelector": labelled(app="db")}]}])],
        dropped=("ops/spy > shop/web 80/tcp", "shop/db > shop/web 80/tcp"),
    ),
    "[19] a spec with a field that isn't known fails closed": EdgeCase(
        [policy("shop/p", ingress=[{"ports": [{"port": 80}]}], later={})],
        dropped=("ops/spy > shop/web 80/tcp",),
    ),
    "[20] policy bc in namespace a never meets policy c in namespace ab": EdgeCase(
        [policy("a/bc", ingress=[{"ports": [{"port": 1}]}]), policy("ab/c", ingress=[{"ports": [{"port": 2}]}])],
        more=(pod("a/x", "a", 30), pod("ab/x", "a", 31)),
        passing=("ops/spy > a/x 1/tcp", "ops/spy > ab/x 2/tcp"),
        dropped=("ops/spy > a/x 2/tcp", "ops/spy > ab/x 1/tcp"),
    ),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_edge_case(case: EdgeCase) -> None:
    check(case)


def test_18_a_namespace_relabel_changes_peers_only() -> None:
    rule = {"from": [{"namespaceSelector": labelled(team="green")}]}
    scene = TwoNodeCluster(*CLUSTER, policy("shop/p", ingress=[rule]))
    assert not scene.passes("ops/spy", "shop/web", "80/tcp")
    chains = scene.views["a"].ruleset().chains
    scene.put(namespace("ops", team="green"))
    assert scene.passes("ops/spy", "shop/web", "80/tcp")
    assert scene.views["a"].ruleset().chains == chains
    scene.put(namespace("ops", team="blue"))
    assert not scene.passes("ops/spy", "shop/web", "80/tcp")


def test_18_a_pod_relabel_changes_who_is_isolated() -> None:
    scene = TwoNodeCluster(*CLUSTER, policy("shop/p", labelled(app="web"), types=["Ingress"]))
    assert not scene.passes("ops/spy", "shop/web", "80/tcp")
    scene.put(pod("shop/web", "a", 10, (HTTP,), app="new"))
    assert scene.passes("ops/spy", "shop/web", "80/tcp")


def test_18_a_namespace_that_is_gone_has_the_label_of_its_name_alone() -> None:
    scene = TwoNodeCluster(
        *CLUSTER, policy("shop/p", ingress=[{"from": [{"namespaceSelector": labelled(team="blue")}]}])
    )
    assert scene.passes("ops/spy", "shop/web", "80/tcp")
    for view in scene.views.values():
        view.remove(ObjectRef("Namespace", "", "ops"))
    assert not scene.passes("ops/spy", "shop/web", "80/tcp")


def test_19_the_message_names_object_field_and_value() -> None:
    scene = TwoNodeCluster(*CLUSTER, policy("shop/p", ingress=[{"from": blocks({"cidr": "10.0.0.0/33"})}]))
    [found] = scene.views["a"].index.policies.values()
    assert str(found.problem).startswith(
        "NetworkPolicy shop/p: spec.ingress[0].from[0].ipBlock.cidr '10.0.0.0/33': is not a CIDR"
    )
