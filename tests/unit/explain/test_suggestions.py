"""What would turn a verdict, in words; that each change does so is tests/properties/test_suggestions.py's to show."""

from __future__ import annotations

import msgspec
import pytest

from nfagent.errors import ValidationIssue
from nfagent.explain.peer_naming import peer_for_address, peer_for_pod
from nfagent.explain.suggestions import suggest
from nfagent.model.admin_policy import Policy, TierPolicy, TierRule
from nfagent.model.networkpolicy import NetworkPolicy, NetworkPolicyRule, PodPeer
from nfagent.model.objects import UNREADABLE, Pod
from tests.unit.policy.tier_cluster import (
    DB,
    admin,
    allow,
    baseline,
    cluster,
    cluster_wide,
    deny,
    judged,
    last,
    leave,
    network,
    numbered,
    selecting,
)

FAULT = ValidationIssue(field="spec.ingress[0].from[0]", reason="has no known peer")
FROM_WEB = PodPeer(selecting(app="web"), namespace="shop")
ON_80, ON_81 = (numbered(80),), (numbered(81),)
WEB_ON_80 = "pods app=web in namespace shop on 80/tcp"
DB_PODS = "pods app=db in namespace shop"


def isolating(name: str, *rules: NetworkPolicyRule, problem: ValidationIssue | None = None) -> NetworkPolicy:
    return NetworkPolicy(namespace="shop", name=name, pods=selecting(app="db"), ingress=rules, problem=problem)


def outward(name: str, *rules: NetworkPolicyRule) -> NetworkPolicy:
    return NetworkPolicy(namespace="shop", name=name, pods=selecting(app="web"), isolates=("egress",), egress=rules)


def closed(policy: TierPolicy) -> TierPolicy:
    return msgspec.structs.replace(policy, ingress=(TierRule("deny", problem=FAULT),), problem=FAULT)


def said(
    *policies: Policy,
    source: str = "shop/web",
    destination: str = "shop/db",
    port: str = "80/tcp",
    egress: bool = False,
) -> list[str]:
    found = judged(*policies, source=source, destination=destination, port=port)
    side = found.egress if egress else found.ingress
    assert side is not None
    return [
        str(suggestion)
        for suggestion in suggest(cluster(), {policy.ref: policy for policy in policies}, found.flow, side)
    ]


ISOLATE = f"add a NetworkPolicy that isolates ingress of {DB_PODS}"
NEW = f"add a NetworkPolicy that allows ingress of {DB_PODS} from {WEB_ON_80}; it denies the rest"
BEFORE = f"add an Allow rule for {WEB_ON_80} before ingress rule 2 of AdminNetworkPolicy guard"
FIX = "fix spec.ingress[0].from[0] of {} (it has no known peer), and"
DECIDES = f"{FIX.format('AdminNetworkPolicy guard')} its fixed rules decide"
ON_BASELINE = f"add an Allow rule for {WEB_ON_80} before ingress rule 1 of BaselineAdminNetworkPolicy default"
ON_CLUSTER = f"add an Accept rule for {WEB_ON_80} before ingress rule 1 of ClusterNetworkPolicy b"
CLUSTER_BASELINE = "or in a ClusterNetworkPolicy of tier Baseline"
RULES = [f"rule {number} of NetworkPolicy shop/db" for number in range(1, 6)]
EACH = "each of them allows it"
ELSEWHERE = "or in one with the same subject and a priority below 10"


