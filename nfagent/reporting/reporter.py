"""What this agent says in the cluster: Events and status conditions, and the election of who says the cluster's."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from nfagent.clock import WallClock
from nfagent.reporting.condition_writer import ConditionWriter
from nfagent.reporting.conditions import ObjectConditions
from nfagent.reporting.event_recorder import EventRecorder
from nfagent.reporting.leader_elector import UNPERMITTED, LeaderElector
from nfagent.reporting.notice import Notice
from nfagent.reporting.request_retrier import ApiRequests, RequestRetrier

log = logging.getLogger(__name__)
_lots = random.SystemRandom().random


class ClusterReporter:
    """Says what holds. No setback ends it: what the API server doesn't take now is offered again."""

    def __init__(
        self,
        api: ApiRequests,
        clock: WallClock,
        node: str,
        nodes: Callable[[], int],
        draw: Callable[[], float] = _lots,
    ) -> None:
        """Speak for the agent of `node`; nothing is asked before `run`.

        nodes: how many Nodes the cluster has: the more, the more rarely each agent asks
        draw:  lots from 0 to 1
        """
        channel = partial(RequestRetrier, api, clock, draw, nodes)
        elections = channel("Elections", unpermitted=UNPERMITTED)
        self._elector = LeaderElector(elections, clock, node, nodes, draw=draw, changed=self._elected)
        self._recorder = EventRecorder(channel("Events"), clock, node, draw, lambda: self._elector.leads)
        self._statuses = ConditionWriter(channel("Status conditions"), clock, draw, lambda: self._elector.leads)

    @property
    def leads(self) -> bool:
        """Whether this agent speaks for the cluster now."""
        return self._elector.leads

    def say(self, statements: Iterable[Notice], standings: Iterable[ObjectConditions] = ()) -> None:
        """Take in all that holds now, the cluster's statements too: whoever is elected next has them at hand.

        What isn't among it any more is no longer said. Of one topic (object, weight, reason) there is one statement.
        """
        self._recorder.say(statements)
        self._statuses.keep(standings)

    async def run(self) -> None:
        """Speak until cancelled; then give the Lease back."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._elector.run())
            tasks.create_task(self._recorder.run())
            tasks.create_task(self._statuses.run())

    def _elected(self) -> None:
        log.info("this agent %s for the cluster", "speaks" if self.leads else "no longer speaks")
        self._recorder.wake()
        self._statuses.wake()

    def status(self) -> dict[str, Any]:
        """Tell how it stands, for `dump state`.

        holder:     who held the Lease when this agent last looked, which in a large cluster is long ago
        holding:    statements that hold; left_out: those beyond what is kept
        suppressed: statements that were said late or never, for the pace
        """
        recorder, ledger, statuses = self._recorder, self._recorder.ledger, self._statuses
        channels = (self._elector.channel, recorder.channel, statuses.channel)
        return {
            "leader": self.leads,
            "holder": self._elector.holder,
            "events": {
                "holding": ledger.holding,
                "left_out": ledger.left_out,
                "sent": recorder.sent,
                "suppressed": ledger.suppressed,
                "gone": recorder.gone,
                "failed": recorder.channel.failed,
            },
            "conditions": {"sent": statuses.sent, "failed": statuses.channel.failed},
            "last_error": next((channel.last_error for channel in channels if channel.last_error), ""),
        }
