"""The text of verdicts."""

from __future__ import annotations

import msgspec
import pytest

from nfagent.errors import ValidationIssue
from nfagent.explain.phrasing import MISSES_SHOWN, side_lines
from nfagent.model.admin_policy import Policy, TierRule
from nfagent.model.networkpolicy import NetworkPolicy, NetworkPolicyRule, PodPeer
from nfagent.policy.evaluator import FlowVerdict
from tests.unit.policy.tier_cluster import (
    DB,
    WEB,
    admin,
    allow,
    baseline,
    cluster_wide,
    deny,
    judged,
    last,
    leave,
    numbered,
    selecting,
)
from tests.unit.policy.tier_cluster import network as cidr

FROM_WEB, FROM_DB = PodPeer(selecting(app="web"), namespace="shop"), PodPeer(selecting(app="db"), namespace="shop")
ON_80, ON_81 = (numbered(80),), (numbered(81),)
FAULT = ValidationIssue(
    object="AdminNetworkPolicy p", place="x.yaml:1", field="spec.ingress[0].from", reason="is empty; write peers"
)
BROKEN = ValidationIssue(field="spec.podSelector", value="7", reason="is not a mapping")
WEB_WORDS = "pods app=web in namespace shop"
ALL_PODS, WEBS = "all pods in all namespaces", "pods app=web in all namespaces"
DBS = "pods app=db in all namespaces"
ONLY, MISS, NEXT = "rule 1 of 1", "port doesn't match", "matches; the next tier decides"
BAD = "spec.podSelector '7': is not a mapping"
CLOSED, WHY = "can't be read, so it fails closed and", "spec.ingress[0].from: is empty; write peers"


def isolating(name: str, *rules: NetworkPolicyRule, problem: ValidationIssue | None = None) -> NetworkPolicy:
    return NetworkPolicy(namespace="shop", name=name, pods=selecting(app="db"), ingress=rules, problem=problem)


def told(found: FlowVerdict, *policies: Policy) -> list[str]:
    assert found.ingress is not None
    return side_lines(found.ingress, found.flow, {policy.ref: policy for policy in policies})


def lines(*policies: Policy, port: str = "80/tcp") -> list[str]:
    return told(judged(*policies, port=port), *policies)