@pytest.mark.parametrize(
    ("policies", "expected"),
    [
        pytest.param(
            (isolating("db", NetworkPolicyRule((FROM_WEB,), ON_81)),),
            ["add 80/tcp to ingress rule 1 of NetworkPolicy shop/db"],
            id="only the port is another",
        ),
        pytest.param(
            (isolating("a"), isolating("db", NetworkPolicyRule((), ON_81))),
            ["add 80/tcp to ingress rule 1 of NetworkPolicy shop/db"],
            id="only the port is another, in one of two policies",
        ),
        pytest.param(
            (isolating("a", problem=FAULT), isolating("db", NetworkPolicyRule((PodPeer(selecting(app="x")),)))),
            [f"add an ingress rule to NetworkPolicy shop/db that allows {WEB_ON_80}"],
            id="no peer matches: a policy that can be read",
        ),
        pytest.param(
            (isolating("a", problem=FAULT),),
            [
                f"{FIX.format('NetworkPolicy shop/a')} let it allow {WEB_ON_80}",
                NEW,
            ],
            id="all fail closed",
        ),
        pytest.param(
            (admin("guard", 10, allow(DB), deny()),), [f"{BEFORE}, {ELSEWHERE}"], id="a rule of the admin tier denies"
        ),
        pytest.param((admin("guard", 0, allow(DB), deny()),), [BEFORE], id="there is nothing below priority 0"),
        pytest.param(
            (cluster_wide("guard", 10, deny()),),
            [f"add an Accept rule for {WEB_ON_80} before ingress rule 1 of ClusterNetworkPolicy guard, {ELSEWHERE}"],
            id="v1alpha2 accepts",
        ),
        pytest.param(
            (admin("guard", 10, allow(DB), TierRule("deny", problem=FAULT)),),
            [
                DECIDES,
                f"{BEFORE}, {ELSEWHERE}",
            ],
            id="a rule that fails closed",
        ),
        pytest.param(
            (closed(admin("guard", 10)),),
            [
                DECIDES,
                f"add an Allow rule for {WEB_ON_80} {ELSEWHERE.replace('or in one', 'in a policy of the admin tier')}",
            ],
            id="a policy that fails closed can't have a rule before",
        ),
        pytest.param(
            (last(deny()),),
            [
                NEW,
                f"{ON_BASELINE}, {CLUSTER_BASELINE} with the same subject",
            ],
            id="the baseline denies",
        ),
        pytest.param(
            (baseline("b", 7, deny()),),
            [
                NEW,
                f"{ON_CLUSTER}, {CLUSTER_BASELINE} with the same subject and a priority below 7",
            ],
            id="a baseline with a priority",
        ),
        pytest.param((), [ISOLATE], id="no policy applies"),
        pytest.param((last(allow()),), [ISOLATE], id="the baseline allows"),
        pytest.param((admin("p", 1, leave()),), [ISOLATE], id="the admin tier passes it on"),
        pytest.param(
            (isolating("db", NetworkPolicyRule((), ON_81), NetworkPolicyRule((FROM_WEB,))),),
            ["remove ingress rule 2 of NetworkPolicy shop/db"],
            id="one rule allows",
        ),
        pytest.param(
            (isolating("a", NetworkPolicyRule()), isolating("db", NetworkPolicyRule(), NetworkPolicyRule((FROM_WEB,)))),
            [f"remove ingress rule 1 of NetworkPolicy shop/a, {RULES[0]} and {RULES[1]}: {EACH}"],
            id="several rules allow",
        ),
        pytest.param(
            (isolating("db", *[NetworkPolicyRule()] * 9),),
            [f"remove ingress {', '.join(RULES)} and 4 more: {EACH}"],
            id="many rules allow",
        ),
        pytest.param(
            (admin("guard", 10, deny(DB), allow()),),
            [f"{BEFORE.replace('an Allow', 'a Deny')}, {ELSEWHERE}"],
            id="the admin tier allows",
        ),
    ],
)
def test_what_would_turn_the_verdict_of_the_server(policies: tuple[Policy, ...], expected: list[str]) -> None:
    assert said(*policies) == expected


def test_an_address_outside_is_named_by_its_cidr() -> None:
    assert said(isolating("db"), source="outside") == [
        "add an ingress rule to NetworkPolicy shop/db that allows 203.0.113.7/32 on 80/tcp"
    ]
    assert said(outward("web"), destination="outside", egress=True) == [
        "add an egress rule to NetworkPolicy shop/web that allows 203.0.113.7/32 on 80/tcp"
    ]


def test_no_rule_of_the_tiers_can_select_a_source_outside() -> None:
    only = said(closed(admin("guard", 10)), source="outside")
    assert [words.split(" ", 1)[0] for words in only] == ["fix"]


def test_a_ping_needs_a_rule_without_ports() -> None:
    assert said(isolating("db", NetworkPolicyRule((FROM_WEB,), ON_80)), port="icmp") == [
        (
            "add an ingress rule to NetworkPolicy shop/db that allows pods app=web in namespace shop on every port "
            "and protocol"
        )
    ]


