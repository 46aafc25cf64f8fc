"""Takes part in the election of the agent that speaks for the cluster: reads and writes the Lease as it is decided."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress

from nfagent.clock import WallClock
from nfagent.errors import ClusterError
from nfagent.reporting.lease import (
    COLLECTION,
    NAME,
    NAMESPACE,
    Lease,
    LeaseState,
    decode_lease,
    first_pause,
    lease_body,
)
from nfagent.reporting.request_retrier import ApiAnswer, RequestRetrier, explanation
from nfagent.reporting.timestamps import to_microseconds

_LEASE = f"{COLLECTION}/{NAME}"
_WRITTEN = {200, 201}
UNPERMITTED = (
    f"this agent may not hold the Lease {NAMESPACE}/{NAME}, so Events and conditions about the cluster's objects are "
    "left to agents that may. Enforcement isn't concerned. With kubelet's credentials this is as it should be; with "
    "the agent's own, apply deploy/rbac.yaml"
)
"""For the log. The admission plugin NodeRestriction keeps nodes to the Leases of kube-node-lease."""

RESIGN_SECONDS = 2.0
"""A server that is silent holds up nobody's stop for longer; the Lease ends by itself then."""

_TRIES = 3
"""Within one turn, where somebody else writes in between."""


class LeaderElector:
    """One agent's part in the election."""

    def __init__(
        self,
        channel: RequestRetrier,
        clock: WallClock,
        node: str,
        nodes: Callable[[], int],
        *,
        draw: Callable[[], float],
        changed: Callable[[], object],
    ) -> None:
        """Stand for the agent of `node`.

        nodes:   how many the cluster has, as it is known now
        changed: called when this agent begins or ends to speak
        """
        self.channel = channel
        self._clock = clock
        self._nodes = nodes
        self._draw = draw
        self._changed = changed
        self._election = LeaseState(node)
        self._spoke = False
        self._unsure = False
        self._never = asyncio.Event()

    @property
    def leads(self) -> bool:
        """Whether this agent speaks for the cluster now."""
        return self._election.leads(self._clock.monotonic())

    @property
    def holder(self) -> str:
        """Who held the Lease when this agent last looked."""
        return self._election.holder

    async def run(self) -> None:
        """Take part until cancelled; then give the Lease back."""
        try:
            pause = first_pause(self._nodes(), self._draw())
            while True:
                if pause > 0.0:
                    await self._clock.wait(self._never, pause)
                await self._turn()
                if self.leads != self._spoke:
                    self._spoke = not self._spoke
                    self._changed()
                pause = self._pause()
        finally:
            await self._resign()

    def _pause(self) -> float:
        """Give the seconds until the next turn. Only who wrote, and wasn't answered, is in a hurry."""
        wait, clock = self.channel.wait(), self._clock
        pause = self._election.pause(clock.monotonic(), clock.now_ns(), self._nodes(), self._draw())
        return wait if wait > 0.0 and self._unsure else max(wait, pause)

    async def _turn(self) -> None:
        """Renew the Lease, or look at it and take it where nobody's is good."""
        known, self._unsure = self._election.holding, False
        for _ in range(_TRIES):
            if not known and not await self._look():
                return
            bid = self._election.bid(self._clock.monotonic(), to_microseconds(self._clock.now_ns()))
            if bid is None or await self._write(bid):
                return
            if self.channel.wait() > 0.0:
                return
            known = False

    async def _look(self) -> bool:
        """Read the Lease; tell whether that worked."""
        answer = await self.channel.ask("GET", _LEASE)
        if answer is None:
            return False
        if answer.status == 404:
            self._election.saw(None, self._clock.monotonic())
            return True
        lease = self._read(answer)
        if lease is not None:
            self._election.saw(lease, self._clock.monotonic())
        return lease is not None

    async def _write(self, bid: Lease) -> bool:
        """Write the Lease; tell whether the API server took it."""
        asked_at = self._clock.monotonic()
        method, path = ("PUT", _LEASE) if bid.version else ("POST", COLLECTION)
        answer = await self.channel.ask(method, path, body=lease_body(bid))
        if answer is None:
            # It may have been written all the same: who finds its own name in it, speaks.
            self._unsure = not self.channel.forbidden
            return False
        if answer.status in _WRITTEN:
            lease = self._read(answer)
            if lease is not None:
                self._election.won(lease, asked_at, self._clock.monotonic())
            return lease is not None
        if answer.status not in {404, 409} or (answer.status == 404 and not bid.version):
            # No such Namespace, or a Lease that the API server doesn't take: nothing that a second try mends.
            self.channel.refused(f"{explanation(answer)}; Namespace {NAMESPACE} is in deploy/")
            self.channel.rest()
        return False

    def _read(self, answer: ApiAnswer) -> Lease | None:
        try:
            return decode_lease(answer.body)
        except ClusterError as error:
            self.channel.refused(str(error))
            self.channel.rest()
            return None

    async def _resign(self) -> None:
        lease = self._election.resign(to_microseconds(self._clock.now_ns()))
        if lease is None:
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(RESIGN_SECONDS):
                await self.channel.ask("PUT", _LEASE, body=lease_body(lease))
