"""Parsing of the two ends of a connection, and its error messages."""

from __future__ import annotations

import pytest

from nfagent.errors import UsageError
from nfagent.explain.endpoints import FlowQuery, describe_address, read_query
from nfagent.explain.service_routes import find_routes
from nfagent.state.pod_lookup import find_pod
from tests.support.two_node_cluster import Document, TwoNodeCluster, pod, port, service

PODS = (
    pod("shop/web", "a", 10, app="web"),
    pod(
        "shop/db", "b", 20, (port(5432, "postgres"), port(53, "dns", "UDP"), port(54, "both"), port(54, "both", "UDP"))
    ),
    pod("ops/db", "b", 30),
)
WEB, DB, OUTSIDE = "10.64.0.10", "10.64.1.20", "203.0.113.7"
WEB6, DB6, OUTSIDE6 = "2001:db8:0:a::10", "2001:db8:0:b::20", "2606:4700::1"
SERVICES = (
    service(
        "shop/web",
        {"app": "web"},
        clusterIPs=["10.96.0.10", "2001:db8:96::10"],
        externalIPs=["192.168.0.2"],
        ports=[
            {"name": "http", "port": 80, "targetPort": 8080, "nodePort": 30080},
            {"name": "dns", "port": 53, "protocol": "UDP"},
            {"name": "dns-tcp", "port": 53},
            {"name": "sig", "port": 99, "protocol": "SCTP", "nodePort": 30099},
        ],
    ),
    service("shop/one", {"app": "web"}, clusterIP="10.96.0.11", ports=[{"port": 9, "protocol": "UDP"}]),
    service("shop/heads", {"app": "web"}, clusterIP="None", ports=[{"name": "http", "port": 80, "targetPort": 8080}]),
    service("ops/api", clusterIP="10.96.0.1"),
    service("ops/alias", type="ExternalName", externalName="db.example", ports=[]),
)


def asked(source: str, destination: str, *documents: Document) -> FlowQuery:
    return read_query(TwoNodeCluster(*PODS, *documents).views["a"].cluster, source, destination)


def complaint(source: str, destination: str, *documents: Document) -> str:
    cluster = TwoNodeCluster(*PODS, *documents).views["a"].cluster
    with pytest.raises(UsageError) as caught:
        find_routes(cluster, read_query(cluster, source, destination))
    return str(caught.value)


@pytest.mark.parametrize(
    ("source", "destination", "flow"),
    [
        pytest.param("shop/web", "shop/db:5432/tcp", f"{WEB} -> {DB}:5432/tcp", id="a Pod's port with its protocol"),
        pytest.param("shop/web", "shop/db:5432", f"{WEB} -> {DB}:5432/tcp", id="a port is TCP's"),
        pytest.param("shop/web", "shop/db:53/UDP", f"{WEB} -> {DB}:53/udp", id="a protocol in capitals"),
        pytest.param("shop/web", "shop/db:9/sctp", f"{WEB} -> {DB}:9/sctp", id="SCTP"),
        pytest.param("shop/web", "shop/db:postgres", f"{WEB} -> {DB}:5432/tcp", id="a port by its name"),
        pytest.param("shop/web", "shop/db:dns", f"{WEB} -> {DB}:53/udp", id="a named port has its own protocol"),
        pytest.param("shop/web", "shop/db:both/udp", f"{WEB} -> {DB}:54/udp", id="a name that two protocols have"),
        pytest.param("shop/web", f"{DB}:postgres", f"{WEB} -> {DB}:5432/tcp", id="a named port of a Pod by address"),
        pytest.param("shop/web", "shop/db", f"{WEB} -> {DB}/icmp", id="no port is a ping"),
        pytest.param(WEB6, "shop/db", f"{WEB6} -> {DB6}/icmpv6", id="and a ping of IPv6 between IPv6 addresses"),
        pytest.param(OUTSIDE, "shop/db:80", f"{OUTSIDE} -> {DB}:80/tcp", id="an IPv4 address"),
        pytest.param("shop/web", f"{OUTSIDE}:53/udp", f"{WEB} -> {OUTSIDE}:53/udp", id="an IPv4 address and a port"),
        pytest.param("shop/web", OUTSIDE6, f"{WEB6} -> {OUTSIDE6}/icmpv6", id="an IPv6 address as it is"),
        pytest.param("shop/web", f"[{OUTSIDE6}]", f"{WEB6} -> {OUTSIDE6}/icmpv6", id="an IPv6 address in brackets"),
        pytest.param("shop/web", f"[{OUTSIDE6}]:443", f"{WEB6} -> [{OUTSIDE6}]:443/tcp", id="and its port"),
        pytest.param("shop/web", "[2606:4700::0:1]:443", f"{WEB6} -> [{OUTSIDE6}]:443/tcp", id="not canonical"),
        pytest.param("shop/web", f"::ffff:{OUTSIDE}", f"{WEB} -> {OUTSIDE}/icmp", id="IPv4 written as IPv6"),
    ],
)
def test_ends_are_parsed(source: str, destination: str, flow: str) -> None:
    assert str(asked(source, destination).flow()) == flow


