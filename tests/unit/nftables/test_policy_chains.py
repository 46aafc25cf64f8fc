"""Chains, interpreted: early accepts, untracked packets, logs and counters."""

from __future__ import annotations

from typing import Any, Literal

import pytest

from nfagent.model.objects import ObjectRef
from nfagent.nftables.diff import diff
from nfagent.nftables.objects import Log, Ruleset
from nfagent.nftables.transaction import Delete
from tests.support.nft_interpreter import later, opening, reply, run, stray
from tests.support.two_node_cluster import Document, TwoNodeCluster, labelled, pod, policy, port, tier_policy

WEB = pod("shop/web", "a", 10, app="web")
DB = pod("shop/db", "b", 10, app="db")
FREE, OTHER = (pod(f"ops/{name}", "a", last, app=name) for name, last in (("free", 11), ("other", 12)))
FAR = pod("ops/far", "b", 12, app="far")
ND = "nd-neighbor-solicit"
CLOSED = policy("shop/closed", types=["Ingress", "Egress"])


def logging(**switched: bool) -> Document:
    cluster = {verdict: {"log": on} for verdict, on in switched.items()}
    return {"kind": "NetworkLogging", "metadata": {"name": "default"}, "spec": {"cluster": cluster}}


def ruleset(scene: TwoNodeCluster) -> Ruleset:
    return scene.views["a"].ruleset()


@pytest.mark.parametrize("family", [4, 6])
def test_31_replies_pass_under_deny_all(family: int) -> None:
    scene = TwoNodeCluster(WEB, DB, CLOSED)
    for flow in (
        scene.flow("outside", "shop/web", "80/tcp", family),
        scene.flow("shop/web", "outside", "53/udp", family),
    ):
        assert not run(ruleset(scene), "forward", opening(flow)).accepted
        assert run(ruleset(scene), "forward", reply(flow)).accepted
        assert run(ruleset(scene), "forward", later(flow)).accepted


FROM_DB: Document = {"from": [{"podSelector": labelled(app="db")}], "ports": [{"port": 80}, {"port": "dns"}]}
TO_DNS: Document = {
    "to": [{"ipBlock": {"cidr": f"{address}"}} for address in ("203.0.113.0/24", "2606:4700::/32")],
    "ports": [{"protocol": "UDP", "port": 53}, {"protocol": "TCP", "port": 53, "endPort": 54}],
}


@pytest.mark.parametrize("state", ["invalid", "untracked"])
@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize(
    ("source", "destination", "sent", "accepted"),
    [
        pytest.param("shop/db", "shop/web", "80/tcp", True, id="in from a peer to the port"),
        pytest.param("shop/db", "shop/web", "5353/tcp", True, id="in to a port by its name"),
        pytest.param("shop/db", "shop/web", "81/tcp", False, id="not in to another port"),
        pytest.param("shop/db", "shop/web", "80/udp", False, id="nor by another protocol"),
        pytest.param("outside", "shop/web", "80/tcp", False, id="nor from any other source"),
        pytest.param("outside", "ops/free", "80/tcp", True, id="in to a Pod that nothing isolates"),
        pytest.param("shop/web", "outside", "53/udp", True, id="out to an ipBlock and port"),
        pytest.param("shop/web", "outside", "54/tcp", True, id="out to a range of ports"),
        pytest.param("shop/web", "outside", "55/tcp", False, id="not out beyond it"),
        pytest.param("shop/web", "shop/db", "53/udp", False, id="nor to an address beside the ipBlock"),
    ],
)
def test_33_policies_apply_to_an_untracked_packet_by_its_own_addresses_and_ports(  # noqa: PLR0917 - a table
    source: str,
    destination: str,
    sent: str,
    accepted: bool,  # noqa: FBT001 - a table's column
    family: int,
    state: str,
) -> None:
    web = pod("shop/web", "a", 10, (port(5353, "dns"),), app="web")
    rules = policy("shop/p", labelled(app="web"), types=["Ingress", "Egress"], ingress=[FROM_DB], egress=[TO_DNS])
    scene = TwoNodeCluster(web, DB, pod("ops/free", "a", 20), rules)
    packet = stray(scene.flow(source, destination, sent, family), state)  # type: ignore[arg-type]
    counted = run(ruleset(scene), "forward", packet).counters
    assert [name for name in counted if name.startswith("deny/")] == ([] if accepted else [_denial(counted)])
    assert scene.passes(source, destination, sent, family) == accepted


