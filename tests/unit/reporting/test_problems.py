"""What is said of what is wrong."""

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
    cluster_statements,
    logging_statement,
    node_statements,
    rejected,
)

FAULT = ValidationIssue(place="a.yaml:3", object="Kind x", field="spec.a", value="b", reason="is not c; write d")


def network_policy(**spec: object) -> dict[str, Any]:
    return {"metadata": {"namespace": "shop", "name": "db"}, "spec": {"podSelector": {}, **spec}}


def admin_policy(**spec: object) -> dict[str, Any]:
    return {"metadata": {"name": "gate"}, "spec": {"priority": 5, "subject": {"namespaces": {}}, **spec}}


def said_of(policy: Policy) -> Notice:
    (said,) = cluster_statements({policy.ref: policy.problems}, {policy.ref: policy}, None)
    return said


def test_a_policy_that_can_be_enforced_is_no_news() -> None:
    policies: list[Policy] = [decode_network_policy(network_policy()), decode_admin_policy(admin_policy())]
    assert cluster_statements({}, {policy.ref: policy for policy in policies}, None) == []


def test_a_policy_whose_new_version_can_not_be_read_is_not_said_to_fail_closed() -> None:
    policy = decode_network_policy(network_policy())
    (said,) = cluster_statements({policy.ref: [FAULT]}, {policy.ref: policy}, None)
    assert said == rejected(policy.ref, [FAULT])


def test_a_node_that_can_be_read_in_part_says_which_field_and_that_the_rest_holds() -> None:
    node = decode_node(
        {"kind": "Node", "metadata": {"name": "n2"}, "status": {"addresses": [{"type": "ExternalIP", "address": ""}]}}
    )
    (said,) = cluster_statements({node.ref: node.problems}, {node.ref: node}, None)
    assert (said.about, said.weight, said.reason) == (ObjectRef("Node", "", "n2"), "Warning", "CannotBeRead")
    assert said.message == (
        "A part of the object can't be read: status.addresses[0].address: is empty; delete the entry, or write an "
        "address like 10.0.0.1 or 2001:db8::1. Everything else holds; what can't be read stays as it was read before, "
        "or is left out where nothing was."
    )


def test_an_object_whose_next_version_can_not_be_read_at_all_is_not_said_to_hold_in_part() -> None:
    node = Node("n2", problems=(FAULT,))
    other = ValidationIssue(object="Node n2", reason="is something else")
    (said,) = cluster_statements({node.ref: (other,)}, {node.ref: node}, None)
    assert said == rejected(node.ref, (other,))


def test_a_networkpolicy_that_fails_closed_says_what_that_does_and_what_to_write() -> None:
    policy = decode_network_policy(network_policy(ingress=[{"ports": [{"port": 99999}]}]))
    said = said_of(policy)
    assert (said.about, said.weight, said.reason) == (
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
    "all rules of a whole that can't be read": ({"priority": -1, "ingress": [RULE]}, "FailsClosed", "denies its Pods"),
    "one rule": ({"ingress": [RULE, {**RULE, "action": "Alow"}]}, "FailsClosed", "the others hold: spec.ingress[1]."),
    "a subject": ({"subject": {}, "ingress": [RULE]}, "NotEnforced", "judges no Pod: spec.subject"),
}


@pytest.mark.parametrize(("spec", "reason", "part"), TIERS.values(), ids=TIERS)
def test_a_policy_of_a_tier_says_how_much_of_it_fails_closed(spec: dict[str, Any], reason: str, part: str) -> None:
    said = said_of(decode_admin_policy(admin_policy(**spec)))
    assert (said.about, said.reason) == (ObjectRef("AdminNetworkPolicy", "", "gate"), reason)
    assert part in said.message


def test_several_faults_of_one_policy_are_one_statement() -> None:
    rules = [{**RULE, "action": "Alow"}, {**RULE, "action": "Dney"}]
    said = said_of(decode_admin_policy(admin_policy(ingress=rules)))
    assert "'Alow'" in said.message
    assert "; spec.ingress[1].action 'Dney'" in said.message


