"""The explanation of a connection: both ends, every Pod behind a Service, and what would reverse the verdict."""

# ruff: noqa: E501 - explanations stand here as people see them

from __future__ import annotations

from textwrap import dedent

import msgspec
import pytest

from nfagent.explain.explanation import Explanation, explain, explain_flow, explain_in_steps, explanation_view
from nfagent.model.slices import run_to_end
from nfagent.policy.evaluator import Flow
from nfagent.policy.options import PolicyOptions
from tests.support.two_node_cluster import Document, TwoNodeCluster, labelled, pod, policy, port, service, tier_policy

PODS = (
    pod("shop/web", "a", 10, app="web"),
    pod("shop/db", "b", 20, (port(5432, "postgres"),), app="db", at="b"),
    pod("shop/db-2", "b", 21, (port(5432, "postgres"),), app="db", at="c"),
)
SQL = service("shop/sql", {"app": "db"}, clusterIP="10.96.0.20", ports=[{"port": 3306, "targetPort": "postgres"}])
FROM_WEB = policy(
    "shop/db",
    labelled(app="db"),
    ingress=[{"from": [{"podSelector": labelled(app="web")}], "ports": [{"port": 5432}]}, {"ports": [{"port": 22}]}],
)
OUT = policy("shop/out", labelled(app="web"), types=["Egress"])
GUARD = tier_policy(
    "AdminNetworkPolicy",
    "guard",
    {"namespaces": {}},
    priority=10,
    ingress=[
        {"name": "no-web", "action": "Deny", "from": [{"namespaces": {}}], "ports": [{"portNumber": {"port": 22}}]}
    ],
)


def asked(source: str, destination: str, *documents: Document) -> Explanation:
    view = TwoNodeCluster(*PODS, *documents).views["a"]
    return explain(view.cluster, view.index, source, destination)


def text(found: Explanation) -> str:
    return "\n".join((f"{found.connection}: {found.verdict}", *found.lines))


