"""What this agent says in the cluster: Events and status conditions, and the election of who says the cluster's."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from nfagent.edge.channel import Api, Channel, Clock
from nfagent.edge.elector import UNPERMITTED, Elector
from nfagent.edge.recorder import Recorder
from nfagent.edge.standings import StatusWriter
from nfagent.notices.conditions import Standing
from nfagent.notices.statement import Statement

log = logging.getLogger(__name__)
_lots = random.SystemRandom().random


class Notary:
    """Says what holds. No setback ends it: what the API server doesn't take now is offered again."""

    def __init__(
        self,
        api: Api,
        clock: Clock,
        node: str,
        nodes: Callable[[], int],
        draw: Callable[[], float] = _lots,
    ) -> None:
        """Speak for the agent of `node`; nothing is asked before `run`.

        nodes: how many Nodes the cluster has: the more, the more rarely each agent asks
        draw:  lots from 0 to 1
        """
        channel = partial(Channel, api, clock, draw, nodes)
        elections = channel("Elections", unpermitted=UNPERMITTED)
        self._elector = Elector(elections, clock, node, nodes, draw=draw, changed=self._elected)
        self._recorder = Recorder(channel("Events"), clock, node, draw, lambda: self._elector.leads)
        self._statuses = StatusWriter(channel("Status conditions"), clock, draw, lambda: self._elector.leads)

    @property
    def leads(self) -> bool:
        """Whether this agent speaks for the cluster now."""
        return self._elector.leads

    def say(self, statements: Iterable[Statement], standings: Iterable[Standing] = ()) -> None:
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
