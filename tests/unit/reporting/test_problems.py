"""Notices about faults of objects and nodes."""

from __future__ import annotations

from typing import Any

import pytest

from nfagent.decode.admin_policy import decode_admin_policy
from nfagent.decode.core import decode_node
from nfagent.decode.networkpolicy import decode_network_policy
from nfagent.errors import ValidationIssue
from nfagent.model.admin_policy import Policy
from nfagent.model.objects import LoggingSwitch, NetworkLogging, Node, ObjectRef
from nfagent.reporting.notice import Notice
from nfagent.reporting.problems import (
    NodeFaults,
    cluster_notices,
    logging_notice,
    node_notices,
    rejected_notice,
)

FAULT = ValidationIssue(place="a.yaml:3", object="Kind x", field="spec.a", value="b", reason="is not c; write d")


def network_policy(**spec: object) -> dict[str, Any]:
    return {"metadata": {"namespace": "shop", "name": "db"}, "spec": {"podSelector": {}, **spec}}


def admin_policy(**spec: object) -> dict[str, Any]:
    return {"metadata": {"name": "gate"}, "spec": {"priority": 5, "subject": {"namespaces": {}}, **spec}}


def notice_of(policy: Policy) -> Notice:
    (said,) = cluster_notices({policy.ref: policy.problems}, {policy.ref: policy}, None)
    return said


def test_a_policy_that_can_be_enforced_has_no_notice() -> None:
    policies: list[Policy] = [decode_network_policy(network_policy()), decode_admin_policy(admin_policy())]
    assert cluster_notices({}, {policy.ref: policy for policy in policies}, None) == []


def test_a_policy_whose_new_version_is_unreadable_is_rejected_and_does_not_fail_closed() -> None:
    policy = decode_network_policy(network_policy())
    (said,) = cluster_notices({policy.ref: [FAULT]}, {policy.ref: policy}, None)
    assert said == rejected_notice(policy.ref, [FAULT])


def test_the_notice_of_a_partly_unreadable_node_names_the_field() -> None:
    node = decode_node(
        {"kind": "Node", "metadata": {"name": "n2"}, "status": {"addresses": [{"type": "ExternalIP", "address": ""}]}}
    )
    (said,) = cluster_notices({node.ref: node.problems}, {node.ref: node}, None)
    assert (said.about, said.event_type, said.reason) == (ObjectRef("Node", "", "n2"), "Warning", "CannotBeRead")
    assert said.message == (
        "Part of the object can't be read: status.addresses[0].address: is empty; delete the entry, or write an "
        "address like 10.0.0.1 or 2001:db8::1. The rest is in force; fields that can't be read keep their last good "
        "value, or are left out without one."
    )


def test_an_object_whose_new_version_is_unreadable_is_rejected_and_not_partial() -> None:
    node = Node("n2", problems=(FAULT,))
    other = ValidationIssue(object="Node n2", reason="is something else")
    (said,) = cluster_notices({node.ref: (other,)}, {node.ref: node}, None)
    assert said == rejected_notice(node.ref, (other,))


def test_the_notice_of_a_networkpolicy_that_fails_closed_has_effect_and_hint() -> None:
    policy = decode_network_policy(network_policy(ingress=[{"ports": [{"port": 99999}]}]))
    said = notice_of(policy)
    assert (said.about, said.event_type, said.reason) == (
        ObjectRef("NetworkPolicy", "shop", "db"),
        "Warning",
        "FailsClosed",
    )
    assert (said.scope, said.once) == ("cluster", False)
    assert said.message == (
        "The policy fails closed, it isolates its Pods and allows them nothing: "
        "spec.ingress[0].ports[0].port '99999': is not a port number; write 1 to 65535"
    )


RULE = {"action": "Allow", "from": [{"namespaces": {}}]}
TIERS = {
    "all rules of an unreadable policy": (
        {"priority": -1, "ingress": [RULE]},
        "FailsClosed",
        "denies its Pods",
    ),
    "one rule": (
        {"ingress": [RULE, {**RULE, "action": "Allowed"}]},
        "FailsClosed",
        "the others hold: spec.ingress[1].",
    ),
    "a subject": ({"subject": {}, "ingress": [RULE]}, "NotEnforced", "selects no Pod: spec.subject"),
}


@pytest.mark.parametrize(("spec", "reason", "part"), TIERS.values(), ids=TIERS)
def test_the_notice_of_a_tier_policy_tells_how_much_of_it_fails_closed(
    spec: dict[str, Any], reason: str, part: str
) -> None:
    said = notice_of(decode_admin_policy(admin_policy(**spec)))
    assert (said.about, said.reason) == (ObjectRef("AdminNetworkPolicy", "", "gate"), reason)
    assert part in said.message


def test_several_faults_of_one_policy_are_one_notice() -> None:
    rules = [{**RULE, "action": "Allowed"}, {**RULE, "action": "Denied"}]
    said = notice_of(decode_admin_policy(admin_policy(ingress=rules)))
    assert "'Allowed'" in said.message
    assert "; spec.ingress[1].action 'Denied'" in said.message