EXPLANATIONS = [
    pytest.param(
        ("shop/web", "shop/db:5432"),
        (),
        """
        shop/web (10.64.0.10) -> shop/db (10.64.1.20):5432/tcp: allowed
        egress at shop/web (10.64.0.10): allowed
          default   no policy applies to its egress: allowed
        ingress at shop/db (10.64.1.20): allowed
          default   no policy applies to its ingress: allowed
        to deny it, change either end:
          egress:  add a NetworkPolicy that isolates egress of pods app=web in namespace shop
          ingress: add a NetworkPolicy that isolates ingress of pods at=b in namespace shop
        """,
        id="no policy isolates",
    ),
    pytest.param(
        ("shop/web", "shop/db:postgres"),
        (FROM_WEB, GUARD),
        """
        shop/web (10.64.0.10) -> shop/db (10.64.1.20):5432/tcp: allowed
        egress at shop/web (10.64.0.10): allowed
          default   no policy applies to its egress: allowed
        ingress at shop/db (10.64.1.20): allowed
          admin     AdminNetworkPolicy guard, priority 10; rule 1 of 1 "no-web" denies from all pods in all namespaces on 22/tcp: port doesn't match
          network   NetworkPolicy shop/db isolates ingress; rule 1 of 2 allows from pods app=web in namespace shop on 5432/tcp: matches
        to deny it, change either end:
          egress:  add a NetworkPolicy that isolates egress of pods app=web in namespace shop
          ingress: remove ingress rule 1 of NetworkPolicy shop/db
        """,
        id="a rule allows, below a tier that doesn't decide",
    ),
    pytest.param(
        ("203.0.113.7", "shop/db:80"),
        (FROM_WEB,),
        """
        203.0.113.7 -> shop/db (10.64.1.20):80/tcp: denied
        ingress at shop/db (10.64.1.20): denied
          network   NetworkPolicy shop/db isolates ingress; none of its 2 rules matches
                      rule 2 of 2 allows from anywhere on 22/tcp: port doesn't match
                      rule 1 of 2 allows from pods app=web in namespace shop on 5432/tcp: source doesn't match
        to allow it: add 80/tcp to ingress rule 2 of NetworkPolicy shop/db
        """,
        id="one end is outside",
    ),
    pytest.param(
        ("shop/web", "[2606:4700::1]:443"),
        (OUT,),
        """
        shop/web (2001:db8:0:a::10) -> [2606:4700::1]:443/tcp: denied
        egress at shop/web (2001:db8:0:a::10): denied
          network   NetworkPolicy shop/out isolates egress; it has no egress rules, so it allows nothing
        to allow it: add an egress rule to NetworkPolicy shop/out that allows 2606:4700::1/128 on 443/tcp
        """,
        id="an IPv6 address outside",
    ),
    pytest.param(
        ("shop/web", "shop/db:22"),
        (OUT, FROM_WEB, GUARD),
        """
        shop/web (10.64.0.10) -> shop/db (10.64.1.20):22/tcp: denied
        egress at shop/web (10.64.0.10): denied
          network   NetworkPolicy shop/out isolates egress; it has no egress rules, so it allows nothing
        ingress at shop/db (10.64.1.20): denied
          admin     AdminNetworkPolicy guard, priority 10; rule 1 of 1 "no-web" denies from all pods in all namespaces on 22/tcp: matches
        to allow it, change both ends:
          egress:  add an egress rule to NetworkPolicy shop/out that allows pods at=b in namespace shop on 22/tcp
          ingress: add an Allow rule for pods app=web in namespace shop on 22/tcp before ingress rule 1 of AdminNetworkPolicy guard, or in one with the same subject and a priority below 10
        """,
        id="both ends deny",
    ),
    pytest.param(
        ("shop/web", "shop/db"),
        (OUT, FROM_WEB),
        """
        shop/web (10.64.0.10) -> shop/db (10.64.1.20)/icmp: denied
        egress at shop/web (10.64.0.10): denied
          network   NetworkPolicy shop/out isolates egress; it has no egress rules, so it allows nothing
        ingress at shop/db (10.64.1.20): denied
          network   NetworkPolicy shop/db isolates ingress; none of its 2 rules matches
                      rule 1 of 2 allows from pods app=web in namespace shop on 5432/tcp: it has ports, and icmp none
                      rule 2 of 2 allows from anywhere on 22/tcp: it has ports, and icmp none
        to allow it, change both ends:
          egress:  add an egress rule to NetworkPolicy shop/out that allows pods at=b in namespace shop on every port and protocol
          ingress: add an ingress rule to NetworkPolicy shop/db that allows pods app=web in namespace shop on every port and protocol
        """,
        id="a ping",
    ),
    pytest.param(
        ("shop/web", "shop/web:80"),
        (OUT,),
        """
        shop/web (10.64.0.10) -> shop/web (10.64.0.10):80/tcp: allowed
        exempt from policies: a Pod always reaches itself by its own address
        """,
        id="a Pod and itself",
    ),
    pytest.param(
        ("192.168.0.2", "shop/db:80"),
        (FROM_WEB,),
        """
        node b (192.168.0.2) -> shop/db (10.64.1.20):80/tcp: allowed
        exempt from policies: node b always reaches its own Pods
        """,
        id="a node and its Pod",
    ),
    pytest.param(
        ("203.0.113.7", "192.168.0.1:22"),
        (FROM_WEB,),
        """
        203.0.113.7 -> node a (192.168.0.1):22/tcp: allowed
        no policy applies: neither end is a Pod with an address of its own
        """,
        id="no Pod at all",
    ),
    pytest.param(
        ("shop/web", "10.96.0.20:3306"),
        (SQL, FROM_WEB),
        """
        shop/web (10.64.0.10) -> Service shop/sql (10.96.0.20):3306/tcp: allowed
        10.96.0.20:3306/tcp is Service shop/sql: it goes to one of 2 Pods

        shop/db (10.64.1.20):5432/tcp, shop/db-2 (10.64.1.21):5432/tcp: allowed
          egress at shop/web (10.64.0.10): allowed
            default   no policy applies to its egress: allowed
          ingress at shop/db (10.64.1.20): allowed
            network   NetworkPolicy shop/db isolates ingress; rule 1 of 2 allows from pods app=web in namespace shop on 5432/tcp: matches
          to deny it, change either end:
            egress:  add a NetworkPolicy that isolates egress of pods app=web in namespace shop
            ingress: remove ingress rule 1 of NetworkPolicy shop/db
        """,
        id="[28] a Service whose Pods are judged alike, after its address was translated",
    ),
    pytest.param(
        ("shop/web", "svc/shop/sql"),
        (SQL, policy("shop/half", labelled(at="c"))),
        """
        shop/web (10.64.0.10) -> Service shop/sql (10.96.0.20):3306/tcp: denied for 1 of 2 Pods
        10.96.0.20:3306/tcp is Service shop/sql: it goes to one of 2 Pods

        shop/db-2 (10.64.1.21):5432/tcp: denied
          egress at shop/web (10.64.0.10): allowed
            default   no policy applies to its egress: allowed
          ingress at shop/db-2 (10.64.1.21): denied
            network   NetworkPolicy shop/half isolates ingress; it has no ingress rules, so it allows nothing
          to allow it: add an ingress rule to NetworkPolicy shop/half that allows pods app=web in namespace shop on 5432/tcp

        shop/db (10.64.1.20):5432/tcp: allowed
          egress at shop/web (10.64.0.10): allowed
            default   no policy applies to its egress: allowed
          ingress at shop/db (10.64.1.20): allowed
            default   no policy applies to its ingress: allowed
          to deny it, change either end:
            egress:  add a NetworkPolicy that isolates egress of pods app=web in namespace shop
            ingress: add a NetworkPolicy that isolates ingress of pods app=db in namespace shop
        """,
        id="a Service whose Pods differ: the denied ones first",
    ),
    pytest.param(
        ("shop/web", "10.96.0.30:80"),
        (service("shop/ghost", {"app": "ghost"}, clusterIP="10.96.0.30"),),
        """
        shop/web (10.64.0.10) -> Service shop/ghost (10.96.0.30):80/tcp: no Pod serves it
        10.96.0.30:80/tcp is Service shop/ghost, port http: no Pod serves it, as no Pod in namespace shop has the labels app=ghost
        """,
        id="a Service without Pods",
    ),
    pytest.param(
        ("shop/web", "svc/shop/heads:5432"),
        (service("shop/heads", {"at": "b"}, clusterIP="None"),),
        """
        shop/web (10.64.0.10) -> Service shop/heads:5432/tcp: allowed
        Service shop/heads: it goes to its only Pod, by the address of the Pod itself

        shop/db (10.64.1.20):5432/tcp: allowed
          egress at shop/web (10.64.0.10): allowed
            default   no policy applies to its egress: allowed
          ingress at shop/db (10.64.1.20): allowed
            default   no policy applies to its ingress: allowed
          to deny it, change either end:
            egress:  add a NetworkPolicy that isolates egress of pods app=web in namespace shop
            ingress: add a NetworkPolicy that isolates ingress of pods at=b in namespace shop
        """,
        id="a headless Service",
    ),
    pytest.param(
        ("shop/web", "192.168.0.1:30080"),
        (
            service("shop/np", {"at": "b"}, clusterIP="10.96.0.40", ports=[{"port": 80, "nodePort": 30080}]),
            FROM_WEB,
        ),
        """
        shop/web (10.64.0.10) -> node a (192.168.0.1):30080/tcp: denied
        192.168.0.1:30080/tcp is Service shop/np, on node a: it goes to its only Pod
        externalTrafficPolicy is Cluster: Pods on other nodes see node a's address, 192.168.0.1

        shop/db (10.64.1.20):80/tcp: denied
          egress at shop/web (10.64.0.10): allowed
            default   no policy applies to its egress: allowed
          ingress at shop/db (10.64.1.20), from node a (192.168.0.1): denied
            network   NetworkPolicy shop/db isolates ingress; none of its 2 rules matches
                        rule 2 of 2 allows from anywhere on 22/tcp: port doesn't match
                        rule 1 of 2 allows from pods app=web in namespace shop on 5432/tcp: source doesn't match
          to allow it: add 80/tcp to ingress rule 2 of NetworkPolicy shop/db
        """,
        id="[30] a node port: the Pod's policies see the node",
    ),
    pytest.param(
        ("shop/web", "192.168.0.2:30080"),
        (
            service("shop/np", {"at": "b"}, clusterIP="10.96.0.40", ports=[{"port": 80, "nodePort": 30080}]),
            OUT,
        ),
        """
        shop/web (10.64.0.10) -> node b (192.168.0.2):30080/tcp: denied
        192.168.0.2:30080/tcp is Service shop/np, on node b: it goes to its only Pod
        node b translates it: the client's policies see the node's address and port

        shop/db (10.64.1.20):80/tcp: denied
          egress at shop/web (10.64.0.10), to node b (192.168.0.2):30080/tcp: denied
            network   NetworkPolicy shop/out isolates egress; it has no egress rules, so it allows nothing
          ingress at shop/db (10.64.1.20): allowed
            default   no policy applies to its ingress: allowed
          to allow it: add an egress rule to NetworkPolicy shop/out that allows 192.168.0.2/32 on 30080/tcp
        """,
        id="another node's port: the client's policies see that node",
    ),
]