REJECTED = {
    "NetworkLogging": ("InvalidNetworkLogging", "logging stays as it was"),
    "ConfigMap": ("InvalidMasqueradeList", "previous masquerade configuration stays in force"),
    "EgressNATPolicy": ("InvalidEgressNATPolicy", "stays in force"),
    "NetworkGatewayGroup": ("InvalidNetworkGatewayGroup", "stays in force"),
    "NetworkPolicy": ("NotEnforced", "stays in force"),
    "ClusterNetworkPolicy": ("NotEnforced", "stays in force"),
    "Pod": ("CannotBeRead", "stays in force"),
}


@pytest.mark.parametrize("kind", REJECTED)
def test_an_object_that_can_not_be_read_says_why_and_what_holds_instead(kind: str) -> None:
    reason, instead = REJECTED[kind]
    said = rejected(ObjectRef(kind, "", "x"), [FAULT])
    assert (said.reason, said.weight) == (reason, "Warning")
    assert said.message.startswith("The object can't be read: spec.a 'b': is not c; write d. Until it is mended, ")
    assert instead in said.message


def test_logging_that_is_in_force_is_news_and_while_its_new_version_can_not_be_read_that_is() -> None:
    logging = NetworkLogging()
    other = ObjectRef("NetworkLogging", "", "other")
    assert cluster_statements({}, {}, logging) == [logging_statement(logging)]
    assert cluster_statements({logging.ref: [FAULT]}, {}, logging) == [rejected(logging.ref, [FAULT])]
    assert cluster_statements({other: [FAULT]}, {}, logging) == [rejected(other, [FAULT]), logging_statement(logging)]


@pytest.mark.parametrize(
    ("allow", "deny", "words"),
    [
        (LoggingSwitch(), LoggingSwitch(), "allowed connections: not logged; denied connections: not logged"),
        (LoggingSwitch(log=True), LoggingSwitch(), "allowed connections: logged; denied connections: not logged"),
        (
            LoggingSwitch(),
            LoggingSwitch(log=True, delegate=True),
            "allowed connections: not logged; denied connections: all logged, since delegate isn't followed yet",
        ),
    ],
    ids=["off", "allows", "delegated denies"],
)
def test_logging_that_was_set_is_news_of_no_fault(allow: LoggingSwitch, deny: LoggingSwitch, words: str) -> None:
    said = logging_statement(NetworkLogging(allow, deny))
    assert (said.about.name, said.weight, said.reason, said.once) == ("default", "Normal", "UpdateNetworkLogging", True)
    assert said.message == f"Logging is set; {words}"


def test_a_sound_node_has_nothing_to_say() -> None:
    assert node_statements("n1", NodeFaults()) == []


def test_each_fault_of_a_node_is_said_on_the_node_by_its_own_agent() -> None:
    faults = NodeFaults(
        refused="EBUSY",
        verdict_log="group taken",
        unended="no ctnetlink",
        unheard="no socket",
        unjudged="bridge cbr0 (IPv4)",
        mending="sysctl -w x=1",
        held="there is no Node n1",
    )
    said = node_statements("n1", faults)
    assert {(one.about, one.scope) for one in said} == {(ObjectRef("Node", "", "n1"), "node")}
    assert [one.reason for one in said] == [
        "RulesRefused",
        "RulesHeld",
        "VerdictLogUnavailable",
        "RevokedConnectionsNotEnded",
        "ForeignChangesNotHeard",
        "BridgeTrafficNotJudged",
    ]
    parts = (
        "EBUSY",
        "there is no Node n1",
        "group taken",
        "no ctnetlink",
        "no socket",
        "cbr0 (IPv4) pass the rules by; for policies to hold: sysctl",
    )
    for one, part in zip(said, parts, strict=True):
        assert part in one.message
