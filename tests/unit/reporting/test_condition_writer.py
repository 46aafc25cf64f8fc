"""Status conditions: when they are written, and that other writers' conditions are kept."""

from __future__ import annotations

from nfagent.errors import ValidationIssue
from nfagent.model.egress_nat import EgressNATPolicy, NetworkGatewayGroup
from nfagent.reporting.conditions import gateway_standing, policy_standing, rejected_conditions
from nfagent.reporting.notice import object_path
from tests.support.reporting_agents import EGRESS, ENFORCED, HOUR, scenario, staged


@scenario
async def test_conditions_that_change_during_a_write_are_written_next() -> None:
    unsupported = policy_standing(EgressNATPolicy(name="default", action="SNAT"))
    async with staged() as stage:
        stage.owned(EGRESS)
        stage.start("a", publishes=False)

        def meanwhile(_who: str, method: str, path: str) -> None:
            if method == "PATCH" and path.endswith("/status"):
                stage.store.fault = lambda _who, _method, _path: None
                stage.reporters["a"].say([], [unsupported])

        stage.store.fault = meanwhile
        stage.reporters["a"].say([], [ENFORCED])
        await stage.time.passes(10.0)
        assert stage.conditions(EGRESS)[1][1:3] == ("False", "NotSupported")


@scenario
async def test_conditions_are_written_where_they_differ_and_those_of_other_writers_are_kept() -> None:
    foreign = {"type": "Audited", "status": "True", "reason": "x", "message": "", "observedGeneration": 1}
    async with staged() as stage:
        stage.owned(EGRESS, spec={}, status={"conditions": [foreign]})
        stage.start("a", "b", publishes=False)
        for reporter in stage.reporters.values():
            reporter.say([], [ENFORCED])
        await stage.time.passes(2 * HOUR)
        ours = [("Accepted", "True", "Accepted", 1), ("Programmed", "True", "Programmed", 1)]
        assert stage.conditions(EGRESS) == [("Audited", "True", "x", 1), *ours]
        assert len(stage.store.asked("PATCH", "/status")) == 1
        assert stage.reporters[stage.leaders[0]].status()["conditions"] == {"sent": 1, "failed": 0}


@scenario
async def test_a_new_generation_is_observed_and_a_changed_status_gets_a_transition_time() -> None:
    async with staged() as stage:
        stage.owned(EGRESS, spec={"n": 1})
        stage.start("a", publishes=False)
        stage.reporters["a"].say([], [ENFORCED])
        await stage.time.passes(10.0)
        since = {
            one["type"]: one["lastTransitionTime"]
            for one in stage.store.objects[object_path(EGRESS)]["status"]["conditions"]
        }
        stage.owned(EGRESS, spec={"n": 2})
        stage.reporters["a"].say([], [policy_standing(EgressNATPolicy(name="default", action="SNAT"))])
        await stage.time.passes(10.0)
        assert stage.conditions(EGRESS) == [
            ("Accepted", "True", "Accepted", 2),
            ("Programmed", "False", "NotSupported", 2),
        ]
        after = {
            one["type"]: one["lastTransitionTime"]
            for one in stage.store.objects[object_path(EGRESS)]["status"]["conditions"]
        }
        assert after["Accepted"] == since["Accepted"]
        assert after["Programmed"] > since["Programmed"]


@scenario
async def test_conditions_that_another_client_overwrote_are_restored_within_minutes() -> None:
    async with staged() as stage:
        stage.owned(EGRESS, spec={})
        stage.start("a", publishes=False)
        stage.reporters["a"].say([], [ENFORCED])
        await stage.time.passes(10.0)
        stage.store.objects[object_path(EGRESS)]["status"]["conditions"] = []
        await stage.time.passes(300.0)
        assert [one[:2] for one in stage.conditions(EGRESS)] == [("Accepted", "True"), ("Programmed", "True")]


@scenario
async def test_unreadable_objects_and_gateways_have_false_conditions() -> None:
    gateway = NetworkGatewayGroup("shop", "gw", ("192.0.2.1",))
    async with staged() as stage:
        stage.owned(EGRESS)
        stage.owned(gateway.ref)
        stage.start("a", publishes=False)
        problem = ValidationIssue(field="spec.action", value="No", reason="is not an action; write NoSNAT or SNAT")
        stage.reporters["a"].say([], [rejected_conditions(EGRESS, [problem]), gateway_standing(gateway)])
        await stage.time.passes(10.0)
        assert stage.conditions(EGRESS) == [("Accepted", "False", "Invalid", 1), ("Programmed", "False", "Invalid", 1)]
        assert stage.conditions(gateway.ref)[1][1:3] == ("False", "NotSupported")
        said = stage.store.objects[object_path(EGRESS)]["status"]["conditions"][0]["message"]
        assert said == "spec.action 'No': is not an action; write NoSNAT or SNAT"


@scenario
async def test_an_object_recreated_meanwhile_does_not_get_the_old_ones_conditions() -> None:
    async with staged() as stage:
        stage.owned(EGRESS)
        stage.start("a", publishes=False)

        def recreate(_who: str, method: str, path: str) -> None:
            if (method, path) == ("PATCH", f"{object_path(EGRESS)}/status"):
                del stage.store.objects[object_path(EGRESS)]
                stage.owned(EGRESS)
                stage.store.fault = lambda _who, _method, _path: None

        stage.store.fault = recreate
        stage.reporters["a"].say([], [ENFORCED])
        await stage.time.passes(5.0)
        assert stage.conditions(EGRESS) == []
        await stage.time.passes(10.0)
        assert [one[1] for one in stage.conditions(EGRESS)] == ["True", "True"]
