"""corner-cases.md 1 to 20, by number: each flow is asked `evaluate` and what both nodes compile."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest

from nfagent.cluster.model import Ref
from tests.scene import Document, Scene, labelled, namespace, pod, policy, port

HTTP = port(80, "http")
WEB = pod("shop/web", "a", 10, (HTTP,), app="web")
DB = pod("shop/db", "b", 10, (port(5432, "pg"),), app="db")
CACHE = pod("shop/cache", "a", 11, (port(6379, "redis"),), app="cache", tier="back")
SPY = pod("ops/spy", "b", 20, (port(9000, "http"), port(53, "http", "UDP")), app="web")
CLUSTER = (namespace("shop", team="red"), namespace("ops", team="blue"), WEB, DB, CACHE, SPY)
BOTH = ["Ingress", "Egress"]


def blocks(*blocks: Document) -> list[Document]:
    return [{"ipBlock": block} for block in blocks]


class Case(NamedTuple):
    """Policies, and flows as `source > destination port` that pass or don't, in a cluster with some more documents."""

    policies: list[Document]
    passing: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()
    more: tuple[Document, ...] = ()
    family: int = 4


def check(case: Case) -> Scene:
    scene = Scene(*CLUSTER, *case.more, *case.policies)
    for flow in (*case.passing, *case.dropped):
        source, destination, number = flow.replace(">", " ").split()
        assert scene.passes(source, destination, number, case.family) == (flow in case.passing), flow
    return scene