REJECTED = {
    "NetworkLogging": ("InvalidNetworkLogging", "previous logging configuration stays in force"),
    "ConfigMap": ("InvalidMasqueradeList", "previous masquerade configuration stays in force"),
    "EgressNATPolicy": ("InvalidEgressNATPolicy", "stays in force"),
    "NetworkGatewayGroup": ("InvalidNetworkGatewayGroup", "stays in force"),
    "NetworkPolicy": ("NotEnforced", "stays in force"),
    "ClusterNetworkPolicy": ("NotEnforced", "stays in force"),
    "Pod": ("CannotBeRead", "stays in force"),
}


@pytest.mark.parametrize("kind", REJECTED)
def test_the_notice_of_an_unreadable_object_has_the_reason_and_what_is_in_force(kind: str) -> None:
    reason, instead = REJECTED[kind]
    said = rejected_notice(ObjectRef(kind, "", "x"), [FAULT])
    assert (said.reason, said.event_type) == (reason, "Warning")
    assert said.message.startswith("The object can't be read: spec.a 'b': is not c; write d. Until it is fixed, ")
    assert instead in said.message


def test_logging_has_a_notice_while_in_force_and_another_while_its_new_version_is_unreadable() -> None:
    logging = NetworkLogging()
    other = ObjectRef("NetworkLogging", "", "other")
    assert cluster_notices({}, {}, logging) == [logging_notice(logging)]
    assert cluster_notices({logging.ref: [FAULT]}, {}, logging) == [rejected_notice(logging.ref, [FAULT])]
    assert cluster_notices({other: [FAULT]}, {}, logging) == [
        rejected_notice(other, [FAULT]),
        logging_notice(logging),
    ]


ALLOW_ANNOTATED = "annotated policy.network.gke.io/enable-logging allows them"
DENY_ANNOTATED = "is annotated policy.network.gke.io/enable-deny-logging"


@pytest.mark.parametrize(
    ("allow", "deny", "words"),
    [
        (LoggingSwitch(), LoggingSwitch(), "allowed connections: not logged; denied connections: not logged"),
        (LoggingSwitch(log=True), LoggingSwitch(), "allowed connections: logged; denied connections: not logged"),
        (
            LoggingSwitch(),
            LoggingSwitch(log=True, delegate=True),
            f"allowed connections: not logged; denied connections: logged where the Pod's Namespace {DENY_ANNOTATED}",
        ),
        (
            LoggingSwitch(log=True, delegate=True),
            LoggingSwitch(),
            f"allowed connections: logged where a NetworkPolicy {ALLOW_ANNOTATED}; denied connections: not logged",
        ),
    ],
    ids=["off", "allows", "delegated denies", "delegated allows"],
)
def test_the_notice_of_logging_that_was_set_is_of_type_normal(
    allow: LoggingSwitch, deny: LoggingSwitch, words: str
) -> None:
    said = logging_notice(NetworkLogging(allow, deny))
    assert (said.about.name, said.event_type, said.reason, said.once) == (
        "default",
        "Normal",
        "UpdateNetworkLogging",
        True,
    )
    assert said.message == f"Logging is set; {words}"


def test_a_node_without_faults_has_no_notice() -> None:
    assert node_notices("n1", NodeFaults()) == []


def test_each_nat_rule_of_another_program_has_a_notice_of_its_own_that_is_not_repeated() -> None:
    rules = ("table ip a, chain b: rule `masquerade` {translates}", "table ip c, chain d: rule `snat` may translate")
    said = node_notices("n1", NodeFaults(foreign_nat=rules))
    assert [(one.reason, one.message, one.once, one.scope) for one in said] == [
        ("ForeignNatRule", rule, True, "node") for rule in rules
    ]
    assert len({one.key for one in said}) == 2


def test_each_fault_of_a_node_has_a_notice_of_node_scope() -> None:
    faults = NodeFaults(
        commit_error="EBUSY",
        verdict_log="group taken",
        log_group="table ip router logs too",
        revocation_error="no ctnetlink",
        monitor_error="no socket",
        unfiltered_bridges="bridge cbr0 (IPv4)",
        fix_command="sysctl -w x=1",
        hold_reason="there is no Node n1",
        masquerade_file="host bits",
        table_contest="nft of a.service",
        conntrack_full=True,
    )
    said = node_notices("n1", faults)
    assert {(one.about, one.scope) for one in said} == {(ObjectRef("Node", "", "n1"), "node")}
    assert [one.reason for one in said] == [
        "RulesRefused",
        "RulesHeld",
        "RulesContested",
        "ConntrackFull",
        "InvalidMasqueradeList",
        "VerdictLogUnavailable",
        "VerdictLogGroupShared",
        "RevokedConnectionsNotEnded",
        "ForeignChangesNotHeard",
        "BridgeTrafficNotJudged",
    ]
    parts = (
        "EBUSY",
        "there is no Node n1",
        "nft of a.service keeps changing nfagent's rules; its repairs are spaced",
        "Raise net.netfilter.nf_conntrack_max",
        "keeps its previous value: host bits",
        "group taken",
        "table ip router logs too",
        "no ctnetlink",
        "no socket",
        "cbr0 (IPv4) is not filtered; to enforce policies there: sysctl",
    )
    for one, part in zip(said, parts, strict=True):
        assert part in one.message
