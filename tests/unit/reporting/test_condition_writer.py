"""Status conditions: when they are written, and that other writers' conditions are kept."""

from __future__ import annotations

from nfagent.errors import ValidationIssue
from nfagent.model.egress_nat import EgressNATPolicy, NetworkGatewayGroup
from nfagent.model.objects import ObjectRef
from nfagent.reporting.conditions import gateway_conditions, policy_conditions, rejected_conditions
from nfagent.reporting.notice import object_path
from tests.support.reporting_agents import EGRESS, ENFORCED, HOUR, reporting_cluster, scenario

AWAY = EgressNATPolicy(name="default", action="SNAT", gateway=ObjectRef("NetworkGatewayGroup", "kube-system", "gw"))


@scenario
async def test_conditions_that_change_during_a_write_are_written_next() -> None:
    missing = policy_conditions(AWAY)
    async with reporting_cluster() as cluster:
        cluster.owned(EGRESS)
        cluster.start("a", publishes=False)

        def meanwhile(_who: str, method: str, path: str) -> None:
            if method == "PATCH" and path.endswith("/status"):
                cluster.store.fault = lambda _who, _method, _path: None
                cluster.reporters["a"].publish([], [missing])

        cluster.store.fault = meanwhile
        cluster.reporters["a"].publish([], [ENFORCED])
        await cluster.time.passes(10.0)
        assert cluster.conditions(EGRESS)[1][1:3] == ("False", "NoGateway")


@scenario
async def test_conditions_are_written_where_they_differ_and_those_of_other_writers_are_kept() -> None:
    foreign = {"type": "Audited", "status": "True", "reason": "x", "message": "", "observedGeneration": 1}
    async with reporting_cluster() as cluster:
        cluster.owned(EGRESS, spec={}, status={"conditions": [foreign]})
        cluster.start("a", "b", publishes=False)
        for reporter in cluster.reporters.values():
            reporter.publish([], [ENFORCED])
        await cluster.time.passes(2 * HOUR)
        ours = [("Accepted", "True", "Accepted", 1), ("Programmed", "True", "Programmed", 1)]
        assert cluster.conditions(EGRESS) == [("Audited", "True", "x", 1), *ours]
        assert len(cluster.store.asked("PATCH", "/status")) == 1
        assert cluster.reporters[cluster.leaders[0]].status()["conditions"] == {"sent": 1, "failed": 0}


@scenario
async def test_a_new_generation_is_observed_and_a_changed_status_gets_a_transition_time() -> None:
    async with reporting_cluster() as cluster:
        cluster.owned(EGRESS, spec={"n": 1})
        cluster.start("a", publishes=False)
        cluster.reporters["a"].publish([], [ENFORCED])
        await cluster.time.passes(10.0)
        since = {
            one["type"]: one["lastTransitionTime"]
            for one in cluster.store.objects[object_path(EGRESS)]["status"]["conditions"]
        }
        cluster.owned(EGRESS, spec={"n": 2})
        cluster.reporters["a"].publish([], [policy_conditions(AWAY)])
        await cluster.time.passes(10.0)
        assert cluster.conditions(EGRESS) == [
            ("Accepted", "True", "Accepted", 2),
            ("Programmed", "False", "NoGateway", 2),
        ]
        after = {
            one["type"]: one["lastTransitionTime"]
            for one in cluster.store.objects[object_path(EGRESS)]["status"]["conditions"]
        }
        assert after["Accepted"] == since["Accepted"]
        assert after["Programmed"] > since["Programmed"]


@scenario
async def test_conditions_that_another_client_overwrote_are_restored_within_minutes() -> None:
    async with reporting_cluster() as cluster:
        cluster.owned(EGRESS, spec={})
        cluster.start("a", publishes=False)
        cluster.reporters["a"].publish([], [ENFORCED])
        await cluster.time.passes(10.0)
        cluster.store.objects[object_path(EGRESS)]["status"]["conditions"] = []
        await cluster.time.passes(300.0)
        assert [one[:2] for one in cluster.conditions(EGRESS)] == [("Accepted", "True"), ("Programmed", "True")]


@scenario
async def test_unreadable_objects_and_gateways_have_false_conditions() -> None:
    gateway = NetworkGatewayGroup("shop", "gw", ("192.0.2.1",))
    async with reporting_cluster() as cluster:
        cluster.owned(EGRESS)
        cluster.owned(gateway.ref)
        cluster.start("a", publishes=False)
        problem = ValidationIssue(field="spec.action", value="No", reason="is not an action; write NoSNAT or SNAT")
        cluster.reporters["a"].publish([], [rejected_conditions(EGRESS, [problem]), gateway_conditions(gateway)])
        await cluster.time.passes(10.0)
        assert cluster.conditions(EGRESS) == [
            ("Accepted", "False", "Invalid", 1),
            ("Programmed", "False", "Invalid", 1),
        ]
        assert cluster.conditions(gateway.ref)[1][1:3] == ("False", "NotUsed")
        said = cluster.store.objects[object_path(EGRESS)]["status"]["conditions"][0]["message"]
        assert said == "spec.action 'No': is not an action; write NoSNAT or SNAT"


@scenario
async def test_an_object_recreated_meanwhile_does_not_get_the_old_ones_conditions() -> None:
    async with reporting_cluster() as cluster:
        cluster.owned(EGRESS)
        cluster.start("a", publishes=False)

        def recreate(_who: str, method: str, path: str) -> None:
            if (method, path) == ("PATCH", f"{object_path(EGRESS)}/status"):
                del cluster.store.objects[object_path(EGRESS)]
                cluster.owned(EGRESS)
                cluster.store.fault = lambda _who, _method, _path: None

        cluster.store.fault = recreate
        cluster.reporters["a"].publish([], [ENFORCED])
        await cluster.time.passes(5.0)
        assert cluster.conditions(EGRESS) == []
        await cluster.time.passes(10.0)
        assert [one[1] for one in cluster.conditions(EGRESS)] == ["True", "True"]