def test_an_egress_policy_without_rules_isolates_only_where_its_types_say_so() -> None:
    two = outward("web", NetworkPolicyRule(), NetworkPolicyRule((DB,), ON_81))
    assert said(two, egress=True) == ["remove egress rule 1 of NetworkPolicy shop/web"]
    assert said(outward("web", NetworkPolicyRule()), egress=True) == [
        "remove egress rule 1 of NetworkPolicy shop/web; keep Egress in policyTypes"
    ]


def test_pods_behind_a_service_are_named_together() -> None:
    servers = PodPeer(selecting(tier="back"), namespace="shop")
    found = judged()
    assert found.ingress is not None
    assert found.egress is not None
    ((isolated,), (out,)) = (
        suggest(cluster(), {}, found.flow, side, servers) for side in (found.ingress, found.egress)
    )
    assert str(isolated) == "add a NetworkPolicy that isolates ingress of pods tier=back in namespace shop"
    assert str(out) == "add a NetworkPolicy that isolates egress of pods app=web in namespace shop"
    denied = outward("web")
    found = judged(denied)
    assert found.egress is not None
    (rule,) = suggest(cluster(), {denied.ref: denied}, found.flow, found.egress, servers)
    assert (
        str(rule)
        == "add an egress rule to NetworkPolicy shop/web that allows pods tier=back in namespace shop on 80/tcp"
    )


def labelled(name: str, number: int, **labels: str) -> Pod:
    return Pod("shop", name, tuple(sorted(labels.items())), "a", (f"10.64.9.{number}",))


@pytest.mark.parametrize(
    ("labels", "neighbours", "selector"),
    [
        pytest.param({"app": "api"}, [], "app=api", id="its only label"),
        pytest.param({"zone": "1", "app": "api"}, [], "app=api", id="the customary one of two"),
        pytest.param({"zone": "1", "rack": "2"}, [], "rack=2", id="any, where none is customary"),
        pytest.param({"app": "api", "zone": "1"}, [{"app": "api"}], "zone=1", id="the one that no neighbour has"),
        pytest.param(
            {"app": "api", "zone": "1"},
            [{"app": "api", "zone": "2"}, {"app": "x", "zone": "1"}],
            "app=api,zone=1",
            id="all, where no single one tells it",
        ),
        pytest.param(
            {"app": "api", "pod-template-hash": "abc"},
            [{"app": "api", "pod-template-hash": "def"}],
            "app=api",
            id="not what a rollout changes",
        ),
        pytest.param(
            {"app": "api", "zone": "1", "pod-template-hash": "abc"},
            [{"app": "api", "zone": "1", "pod-template-hash": "def"}],
            "app=api",
            id="one that only its own kind has, from another rollout",
        ),
        pytest.param({"pod-template-hash": "abc"}, [], "pod-template-hash=abc", id="unless there is nothing else"),
        pytest.param({}, [], "all", id="all Pods, for one without labels"),
    ],
)
def test_a_pod_is_selected_by_its_own_label(
    labels: dict[str, str], neighbours: list[dict[str, str]], selector: str
) -> None:
    pod = labelled("one", 1, **labels)
    state = cluster(pod, *(labelled(f"n{number}", number, **found) for number, found in enumerate(neighbours, start=2)))
    peer = peer_for_pod(state, pod)
    assert (str(peer.pods), peer.namespace) == (selector, "shop")
    assert peer.pods.matches(dict(pod.labels))
    assert peer_for_address(state, "10.64.9.1") == peer
    assert peer_for_address(state, "192.168.0.1") == network("192.168.0.1/32")


def test_a_label_that_cannot_be_read_is_not_offered_in_a_rule() -> None:
    state = cluster()
    odd = Pod("shop", "odd", labels=(("app", "odd"), ("key", UNREADABLE)))
    state.put(odd)
    assert peer_for_pod(state, odd) == PodPeer(selecting(app="odd"), namespace="shop")
    only = Pod("other", "odd", labels=(("key", UNREADABLE),))
    state.put(only)
    assert peer_for_pod(state, only) == PodPeer(selecting(), namespace="other")