CASES = [
    pytest.param((), ["  default   no policy applies to its ingress: allowed"], id="no policy applies"),
    pytest.param(
        (
            isolating(
                "db", NetworkPolicyRule((FROM_DB,)), NetworkPolicyRule((FROM_WEB,), ON_80), NetworkPolicyRule((), ON_81)
            ),
        ),
        [f"  network   NetworkPolicy shop/db isolates ingress; rule 2 of 3 allows from {WEB_WORDS} on 80/tcp: matches"],
        id="the rule that allows stands beside its policy, without those that don't",
    ),
    pytest.param(
        (isolating("db", NetworkPolicyRule(), NetworkPolicyRule((FROM_WEB,)), NetworkPolicyRule((), ON_81)),),
        [
            "  network   NetworkPolicy shop/db isolates ingress; rule 1 of 3 allows from anywhere: matches",
            f"              rule 2 of 3 allows from {WEB_WORDS}: matches",
        ],
        id="every rule that allows is named",
    ),
    pytest.param(
        (
            isolating("a"),
            isolating("b", NetworkPolicyRule()),
            isolating("c", NetworkPolicyRule((FROM_DB,))),
            isolating("d", *[NetworkPolicyRule((), ON_81)] * 2),
        ),
        [
            "  network   NetworkPolicy shop/b isolates ingress; rule 1 of 1 allows from anywhere: matches",
            "            NetworkPolicy shop/a isolates ingress; it has no ingress rules, so it allows nothing",
            "            NetworkPolicy shop/c isolates ingress; its only rule doesn't match",
            "            NetworkPolicy shop/d isolates ingress; none of its 2 rules matches",
        ],
        id="policies that don't allow come behind the one that does",
    ),
    pytest.param(
        (
            isolating("b", NetworkPolicyRule()),
            *(isolating(name, *[NetworkPolicyRule((), ON_81)] * 2) for name in ("a", "c", "d", "e")),
        ),
        [
            "  network   NetworkPolicy shop/b isolates ingress; rule 1 of 1 allows from anywhere: matches",
            "            4 more NetworkPolicies isolate ingress; none of their rules matches",
        ],
        id="many of them are counted",
    ),
    pytest.param(
        (isolating("db", NetworkPolicyRule((FROM_DB,)), NetworkPolicyRule((FROM_WEB,), ON_81)),),
        [
            "  network   NetworkPolicy shop/db isolates ingress; none of its 2 rules matches",
            f"              rule 2 of 2 allows from {WEB_WORDS} on 81/tcp: port doesn't match",
            "              rule 1 of 2 allows from pods app=db in namespace shop: source doesn't match",
        ],
        id="where no rule allows the nearest comes first",
    ),
    pytest.param(
        (isolating("db", NetworkPolicyRule((FROM_WEB,), ON_81)),),
        [
            f"  network   NetworkPolicy shop/db isolates ingress; {ONLY} allows from {WEB_WORDS} on 81/tcp: {MISS}",
        ],
        id="an only rule stands beside its policy",
    ),
    pytest.param(
        (isolating("a", problem=BROKEN), isolating("b")),
        [
            f"  network   NetworkPolicy shop/a isolates ingress; it {CLOSED} allows nothing: {BAD}",
            "            NetworkPolicy shop/b isolates ingress; it has no ingress rules, so it allows nothing",
        ],
        id="a policy that fails closed says why",
    ),
    pytest.param(
        (admin("guard", 5, deny(DB), deny(WEB, name="no-web"), allow()),),
        [
            f'  admin     AdminNetworkPolicy guard, priority 5; rule 2 of 3 "no-web" denies from {WEBS}: matches',
        ],
        id="a tier: the rule that decides",
    ),
    pytest.param(
        (admin("first", 1, deny(DB)), cluster_wide("guard", 5, leave()), last(allow())),
        [
            "  admin     AdminNetworkPolicy first, priority 1; its only rule doesn't match",
            f"            ClusterNetworkPolicy guard, priority 5; rule 1 of 1 passes from {ALL_PODS}: {NEXT}",
            f"  baseline  BaselineAdminNetworkPolicy default; rule 1 of 1 allows from {ALL_PODS}: matches",
        ],
        id="a pass, and the baseline after it",
    ),
    pytest.param(
        (admin("x", 1, deny(DB)), admin("y", 2, deny(DB), deny(DB)), admin("z", 3, deny()), admin("zz", 4, allow())),
        [
            "  admin     2 policies before it; none of their 3 ingress rules matches",
            "            AdminNetworkPolicy z, priority 3; rule 1 of 1 denies from all pods in all namespaces: matches",
        ],
        id="policies before the one that decides are counted, those after it weren't asked",
    ),
    pytest.param(
        (baseline("b", 7, deny(DB), deny(WEB, ports=ON_81)),),
        [
            "  baseline  ClusterNetworkPolicy b, priority 7; none of its 2 rules matches",
            "              rule 2 of 2 denies from pods app=web in all namespaces on 81/tcp: port doesn't match",
            "              rule 1 of 2 denies from pods app=db in all namespaces: source doesn't match",
            "  default   no policy decides: allowed",
        ],
        id="a tier that doesn't decide shows how near it came",
    ),
    pytest.param(
        (admin("p", 5, *[deny(DB)] * 4, deny(ports=ON_81)),),
        [
            "  admin     AdminNetworkPolicy p, priority 5; none of its 5 rules matches",
            "              rule 5 of 5 denies from all pods in all namespaces on 81/tcp: port doesn't match",
            "  default   no policy decides: allowed",
        ],
        id="of its many rules only those whose port is another",
    ),
    pytest.param(
        (admin("p", 5, TierRule("allow", name="a\x1b[2J", problem=FAULT), TierRule("deny", problem=FAULT)),),
        [
            f"  admin     AdminNetworkPolicy p, priority 5; rule 2 of 2 {CLOSED} denies everything: {WHY}",
        ],
        id="a rule that fails closed says why",
    ),
    pytest.param(
        (admin("p", 5, TierRule("allow", name="a\x1b[2J", problem=FAULT)), isolating("db")),
        [
            f'  admin     AdminNetworkPolicy p, priority 5; rule 1 of 1 "a?[2J" {CLOSED} allows nothing: {WHY}',
            "  network   NetworkPolicy shop/db isolates ingress; it has no ingress rules, so it allows nothing",
        ],
        id="an allow rule that fails closed, whose name would steer the terminal",
    ),
    pytest.param(
        (msgspec.structs.replace(isolating("db"), audit=True), admin("p", 5, allow(DB))),
        [
            f"  admin     AdminNetworkPolicy p, priority 5; {ONLY} allows from {DBS}: source doesn't match",
            "  network   NetworkPolicy shop/db isolates ingress; it has no ingress rules, so it allows nothing",
            "  audit     NetworkPolicy shop/db is audited: this denial is only logged. Without audited policies:",
            f"  admin     AdminNetworkPolicy p, priority 5; {ONLY} allows from {DBS}: source doesn't match",
            "  default   no policy decides: allowed",
        ],
        id="an audited policy that alone denies",
    ),
    pytest.param(
        (msgspec.structs.replace(admin("p", 5, deny()), audit=True), isolating("db")),
        [
            f"  admin     AdminNetworkPolicy p, priority 5; {ONLY} denies from {ALL_PODS}: matches",
            "  audit     AdminNetworkPolicy p is audited. Without audited policies:",
            "  network   NetworkPolicy shop/db isolates ingress; it has no ingress rules, so it allows nothing",
        ],
        id="an audited policy whose denial others share",
    ),
    pytest.param(
        (msgspec.structs.replace(admin("p", 5, allow()), audit=True),),
        [
            f"  admin     AdminNetworkPolicy p, priority 5; {ONLY} allows from {ALL_PODS}: matches",
            "  audit     AdminNetworkPolicy p is audited; there is nothing to audit, as it is allowed",
        ],
        id="an audited policy that allows",
    ),
]


