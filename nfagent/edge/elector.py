"""Takes part in the election of the agent that speaks for the cluster: reads and writes the Lease as it is decided."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from contextlib import suppress

from nfagent.edge.channel import Answer, Api, Channel, Clock, explanation
from nfagent.errors import ClusterError
from nfagent.notices.election import (
    COLLECTION,
    NAME,
    NAMESPACE,
    RENEW_SECONDS,
    Election,
    Lease,
    decode_lease,
    epoch,
    is_candidate,
    lease_body,
)
from nfagent.notices.times import to_microseconds

_LEASE = f"{COLLECTION}/{NAME}"
_WRITTEN = {200, 201}
RESIGN_SECONDS = 2.0
"""A server that is silent holds up nobody's stop for longer; the Lease ends by itself then."""

_TRIES = 3
"""Within one turn, where somebody else writes in between."""


class Elector:
    """One agent's part in the election."""

    def __init__(
        self,
        api: Api,
        clock: Clock,
        node: str,
        nodes: Callable[[], Iterable[str]],
        *,
        draw: Callable[[], float],
        changed: Callable[[], object],
    ) -> None:
        """Stand for the agent of `node`.

        nodes:   the names of all Nodes, as they are known now
        changed: called when this agent begins or ends to speak
        """
        self.channel = Channel(api, clock, draw, "Elections")
        self._clock = clock
        self._nodes = nodes
        self._draw = draw
        self._changed = changed
        self._election = Election(node)
        self._never = asyncio.Event()

    @property
    def leads(self) -> bool:
        """Whether this agent speaks for the cluster now."""
        return self._election.leads(self._clock.monotonic())

    @property
    def holder(self) -> str:
        """Who held the Lease when this agent last looked; only candidates look."""
        return self._election.holder

    async def run(self) -> None:
        """Take part until cancelled; then give the Lease back."""
        try:
            while True:
                before = self.leads
                await self._turn()
                if self.leads != before:
                    self._changed()
                jittered = RENEW_SECONDS * (0.8 + 0.4 * self._draw())
                await self._clock.wait(self._never, self.channel.wait() or jittered)
        finally:
            await self._resign()

    def _stands(self) -> bool:
        if self._election.holding:
            return True
        return is_candidate(self._election.me, self._nodes(), epoch(self._clock.now_ns()))

    async def _turn(self) -> None:
        """Renew the Lease, or look at it and take it where nobody's is good."""
        if self.channel.wait() > 0.0 or not self._stands():
            return
        known = self._election.holding
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

    def _read(self, answer: Answer) -> Lease | None:
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
