"""How people write a connection, and the words that they get for its verdict."""

from __future__ import annotations

import msgspec
import pytest

from nfagent.errors import UsageError
from nfagent.policy.explain import Explanation, explain, explanation_view, pod_of
from tests.scene import Document, Scene, labelled, pod, policy, port

PODS = (
    pod("shop/web", "a", 10, app="web"),
    pod(
        "shop/db", "b", 20, (port(5432, "postgres"), port(53, "dns", "UDP"), port(54, "both"), port(54, "both", "UDP"))
    ),
    pod("ops/db", "b", 30),
)
WEB, DB, OUTSIDE = "10.64.0.10", "10.64.1.20", "203.0.113.7"
WEB6, DB6, OUTSIDE6 = "2001:db8:0:a::10", "2001:db8:0:b::20", "2606:4700::1"


def asked(source: str, destination: str, *documents: Document) -> Explanation:
    view = Scene(*PODS, *documents).views["a"]
    return explain(view.cluster, view.index, source, destination)


def complaint(source: str, destination: str, *documents: Document) -> str:
    with pytest.raises(UsageError) as caught:
        asked(source, destination, *documents)
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
def test_ends_are_read_as_people_write_them(source: str, destination: str, flow: str) -> None:
    assert str(asked(source, destination).flow) == flow


@pytest.mark.parametrize(
    ("source", "destination", "words"),
    [
        pytest.param(
            "", "shop/db", "'' is neither NAMESPACE/POD nor an address; write one like shop/web", id="nothing"
        ),
        pytest.param(
            "web",
            "shop/db",
            "'web' is not an IP address; write one like 10.0.0.1 or 2001:db8::1; a Pod is written NAMESPACE/POD",
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
            "'shop/web:80': the source has no port; write it behind the destination, as in shop/db:5432/tcp",
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
            "'shop/db:80/icmp': icmp has no port; leave the port away, and ping is judged",
            id="a port of ICMP",
        ),
        pytest.param("shop/web", "shop/db:80/", "'shop/db:80/' is neither", id="a slash too many"),
        pytest.param(OUTSIDE, OUTSIDE6, f"{OUTSIDE} and {OUTSIDE6} have no address of one family", id="two families"),
    ],
)
def test_what_can_not_be_understood_is_said_with_what_to_write(source: str, destination: str, words: str) -> None:
    said = complaint(source, destination)
    assert said.startswith(words)


def waiting(phase: str, **status: object) -> Document:
    document = pod("shop/job", "a", 40)
    document["status"] = {**document["status"], "phase": phase, **status}
    return document


def test_a_pod_without_an_address_or_with_one_that_it_gave_back_can_not_be_asked_about() -> None:
    assert complaint("shop/job", "shop/db", waiting("Pending", podIPs=[])) == "Pod shop/job has no address yet"
    assert complaint("shop/job", "shop/db", waiting("Succeeded")) == (
        "Pod shop/job has ended (Succeeded): its addresses may be another's by now; ask for the address"
    )


def test_a_pod_of_the_host_network_is_its_node() -> None:
    document = pod("ops/agent", "b", 50)
    document["spec"]["hostNetwork"] = True
    document["status"]["podIPs"] = [{"ip": "192.168.0.2"}]
    found = asked("ops/agent", "shop/db:80", document)
    assert (found.source, found.lines) == ("node b (192.168.0.2)", ("not judged: node b always reaches its own Pods",))


FROM_WEB = policy(
    "shop/db",
    types=["Ingress"],
    ingress=[{"from": [{"podSelector": labelled(app="web")}], "ports": [{"port": 5432}]}, {"ports": [{"port": 22}]}],
)
CLOSED = policy("shop/closed", types=["Ingress", "Egress"])
BROKEN = policy("shop/broken", types=["Ingress"], ingress=[{"ports": [{"port": 80, "endPort": 1}]}])
NAMELESS = policy("shop/broken", types=["Ingress"], ingress=[{"from": [{}]}])
INGRESS = f"ingress at shop/db ({DB})"
EGRESS = f"egress at shop/web ({WEB})"
FAULT = "    it can't be read, so it allows nothing: spec.ingress[0]"
RULE_1 = "    rule 1 of 2 allows from pods app=web in namespace shop on 5432/tcp"
RULE_2 = "    rule 2 of 2 allows from anywhere on 22/tcp"