def _denial(counted: tuple[str, ...]) -> str:
    return next((name for name in counted if name.startswith("deny/")), "no denial")


def test_33_where_no_rule_names_a_peer_or_port_packets_without_a_connection_have_no_chain_of_their_own() -> None:
    scene = TwoNodeCluster(WEB, policy("shop/p", ingress=[{}], types=["Ingress", "Egress"]))
    assert [name for name in ruleset(scene).chains if name.startswith("stray/")] == []
    scene.put(policy("shop/p", ingress=[{"ports": [{"port": 80}]}], types=["Ingress", "Egress"]))
    assert [name for name in ruleset(scene).chains if name.startswith("stray/")] == ["stray/ingress/shop/p"]
    scene.put(policy("shop/p", ingress=[{}], types=["Ingress", "Egress"]))
    assert ruleset(scene) == scene.views["a"].rebuilt().ruleset()
    assert [name for name in ruleset(scene).chains if name.startswith("stray/")] == []


@pytest.mark.parametrize("kind", ["icmp", "icmpv6"])
def test_36_errors_about_allowed_connections_pass(kind: str) -> None:
    scene = TwoNodeCluster(WEB, CLOSED)
    flow = scene.flow("outside", "shop/web", kind, 6 if kind == "icmpv6" else 4)
    packet = opening(flow)
    assert packet.protocol == kind
    assert not run(ruleset(scene), "forward", packet).accepted
    related = packet._replace(conntrack=packet.conntrack._replace(state="related"))
    assert run(ruleset(scene), "forward", related).accepted


def test_36_policies_apply_to_a_related_connection_that_is_not_an_error() -> None:
    scene = TwoNodeCluster(WEB, CLOSED)
    packet = opening(scene.flow("outside", "shop/web", "20/tcp"))
    assert not run(
        ruleset(scene), "forward", packet._replace(conntrack=packet.conntrack._replace(state="related"))
    ).accepted


@pytest.mark.parametrize("source", ["fe80::1", "shop/db"])
def test_36_neighbour_discovery_is_never_blocked_and_echo_is(source: str) -> None:
    scene = TwoNodeCluster(WEB, DB, CLOSED)
    flow = scene.flow(source, "shop/web", "icmpv6", 6)
    for kind in ("nd-neighbor-solicit", "nd-neighbor-advert", "nd-router-solicit"):
        assert run(ruleset(scene), "forward", stray(flow, "untracked", kind)).accepted
    assert not run(ruleset(scene), "forward", stray(flow, "untracked", "echo-request")).accepted


NOT_SANE = {
    "a hop limit of a routed packet": {"hop_limit": 254},
    "a code": {"icmpv6_code": 1},
    "more bytes than options need": {"payload": 65},
    "a redirect from an address that isn't a router's": {"icmpv6_type": "nd-redirect"},
    "a listener's message from an address that is routed": {"icmpv6_type": "mld2-listener-report", "hop_limit": 1},
}


@pytest.mark.parametrize("fields", NOT_SANE.values(), ids=NOT_SANE)
@pytest.mark.parametrize("hook", ["forward", "output"])
def test_36_policies_apply_to_malformed_neighbour_discovery(
    hook: Literal["forward", "output"], fields: dict[str, Any]
) -> None:
    scene = TwoNodeCluster(WEB, DB)
    packet = stray(scene.flow("shop/db", "shop/web", "icmpv6", 6), "untracked", "nd-neighbor-solicit")
    assert run(ruleset(scene), hook, packet._replace(**fields)).accepted
    scene.put(CLOSED)
    assert run(ruleset(scene), hook, packet).accepted
    assert not run(ruleset(scene), hook, packet._replace(**fields)).accepted


SENDERS = {
    "the client": ("shop/web", "outside", "shop/web", "outside", True),
    "the server": ("outside", "shop/web", "shop/web", "outside", True),
    "a router": ("shop/web", "outside", "192.168.0.2", "shop/web", True),
    "a Pod of another node, which judges it": ("shop/web", "outside", "ops/far", "shop/web", True),
    "an isolated Pod that is no end": ("ops/free", "outside", "shop/web", "ops/free", False),
    "a Pod that is no end, to an isolated one": ("shop/web", "outside", "ops/free", "shop/web", False),
    "a Pod that is no end, where neither is isolated": ("ops/free", "outside", "ops/other", "ops/free", True),
}


