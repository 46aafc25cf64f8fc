"""What conditions say, and when they have to be written."""

from __future__ import annotations

from typing import Any

import pytest

from nfagent.errors import ValidationIssue
from nfagent.model.egress_nat import EgressNATPolicy, EgressSource, NetworkGatewayGroup
from nfagent.model.objects import ObjectRef
from nfagent.reporting.conditions import (
    ObjectConditions,
    gateway_standing,
    policy_standing,
    rejected_standing,
    standings,
    status_apply,
)
from nfagent.reporting.notice import ExistingEvent

DEFAULT = EgressNATPolicy(name="default", action="NoSNAT")
KNOWN = ExistingEvent("u1", "9", 3)
FAULT = ValidationIssue(object="EgressNATPolicy x", field="spec.action", value="No", reason="is not an action")

STANDINGS = {
    "NoSNAT for every Pod is programmed": (policy_standing(DEFAULT), "True", "True", "Programmed"),
    "SNAT isn't yet": (policy_standing(EgressNATPolicy(name="x", action="SNAT")), "True", "False", "NotSupported"),
    "sources aren't yet": (
        policy_standing(EgressNATPolicy(name="x", action="NoSNAT", sources=(EgressSource(),))),
        *("True", "False", "NotSupported"),
    ),
    "gateways aren't yet": (gateway_standing(NetworkGatewayGroup("a", "b", ())), "True", "False", "NotSupported"),
    "what can't be read is neither": (
        rejected_standing(ObjectRef("EgressNATPolicy", "", "x"), [FAULT]),
        *("False",) * 2,
        "Invalid",
    ),
}


def applied(
    standing: ObjectConditions, found: list[Any], known: ExistingEvent = KNOWN, now: str = "now"
) -> dict[str, Any] | None:
    return status_apply(standing, found, known, now)


def written(
    standing: ObjectConditions, found: list[Any], known: ExistingEvent = KNOWN, now: str = "now"
) -> list[dict[str, Any]]:
    body = applied(standing, found, known, now)
    assert body is not None
    conditions: list[dict[str, Any]] = body["status"]["conditions"]
    return conditions


@pytest.mark.parametrize(("standing", "accepted", "programmed", "reason"), STANDINGS.values(), ids=STANDINGS)
def test_conditions_say_what_is_read_and_what_is_done(
    standing: ObjectConditions, accepted: str, programmed: str, reason: str
) -> None:
    first, second = written(standing, [])
    assert (first["type"], first["status"]) == ("Accepted", accepted)
    assert (second["type"], second["status"], second["reason"]) == ("Programmed", programmed, reason)
    for one in (first, second):
        assert (one["observedGeneration"], one["lastTransitionTime"]) == (3, "now")
        assert one["message"]
        assert one["reason"].isalpha()


def test_a_rejected_object_says_what_to_write_instead() -> None:
    (accepted, _) = written(rejected_standing(ObjectRef("EgressNATPolicy", "", "x"), [FAULT]), [])
    assert accepted["message"] == "spec.action 'No': is not an action"


def test_the_body_names_the_object_by_its_uid() -> None:
    body = applied(gateway_standing(NetworkGatewayGroup("ns", "gw", ())), [])
    assert body is not None
    assert (body["apiVersion"], body["kind"]) == ("networking.gke.io/v1", "NetworkGatewayGroup")
    assert body["metadata"] == {"name": "gw", "namespace": "ns", "uid": "u1"}


def test_conditions_that_are_as_they_should_be_are_not_written() -> None:
    found = written(policy_standing(DEFAULT), [])
    assert applied(policy_standing(DEFAULT), [{"type": "Other"}, *reversed(found)], now="later") is None


def test_only_a_status_that_changes_is_a_transition() -> None:
    found = written(policy_standing(DEFAULT), [])
    unsupported = policy_standing(EgressNATPolicy(name="default", action="SNAT"))
    assert [one["lastTransitionTime"] for one in written(unsupported, found, now="later")] == ["now", "later"]


def test_a_new_generation_is_observed_without_a_transition() -> None:
    found = written(policy_standing(DEFAULT), [])
    later = written(policy_standing(DEFAULT), found, ExistingEvent("u1", "10", 4), "later")
    assert [(one["observedGeneration"], one["lastTransitionTime"]) for one in later] == [(4, "now")] * 2


@pytest.mark.parametrize(
    "found",
    [
        pytest.param([None, 7, "x", {}, {"type": 3}], id="no conditions at all"),
        pytest.param([{"type": "Accepted", "status": "True", "lastTransitionTime": 5}], id="a time that is none"),
    ],
)
def test_conditions_that_can_not_be_read_are_written_anew(found: list[Any]) -> None:
    assert [one["lastTransitionTime"] for one in written(policy_standing(DEFAULT), found)] == ["now"] * 2


def test_what_was_read_of_an_object_makes_its_standing_another_one() -> None:
    other = EgressNATPolicy(name="default", action="SNAT", sources=(EgressSource(),))
    plain = EgressNATPolicy(name="default", action="SNAT")
    assert policy_standing(plain) == policy_standing(EgressNATPolicy(name="default", action="SNAT"))
    assert policy_standing(plain) != policy_standing(other)


def test_every_object_with_conditions_has_one_standing_and_other_kinds_have_none() -> None:
    gateway, lost = NetworkGatewayGroup("a", "gw", ()), ObjectRef("EgressNATPolicy", "", "lost")
    kept = EgressNATPolicy(name="kept", action="NoSNAT")
    faults = {gateway.ref: [FAULT], kept.ref: [FAULT], lost: [FAULT], ObjectRef("NetworkPolicy", "a", "b"): [FAULT]}
    assert standings(faults, [DEFAULT, kept], [gateway]) == [
        policy_standing(DEFAULT),
        rejected_standing(gateway.ref, [FAULT]),
        rejected_standing(kept.ref, [FAULT]),
        rejected_standing(lost, [FAULT]),
    ]
