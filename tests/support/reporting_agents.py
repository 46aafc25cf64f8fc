"""Reporting agents against one fake API server, in simulated time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeAlias

from nfagent.model.egress_nat import EgressNATPolicy
from nfagent.model.objects import ObjectRef
from nfagent.reporting.conditions import policy_conditions
from nfagent.reporting.lease import COLLECTION, RENEW_SECONDS
from nfagent.reporting.notice import Notice, object_path
from nfagent.reporting.reporter import ClusterReporter
from tests.support.fake_apiserver import ObjectStore, SkewedClock, SteppedTime

A_POLL = 1.2 * RENEW_SECONDS
LEASE = f"{COLLECTION}/nfagent"
DB = ObjectRef("NetworkPolicy", "shop", "db")
BROKEN = Notice(about=DB, reason="FailsClosed", message="spec.ingress[0]: is not a port")
EGRESS = ObjectRef("EgressNATPolicy", "", "default")
ENFORCED = policy_conditions(EgressNATPolicy(name="default", action="NoSNAT"))
HOUR = 3600.0


class ReportingCluster:
    """A fake API server, its clock, and running agents."""

    def __init__(self, jitter: Callable[[], float]) -> None:
        self.time = SteppedTime()
        self.store = ObjectStore(self.time)
        self.nodes = 0  # 0: those that run an agent
        self._random = jitter
        self.reporters: dict[str, ClusterReporter] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def start(self, *names: str, publishes: bool = True) -> None:
        for number, name in enumerate(names, len(self._tasks)):
            clock = SkewedClock(self.time, started=-77.0 * number, skew=31.0 * number)
            reporter = ClusterReporter(self.store.client(name), clock, name, self._count, self._random)
            self.reporters[name] = reporter
            if publishes:
                reporter.publish([BROKEN])
            self._tasks[name] = asyncio.create_task(reporter.run())

    async def stop(self, name: str) -> None:
        task = self._tasks.pop(name)
        assert not task.done(), "the cluster reporter ended"
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    async def close(self) -> None:
        for name in list(self._tasks):
            await self.stop(name)

    def _count(self) -> int:
        return self.nodes or len(self.reporters)

    @property
    def leaders(self) -> list[str]:
        return [name for name, reporter in self.reporters.items() if reporter.is_leader]

    def owned(self, ref: ObjectRef, **content: object) -> None:
        self.store.put(object_path(ref), content)

    def messages(self) -> list[tuple[str, int]]:
        return [(event["message"], event["count"]) for event in self.store.events()]

    def conditions(self, ref: ObjectRef) -> list[tuple[str, str, str, int]]:
        found = self.store.objects[object_path(ref)].get("status", {}).get("conditions", [])
        return [(one["type"], one["status"], one["reason"], one["observedGeneration"]) for one in found]


@asynccontextmanager
async def reporting_cluster(*names: str, jitter: Callable[[], float] = lambda: 0.5) -> AsyncIterator[ReportingCluster]:
    cluster = ReportingCluster(jitter)
    cluster.owned(DB)
    cluster.start(*names)
    try:
        yield cluster
    finally:
        await cluster.close()


Scenario: TypeAlias = Callable[..., Coroutine[Any, Any, None]]


def scenario(body: Scenario) -> Callable[..., None]:
    """Run a test's coroutine in an event loop of its own."""

    def test(*args: object, **kwargs: object) -> None:
        asyncio.run(body(*args, **kwargs))

    test.__name__ = body.__name__
    test.__wrapped__ = body  # type: ignore[attr-defined]
    return test