@pytest.mark.parametrize(("client", "server", "sender", "receiver", "passes"), SENDERS.values(), ids=SENDERS)
def test_36_an_error_about_a_connection_is_let_pass_by_who_sends_it(
    client: str, server: str, sender: str, receiver: str, *, passes: bool
) -> None:
    scene = TwoNodeCluster(WEB, DB, FREE, OTHER, FAR, CLOSED)
    first = opening(scene.flow(client, server, "80/tcp"))
    conntrack = first.conntrack._replace(state="related", confirmed=True)
    packet = opening(scene.flow(sender, receiver, "icmp"))._replace(conntrack=conntrack)
    assert run(ruleset(scene), "forward", packet).accepted == passes


@pytest.mark.parametrize(("sender", "passes"), [("shop/web", False), ("shop/db", True)], ids=["client", "server"])
def test_36_about_a_connection_without_an_answer_only_its_server_sends_errors(sender: str, passes: bool) -> None:  # noqa: FBT001 - a column
    closed = policy("shop/closed", types=["Egress"])
    scene = TwoNodeCluster(WEB, DB, OTHER, closed)
    first = opening(scene.flow("shop/web", "shop/db", "80/tcp"))
    conntrack = first.conntrack._replace(state="related", confirmed=True, answered=False)
    packet = opening(scene.flow(sender, "ops/other", "icmp"))._replace(conntrack=conntrack)
    assert run(ruleset(scene), "forward", packet).accepted == passes


def test_28_policies_apply_to_the_tuple_after_dnat_of_a_service() -> None:
    # Before DNAT the client called 198.18.0.1:80; the packet and its connection's reply show the Pod and its port.
    allowed = policy(
        "shop/p",
        labelled(app="web"),
        types=["Egress"],
        egress=[{"to": [{"podSelector": labelled(app="db")}], "ports": [{"port": 5432}]}],
    )
    scene = TwoNodeCluster(WEB, DB, allowed)
    assert scene.passes("shop/web", "shop/db", "5432/tcp")
    assert not scene.passes("shop/web", "198.18.0.1", "80/tcp")


def test_a_denial_is_counted_and_logged_once_by_the_policies_that_isolate() -> None:
    scene = TwoNodeCluster(WEB, CLOSED, policy("shop/more", types=["Ingress"]), logging(deny=True))
    [result] = scene.results(scene.flow("outside", "shop/web", "80/tcp"))
    assert result.counters == ("deny/ingress/shop/closed_more",)
    assert result.logs == (Log("deny ingress shop/closed_more", 100),)


def test_a_denied_reply_is_counted_as_any_and_logged_as_what_it_is() -> None:
    scene = TwoNodeCluster(WEB, CLOSED, logging(deny=True))
    first = opening(scene.flow("outside", "shop/web", "80/tcp"))
    answer = first._replace(conntrack=first.conntrack._replace(way="reply"))
    result = run(ruleset(scene), "forward", answer)
    assert result.counters == ("deny/ingress/shop/closed",)
    assert result.logs == (Log("deny ingress shop/closed reply", 100),)


def test_an_allowed_connection_is_logged_by_its_first_packet_alone() -> None:
    scene = TwoNodeCluster(WEB, policy("shop/p", ingress=[{}]), logging(allow=True))
    flow = scene.flow("outside", "shop/web", "53/udp")
    first = opening(flow)
    again = first._replace(conntrack=first.conntrack._replace(confirmed=True))
    results = [run(ruleset(scene), "forward", packet) for packet in (first, again)]
    assert [result.logs for result in results] == [(Log("allow ingress shop/p", 100),), ()]
    assert [result.counters for result in results] == [("allow/ingress/shop/p",)] * 2


