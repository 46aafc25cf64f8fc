"""Status conditions: their content, and when they are applied."""

from __future__ import annotations

from typing import Any

import pytest

from nfagent.desired.egress_nat_ties import Tie
from nfagent.errors import ValidationIssue
from nfagent.model.egress_nat import EgressNATPolicy, EgressSource, NetworkGatewayGroup
from nfagent.model.netaddr import parse_cidr
from nfagent.model.objects import ObjectRef
from nfagent.reporting.conditions import (
    ObjectConditions,
    build_conditions,
    gateway_conditions,
    policy_conditions,
    rejected_conditions,
    status_apply,
)
from nfagent.reporting.notice import ObjectMeta

DEFAULT = EgressNATPolicy(name="default", action="NoSNAT")
GATEWAY_POLICY = EgressNATPolicy(
    name="default", action="SNAT", gateway=ObjectRef("NetworkGatewayGroup", "kube-system", "gw")
)
KNOWN = ObjectMeta("u1", "9", 3)
FAULT = ValidationIssue(object="EgressNATPolicy x", field="spec.action", value="No", reason="is not an action")

CONDITIONS = {
    "NoSNAT for every Pod is programmed": (policy_conditions(DEFAULT), "True", "True", "Programmed"),
    "SNAT to the node's address is programmed": (
        policy_conditions(EgressNATPolicy(name="x", action="SNAT")),
        *("True", "True", "Programmed"),
    ),
    "so are sources": (
        policy_conditions(EgressNATPolicy(name="x", action="NoSNAT", sources=(EgressSource(),))),
        *("True", "True", "Programmed"),
    ),
    "SNAT to a gateway that doesn't exist is not programmed": (
        policy_conditions(GATEWAY_POLICY),
        *("True", "False", "NoGateway"),
    ),
    "a policy in conflict with another is accepted and not programmed": (
        policy_conditions(DEFAULT, ["10.0.0.0/8: x"]),
        *("True", "False", "Conflict"),
    ),
    "gateways that no policy names aren't programmed": (
        gateway_conditions(NetworkGatewayGroup("a", "b", ())),
        "True",
        "False",
        "NotUsed",
    ),
    "an unreadable object is neither accepted nor programmed": (
        rejected_conditions(ObjectRef("EgressNATPolicy", "", "x"), [FAULT]),
        *("False",) * 2,
        "Invalid",
    ),
}


def applied(
    wanted: ObjectConditions, found: list[Any], meta: ObjectMeta = KNOWN, now: str = "now"
) -> dict[str, Any] | None:
    return status_apply(wanted, found, meta, now)


def written(
    wanted: ObjectConditions, found: list[Any], meta: ObjectMeta = KNOWN, now: str = "now"
) -> list[dict[str, Any]]:
    body = applied(wanted, found, meta, now)
    assert body is not None
    conditions: list[dict[str, Any]] = body["status"]["conditions"]
    return conditions


@pytest.mark.parametrize(("wanted", "accepted", "programmed", "reason"), CONDITIONS.values(), ids=CONDITIONS)
def test_conditions_tell_whether_an_object_is_accepted_and_programmed(
    wanted: ObjectConditions, accepted: str, programmed: str, reason: str
) -> None:
    first, second = written(wanted, [])
    assert (first["type"], first["status"]) == ("Accepted", accepted)
    assert (second["type"], second["status"], second["reason"]) == ("Programmed", programmed, reason)
    for one in (first, second):
        assert (one["observedGeneration"], one["lastTransitionTime"]) == (3, "now")
        assert one["message"]
        assert one["reason"].isalpha()


def test_the_condition_of_a_rejected_object_has_the_hint() -> None:
    (accepted, _) = written(rejected_conditions(ObjectRef("EgressNATPolicy", "", "x"), [FAULT]), [])
    assert accepted["message"] == "spec.action 'No': is not an action"


def test_the_body_has_the_uid_of_the_object() -> None:
    body = applied(gateway_conditions(NetworkGatewayGroup("ns", "gw", ())), [])
    assert body is not None
    assert (body["apiVersion"], body["kind"]) == ("networking.gke.io/v1", "NetworkGatewayGroup")
    assert body["metadata"] == {"name": "gw", "namespace": "ns", "uid": "u1"}


def test_conditions_that_are_already_set_are_not_written() -> None:
    found = written(policy_conditions(DEFAULT), [])
    assert applied(policy_conditions(DEFAULT), [{"type": "Other"}, *reversed(found)], now="later") is None


def test_only_a_status_that_changes_is_a_transition() -> None:
    found = written(policy_conditions(DEFAULT), [])
    missing = policy_conditions(GATEWAY_POLICY)
    assert [one["lastTransitionTime"] for one in written(missing, found, now="later")] == ["now", "later"]


def test_a_new_generation_is_observed_without_a_transition() -> None:
    found = written(policy_conditions(DEFAULT), [])
    later = written(policy_conditions(DEFAULT), found, ObjectMeta("u1", "10", 4), "later")
    assert [(one["observedGeneration"], one["lastTransitionTime"]) for one in later] == [(4, "now")] * 2


@pytest.mark.parametrize(
    "found",
    [
        pytest.param([None, 7, "x", {}, {"type": 3}], id="no conditions at all"),
        pytest.param(
            [{"type": "Accepted", "status": "True", "lastTransitionTime": 5}], id="a time that isn't a string"
        ),
    ],
)
def test_unreadable_conditions_are_replaced(found: list[Any]) -> None:
    assert [one["lastTransitionTime"] for one in written(policy_conditions(DEFAULT), found)] == ["now"] * 2


def test_conditions_differ_where_the_object_differs() -> None:
    other = EgressNATPolicy(name="default", action="SNAT", sources=(EgressSource(),))
    plain = EgressNATPolicy(name="default", action="SNAT")
    assert policy_conditions(plain) == policy_conditions(EgressNATPolicy(name="default", action="SNAT"))
    assert policy_conditions(plain) != policy_conditions(other)


def test_every_object_of_a_kind_with_conditions_has_them_once() -> None:
    gateway, lost = NetworkGatewayGroup("a", "gw", ()), ObjectRef("EgressNATPolicy", "", "lost")
    kept = EgressNATPolicy(name="kept", action="NoSNAT")
    faults = {gateway.ref: [FAULT], kept.ref: [FAULT], lost: [FAULT], ObjectRef("NetworkPolicy", "a", "b"): [FAULT]}
    assert build_conditions(faults, [DEFAULT, kept], [gateway]) == [
        policy_conditions(DEFAULT),
        rejected_conditions(gateway.ref, [FAULT]),
        rejected_conditions(kept.ref, [FAULT]),
        rejected_conditions(lost, [FAULT]),
    ]


def test_policies_that_disagree_are_named_to_each_other() -> None:
    keep, hide = EgressNATPolicy(name="keep", action="NoSNAT"), EgressNATPolicy(name="hide", action="SNAT")
    prefixes = tuple(parse_cidr(f"10.{at}.0.0/16") for at in range(5))
    ties = [Tie(("hide", "keep"), ("action SNAT", "action NoSNAT"), prefixes)]
    told = [written(wanted, [])[1]["message"] for wanted in build_conditions({}, [DEFAULT, keep, hide], [], ties)]
    assert "enforced" in told[0]
    assert told[1].startswith(
        "10.0.0.0/16, 10.1.0.0/16, 10.2.0.0/16 and 2 more: "
        "EgressNATPolicy hide has the same destination with action SNAT for the same Pods"
    )
    assert "EgressNATPolicy keep has the same destination with action NoSNAT" in told[2]
