"""The routes of a connection to a Service, and what policies see (docs/semantics.md, edge cases 28 to 30)."""

from __future__ import annotations

from typing import Any

import pytest

from nfagent.explain.endpoints import read_query
from nfagent.explain.service_routes import ServiceRoutes, find_routes
from tests.support.two_node_cluster import Document, TwoNodeCluster, pod, port, service

CLIENT, HERE, THERE = "10.64.0.10", "10.64.0.11", "10.64.1.12"
CLIENT6, THERE6 = "2001:db8:0:a::10", "2001:db8:0:b::12"
A, B, OUTSIDE = "192.168.0.1", "192.168.0.2", "203.0.113.7"
PODS = (
    pod("shop/client", "a", 10),
    pod("shop/here", "a", 11, (port(8080, "http"),), app="web"),
    pod("shop/there", "b", 12, (port(9090, "http"),), app="web"),
)


def web(**spec: Any) -> Document:  # noqa: ANN401 - a document's own fields
    ports = [{"name": "http", "port": 80, "targetPort": 8080, "nodePort": 30080}]
    return service("shop/web", {"app": "web"}, **{"clusterIP": "10.96.0.10", "ports": ports, **spec})


def routes(source: str, destination: str, *documents: Document) -> ServiceRoutes:
    cluster = TwoNodeCluster(*PODS, *documents).views["a"].cluster
    return find_routes(cluster, read_query(cluster, source, destination))


def seen(found: ServiceRoutes) -> list[tuple[str, str]]:
    """Return each way as what the client's policies see, and what the server's do."""
    return [(str(route.leaving), str(route.arriving)) for route in found.routes]


def straight(source: str, *servers: str, number: int = 8080) -> list[tuple[str, str]]:
    ends = [f"[{server}]" if ":" in server else server for server in servers]
    return [(f"{source} -> {end}:{number}/tcp",) * 2 for end in ends]


LOCAL = {"externalTrafficPolicy": "Local"}
EXTERNAL = {"externalIPs": [OUTSIDE]}
CLUSTER = "externalTrafficPolicy is Cluster"


@pytest.mark.parametrize(
    ("source", "destination", "spec", "expected"),
    [
        pytest.param(
            "shop/client",
            "10.96.0.10:80",
            {},
            straight(CLIENT, HERE, THERE),
            id="[28] the Pods' port, not the Service's",
        ),
        pytest.param(
            "shop/client",
            "[2001:db8:96::10]:80",
            {"clusterIPs": ["10.96.0.10", "2001:db8:96::10"]},
            straight(CLIENT6, "2001:db8:0:a::11", THERE6),
            id="an IPv6 address leads to IPv6 addresses",
        ),
        pytest.param(
            "shop/client",
            "10.96.0.10:80",
            {"ports": [{"port": 80, "targetPort": "http"}]},
            [*straight(CLIENT, HERE), *straight(CLIENT, THERE, number=9090)],
            id="a target's name is each Pod's own",
        ),
        pytest.param(
            "shop/client",
            "10.96.0.10:80",
            {"internalTrafficPolicy": "Local"},
            straight(CLIENT, HERE),
            id="internal and Local: the Pods on the client's node",
        ),
        pytest.param(
            A,
            "10.96.0.10:80",
            {"internalTrafficPolicy": "Local"},
            straight(A, HERE),
            id="the same for a node as client",
        ),
        pytest.param(
            "shop/client",
            "svc/shop/web",
            {"clusterIP": "None", **LOCAL, "internalTrafficPolicy": "Local"},
            straight(CLIENT, HERE, THERE),
            id="headless: no traffic policy",
        ),
        pytest.param(
            "shop/client",
            "svc/shop/web",
            {"clusterIP": None},
            straight(CLIENT, HERE, THERE),
            id="no address in a file yet",
        ),
        pytest.param(
            OUTSIDE,
            f"{A}:30080",
            {},
            [
                (f"{OUTSIDE} -> {A}:30080/tcp", f"{OUTSIDE} -> {HERE}:8080/tcp"),
                (f"{OUTSIDE} -> {A}:30080/tcp", f"{A} -> {THERE}:8080/tcp"),
            ],
            id="[30] a node port: another node's Pod sees the node",
        ),
        pytest.param(
            OUTSIDE,
            f"{A}:30080",
            LOCAL,
            [(f"{OUTSIDE} -> {A}:30080/tcp", f"{OUTSIDE} -> {HERE}:8080/tcp")],
            id="[30] Local: only Pods there, which see the client",
        ),
        pytest.param(
            "shop/client",
            f"{B}:30080",
            {},
            [
                (f"{CLIENT} -> {B}:30080/tcp", f"{B} -> {HERE}:8080/tcp"),
                (f"{CLIENT} -> {B}:30080/tcp", f"{CLIENT} -> {THERE}:8080/tcp"),
            ],
            id="another node's port: the client's policies see that node",
        ),
        pytest.param(
            "shop/client",
            f"{A}:30080",
            {},
            [*straight(CLIENT, HERE), (f"{CLIENT} -> {THERE}:8080/tcp", f"{A} -> {THERE}:8080/tcp")],
            id="the own node's port: they see the Pod",
        ),
        pytest.param(
            "shop/client",
            f"{A}:30080",
            LOCAL,
            straight(CLIENT, HERE, THERE),
            id="Local, from a Pod on that node: all Pods",
        ),
        pytest.param(
            "shop/client",
            f"{OUTSIDE}:80",
            EXTERNAL,
            [*straight(CLIENT, HERE), (f"{CLIENT} -> {THERE}:8080/tcp", f"{A} -> {THERE}:8080/tcp")],
            id="an external address, from a Pod: its node passes it on",
        ),
        pytest.param(
            "198.51.100.1",
            f"{OUTSIDE}:80",
            EXTERNAL,
            straight("198.51.100.1", HERE, THERE),
            id="an external address, from outside: the node is unknown",
        ),
    ],
)
def test_what_both_ends_see(
    source: str, destination: str, spec: dict[str, Any], expected: list[tuple[str, str]]
) -> None:
    assert seen(routes(source, destination, web(**spec))) == expected