def test_without_logging_verdicts_are_counted_all_the_same() -> None:
    scene = TwoNodeCluster(WEB, policy("shop/p", ingress=[{"ports": [{"port": 80}]}]))
    assert [result.logs for result in scene.results(scene.flow("outside", "shop/web", "81/tcp"))] == [()]
    [result] = scene.results(scene.flow("outside", "shop/web", "80/tcp"))
    assert (result.logs, result.counters) == ((), ("allow/ingress/shop/p",))


def test_traffic_between_two_pods_of_one_node_meets_both_ends() -> None:
    cache = pod("shop/cache", "a", 11, app="cache")
    scene = TwoNodeCluster(
        WEB,
        cache,
        policy("shop/out", labelled(app="web"), egress=[{}], types=["Egress"]),
        policy("shop/in", labelled(app="cache")),
    )
    assert not scene.passes("shop/web", "shop/cache", "80/tcp")
    [result] = scene.results(scene.flow("shop/web", "shop/cache", "80/tcp"))
    assert result.counters == ("allow/egress/shop/out", "deny/ingress/shop/in")


def test_pods_selected_by_the_same_policies_share_a_chain_and_peers_share_a_set() -> None:
    peers = [{"from": [{"podSelector": labelled(app="db")}]}]
    scene = TwoNodeCluster(
        WEB,
        DB,
        pod("shop/web2", "a", 11, app="web"),
        policy("shop/p", labelled(app="web"), ingress=peers),
        policy("shop/q", ingress=peers),
    )
    made = ruleset(scene)
    assert set(made.maps["ingress4"].elements.values()) == {"ingress/shop/p_q"}
    assert len([name for name in made.sets if name.startswith("peers4/")]) == 1


def test_an_added_peer_pod_changes_only_elements() -> None:
    scene = TwoNodeCluster(
        WEB, DB, policy("shop/p", labelled(app="web"), ingress=[{"from": [{"podSelector": labelled(app="db")}]}])
    )
    before = ruleset(scene)
    scene.put(pod("shop/db2", "b", 11, app="db"))
    after = ruleset(scene)
    assert (after.chains, after.maps, after.counters) == (before.chains, before.maps, before.counters)
    [changed] = [name for name in after.sets if name.startswith("peers4/")]
    assert after.sets[changed].elements - before.sets[changed].elements == {"10.64.1.11"}


def test_a_pod_without_policy_is_in_no_map() -> None:
    made = ruleset(TwoNodeCluster(WEB, DB))
    assert [name for name, item in made.maps.items() if item.elements] == []


def test_one_range_in_two_notations_is_two_sets_so_that_no_policy_changes_the_comment_of_another() -> None:
    first, second = {"ipBlock": {"cidr": "10.0.0.0/9"}}, {"ipBlock": {"cidr": "10.128.0.0/9"}}
    whole = policy("shop/whole", ingress=[{"from": [{"ipBlock": {"cidr": "10.0.0.0/8"}}]}])
    scene = TwoNodeCluster(WEB, policy("shop/halves", ingress=[{"from": [first, second]}]), whole)
    before = ruleset(scene)
    scene.views["a"].remove(ObjectRef("NetworkPolicy", "shop", "whole"))
    assert Delete("table") not in diff(before, ruleset(scene))


ALL_PODS: Document = {"namespaces": {}}


def tier(kind: str, name: str, *rules: tuple[str, Document], **more: object) -> Document:
    """Describe a policy about everybody's ingress; a rule is its action and its peer."""
    priority = {} if kind == "BaselineAdminNetworkPolicy" else {"priority": 5}
    ingress = [{"action": action, "from": [peer]} for action, peer in rules]
    return tier_policy(kind, name, ALL_PODS, ingress=ingress, **priority, **more)


def team(name: str) -> Document:
    return {"namespaces": {"matchLabels": {"kubernetes.io/metadata.name": name}}}


GUARD = tier("AdminNetworkPolicy", "guard", ("Allow", team("ops")), ("Pass", team("shop")), ("Deny", team("lab")))
FLOOR = tier("BaselineAdminNetworkPolicy", "default", ("Deny", ALL_PODS))
OPEN = policy("shop/open", labelled(app="web"), ingress=[{}])
PODS = (WEB, DB, pod("ops/mon", "b", 11), pod("lab/toy", "b", 12))


