"""docs/semantics.md, edge cases 10 to 15, and 37: the ports of rules."""

from __future__ import annotations

import pytest

from tests.support.edge_cases import CLUSTER, HTTP, EdgeCase, check, cidrs
from tests.support.two_node_cluster import TwoNodeCluster, labelled, pod, policy, port

CASES = {
    "[10] an unset protocol is TCP": EdgeCase(
        [policy("shop/p", ingress=[{"ports": [{"port": 80}]}])],
        passing=("ops/spy > shop/web 80/tcp",),
        dropped=("ops/spy > shop/web 80/udp", "ops/spy > shop/web 80/sctp"),
    ),
    "[10] and so it is of a named port": EdgeCase(
        [policy("ops/p", ingress=[{"ports": [{"port": "http"}]}])],
        passing=("shop/web > ops/spy 9000/tcp",),
        dropped=("shop/web > ops/spy 53/udp", "shop/web > ops/spy 9000/udp"),
    ),
    "[11] a port with only a protocol matches every port of it": EdgeCase(
        [policy("shop/p", ingress=[{"ports": [{"protocol": "UDP"}]}])],
        passing=("ops/spy > shop/web 1/udp", "ops/spy > shop/web 65535/udp"),
        dropped=("ops/spy > shop/web 1/tcp", "ops/spy > shop/web icmp"),
    ),
    "[11] an empty port entry matches every TCP port": EdgeCase(
        [policy("shop/p", ingress=[{"ports": [{}]}])],
        passing=("ops/spy > shop/web 1/tcp",),
        dropped=("ops/spy > shop/web 1/udp",),
    ),
    "[12] a rule for SCTP still isolates TCP": EdgeCase(
        [policy("shop/p", ingress=[{"ports": [{"protocol": "SCTP", "port": 80}]}])],
        passing=("ops/spy > shop/web 80/sctp",),
        dropped=("ops/spy > shop/web 80/tcp", "ops/spy > shop/web 80/udp", "ops/spy > shop/web icmp"),
    ),
    "[12] a rule for UDP still isolates TCP, on egress too": EdgeCase(
        [policy("shop/p", types=["Egress"], egress=[{"ports": [{"protocol": "UDP", "port": 53}]}])],
        passing=("shop/web > ops/spy 53/udp",),
        dropped=("shop/web > ops/spy 53/tcp", "shop/web > ops/spy 53/sctp", "shop/web > outside icmp"),
    ),
    "[13] a named port is each Pod's own": EdgeCase(
        [policy("shop/p", labelled(app="web"), ingress=[{"ports": [{"port": "http"}]}])],
        more=(pod("shop/web2", "b", 12, (port(8080, "http"),), app="web"),),
        passing=("ops/spy > shop/web 80/tcp", "ops/spy > shop/web2 8080/tcp"),
        dropped=("ops/spy > shop/web 8080/tcp", "ops/spy > shop/web2 80/tcp"),
    ),
    "[13] one name for TCP and UDP is two ports": EdgeCase(
        [policy("shop/p", labelled(app="dns"), ingress=[{"ports": [{"port": "dns", "protocol": "UDP"}]}])],
        more=(pod("shop/dns", "a", 12, (port(53, "dns"), port(5353, "dns", "UDP")), app="dns"),),
        passing=("ops/spy > shop/dns 5353/udp",),
        dropped=("ops/spy > shop/dns 53/udp", "ops/spy > shop/dns 53/tcp", "ops/spy > shop/dns 5353/tcp"),
    ),
    "[14] an egress named port without `to` resolves in every namespace, by destination Pod": EdgeCase(
        [policy("shop/p", labelled(app="cache"), types=["Egress"], egress=[{"ports": [{"port": "http"}]}])],
        passing=("shop/cache > shop/web 80/tcp", "shop/cache > ops/spy 9000/tcp"),
        dropped=("shop/cache > ops/spy 80/tcp", "shop/cache > shop/web 9000/tcp", "shop/cache > outside 80/tcp"),
    ),
    "[14] an egress named port follows the peers that `to` names": EdgeCase(
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
    "[15] endPort equal to port is one port": EdgeCase(
        [policy("shop/p", ingress=[{"ports": [{"port": 80, "endPort": 80}]}])],
        passing=("ops/spy > shop/web 80/tcp",),
        dropped=("ops/spy > shop/web 79/tcp", "ops/spy > shop/web 81/tcp"),
    ),
    "[15] 1-65535 is every port": EdgeCase(
        [policy("shop/p", ingress=[{"ports": [{"port": 1, "endPort": 65535}]}])],
        passing=("ops/spy > shop/web 1/tcp", "ops/spy > shop/web 65535/tcp"),
        dropped=("ops/spy > shop/web icmp",),
    ),
    "[15] overlapping ranges add up": EdgeCase(
        [policy("shop/p", ingress=[{"ports": [{"port": 80, "endPort": 90}, {"port": 85, "endPort": 95}]}])],
        passing=("ops/spy > shop/web 80/tcp", "ops/spy > shop/web 87/tcp", "ops/spy > shop/web 95/tcp"),
        dropped=("ops/spy > shop/web 96/tcp",),
    ),
    "[15] endPort below port is refused, and the policy fails closed": EdgeCase(
        [policy("shop/p", ingress=[{}, {"ports": [{"port": 80, "endPort": 79}]}])],
        dropped=("ops/spy > shop/web 80/tcp",),
    ),
    "[15] a range ends where it says": EdgeCase(
        [policy("shop/p", types=["Egress"], egress=[{"ports": [{"port": 8000, "endPort": 8010, "protocol": "UDP"}]}])],
        passing=("shop/web > ops/spy 8000/udp", "shop/web > ops/spy 8010/udp"),
        dropped=("shop/web > ops/spy 7999/udp", "shop/web > ops/spy 8011/udp", "shop/web > ops/spy 8005/tcp"),
    ),
    "[37] ICMP with a peer-only rule is allowed, and so are protocols without ports": EdgeCase(
        [policy("shop/p", ingress=[{"from": [{"podSelector": {}}]}])],
        passing=("shop/db > shop/web icmp", "shop/db > shop/web 47", "shop/db > shop/web 50"),
        dropped=("ops/spy > shop/web icmp", "ops/spy > shop/web 47"),
    ),
    "[37] ICMP is dropped where a rule has ports": EdgeCase(
        [policy("shop/p", ingress=[{"ports": [{"port": 80}, {"protocol": "UDP"}]}])],
        dropped=("shop/db > shop/web icmp", "shop/db > shop/web 47", "shop/db > shop/web 4"),
    ),
    "[37] and so it is on egress, by IPv6, and where a block is the peer": EdgeCase(
        [
            policy("shop/p", labelled(app="web"), types=["Egress"], egress=[{"to": [{"podSelector": {}}]}]),
            policy("shop/q", labelled(app="cache"), types=["Egress"], egress=[{"to": cidrs("2606:4700::/32")}]),
        ],
        passing=("shop/web > shop/db icmpv6", "shop/web > shop/db 47", "shop/cache > outside icmpv6"),
        dropped=("shop/web > outside icmpv6", "shop/cache > shop/db icmpv6", "shop/cache > shop/db 4"),
        family=6,
    ),
    "[37] no rule at all allows neither ICMP nor any other protocol": EdgeCase(
        [policy("shop/p", types=["Ingress"])],
        dropped=("shop/db > shop/web icmp", "shop/db > shop/web 4", "shop/db > shop/web 50"),
    ),
    "[37] beside a rule with ports, one with peers alone lets their ICMP in": EdgeCase(
        [
            policy(
                "shop/p",
                types=["Ingress"],
                ingress=[{"ports": [{"port": 80}]}, {"from": [{"podSelector": labelled(app="db")}]}],
            )
        ],
        passing=("ops/spy > shop/web 80/tcp", "shop/db > shop/web icmp"),
        dropped=("ops/spy > shop/web icmp", "shop/cache > shop/web icmp"),
    ),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_edge_case(case: EdgeCase) -> None:
    check(case)


def test_13_ports_of_two_containers_and_of_a_sidecar_count_and_those_of_an_init_container_do_not() -> None:
    server = pod("shop/web", "a", 10, (HTTP,), app="web")
    server["spec"]["containers"].append({"name": "more", "ports": [port(8080, "http")]})
    server["spec"]["initContainers"] = [
        {"name": "sidecar", "restartPolicy": "Always", "ports": [port(9090, "http")]},
        {"name": "init", "ports": [port(7070, "http")]},
    ]
    scene = TwoNodeCluster(
        *CLUSTER, server, policy("shop/p", labelled(app="web"), ingress=[{"ports": [{"port": "http"}]}])
    )
    open_ports = [number for number in (80, 7070, 8080, 9090) if scene.passes("ops/spy", "shop/web", f"{number}/tcp")]
    assert open_ports == [80, 8080, 9090]