@pytest.mark.parametrize(("ends", "documents", "expected"), EXPLANATIONS)
def test_the_whole_explanation(ends: tuple[str, str], documents: tuple[Document, ...], expected: str) -> None:
    found = asked(*ends, *documents)
    assert text(found) == dedent(expected).strip()
    assert found.allowed is (found.verdict == "allowed")


def test_of_many_pods_with_equal_verdicts_three_are_named() -> None:
    many = [pod(f"shop/n{number}", "b", 100 + number, app="many") for number in range(9)]
    found = asked("shop/web", "10.96.0.50:80", *many, service("shop/many", {"app": "many"}, clusterIP="10.96.0.50"))
    assert found.lines[2] == (
        "shop/n0 (10.64.1.100):80/tcp, shop/n1 (10.64.1.101):80/tcp, shop/n2 (10.64.1.102):80/tcp and 6 more: allowed"
    )
    assert len(found.judged) == 9
    assert len(found.lines) == 10


def on_the_host(number: int) -> Document:
    document = pod(f"shop/host-{number}", "b", 30 + number, app="host")
    document["spec"]["hostNetwork"] = True
    document["status"]["podIPs"] = [{"ip": f"192.168.1.{number}"}]
    return document


def test_pods_of_the_host_network_behind_a_service_are_named_by_their_addresses() -> None:
    hosts = [on_the_host(number) for number in range(1, 3)]
    found = asked("shop/web", "10.96.0.60:80", OUT, *hosts, service("shop/h", {"app": "host"}, clusterIP="10.96.0.60"))
    assert found.verdict == "denied"
    assert [line.strip() for line in found.lines if "to allow it" in line] == [
        f"to allow it: add an egress rule to NetworkPolicy shop/out that allows 192.168.1.{number}/32 on 80/tcp"
        for number in (1, 2)
    ]