@pytest.mark.parametrize(("policies", "expected"), CASES)
def test_the_words_of_one_end(policies: tuple[Policy, ...], expected: list[str]) -> None:
    assert lines(*policies) == expected


def test_a_policy_that_fails_closed_as_a_whole_is_not_said_to_have_one_rule() -> None:
    closed = msgspec.structs.replace(admin("p", 1001, TierRule("deny", problem=FAULT)), problem=FAULT)
    assert lines(closed) == [f"  admin     AdminNetworkPolicy p; it {CLOSED} denies everything: {WHY}"]


def test_a_rule_with_ports_is_about_no_ping() -> None:
    (line,) = lines(isolating("db", NetworkPolicyRule((FROM_WEB,), ON_80)), port="icmp")
    assert line.endswith("on 80/tcp: it has ports, and icmp none")


def test_egress_is_about_destinations() -> None:
    out = NetworkPolicy(
        namespace="shop",
        name="out",
        isolates=("egress",),
        egress=(NetworkPolicyRule((cidr("10.0.0.0/8"),), ON_81), NetworkPolicyRule((FROM_WEB,))),
    )
    found = judged(out)
    assert found.egress is not None
    assert side_lines(found.egress, found.flow, {out.ref: out}) == [
        "  network   NetworkPolicy shop/out isolates egress; none of its 2 rules matches",
        "              rule 1 of 2 allows to 10.0.0.0/8 on 81/tcp: port doesn't match",
        f"              rule 2 of 2 allows to {WEB_WORDS}: destination doesn't match",
    ]