@pytest.mark.parametrize(
    ("source", "destination", "policies", "verdict", "lines"),
    [
        pytest.param(
            "shop/web",
            "shop/db:5432",
            (),
            "allowed",
            [
                f"{EGRESS}: allowed",
                "  no NetworkPolicy isolates it for egress",
                f"{INGRESS}: allowed",
                "  no NetworkPolicy isolates it for ingress",
            ],
            id="nobody isolates",
        ),
        pytest.param(
            OUTSIDE,
            "shop/db:5432",
            (FROM_WEB,),
            "denied",
            [
                f"{INGRESS}: denied",
                "  NetworkPolicy shop/db isolates ingress",
                f"{RULE_1}: source doesn't match",
                f"{RULE_2}: port doesn't match",
                "  no rule allows it",
            ],
            id="no rule allows the peer",
        ),
        pytest.param(
            "shop/web",
            "shop/db",
            (FROM_WEB,),
            "denied",
            [
                f"{EGRESS}: allowed",
                "  no NetworkPolicy isolates it for egress",
                f"{INGRESS}: denied",
                "  NetworkPolicy shop/db isolates ingress",
                f"{RULE_1}: has ports, and icmp has none",
                f"{RULE_2}: has ports, and icmp has none",
                "  no rule allows it",
            ],
            id="rules with ports allow no ping",
        ),
        pytest.param(
            "shop/web",
            f"{OUTSIDE}:443",
            (policy("shop/out", types=["Egress"], egress=[{"to": [{"ipBlock": {"cidr": "10.0.0.0/8"}}]}]),),
            "denied",
            [
                f"{EGRESS}: denied",
                "  NetworkPolicy shop/out isolates egress",
                "    rule 1 of 1 allows to 10.0.0.0/8: destination doesn't match",
                "  no rule allows it",
            ],
            id="egress out of the cluster",
        ),
        pytest.param(
            "shop/web",
            "shop/db:22",
            (FROM_WEB, CLOSED),
            "denied",
            [
                f"{EGRESS}: denied",
                "  NetworkPolicy shop/closed isolates egress",
                "    it has no egress rules, so it allows nothing",
                "  no rule allows it",
                f"{INGRESS}: allowed",
                "  NetworkPolicy shop/closed isolates ingress",
                "    it has no ingress rules, so it allows nothing",
                "  NetworkPolicy shop/db isolates ingress",
                f"{RULE_1}: port doesn't match",
                f"{RULE_2}: matches",
            ],
            id="one end allows and the other does not",
        ),
        pytest.param(
            OUTSIDE,
            "shop/db:80",
            (BROKEN,),
            "denied",
            [
                f"{INGRESS}: denied",
                "  NetworkPolicy shop/broken isolates ingress",
                f"{FAULT}.ports[0].endPort 1 is below port 80; write 80 or more",
                "  no rule allows it",
            ],
            id="a policy that fails closed",
        ),
        pytest.param(
            OUTSIDE,
            "shop/db:80",
            (NAMELESS,),
            "denied",
            [
                f"{INGRESS}: denied",
                "  NetworkPolicy shop/broken isolates ingress",
                f"{FAULT}.from[0] has no known peer; write podSelector, namespaceSelector or ipBlock",
                "  no rule allows it",
            ],
            id="a fault without a value",
        ),
        pytest.param(
            "shop/web",
            "shop/web:80",
            (CLOSED,),
            "allowed",
            ["not judged: a Pod always reaches itself by its own address"],
            id="a Pod and itself",
        ),
        pytest.param(
            "192.168.0.2",
            "shop/db:80",
            (CLOSED,),
            "allowed",
            ["not judged: node b always reaches its own Pods"],
            id="a node and its Pod",
        ),
        pytest.param(
            "192.168.0.1",
            "shop/db:80",
            (CLOSED,),
            "denied",
            [
                f"{INGRESS}: denied",
                "  NetworkPolicy shop/closed isolates ingress",
                "    it has no ingress rules, so it allows nothing",
                "  no rule allows it",
            ],
            id="a node and another node's Pod",
        ),
        pytest.param(
            OUTSIDE,
            "192.168.0.1:22",
            (CLOSED,),
            "allowed",
            ["not judged: neither end is a Pod with an address of its own"],
            id="no Pod at all",
        ),
    ],
)
def test_the_words_of_a_verdict(
    source: str, destination: str, policies: tuple[Document, ...], verdict: str, lines: list[str]
) -> None:
    found = asked(source, destination, *policies)
    assert (found.verdict, list(found.lines)) == (verdict, lines)
    assert found.allowed is (verdict == "allowed")


def test_ends_are_named_with_their_addresses() -> None:
    found = asked("192.168.0.1", "shop/db:80")
    assert (found.source, found.destination) == ("node a (192.168.0.1)", f"shop/db ({DB})")
    assert asked("shop/web", OUTSIDE).destination == OUTSIDE


def test_the_view_has_everything_and_the_verdict_as_json_can_hold_it() -> None:
    found = asked("shop/web", "shop/db:5432", FROM_WEB)
    view = msgspec.json.decode(msgspec.json.encode(explanation_view(found)))
    assert view["allowed"] is True
    assert view["flow"] == {"source": WEB, "destination": DB, "protocol": "tcp", "port": 5432}
    assert view["judgement"]["ingress"]["isolating"] == [{"kind": "NetworkPolicy", "namespace": "shop", "name": "db"}]
    assert view["lines"] == list(found.lines)


def test_a_pod_is_found_by_its_path() -> None:
    cluster = Scene(*PODS).views["a"].cluster
    assert pod_of(cluster, "shop/web") == cluster.pods["shop", "web"]
    with pytest.raises(UsageError, match=r"'web' is not a Pod's name; write NAMESPACE/POD"):
        pod_of(cluster, "web")
