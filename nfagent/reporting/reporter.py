"""Publishes Events and status conditions, and takes part in the leader election for those of cluster objects."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from nfagent.clock import WallClock
from nfagent.model.egress_nat import EgressNATPolicy
from nfagent.reporting.condition_writer import ConditionWriter
from nfagent.reporting.conditions import ObjectConditions
from nfagent.reporting.default_policy import FORBIDDEN_HINT as CREATE_HINT
from nfagent.reporting.default_policy import DefaultPolicyCreator
from nfagent.reporting.event_recorder import EventRecorder
from nfagent.reporting.leader_elector import FORBIDDEN_HINT, LeaderElector
from nfagent.reporting.notice import Notice
from nfagent.reporting.request_retrier import ApiRequests, RequestRetrier

log = logging.getLogger(__name__)
_random = random.SystemRandom().random


class ClusterReporter:
    """Publishes the active notices and conditions of one agent. Failed requests are retried; none ends it."""

    def __init__(
        self,
        api: ApiRequests,
        clock: WallClock,
        node: str,
        nodes: Callable[[], int],
        jitter: Callable[[], float] = _random,
    ) -> None:
        """Start as the agent of `node`; requests are sent by `run` only.

        nodes:  returns the number of Nodes in the cluster: the more, the more rarely each agent polls the Lease
        jitter: returns a random number, 0 to 1
        """
        retrier = partial(RequestRetrier, api, clock, jitter, nodes)
        elections = retrier("Leader election", forbidden_hint=FORBIDDEN_HINT)
        self._elector = LeaderElector(elections, clock, node, nodes, jitter=jitter, changed=self._leader_changed)
        self._events = EventRecorder(retrier("Events"), clock, node, jitter, lambda: self._elector.is_leader)
        self._conditions = ConditionWriter(retrier("Status conditions"), clock, jitter, lambda: self._elector.is_leader)
        creations = retrier("Default EgressNATPolicy", forbidden_hint=CREATE_HINT)
        self._creator = DefaultPolicyCreator(creations, clock, jitter, lambda: self._elector.is_leader)

    @property
    def is_leader(self) -> bool:
        """Whether this agent is leader now."""
        return self._elector.is_leader

    @property
    def problem(self) -> str:
        """Why Events, conditions or the Lease can't be written; '' where they can, or needn't be."""
        writers = (self._events, self._conditions, self._creator)
        return "; ".join(filter(None, (self._elector.retrier.problem, *(writer.problem for writer in writers))))

    def publish(
        self,
        notices: Iterable[Notice],
        conditions: Iterable[ObjectConditions] = (),
        missing: EgressNATPolicy | None = None,
    ) -> None:
        """Set all active notices and desired conditions, those of the cluster too: the next leader has them already.

        missing: the policy `default`, where it is to be created

        A notice that isn't among them is no longer published. Each key (object, event type, reason, finding) has one
        notice.
        """
        self._events.publish(notices)
        self._conditions.replace(conditions)
        self._creator.replace(missing)

    async def run(self) -> None:
        """Publish until cancelled; then release the Lease."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._elector.run())
            tasks.create_task(self._events.run())
            tasks.create_task(self._conditions.run())
            tasks.create_task(self._creator.run())

    def _leader_changed(self) -> None:
        log.info("Leader election: this agent %s", "became leader" if self.is_leader else "is no longer leader")
        self._events.wake()
        self._conditions.wake()
        self._creator.wake()

    def status(self) -> dict[str, Any]:
        """Return the state for `dump state`.

        holder:     holder of the Lease at the last poll, which in a large cluster is long ago
        holding:    active notices; left_out: those beyond the limit
        suppressed: notices that were published late or never
        """
        recorder, queue, conditions = self._events, self._events.queue, self._conditions
        retriers = (self._elector.retrier, recorder.retrier, conditions.retrier, self._creator.retrier)
        return {
            "leader": self.is_leader,
            "holder": self._elector.holder,
            "events": {
                "holding": queue.active,
                "left_out": queue.left_out,
                "sent": recorder.sent,
                "suppressed": queue.suppressed,
                "gone": recorder.gone,
                "failed": recorder.retrier.failed,
            },
            "conditions": {"sent": conditions.sent, "failed": conditions.retrier.failed},
            "last_error": next((retrier.last_error for retrier in retriers if retrier.last_error), ""),
        }