@pytest.mark.parametrize(
    ("source", "destination", "words"),
    [
        pytest.param(
            "", "shop/db", "'' is neither NAMESPACE/POD nor an address; write one like shop/web", id="nothing"
        ),
        pytest.param(
            "web",
            "shop/db",
            "'web' is not an IP address; write one like 10.0.0.1 or 2001:db8::1; a Pod is written NAMESPACE/POD, "
            "a Service svc/NAMESPACE/NAME",
            id="a Pod without its namespace",
        ),
        pytest.param("10.0.0.300", "shop/db", "'10.0.0.300' is not an IP address", id="a wrong address"),
        pytest.param("fe80::1%eth0", "shop/db", "'fe80::1%eth0' is neither", id="an address with a zone"),
        pytest.param("shop/web", "[::1]80", "'[::1]80' is neither", id="no colon behind the bracket"),
        pytest.param(
            "shop/web",
            "shop/db/80",
            "'shop/db/80' is not a Pod's name; write NAMESPACE/POD, a port behind a colon: shop/db:5432/tcp",
            id="a port behind a slash",
        ),
        pytest.param("shop/", "shop/db", "'shop/' is not a Pod's name; write NAMESPACE/POD", id="a namespace alone"),
        pytest.param("/web", "shop/db", "'/web' is not a Pod's name; write NAMESPACE/POD", id="a name alone"),
        pytest.param("shop/we", "shop/db", "there is no Pod shop/we; did you mean shop/web?", id="half a name"),
        pytest.param("shop/wbe", "shop/db", "there is no Pod shop/wbe; did you mean shop/web?", id="a slip"),
        pytest.param(
            "all/db", "shop/db", "there is no Pod all/db; did you mean ops/db or shop/db?", id="another namespace"
        ),
        pytest.param(
            "shop/x", "shop/db", "there is no Pod shop/x; `nfagent dump state -n shop` lists Pods", id="nothing alike"
        ),
        pytest.param(
            "nix/x",
            "shop/db",
            "there is no Pod nix/x, nor any other in namespace nix; `nfagent dump state` lists all Pods",
            id="an unknown namespace",
        ),
        pytest.param(
            "shop/web:80",
            "shop/db",
            "'shop/web:80': a source has no port; write the port after the destination, as in shop/db:5432/tcp",
            id="a port of the source",
        ),
        pytest.param("shop/web", "shop/db:0", "'shop/db:0': 0 is not a port number; write 1 to 65535", id="port 0"),
        pytest.param("shop/web", "shop/db:65536", "'shop/db:65536': 65536 is not a port", id="a port too high"),
        pytest.param("shop/web", f"shop/db:{'9' * 5000}", "'shop/db:999", id="a port without end"),
        pytest.param("shop/web", "shop/db:²", "'shop/db:²': ² is neither a port number nor the name", id="no digit"),
        pytest.param(
            "shop/web",
            "shop/db:http",
            f"'shop/db:http': http is neither a port number nor the name of a port of shop/db ({DB}), "
            "which has postgres/tcp, dns/udp, both/tcp, both/udp",
            id="an unknown name",
        ),
        pytest.param("shop/web", "shop/db:dns/tcp", "'shop/db:dns/tcp': dns/tcp is neither", id="of another protocol"),
        pytest.param(
            "shop/web",
            f"{OUTSIDE}:http",
            f"'{OUTSIDE}:http': http is neither a port number nor the name of a port of {OUTSIDE}",
            id="a named port of no Pod",
        ),
        pytest.param(
            "shop/web",
            "shop/db:80/quic",
            "'shop/db:80/quic': quic is not a protocol; write tcp, udp or sctp",
            id="QUIC",
        ),
        pytest.param(
            "shop/web",
            "shop/db:80/icmp",
            "'shop/db:80/icmp': icmp has no port; omit the port to explain a ping",
            id="a port of ICMP",
        ),
        pytest.param("shop/web", "shop/db:80/", "'shop/db:80/' is neither", id="a slash too many"),
        pytest.param(OUTSIDE, OUTSIDE6, f"{OUTSIDE} and {OUTSIDE6} have no address of one family", id="two families"),
    ],
)
def test_an_error_says_what_to_write_instead(source: str, destination: str, words: str) -> None:
    said = complaint(source, destination)
    assert said.startswith(words)


