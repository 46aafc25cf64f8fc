"""Decoding of TierPolicies, and the effect of a policy with an error."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from nfagent.decode.admin_policy import decode_admin_policy, decode_baseline_policy, decode_cluster_policy
from nfagent.errors import ObjectError
from nfagent.model.admin_policy import NO_PRIORITY, UNPLACED, NodePeer, TierPolicy, TierRule
from nfagent.model.netaddr import parse_cidr
from nfagent.model.networkpolicy import IpBlock, PodPeer, PolicyPort
from tests.conformance import load_conformance
from tests.support.tier_documents import (
    ALL,
    ALL_NAMESPACES,
    BAD_SELECTOR,
    BANP,
    EVERY_POD,
    READERS,
    SHOP,
    SHOP_LABELS,
    VERSIONS,
    WEB,
    WEB_LABELS,
    Document,
    Read,
    TierKind,
    anp,
    banp,
    cnp,
    written,
)

each_kind = pytest.mark.parametrize("read", READERS.values(), ids=READERS)
each_version = pytest.mark.parametrize("version", VERSIONS.values(), ids=VERSIONS)


def test_a_whole_admin_network_policy_is_read() -> None:
    found = anp(
        priority=0,
        subject={"pods": {"namespaceSelector": SHOP_LABELS, "podSelector": WEB_LABELS}},
        ingress=[
            {"name": "friends", "action": "Allow", "from": [{"namespaces": SHOP_LABELS}]},
            {"action": "Deny", "from": [{"pods": {"namespaceSelector": {}, "podSelector": WEB_LABELS}}]},
        ],
        egress=[
            {
                "action": "Pass",
                "to": [{"nodes": WEB_LABELS}, {"networks": ["10.1.2.3/8", "2001:db8::/32"]}, {"nodes": WEB_LABELS}],
                "ports": [{"portNumber": {"port": 80}}, {"portRange": {"start": 1, "end": 9, "protocol": "SCTP"}}],
            },
            {"action": "Allow", "to": [{"namespaces": {}}], "ports": [{"namedPort": "dns"}]},
        ],
    )
    assert found == TierPolicy(
        kind="AdminNetworkPolicy",
        name="p",
        tier="admin",
        priority=0,
        subject=PodPeer(WEB, namespaces=SHOP),
        ingress=(
            TierRule("allow", (PodPeer(ALL, namespaces=SHOP),), name="friends"),
            TierRule("deny", (PodPeer(WEB, namespaces=ALL),)),
        ),
        egress=(
            TierRule(
                "pass",
                (NodePeer(WEB), IpBlock(parse_cidr("10.0.0.0/8")), IpBlock(parse_cidr("2001:db8::/32"))),
                (PolicyPort("tcp", 80, 80), PolicyPort("sctp", 1, 9)),
            ),
            TierRule("allow", (EVERY_POD,), (PolicyPort("any", name="dns"),)),
        ),
    )
    assert found.problems == ()


def test_a_whole_baseline_admin_network_policy_is_read() -> None:
    found = banp(
        subject={"namespaces": SHOP_LABELS},
        ingress=[{"action": "Deny", "from": [ALL_NAMESPACES]}],
        egress=[{"action": "Allow", "to": [{"nodes": {}}], "ports": [{"portNumber": {"port": 53, "protocol": "UDP"}}]}],
    )
    assert found == TierPolicy(
        kind="BaselineAdminNetworkPolicy",
        name="default",
        tier="baseline",
        priority=NO_PRIORITY,
        subject=PodPeer(ALL, namespaces=SHOP),
        ingress=(TierRule("deny", (EVERY_POD,)),),
        egress=(TierRule("allow", (NodePeer(ALL),), (PolicyPort("udp", 53, 53),)),),
    )


@pytest.mark.parametrize(("tier", "found"), [("Admin", "admin"), ("Baseline", "baseline")])
def test_a_whole_cluster_network_policy_is_read(tier: str, found: str) -> None:
    protocols = [
        {"tcp": {"destinationPort": {"number": 80}}},
        {"udp": {"destinationPort": {"range": {"start": 1, "end": 65535}}}},
        {"sctp": {"destinationPort": {"number": 65535}}},
        {"tcp": {"destinationPort": {"number": 80}}},
    ]
    policy = cnp(
        tier=tier,
        priority=1000,
        subject={"pods": {"podSelector": WEB_LABELS}},
        ingress=[
            {"action": "Accept", "from": [{"pods": {"podSelector": {}}}], "protocols": protocols},
            {"action": "Pass", "from": [ALL_NAMESPACES], "protocols": [{"destinationNamedPort": "http"}]},
        ],
        egress=[{"action": "Deny", "to": [{"networks": ["203.0.113.7/32"]}]}],
    )
    assert policy == TierPolicy(
        kind="ClusterNetworkPolicy",
        name="p",
        tier="admin" if found == "admin" else "baseline",
        priority=1000,
        subject=PodPeer(WEB, namespaces=ALL),
        ingress=(
            TierRule(
                "allow",
                (EVERY_POD,),
                (PolicyPort("tcp", 80, 80), PolicyPort("udp", 1, 65535), PolicyPort("sctp", 65535, 65535)),
            ),
            TierRule("pass", (EVERY_POD,), (PolicyPort("any", name="http"),)),
        ),
        egress=(TierRule("deny", (IpBlock(parse_cidr("203.0.113.7/32")),)),),
    )


@each_kind
@pytest.mark.parametrize(
    "rules",
    [
        pytest.param({}, id="no lists"),
        pytest.param({"ingress": None, "egress": None}, id="lists that are null"),
        pytest.param({"ingress": [], "egress": []}, id="empty lists"),
    ],
)
def test_a_policy_without_rules_touches_no_direction(read: Read, rules: Document) -> None:
    found = read(**rules)
    assert (found.ingress, found.egress, found.problems) == ((), (), ())


@each_kind
def test_fields_that_are_null_are_not_there(read: Read) -> None:
    subject: Document = {"namespaces": None, "pods": {"namespaceSelector": {}, "podSelector": {}, "nodeSelector": None}}
    found = read(subject=subject, ingress=None, tiers=None)
    assert (found.subject, found.problems) == (EVERY_POD, ())


DENY_SHOP: Document = {"action": "Deny", "from": [{"namespaces": SHOP_LABELS}]}
DENY_TO_SHOP: Document = {"action": "Deny", "to": [{"namespaces": SHOP_LABELS}]}
BOTH: Document = {"ingress": [DENY_SHOP], "egress": [DENY_TO_SHOP]}


def closed(found: TierPolicy) -> tuple[str, ...]:
    """Return the directions that a policy with a fault closes."""
    assert found.problem is not None
    assert found.problems == (found.problem,)
    everything = (TierRule("deny", problem=found.problem),)
    assert {found.ingress, found.egress} <= {everything, ()}
    return tuple(direction for direction in ("ingress", "egress") if getattr(found, direction))


@each_version
@pytest.mark.parametrize(
    ("rules", "directions"),
    [
        pytest.param({"ingress": [DENY_SHOP]}, ("ingress",), id="rules for ingress close ingress"),
        pytest.param({"egress": [DENY_TO_SHOP]}, ("egress",), id="rules for egress close egress"),
        pytest.param({"ingress": [], "egress": [DENY_TO_SHOP]}, ("egress",), id="an empty list is no rules"),
        pytest.param(BOTH, ("ingress", "egress"), id="rules for both close both"),
        pytest.param({}, (), id="without rules nothing is closed"),
    ],
)
def test_too_many_rules_close_the_directions_that_have_rules(
    version: TierKind, rules: Document, directions: tuple[str, ...]
) -> None:
    many = {direction: found * (version.most + 1) for direction, found in rules.items()}
    found = version.read(subject={"namespaces": SHOP_LABELS}, **many)
    assert found.subject == PodPeer(ALL, namespaces=SHOP)
    if not directions:
        assert found.problem is None
        return
    assert closed(found) == directions
    assert f"spec.{directions[0]}: has {version.most + 1} entries; write at most {version.most}" in str(found.problem)
    fewer = version.read(**{direction: found * version.most for direction, found in rules.items()})
    assert fewer.problem is None
    assert {len(fewer.rules("ingress")), len(fewer.rules("egress"))} <= {0, version.most}


@each_version
@pytest.mark.parametrize(
    ("rules", "directions"),
    [
        pytest.param({"ingress": {}}, ("ingress",), id="a mapping for ingress closes ingress"),
        pytest.param({"egress": "none", "ingress": []}, ("egress",), id="text for egress closes egress"),
        pytest.param({"egress": 0, "ingress": [DENY_SHOP]}, ("ingress", "egress"), id="good ingress rules close too"),
    ],
)
def test_rules_that_are_no_list_close_their_direction(
    version: TierKind, rules: Document, directions: tuple[str, ...]
) -> None:
    found = version.read(**rules)
    assert closed(found) == directions
    assert "is not a list; write `- ` before each entry" in str(found.problem)
    if version is not BANP:
        assert found.priority == 5


@each_version
def test_a_field_of_the_spec_that_is_not_known_closes_both_directions(version: TierKind) -> None:
    found = version.read(ingres=[DENY_SHOP])
    assert closed(found) == ("ingress", "egress")
    assert "spec.ingres: is not a field here; write only " in str(found.problem)


@pytest.mark.parametrize(
    ("found", "message"),
    [
        pytest.param(anp(tier="Admin"), "spec.tier 'Admin': is not a field here", id="an ANP has no tier"),
        pytest.param(banp(priority=5), "spec.priority '5': is not a field here", id="the BANP has no priority"),
    ],
)
def test_fields_of_another_kind_close_the_policy(found: TierPolicy, message: str) -> None:
    assert message in str(found.problem)
    assert closed(found) == ("ingress", "egress")


BAD_PRIORITIES: dict[str, tuple[Any, str]] = {
    "no priority": (None, "spec.priority: is missing; write 0 to 1000"),
    "1001": (1001, "spec.priority '1001': is not a priority; write 0 to 1000"),
    "-1": (-1, "spec.priority '-1': is not a priority; write 0 to 1000"),
    "a number in quotes": ("5", "spec.priority '5': is not a whole number; write it without quotes"),
    "a boolean": (True, "spec.priority 'True': is not a whole number"),
    "a fraction": (5.5, "spec.priority '5.5': is not a whole number"),
}


@pytest.mark.parametrize(("priority", "message"), BAD_PRIORITIES.values(), ids=BAD_PRIORITIES)
@pytest.mark.parametrize(
    ("read", "tier"),
    [
        pytest.param(anp, "admin", id="AdminNetworkPolicy"),
        pytest.param(cnp, "admin", id="ClusterNetworkPolicy"),
        pytest.param(lambda **spec: cnp(tier="Baseline", **spec), "baseline", id="ClusterNetworkPolicy of Baseline"),
    ],
)
def test_a_policy_whose_priority_is_not_known_comes_last_in_its_tier_and_is_closed(
    read: Read, tier: str, priority: object, message: str
) -> None:
    found = read(priority=priority, **BOTH)
    assert message in str(found.problem)
    assert (found.tier, found.priority, found.subject) == (tier, UNPLACED, EVERY_POD)
    assert closed(found) == ("ingress", "egress")


@pytest.mark.parametrize("read", [anp, cnp], ids=["AdminNetworkPolicy", "ClusterNetworkPolicy"])
@pytest.mark.parametrize("priority", [0, 1000])
def test_the_first_and_the_last_priority_are_good(read: Read, priority: int) -> None:
    found = read(priority=priority, **BOTH)
    assert (found.priority, found.problem) == (priority, None)


@pytest.mark.parametrize(
    ("tier", "message"),
    [
        pytest.param("Application", "spec.tier 'Application': is not a tier; write Admin or Baseline", id="another"),
        pytest.param("admin", "spec.tier 'admin': is not a tier", id="small letters"),
        pytest.param(None, "spec.tier: is missing; write Admin or Baseline", id="none"),
        pytest.param(["Admin"], "spec.tier: is not a tier", id="a list"),
    ],
)
def test_a_policy_of_a_tier_that_is_not_known_is_closed_at_the_end_of_the_admin_tier(
    tier: object, message: str
) -> None:
    found = cnp(tier=tier, priority=5, egress=[DENY_TO_SHOP])
    assert message in str(found.problem)
    assert (found.tier, found.priority, found.subject) == ("admin", UNPLACED, EVERY_POD)
    assert closed(found) == ("egress",)


BAD_SUBJECTS: dict[str, tuple[Any, str]] = {
    "no subject": (None, "spec.subject: is missing; write namespaces or pods"),
    "an empty subject": ({}, "spec.subject: is empty; write namespaces or pods"),
    "a subject whose only field is null": ({"namespaces": None}, "spec.subject: is empty"),
    "both forms": (
        {"namespaces": {}, "pods": {"namespaceSelector": {}, "podSelector": {}}},
        "spec.subject: has namespaces and pods side by side; write one of them",
    ),
    "an unknown form": ({"nodes": {}}, "spec.subject.nodes: is not a field here; write namespaces or pods"),
    "an unknown form beside a known one": ({"namespaces": {}, "nodes": {}}, "spec.subject.nodes: is not a field here"),
    "text": ("shop", "spec.subject 'shop': is not a mapping"),
    "a selector that can't be parsed": (
        {"namespaces": BAD_SELECTOR},
        "spec.subject.namespaces.matchExpressions[0].operator 'Like': is not an operator",
    ),
    "labels without matchLabels above them": ({"namespaces": {"app": "web"}}, "spec.subject.namespaces.app 'web': "),
    "pods without podSelector": ({"pods": {"namespaceSelector": {}}}, "spec.subject.pods.podSelector: is missing"),
    "an unknown field in pods": (
        {"pods": {"namespaceSelector": {}, "podSelector": {}, "nodeSelector": {}}},
        "spec.subject.pods.nodeSelector: is not a field here",
    ),
}


@each_kind
@pytest.mark.parametrize(("subject", "message"), BAD_SUBJECTS.values(), ids=BAD_SUBJECTS)
def test_a_policy_with_an_invalid_subject_applies_to_no_pod_and_has_a_problem(
    read: Read, subject: object, message: str
) -> None:
    found = read(subject=subject, **BOTH)
    assert found.subject is None
    assert message in str(found.problem)
    assert closed(found) == ("ingress", "egress")


@pytest.mark.parametrize("read", [anp, banp], ids=["AdminNetworkPolicy", "BaselineAdminNetworkPolicy"])
def test_the_subject_of_v1alpha1_asks_for_both_selectors(read: Read) -> None:
    found = read(subject={"pods": {"podSelector": {}}})
    assert found.subject is None
    assert "spec.subject.pods.namespaceSelector: is missing; write {} for every Namespace" in str(found.problem)


DECODERS = {
    "AdminNetworkPolicy": decode_admin_policy,
    "BaselineAdminNetworkPolicy": decode_baseline_policy,
    "ClusterNetworkPolicy": decode_cluster_policy,
}


@pytest.mark.parametrize("kind", DECODERS)
@pytest.mark.parametrize("spec", ["all", [1], 5, True], ids=["text", "a list", "a number", "a boolean"])
def test_a_spec_that_is_not_a_mapping_applies_to_no_pod_and_has_a_problem(kind: str, spec: object) -> None:
    found = DECODERS[kind]({"kind": kind, "metadata": {"name": "default"}, "spec": spec})
    assert (found.subject, found.priority) == (None, NO_PRIORITY if kind == "BaselineAdminNetworkPolicy" else UNPLACED)
    assert closed(found) == ("ingress", "egress")
    assert "spec" in str(found.problem)
    assert "is not a mapping" in str(found.problem)


@pytest.mark.parametrize("kind", DECODERS)
def test_a_policy_without_a_spec_applies_to_no_pod_and_has_a_problem(kind: str) -> None:
    found = DECODERS[kind]({"kind": kind, "metadata": {"name": "default"}})
    assert (found.subject, closed(found)) == (None, ())


@pytest.mark.parametrize("kind", DECODERS)
def test_a_policy_whose_spec_is_misspelt_closes_both_directions(kind: str) -> None:
    found = DECODERS[kind]({"kind": kind, "metadata": {"name": "default"}, "Spec": {"subject": {"namespaces": {}}}})
    assert found.subject is None
    assert closed(found) == ("ingress", "egress")
    assert any(str(problem).split(": ")[1] == "Spec" for problem in found.problems)


@pytest.mark.parametrize("kind", DECODERS)
@pytest.mark.parametrize(
    "metadata",
    [
        pytest.param({"name": ""}, id="an empty name"),
        pytest.param({"name": "Web"}, id="a capital letter"),
        pytest.param({"name": "a_b"}, id="an underscore"),
        pytest.param({"name": "x" * 254}, id="254 characters"),
        pytest.param({"name": None}, id="a name that is null"),
        pytest.param({}, id="no name"),
        pytest.param(None, id="no metadata"),
        pytest.param("p", id="metadata of text"),
    ],
)
def test_a_policy_without_a_usable_name_is_no_policy(kind: str, metadata: object) -> None:
    with pytest.raises(ObjectError, match=r"metadata.*is not a (valid name|mapping)"):
        DECODERS[kind]({"kind": kind, "metadata": metadata, "spec": {}})


def test_a_baseline_that_is_not_named_default_is_closed_in_the_baseline_tier() -> None:
    spec = {"subject": {"namespaces": SHOP_LABELS}, "ingress": [DENY_SHOP]}
    document = written("BaselineAdminNetworkPolicy", "mine", spec)
    found = decode_baseline_policy(document)
    assert found.ref.name == "mine"
    assert (found.tier, found.priority) == ("baseline", UNPLACED)
    assert (found.subject, closed(found)) == (PodPeer(ALL, namespaces=SHOP), ("ingress",))
    assert str(found.problem) == (
        "BaselineAdminNetworkPolicy mine: metadata.name 'mine': is not the name of the one BaselineAdminNetworkPolicy; "
        "name it default"
    )


def test_other_kinds_have_any_name() -> None:
    assert anp().name == cnp().name == "p"
    assert anp().problem is cnp().problem is None


@pytest.mark.parametrize(
    ("suite", "counts"),
    [
        ("tiers-v1alpha1.json", {"AdminNetworkPolicy": 41, "BaselineAdminNetworkPolicy": 23}),
        ("tiers-v1alpha2.json", {"ClusterNetworkPolicy": 64}),
    ],
)
def test_every_policy_of_the_recorded_suites_is_read_without_fault(suite: str, counts: dict[str, int]) -> None:
    steps = [step for case in load_conformance(suite)["cases"] for step in case["steps"]]
    documents = [document for step in steps for document in step["apply"] if document["kind"] in DECODERS]
    assert Counter(document["kind"] for document in documents) == counts
    found = [DECODERS[document["kind"]](document) for document in documents]
    assert [problem for policy in found for problem in policy.problems] == []
    assert all(policy.subject is not None and (policy.ingress or policy.egress) for policy in found)