def test_of_many_different_verdicts_the_rest_is_counted() -> None:
    hosts = [on_the_host(number) for number in range(1, 31)]
    found = asked("shop/web", "10.96.0.60:80", OUT, *hosts, service("shop/h", {"app": "host"}, clusterIP="10.96.0.60"))
    assert found.lines[-1] == "and 24 more Pods: 24 denied, 0 allowed"
    assert len(found.lines) < 40
    assert len(found.judged) == 30


def test_what_comes_back_to_the_client_through_a_service_is_judged() -> None:
    found = asked("shop/db", "svc/shop/sql", SQL, FROM_WEB)
    denied = {str(item.arriving) for item in found.judged if not item.allowed}
    assert denied == {"10.64.1.20 -> 10.64.1.20:5432/tcp", "10.64.1.20 -> 10.64.1.21:5432/tcp"}


def test_a_pod_of_the_host_network_is_its_node() -> None:
    document = pod("ops/agent", "b", 50)
    document["spec"]["hostNetwork"] = True
    document["status"]["podIPs"] = [{"ip": "192.168.0.2"}]
    found = asked("ops/agent", "shop/db:80", document)
    assert text(found).splitlines() == [
        "node b (192.168.0.2) -> shop/db (10.64.1.20):80/tcp: allowed",
        "exempt from policies: node b always reaches its own Pods",
    ]


def test_choices_are_followed() -> None:
    view = TwoNodeCluster(*PODS, OUT).views["a"]
    ends = ("shop/web", "192.168.0.1:80")
    assert not explain(view.cluster, view.index, *ends).allowed
    chosen = explain(view.cluster, view.index, *ends, PolicyOptions(own_node="allowed"))
    assert chosen.allowed
    assert [line.partition(": ")[0] for line in chosen.lines] == ["exempt from policies"]