def waiting(phase: str, **status: object) -> Document:
    document = pod("shop/job", "a", 40)
    document["status"] = {**document["status"], "phase": phase, **status}
    return document


def test_a_pod_without_an_address_or_with_a_released_one_is_an_error() -> None:
    assert complaint("shop/job", "shop/db", waiting("Pending", podIPs=[])) == "Pod shop/job has no address yet"
    assert complaint("shop/job", "shop/db", waiting("Succeeded")) == (
        "Pod shop/job has ended (Succeeded): its addresses may belong to another Pod now; write the address"
    )


@pytest.mark.parametrize(
    ("destination", "way", "port"),
    [
        pytest.param("svc/shop/web:http", "cluster", "http (80/tcp)", id="by name, the port by its name"),
        pytest.param("svc/shop/web:80", "cluster", "http (80/tcp)", id="the port by its number"),
        pytest.param("svc/shop/web:53", "cluster", "dns-tcp (53/tcp)", id="TCP where both have it"),
        pytest.param("svc/shop/web:53/udp", "cluster", "dns (53/udp)", id="the protocol that is asked for"),
        pytest.param("svc/shop/web:99", "cluster", "sig (99/sctp)", id="the only protocol that has it"),
        pytest.param("svc/shop/one", "cluster", "9/udp", id="the only port needs no name"),
        pytest.param("svc/shop/heads:http", "name", "http (80/tcp)", id="a headless one by name"),
        pytest.param("svc/shop/heads:7070", "name", "7070/tcp", id="whose Pods are called directly, on any port"),
        pytest.param("10.96.0.10:80", "cluster", "http (80/tcp)", id="by its address"),
        pytest.param("10.96.0.10:dns", "cluster", "dns (53/udp)", id="and the port's name"),
        pytest.param("[2001:db8:96::10]:80/tcp", "cluster", "http (80/tcp)", id="by its IPv6 address"),
        pytest.param("192.168.0.2:80", "external", "http (80/tcp)", id="by an external address"),
        pytest.param("192.168.0.2:30080", "node", "http (80/tcp)", id="by a node port"),
        pytest.param("192.168.0.2:30099/sctp", "node", "sig (99/sctp)", id="by a node port of SCTP"),
    ],
)
def test_a_service_is_found_by_its_name_its_addresses_and_its_node_ports(destination: str, way: str, port: str) -> None:
    called = asked("shop/db", destination, *SERVICES).target
    assert called is not None
    assert (called.address_kind, str(called.port)) == (way, port)
    assert called.node == ("b" if way == "node" else "")


@pytest.mark.parametrize(
    "destination",
    [
        pytest.param("192.168.0.2:22", id="another port of a node with an external address"),
        pytest.param("192.168.0.2:30080/udp", id="a node port of another protocol"),
        pytest.param("192.168.0.2", id="a ping of a node"),
        pytest.param("203.0.113.7:30080", id="a node port of no node"),
        pytest.param("shop/web:80", id="a Pod"),
        pytest.param("packet:10.96.0.10:80", id="a packet's address"),
        pytest.param("packet:[2001:db8:96::10]:80", id="a packet's IPv6 address"),
        pytest.param("packet:10.96.0.10", id="a packet's address, without a port"),
    ],
)
def test_other_addresses_and_ports_are_no_service(destination: str) -> None:
    assert asked("shop/db", destination, *SERVICES).target is None