CASES = {
    "[1] ingress for all does not bleed into the egress that allows none": Case(
        [policy("shop/p", types=BOTH, ingress=[{}], egress=[])],
        passing=("ops/spy > shop/web 80/tcp",),
        dropped=("shop/web > shop/db 80/tcp", "shop/web > shop/cache 80/tcp", "shop/web > outside 80/tcp"),
    ),
    "[2] a named port that resolves nowhere allows nothing": Case(
        [policy("shop/p", labelled(app="web"), types=["Ingress"], ingress=[{"ports": [{"port": "nowhere"}]}])],
        dropped=("ops/spy > shop/web 80/tcp", "ops/spy > shop/web 1/tcp"),
    ),
    "[2] an egress named port that resolves nowhere allows nothing": Case(
        [policy("shop/p", labelled(app="web"), types=["Egress"], egress=[{"ports": [{"port": "nowhere"}]}])],
        dropped=("shop/web > ops/spy 9000/tcp", "shop/web > outside 80/tcp"),
    ),
    "[3] second block inside the first's except still allows": Case(
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
    "[4] except equal to the whole block allows nobody": Case(
        [
            policy(
                "shop/p",
                types=["Ingress"],
                ingress=[{"from": blocks({"cidr": "10.64.0.0/16", "except": ["10.64.0.0/16"]})}],
            )
        ],
        dropped=("ops/spy > shop/web 80/tcp", "outside > shop/web 80/tcp"),
    ),
    "[4] both halves of everything allow everybody": Case(
        [
            policy(
                "shop/p", types=["Ingress"], ingress=[{"from": blocks({"cidr": "0.0.0.0/1"}, {"cidr": "128.0.0.0/1"})}]
            )
        ],
        passing=("ops/spy > shop/web 80/tcp", "outside > shop/web 80/tcp"),
    ),
    "[4] overlapping blocks of two policies add up": Case(
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
    "[5] ::/0 includes 64:ff9b::/96, fc00::/8 and link-local": Case(
        [policy("shop/p", types=["Egress"], egress=[{"to": blocks({"cidr": "::/0"})}])],
        passing=("shop/web > 64:ff9b::1 80/tcp", "shop/web > fc00::1 80/tcp", "shop/web > fe80::1 80/tcp"),
        family=6,
    ),
    "[5] ::/0 says nothing about IPv4": Case(
        [policy("shop/p", types=["Egress"], egress=[{"to": blocks({"cidr": "::/0"})}])],
        dropped=("shop/web > outside 80/tcp",),
    ),
    "[6] ingress: [] allows none": Case(
        [policy("shop/p", ingress=[])], dropped=("ops/spy > shop/web 80/tcp",), passing=("shop/web > ops/spy 80/tcp",)
    ),
    "[6] absent ingress under policyTypes Egress isolates no ingress": Case(
        [policy("shop/p", types=["Egress"])],
        passing=("ops/spy > shop/web 80/tcp",),
        dropped=("shop/web > ops/spy 80/tcp",),
    ),
    "[6] ingress: [{}] allows all": Case([policy("shop/p", ingress=[{}])], passing=("ops/spy > shop/web 80/tcp",)),
    "[7] from: [] and ports: [] mean all peers and all ports": Case(
        [policy("shop/p", ingress=[{"from": [], "ports": []}])],
        passing=("ops/spy > shop/web 80/tcp", "outside > shop/web icmp", "outside > shop/web 1/sctp"),
    ),
    "[8] podSelector {} means every Pod of the policy's own namespace": Case(
        [policy("shop/p", ingress=[{"from": [{"podSelector": {}}]}])],
        passing=("shop/db > shop/web 80/tcp",),
        dropped=("ops/spy > shop/web 80/tcp", "outside > shop/web 80/tcp"),
    ),
    "[8] namespaceSelector {} means every Pod of every namespace": Case(
        [policy("shop/p", ingress=[{"from": [{"namespaceSelector": {}}]}])],
        passing=("shop/db > shop/web 80/tcp", "ops/spy > shop/web 80/tcp"),
        dropped=("outside > shop/web 80/tcp",),
    ),
    "[8] one peer with both selectors means Pods that match both": Case(
        [
            policy(
                "shop/p",
                ingress=[{"from": [{"namespaceSelector": labelled(team="red"), "podSelector": labelled(app="web")}]}],
            )
        ],
        passing=("shop/web > shop/db 80/tcp",),
        dropped=("ops/spy > shop/db 80/tcp", "shop/cache > shop/db 80/tcp"),
    ),
    "[8] two peers mean Pods that match either": Case(
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
    "[9] policyTypes omitted without egress rules isolates ingress alone": Case(
        [policy("shop/p")], dropped=("ops/spy > shop/web 80/tcp",), passing=("shop/web > ops/spy 80/tcp",)
    ),
    "[9] policyTypes omitted with egress rules isolates both": Case(
        [policy("shop/p", egress=[{"ports": [{"port": 443}]}])],
        dropped=("ops/spy > shop/web 80/tcp", "shop/web > ops/spy 80/tcp"),
        passing=("shop/web > ops/spy 443/tcp",),
    ),
    "[9] policyTypes omitted with egress: [] isolates ingress alone": Case(
        [policy("shop/p", egress=[])], dropped=("ops/spy > shop/web 80/tcp",), passing=("shop/web > ops/spy 80/tcp",)
    ),
    "[10] an unset protocol is TCP": Case(
        [policy("shop/p", ingress=[{"ports": [{"port": 80}]}])],
        passing=("ops/spy > shop/web 80/tcp",),
        dropped=("ops/spy > shop/web 80/udp", "ops/spy > shop/web 80/sctp"),
    ),
    "[11] a port with only a protocol matches every port of it": Case(
        [policy("shop/p", ingress=[{"ports": [{"protocol": "UDP"}]}])],
        passing=("ops/spy > shop/web 1/udp", "ops/spy > shop/web 65535/udp"),
        dropped=("ops/spy > shop/web 1/tcp", "ops/spy > shop/web icmp"),
    ),
    "[11] an empty port entry matches every TCP port": Case(
        [policy("shop/p", ingress=[{"ports": [{}]}])],
        passing=("ops/spy > shop/web 1/tcp",),
        dropped=("ops/spy > shop/web 1/udp",),
    ),
    "[12] a rule for SCTP still isolates TCP": Case(
        [policy("shop/p", ingress=[{"ports": [{"protocol": "SCTP", "port": 80}]}])],
        passing=("ops/spy > shop/web 80/sctp",),
        dropped=("ops/spy > shop/web 80/tcp", "ops/spy > shop/web 80/udp", "ops/spy > shop/web icmp"),
    ),
    "[13] a named port is each Pod's own": Case(
        [policy("shop/p", labelled(app="web"), ingress=[{"ports": [{"port": "http"}]}])],
        more=(pod("shop/web2", "b", 12, (port(8080, "http"),), app="web"),),
        passing=("ops/spy > shop/web 80/tcp", "ops/spy > shop/web2 8080/tcp"),
        dropped=("ops/spy > shop/web 8080/tcp", "ops/spy > shop/web2 80/tcp"),
    ),
    "[13] one name for TCP and UDP is two ports": Case(
        [policy("shop/p", labelled(app="dns"), ingress=[{"ports": [{"port": "dns", "protocol": "UDP"}]}])],
        more=(pod("shop/dns", "a", 12, (port(53, "dns"), port(5353, "dns", "UDP")), app="dns"),),
        passing=("ops/spy > shop/dns 5353/udp",),
        dropped=("ops/spy > shop/dns 53/udp", "ops/spy > shop/dns 53/tcp", "ops/spy > shop/dns 5353/tcp"),
    ),
    "[14] an egress named port without `to` resolves in every namespace, by destination Pod": Case(
        [policy("shop/p", labelled(app="cache"), types=["Egress"], egress=[{"ports": [{"port": "http"}]}])],
        passing=("shop/cache > shop/web 80/tcp", "shop/cache > ops/spy 9000/tcp"),
        dropped=("shop/cache > ops/spy 80/tcp", "shop/cache > shop/web 9000/tcp", "shop/cache > outside 80/tcp"),
    ),
    "[14] an egress named port follows the peers that `to` names": Case(
        [
            policy(
                "shop/p",
                labelled(app="cache"),
                types=["Egress"],
                egress=[{"to": [{"podSelector": {}}], "ports": [{"port": "http"}]}],
            )
        ],
        passing=("shop/cache > shop/web 80/tcp",),
        dropped=("shop/cache > ops/spy 9000/tcp",),
    ),
    "[15] endPort equal to port is one port": Case(
        [policy("shop/p", ingress=[{"ports": [{"port": 80, "endPort": 80}]}])],
        passing=("ops/spy > shop/web 80/tcp",),
        dropped=("ops/spy > shop/web 79/tcp", "ops/spy > shop/web 81/tcp"),
    ),
    "[15] 1-65535 is every port": Case(
        [policy("shop/p", ingress=[{"ports": [{"port": 1, "endPort": 65535}]}])],
        passing=("ops/spy > shop/web 1/tcp", "ops/spy > shop/web 65535/tcp"),
        dropped=("ops/spy > shop/web icmp",),
    ),
    "[15] overlapping ranges add up": Case(
        [policy("shop/p", ingress=[{"ports": [{"port": 80, "endPort": 90}, {"port": 85, "endPort": 95}]}])],
        passing=("ops/spy > shop/web 80/tcp", "ops/spy > shop/web 87/tcp", "ops/spy > shop/web 95/tcp"),
        dropped=("ops/spy > shop/web 96/tcp",),
    ),
    "[15] endPort below port is refused, and the policy fails closed": Case(
        [policy("shop/p", ingress=[{}, {"ports": [{"port": 80, "endPort": 79}]}])],
        dropped=("ops/spy > shop/web 80/tcp",),
    ),
    "[16] NotIn and DoesNotExist match a missing label": Case(
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
    "[17] a Namespace without kubernetes.io/metadata.name is found by it": Case(
        [
            policy(
                "shop/p",
                ingress=[{"from": [{"namespaceSelector": labelled(**{"kubernetes.io/metadata.name": "ops"})}]}],
            )
        ],
        passing=("ops/spy > shop/web 80/tcp",),
        dropped=("shop/db > shop/web 80/tcp",),
    ),
    "[19] a selector that can't be read fails closed for every Pod that it could select": Case(
        [policy("shop/p", {"matchExpressions": [{"key": "app", "operator": "Like", "values": ["web"]}]}, ingress=[{}])],
        dropped=("ops/spy > shop/web 80/tcp", "ops/spy > shop/db 80/tcp"),
        passing=("shop/db > ops/spy 80/tcp",),
    ),
    "[19] a rule that can't be read fails closed for the Pods that are selected, and for no other": Case(
        [
            policy("shop/p", labelled(app="web"), ingress=[{"from": blocks({"cidr": "10.0.0.0/33"})}]),
            policy("shop/q", labelled(app="db"), ingress=[{"ports": [{"port": 5432}]}]),
        ],
        dropped=("shop/db > shop/web 80/tcp", "shop/web > shop/db 80/tcp"),
        passing=("shop/web > shop/db 5432/tcp", "ops/spy > shop/cache 80/tcp", "shop/web > ops/spy 80/tcp"),
    ),
    "[20] policy bc in namespace a never meets policy c in namespace ab": Case(
        [policy("a/bc", ingress=[{"ports": [{"port": 1}]}]), policy("ab/c", ingress=[{"ports": [{"port": 2}]}])],
        more=(pod("a/x", "a", 30), pod("ab/x", "a", 31)),
        passing=("ops/spy > a/x 1/tcp", "ops/spy > ab/x 2/tcp"),
        dropped=("ops/spy > a/x 2/tcp", "ops/spy > ab/x 1/tcp"),
    ),
    "[37] ICMP with a peer-only rule is allowed, and so are protocols without ports": Case(
        [policy("shop/p", ingress=[{"from": [{"podSelector": {}}]}])],
        passing=("shop/db > shop/web icmp", "shop/db > shop/web 47", "shop/db > shop/web 50"),
        dropped=("ops/spy > shop/web icmp", "ops/spy > shop/web 47"),
    ),
    "[37] ICMP is dropped where a rule has ports": Case(
        [policy("shop/p", ingress=[{"ports": [{"port": 80}, {"protocol": "UDP"}]}])],
        dropped=("shop/db > shop/web icmp", "shop/db > shop/web 47", "shop/db > shop/web 4"),
    ),
    "[39] a node always reaches its own Pods, and another node doesn't": Case(
        [policy("shop/p", types=["Ingress"])],
        passing=("a > shop/web 80/tcp", "b > shop/db 80/tcp"),
        dropped=("b > shop/web 80/tcp",),
    ),
    "[51] a Pod's egress to its own node is judged": Case(
        [policy("shop/p", types=["Egress"], egress=[{"to": blocks({"cidr": "192.168.0.2/32"})}])],
        passing=("shop/web > b 80/tcp",),
        dropped=("shop/web > a 80/tcp",),
    ),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_corner_case(case: Case) -> None:
    check(case)


def test_13_ports_of_two_containers_and_of_a_sidecar_count_and_those_of_an_init_container_do_not() -> None:
    server = pod("shop/web", "a", 10, (HTTP,), app="web")
    server["spec"]["containers"].append({"name": "more", "ports": [port(8080, "http")]})
    server["spec"]["initContainers"] = [
        {"name": "sidecar", "restartPolicy": "Always", "ports": [port(9090, "http")]},
        {"name": "init", "ports": [port(7070, "http")]},
    ]
    scene = Scene(*CLUSTER, server, policy("shop/p", labelled(app="web"), ingress=[{"ports": [{"port": "http"}]}]))
    open_ports = [number for number in (80, 7070, 8080, 9090) if scene.passes("ops/spy", "shop/web", f"{number}/tcp")]
    assert open_ports == [80, 8080, 9090]


def test_18_a_namespace_relabel_changes_peers_only() -> None:
    rule = {"from": [{"namespaceSelector": labelled(team="green")}]}
    scene = Scene(*CLUSTER, policy("shop/p", ingress=[rule]))
    assert not scene.passes("ops/spy", "shop/web", "80/tcp")
    chains = scene.views["a"].ruleset().chains
    scene.put(namespace("ops", team="green"))
    assert scene.passes("ops/spy", "shop/web", "80/tcp")
    assert scene.views["a"].ruleset().chains == chains
    scene.put(namespace("ops", team="blue"))
    assert not scene.passes("ops/spy", "shop/web", "80/tcp")


def test_18_a_pod_relabel_changes_who_is_isolated() -> None:
    scene = Scene(*CLUSTER, policy("shop/p", labelled(app="web"), types=["Ingress"]))
    assert not scene.passes("ops/spy", "shop/web", "80/tcp")
    scene.put(pod("shop/web", "a", 10, (HTTP,), app="new"))
    assert scene.passes("ops/spy", "shop/web", "80/tcp")


def test_18_a_namespace_that_is_gone_has_the_label_of_its_name_alone() -> None:
    scene = Scene(*CLUSTER, policy("shop/p", ingress=[{"from": [{"namespaceSelector": labelled(team="blue")}]}]))
    assert scene.passes("ops/spy", "shop/web", "80/tcp")
    for view in scene.views.values():
        view.remove(Ref("Namespace", "", "ops"))
    assert not scene.passes("ops/spy", "shop/web", "80/tcp")


def test_19_the_message_names_object_field_and_value() -> None:
    scene = Scene(*CLUSTER, policy("shop/p", ingress=[{"from": blocks({"cidr": "10.0.0.0/33"})}]))
    [found] = scene.views["a"].index.policies.values()
    assert str(found.problem).startswith(
        "NetworkPolicy shop/p: spec.ingress[0].from[0].ipBlock.cidr '10.0.0.0/33': is not a CIDR"
    )


def test_26_a_mapped_address_and_its_ipv4_form_are_one() -> None:
    mapped = pod("ops/mapped", "b", 21)
    mapped["status"]["podIPs"] = [{"ip": "::ffff:10.64.1.21"}]
    scene = Scene(
        *CLUSTER, mapped, policy("shop/p", ingress=[{"from": [{"namespaceSelector": labelled(team="blue")}]}])
    )
    assert scene.passes("10.64.1.21", "shop/web", "80/tcp")


def lively(**changes: Any) -> Document:  # noqa: ANN401 - a document's own fields
    found = pod("shop/job", "a", 40, app="job")
    for path, value in changes.items():
        room, _, key = path.partition("_")
        found[room][key] = value
    return found


ISOLATED = policy("shop/p", types=["Ingress"])


def test_40_a_host_network_pod_does_not_enrol_the_nodes_address() -> None:
    host = lively(spec_hostNetwork=True, status_podIPs=[{"ip": "192.168.0.1"}])
    ruleset = Scene(*CLUSTER, host, ISOLATED).views["a"].ruleset()
    assert "192.168.0.1" not in ruleset.maps["ingress4"].elements
    peers = policy("ops/p", ingress=[{"from": [{"namespaceSelector": {}}]}])
    sets = Scene(*CLUSTER, host, peers).views["b"].ruleset().sets
    assert [name for name, item in sets.items() if "192.168.0.1" in item.elements] == []


@pytest.mark.parametrize("phase", ["Succeeded", "Failed"])
def test_41_an_address_that_a_finished_pod_gave_back_is_free(phase: str) -> None:
    scene = Scene(*CLUSTER, lively(status_phase=phase), ISOLATED)
    assert scene.passes("ops/spy", "10.64.0.40", "80/tcp")
    scene.put(pod("ops/heir", "a", 40))
    assert scene.passes("ops/spy", "10.64.0.40", "80/tcp")


@pytest.mark.parametrize("phase", ["Pending", "Running", "Unknown"])
def test_41_a_pod_that_holds_its_address_is_isolated_in_every_other_phase(phase: str) -> None:
    assert not Scene(*CLUSTER, lively(status_phase=phase), ISOLATED).passes("ops/spy", "10.64.0.40", "80/tcp")


@pytest.mark.parametrize(("first", "second"), [("ops/aa", "shop/job"), ("shop/job", "shop/zz")])
def test_41_of_two_pods_with_one_address_the_first_by_name_is_judged(first: str, second: str) -> None:
    scene = Scene(*CLUSTER, pod(first, "a", 40), pod(second, "a", 40), ISOLATED)
    assert scene.passes("ops/spy", "10.64.0.40", "80/tcp") == first.startswith("ops/")


def test_42_the_second_family_arrives_later() -> None:
    scene = Scene(*CLUSTER, lively(status_podIPs=[{"ip": "10.64.0.40"}]), ISOLATED)
    assert not scene.passes("ops/spy", "10.64.0.40", "80/tcp")
    assert scene.passes("2001:db8:0:b::20", "2001:db8:0:a::40", "80/tcp", 6)
    scene.put(lively())
    assert not scene.passes("2001:db8:0:b::20", "2001:db8:0:a::40", "80/tcp", 6)