def test_a_flow_is_explained_as_packets_have_it() -> None:
    view = TwoNodeCluster(*PODS, SQL, FROM_WEB).views["a"]
    found = explain_flow(view.cluster, view.index, Flow("10.64.0.10", "10.64.1.20", "udp", 53))
    assert (found.connection, found.verdict) == ("shop/web (10.64.0.10) -> shop/db (10.64.1.20):53/udp", "denied")
    called = explain_flow(view.cluster, view.index, Flow("10.64.0.10", "10.96.0.20", "tcp", 3306))
    assert called.connection == "shop/web (10.64.0.10) -> 10.96.0.20:3306/tcp"


def test_the_view_has_everything_as_json_can_hold_it() -> None:
    found = asked("shop/web", "svc/shop/sql", SQL, FROM_WEB)
    view = msgspec.json.decode(msgspec.json.encode(explanation_view(found)))
    assert (view["allowed"], view["verdict"], view["connection"]) == (True, "allowed", found.connection)
    assert (view["lines"], view["flow"]["destination"]) == (list(found.lines), "10.96.0.20")
    first = view["judged"][0]
    assert (first["allowed"], first["arriving"]["port"], first["arriving"]["translated"]) == (True, 5432, True)
    ingress = first["judgement"]["ingress"]  # codespell:ignore judgement
    assert (ingress["allowed"], ingress["decided_by"]) == (True, "network")
    assert [stage["tier"] for stage in ingress["stages"]] == ["network"]
    assert [rule["outcome"] for rule in ingress["stages"][0]["rules"]] == ["matches", "port"]
    assert first["judgement"]["egress"]["decided_by"] == "default"  # codespell:ignore judgement
    assert [(suggestion["type"], suggestion["words"]) for suggestion in first["remedies"]] == [
        ("NewPolicy", str(found.judged[0].suggestions[0])),
        ("RemoveRules", "remove ingress rule 1 of NetworkPolicy shop/db"),
    ]


@pytest.mark.parametrize(
    ("source", "destination", "verdict"),
    [
        pytest.param("shop/web", "fe80::1", "denied", id="to a link-local address"),
        pytest.param("fe80::1", "shop/web", "denied", id="from one"),
        pytest.param("fe80::1", "fe80::2:53/udp", "denied", id="between two"),
        pytest.param("shop/web", "224.0.0.251:5353/udp", "not known (allowed by what is known)", id="to a group"),
        pytest.param("shop/web", "[ff02::fb]:5353/udp", "not known (allowed by what is known)", id="to IPv6's"),
        pytest.param(
            "shop/web", "255.255.255.255:67/udp", "not known (allowed by what is known)", id="to the broadcast address"
        ),
        pytest.param("shop/web", "10.64.0.255:67/udp", "not known (allowed by what is known)", id="to a Pod range's"),
    ],
)
def test_what_never_leaves_a_link_is_not_called_allowed(source: str, destination: str, verdict: str) -> None:
    view = TwoNodeCluster(pod("shop/web", "a", 10, app="web")).views["a"]
    shown = explanation_view(explain(view.cluster, view.index, source, destination))
    assert (shown["verdict"], bool(shown["allowed"])) == (verdict, False)


def test_a_drop_independent_of_policies_is_denied_without_suggestions() -> None:
    view = TwoNodeCluster(*PODS, OUT, FROM_WEB).views["a"]
    steps = explain_in_steps(
        view.cluster, view.index, "shop/web", "shop/db:5432", bar_reason=lambda flow: f"{flow.port} is closed"
    )
    found = run_to_end(steps)
    assert (found.verdict, found.lines) == ("denied", ("dropped: 5432 is closed",))


def test_a_group_that_policies_deny_is_denied() -> None:
    closed = policy("shop/closed", types=["Egress"])
    view = TwoNodeCluster(pod("shop/web", "a", 10, app="web"), closed).views["a"]
    assert explain(view.cluster, view.index, "shop/web", "224.0.0.251:5353/udp").verdict == "denied"
    found = explain(view.cluster, view.index, "shop/web", "fe80::1")
    assert found.lines == ("dropped: link-local addresses are never forwarded, not even between Pods",)