def test_a_packet_to_its_own_sender_has_come_through_a_service() -> None:
    own, other = asked("shop/web", f"packet:{WEB}:80").flow(), asked("shop/web", f"packet:{DB}:80").flow()
    assert own is not None
    assert other is not None
    assert (own.translated, other.translated) == (True, False)
    direct = asked("shop/web", "shop/web:80").flow()
    assert direct is not None
    assert not direct.translated


@pytest.mark.parametrize(
    ("source", "destination", "words"),
    [
        pytest.param(
            "shop/db",
            "svc/shop/wob:80",
            "there is no Service shop/wob; did you mean shop/web?",
            id="a slip",
        ),
        pytest.param("shop/db", "svc/no/no:80", "there is no Service no/no", id="nothing alike"),
        pytest.param(
            "shop/db",
            "svc/shop/web",
            "'svc/shop/web': Service shop/web needs a port; write one of them after a "
            "colon: http (80/tcp), dns (53/udp), dns-tcp (53/tcp), sig (99/sctp)",
            id="which port",
        ),
        pytest.param(
            "shop/db",
            "svc/shop/one:10",
            "'svc/shop/one:10': Service shop/one has no port 10; it has 9/udp",
            id="a port that it doesn't have",
        ),
        pytest.param(
            "shop/db",
            "svc/shop/one:9/tcp",
            "'svc/shop/one:9/tcp': Service shop/one has no port 9/tcp; it has 9/udp",
            id="another protocol",
        ),
        pytest.param(
            "shop/db",
            "10.96.0.11:10/udp",
            "'10.96.0.11:10/udp': 10.96.0.11 is Service shop/one, which has no port 10/udp; it has 9/udp",
            id="an address without that port",
        ),
        pytest.param(
            "shop/db",
            "10.96.0.11",
            "'10.96.0.11': 10.96.0.11 is Service shop/one, which needs a port; write one of them after a colon: 9/udp",
            id="a ping",
        ),
        pytest.param("shop/db", "10.96.0.11:65536", "'10.96.0.11:65536': 65536 is not a port", id="no port number"),
        pytest.param(
            "shop/db",
            "10.96.0.1:80",
            "Service ops/api has no selector: its EndpointSlices are written by another program, and not read by "
            "nfagent; write the server's own address and port",
            id="a Service without a selector",
        ),
        pytest.param(
            "shop/db",
            "svc/ops/alias:80",
            "Service ops/alias is an alias of db.example; write an address of that name",
            id="an alias",
        ),
        pytest.param(
            "svc/shop/web",
            "shop/db:80",
            "'svc/shop/web': a Service can't be the source; write a Pod or an address as source",
            id="a Service as source",
        ),
        pytest.param("packet:10.0.0.1", "shop/db", "'packet:10.0.0.1': packet: belongs before the dest", id="packet"),
        pytest.param(
            "shop/db",
            "shop/one:9",
            "there is no Pod shop/one, but a Service of that name: write svc/shop/one",
            id="a Service written as a Pod",
        ),
        pytest.param(
            "2001:db8::9",
            "svc/shop/one",
            "2001:db8::9 and 10.96.0.11 have no address of one family",
            id="a Service of the other family",
        ),
    ],
)
def test_errors_about_a_service_name_the_problem(source: str, destination: str, words: str) -> None:
    assert complaint(source, destination, *SERVICES).startswith(words)


def test_a_pod_is_found_by_its_path() -> None:
    cluster = TwoNodeCluster(*PODS).views["a"].cluster
    assert find_pod(cluster, "shop/web") == cluster.pods["shop", "web"]
    with pytest.raises(UsageError, match=r"'web' is not a Pod's name; write NAMESPACE/POD"):
        find_pod(cluster, "web")


def test_an_address_is_described_by_its_pod_or_node() -> None:
    cluster = TwoNodeCluster(*PODS).views["a"].cluster
    assert [describe_address(cluster, address) for address in (WEB, DB6, "192.168.0.1", OUTSIDE)] == [
        f"shop/web ({WEB})",
        f"shop/db ({DB6})",
        "node a (192.168.0.1)",
        OUTSIDE,
    ]