@pytest.mark.parametrize(
    ("policies", "source", "verdict"),
    [
        pytest.param(
            [GUARD, CLOSED], "ops/mon", "allow ingress anp.guard", id="the admin tier allows before all others"
        ),
        pytest.param([GUARD, OPEN], "lab/toy", "deny ingress anp.guard", id="the admin tier denies before all others"),
        pytest.param(
            [GUARD, OPEN], "shop/db", "allow ingress shop/open", id="what passes is a NetworkPolicy's to allow"
        ),
        pytest.param([GUARD, CLOSED], "shop/db", "deny ingress shop/closed", id="and to deny"),
        pytest.param(
            [GUARD, FLOOR], "shop/db", "deny ingress banp.default", id="or the baseline's, where none isolates"
        ),
        pytest.param(
            [GUARD, FLOOR, OPEN], "shop/db", "allow ingress shop/open", id="which is not asked where one does"
        ),
        pytest.param([GUARD, FLOOR], "outside", "", id="an address that no rule can name passes"),
        pytest.param([GUARD], "shop/db", "", id="and so does what passes all tiers"),
    ],
)
def test_a_verdict_is_counted_and_logged_once_by_the_tier_that_gave_it(
    policies: list[Document], source: str, verdict: str
) -> None:
    scene = TwoNodeCluster(*PODS, *policies, logging(allow=True, deny=True))
    passes = scene.passes(source, "shop/web", "80/tcp")
    assert passes != verdict.startswith("deny")
    *_, here = scene.results(scene.flow(source, "shop/web", "80/tcp"))
    named = [verdict] if verdict else []
    assert [log.prefix for log in here.logs] == named
    assert list(here.counters) == [words.replace(" ", "/") for words in named]


@pytest.mark.parametrize("state", ["invalid", "untracked"])
@pytest.mark.parametrize(
    ("policies", "accepted"),
    [
        pytest.param([tier("AdminNetworkPolicy", "p", ("Allow", ALL_PODS))], True, id="where tiers only allow"),
        pytest.param([tier("AdminNetworkPolicy", "p", ("Pass", ALL_PODS))], True, id="or pass on"),
        pytest.param([GUARD], True, id="where one denies others"),
        pytest.param([tier("AdminNetworkPolicy", "p", ("Deny", team("shop")))], False, id="not where one denies it"),
        pytest.param([FLOOR], False, id="nor where the baseline does"),
        pytest.param([GUARD, CLOSED], False, id="nor where one passes it on to a NetworkPolicy that isolates"),
        pytest.param([tier("AdminNetworkPolicy", "p", ("Allow", ALL_PODS)), CLOSED], True, id="where one allows it"),
        pytest.param(
            [tier("AdminNetworkPolicy", "p", ("Deny", team("lab")), ("Allow", ALL_PODS)), FLOOR],
            True,
            id="where the first rule that matches allows",
        ),
    ],
)
def test_33_a_packet_without_a_connection_passes_tiers(policies: list[Document], state: str, accepted: bool) -> None:  # noqa: FBT001 - a table's column
    scene = TwoNodeCluster(*PODS, *policies)
    packet = stray(scene.flow("shop/db", "shop/web", "80/tcp"), state)  # type: ignore[arg-type]
    assert run(ruleset(scene), "forward", packet).accepted == accepted


DENY_80 = {"action": "Deny", "from": [ALL_PODS], "ports": [{"portNumber": {"protocol": "TCP", "port": 80}}]}


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize(
    ("rules", "accepted"),
    [
        pytest.param([DENY_80], False, id="not where a rule denies a port"),
        pytest.param([{"action": "Deny", "from": [team("lab")]}], True, id="where rules that deny name none"),
    ],
)
def test_35_a_fragment_without_a_connection_and_without_its_port_passes(
    rules: list[Document],
    accepted: bool,  # noqa: FBT001 - a table's column
    family: int,
) -> None:
    scene = TwoNodeCluster(*PODS, tier_policy("AdminNetworkPolicy", "p", ALL_PODS, priority=5, ingress=rules))
    whole = stray(scene.flow("shop/db", "shop/web", "81/tcp", family), "untracked")
    assert run(ruleset(scene), "forward", whole).accepted
    result = run(ruleset(scene), "forward", whole._replace(fragment=True))
    assert (result.accepted, result.counters) == (accepted, () if accepted else ("drop/untracked",))
