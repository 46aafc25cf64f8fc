"""The EgressNATPolicy `default` is created where it is missing, and again soon after each deletion."""

from __future__ import annotations

from nfagent.model.egress_nat import EgressNATPolicy
from nfagent.reporting.notice import object_path
from tests.support.reporting_agents import EGRESS, ReportingCluster, reporting_cluster, scenario

MISSING = EgressNATPolicy(name="default", action="NoSNAT")
COLLECTION = object_path(EGRESS).rpartition("/")[0]
SOON, MINUTES = 5.0, 140.0


def publish(cluster: ReportingCluster, missing: EgressNATPolicy | None) -> None:
    cluster.reporters["a"].publish([], missing=missing)


def delete(cluster: ReportingCluster) -> None:
    del cluster.store.objects[object_path(EGRESS)]


@scenario
async def test_it_is_created_again_after_the_watch_showed_it_before_the_response_came() -> None:
    async with reporting_cluster() as cluster:
        cluster.start("a", publishes=False)

        def shown_first(_who: str, method: str, path: str) -> None:
            if (method, path) == ("POST", COLLECTION):
                publish(cluster, None)

        cluster.store.fault = shown_first
        publish(cluster, MISSING)
        await cluster.time.passes(SOON)
        cluster.store.fault = lambda _who, _method, _path: None
        delete(cluster)
        publish(cluster, MISSING)
        await cluster.time.passes(SOON)
        assert object_path(EGRESS) in cluster.store.objects
        assert len(cluster.store.asked("POST", COLLECTION)) == 2


@scenario
async def test_it_is_created_again_after_it_was_deleted_before_the_watch_showed_it() -> None:
    async with reporting_cluster() as cluster:
        cluster.start("a", publishes=False)
        publish(cluster, MISSING)
        await cluster.time.passes(1.0)
        delete(cluster)
        await cluster.time.passes(2 * SOON)
        assert object_path(EGRESS) in cluster.store.objects


@scenario
async def test_where_it_exists_and_the_watch_does_not_show_it_there_is_no_other_attempt_for_minutes() -> None:
    async with reporting_cluster() as cluster:
        cluster.start("a", publishes=False)
        cluster.owned(EGRESS, spec={})
        publish(cluster, MISSING)
        await cluster.time.passes(MINUTES)
        assert len(cluster.store.asked("POST", COLLECTION)) == 1


@scenario
async def test_it_is_created_once_while_it_exists() -> None:
    async with reporting_cluster() as cluster:
        cluster.start("a", publishes=False)
        publish(cluster, MISSING)
        await cluster.time.passes(1.0)
        publish(cluster, None)
        await cluster.time.passes(MINUTES)
        assert len(cluster.store.asked("POST", COLLECTION)) == 1