def test_many_rules_are_shown_up_to_a_dozen_and_counted() -> None:
    found = lines(isolating("db", *[NetworkPolicyRule((FROM_DB,))] * 20, NetworkPolicyRule((FROM_WEB,), ON_81)))
    assert found[0].endswith("none of its 21 rules matches")
    assert found[1].endswith("port doesn't match")
    assert len(found) == 1 + MISSES_SHOWN + 1
    assert found[-1] == "              and 9 more that don't match"


def test_many_policies_never_make_more_lines_than_a_screen_has() -> None:
    policies = [isolating(f"p{number:02}", *[NetworkPolicyRule((FROM_DB,))] * 30) for number in range(30)]
    policies[20] = isolating("p20", *[NetworkPolicyRule((FROM_DB,))] * 29, NetworkPolicyRule((FROM_WEB,), ON_81))
    found = lines(*policies)
    assert len(found) < 40
    assert found[0].startswith("  network   NetworkPolicy shop/p20 ")
    assert found[1].endswith("rule 30 of 30 allows from pods app=web in namespace shop on 81/tcp: port doesn't match")
    assert found[-1] == "            24 more policies isolate it; none of their 720 ingress rules matches"
    tiers = lines(*(admin(f"p{number:02}", number, *[deny(DB)] * 30) for number in range(30)))
    assert tiers[-2:] == [
        "            24 more policies have rules for it; none of their 720 ingress rules matches",
        "  default   no policy decides: allowed",
    ]
    assert len(tiers) < 40


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        pytest.param((2, 1), "2 more policies isolate it; none of their 3 ingress rules matches", id="two of several"),
        pytest.param((2,), "1 more policy isolates it; none of its 2 ingress rules matches", id="one of several"),
        pytest.param((1,), "1 more policy isolates it; its only ingress rule doesn't match", id="one of one rule"),
        pytest.param((0,), "1 more policy isolates it; it has no ingress rules", id="one without rules"),
        pytest.param((1, 0), "2 more policies isolate it; their only ingress rule doesn't match", id="two of one rule"),
        pytest.param((0, 0), "2 more policies isolate it; they have no ingress rules", id="two without rules"),
    ],
)
def test_policies_that_are_not_named_are_counted_in_words_that_fit_their_number(
    rules: tuple[int, ...], expected: str
) -> None:
    named = [isolating(f"a{number}", NetworkPolicyRule((FROM_WEB,), ON_81)) for number in range(6)]
    rest = [isolating(f"b{number}", *[NetworkPolicyRule((FROM_DB,))] * count) for number, count in enumerate(rules)]
    assert lines(*named, *rest)[-1].strip() == expected


@pytest.mark.parametrize(
    ("rest", "expected"),
    [
        pytest.param(1, "1 more policy has rules for it; its only ingress rule doesn't match", id="one"),
        pytest.param(2, "2 more policies have rules for it; none of their 2 ingress rules matches", id="two"),
    ],
)
def test_policies_of_a_tier_that_are_not_named_are_counted_alike(rest: int, expected: str) -> None:
    found = lines(*(admin(f"p{number}", number, deny(DB)) for number in range(6 + rest)))
    assert found[-2].strip() == expected


def test_a_rule_with_many_peers_and_ports_is_shortened() -> None:
    peers = tuple(cidr(f"10.0.{number}.0/24") for number in range(100))
    ports = tuple(numbered(number) for number in range(100, 200))
    (line,) = lines(isolating("db", NetworkPolicyRule(peers, ports)))
    assert line.startswith(
        "  network   NetworkPolicy shop/db isolates ingress; rule 1 of 1 allows from 10.0.0.0/24 or 10.0.1.0/24"
    )
    assert len(line) < 600
    shown = line.count("/24")
    assert f" or {100 - shown} more on 100/tcp, 101/tcp, " in line
    assert f", {100 - line.count('/tcp')} more: source doesn't match" in line