@pytest.mark.parametrize(
    ("cluster_ip", "translated"), [("10.96.0.10", True), ("None", False)], ids=["through its address", "headless"]
)
def test_what_comes_back_to_the_client_is_translated_unless_it_called_itself(
    cluster_ip: str,
    translated: bool,  # noqa: FBT001 - a column of the table
) -> None:
    found = routes("shop/here", "svc/shop/web:http", web(clusterIP=cluster_ip))
    own = next(route for route in found.routes if route.arriving.destination == HERE)
    assert own.leaving == own.arriving
    assert own.arriving.translated is translated


def test_a_plain_connection_takes_one_way() -> None:
    found = routes("shop/client", "shop/here:http")
    assert (seen(found), found.lines) == (straight(CLIENT, HERE), ())


@pytest.mark.parametrize(
    ("source", "destination", "spec", "lines"),
    [
        pytest.param(
            "shop/client",
            "10.96.0.10:80",
            {},
            ["10.96.0.10:80/tcp is Service shop/web, port http: it goes to one of 2 Pods"],
            id="two Pods",
        ),
        pytest.param(
            "shop/client",
            "10.96.0.10:80",
            {"internalTrafficPolicy": "Local"},
            [
                "10.96.0.10:80/tcp is Service shop/web, port http: it goes to its only Pod",
                "internalTrafficPolicy is Local: only to Pods on node a",
            ],
            id="the client's node",
        ),
        pytest.param(
            "shop/client",
            "svc/shop/web:80",
            {"clusterIP": "None", "ports": []},
            ["Service shop/web: it goes to one of 2 Pods, by the address of the Pod itself"],
            id="headless",
        ),
        pytest.param(
            OUTSIDE,
            f"{A}:30080",
            {},
            [
                f"{A}:30080/tcp is Service shop/web, port http, on node a: it goes to one of 2 Pods",
                f"{CLUSTER}: Pods on other nodes see node a's address, {A}",
            ],
            id="a node port",
        ),
        pytest.param(
            OUTSIDE,
            f"{A}:30080",
            LOCAL,
            [
                f"{A}:30080/tcp is Service shop/web, port http, on node a: it goes to its only Pod",
                "externalTrafficPolicy is Local: only to Pods on node a, which see the client's address",
            ],
            id="a node port and Local",
        ),
        pytest.param(
            "shop/client",
            f"{B}:30080",
            {},
            [
                f"{B}:30080/tcp is Service shop/web, port http, on node b: it goes to one of 2 Pods",
                "node b translates it: the client's policies see the node's address and port",
                f"{CLUSTER}: Pods on other nodes see node b's address, {B}",
            ],
            id="another node's port",
        ),
        pytest.param(
            "198.51.100.1",
            f"{OUTSIDE}:80",
            EXTERNAL,
            [
                f"{OUTSIDE}:80/tcp is Service shop/web, port http: it goes to one of 2 Pods",
                f"{CLUSTER}: evaluated with the client's address, but Pods on other nodes see the entry node's",
            ],
            id="an external address from outside",
        ),
    ],
)
def test_what_is_said_about_a_service(source: str, destination: str, spec: dict[str, Any], lines: list[str]) -> None:
    assert list(routes(source, destination, web(**spec)).lines) == lines


ENDED = pod("shop/ended", "a", 20, app="gone")
ENDED["status"]["phase"] = "Failed"


@pytest.mark.parametrize(
    ("source", "spec", "why"),
    [
        pytest.param(
            "shop/client",
            {"selector": {"app": "ghost"}},
            "as no Pod in namespace shop has the labels app=ghost",
            id="no Pod has the labels",
        ),
        pytest.param(
            "shop/client",
            {"selector": {"app": "gone"}},
            "as no Pod with the labels app=gone is running and has an address",
            id="the only one has ended",
        ),
        pytest.param(
            "shop/client",
            {"ports": [{"port": 80, "targetPort": "https"}]},
            "as none of its Pods has a tcp port of the name https",
            id="no Pod has a port of that name",
        ),
        pytest.param(
            "shop/client",
            {"internalTrafficPolicy": "Local", "selector": {"on": "b"}},
            "as none of its Pods is on node a, and internalTrafficPolicy is Local",
            id="all are elsewhere",
        ),
        pytest.param(
            "shop/four",
            {"clusterIP": None, "selector": {"on": "6"}},
            "as none of its Pods has an IPv4 address",
            id="another family",
        ),
    ],
)
def test_why_no_pod_serves_a_service(source: str, spec: dict[str, Any], why: str) -> None:
    four, six = pod("shop/four", "a", 30), pod("shop/six", "a", 31, on="6")
    four["status"]["podIPs"], six["status"]["podIPs"] = [{"ip": "10.64.0.30"}], [{"ip": "2001:db8:0:a::31"}]
    described = {**web()["spec"], **spec}
    behind = {**web(), "spec": described}
    found = routes(source, "svc/shop/web:80", behind, ENDED, four, six, pod("shop/far", "b", 32, on="b"))
    assert found.routes == ()
    assert found.lines[0].endswith(f"no Pod serves it, {why}")
