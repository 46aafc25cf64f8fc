"""Writes Events, one after the other, as the ledger says which and when."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

import msgspec

from nfagent.clock import WallClock
from nfagent.reporting.event_queue import EventQueue, QueuedEvent
from nfagent.reporting.events import event_name, events_path, new_event, node_known, repeated
from nfagent.reporting.notice import ExistingEvent, Notice, object_path
from nfagent.reporting.request_retrier import ApiAnswer, RequestRetrier, explanation
from nfagent.reporting.timestamps import to_seconds

MERGE_PATCH = "application/merge-patch+json"
_LONGEST_WAIT = 3600.0


class EventRecorder:
    """The Events of one agent.

    sent: how many were written so far, repetitions among them
    gone: statements whose object wasn't there any more
    """

    def __init__(
        self, channel: RequestRetrier, clock: WallClock, node: str, draw: Callable[[], float], leads: Callable[[], bool]
    ) -> None:
        """Write as the agent of `node`; leads: whether it speaks for the cluster now."""
        self.sent = 0
        self.gone = 0
        self.channel = channel
        self.ledger = EventQueue(clock.monotonic())
        self._clock = clock
        self._node = node
        self._draw = draw
        self._leads = leads
        self._woken = asyncio.Event()

    def say(self, statements: Iterable[Notice]) -> None:
        """Take in all that holds now; what isn't among it holds no more."""
        self.ledger.hold(statements, self._clock.monotonic(), self._draw())
        self._woken.set()

    def wake(self) -> None:
        """Have a look: who speaks for the cluster may have changed."""
        self._woken.set()

    async def run(self) -> None:
        """Write what there is to be said, until cancelled."""
        while True:
            self._woken.clear()
            pause = self.channel.wait()
            if pause <= 0.0:
                self.ledger.lead(leading=self._leads())
                turn = self.ledger.next(self._clock.monotonic())
                if isinstance(turn, QueuedEvent):
                    await self._send(turn)
                    continue
                pause = _LONGEST_WAIT if turn is None else turn
            await self._clock.wait(self._woken, min(pause, _LONGEST_WAIT))

    async def _send(self, turn: QueuedEvent) -> None:
        statement = turn.statement
        known = turn.known or await self._find(statement)
        if known is None or not self._may(statement):
            return
        if turn.count:
            answer = await self._again(statement, known, turn.count + 1)
            if answer is None or answer.status != 404:
                self._done(statement, answer, turn.count + 1)
                return
            if not self._may(statement):
                return
        answer = await self.channel.ask("POST", events_path(statement.about), body=self._body(statement, known))
        if answer is None or answer.status != 409:
            self._done(statement, answer, 1)
        elif statement.once:
            # The agent that spoke before told this news.
            self.ledger.said(statement, 1, self._clock.monotonic())
        elif self._may(statement):
            answer = await self._again(statement, known, None)
            self._done(statement, answer, _count(answer))

    async def _find(self, statement: Notice) -> ExistingEvent | None:
        """Learn the object's uid; None where it isn't there, or nobody answers. Without permission it stays unknown."""
        about = statement.about
        if about.kind == "Node":
            known = node_known(about.name)
        else:
            answer = await self.channel.ask("GET", object_path(about), expected=(403,))
            if answer is None:
                return None
            if answer.status == 404:
                self.gone += 1
                self.ledger.put_off(statement, self._clock.monotonic())
                return None
            known = read_known(answer)
        self.ledger.learned(statement, known)
        return known

    async def _again(self, statement: Notice, known: ExistingEvent, count: int | None) -> ApiAnswer | None:
        path = f"{events_path(statement.about)}/{event_name(statement, known)}"
        body = repeated(to_seconds(self._clock.now_ns()), count)
        return await self.channel.ask("PATCH", path, body=body, content_type=MERGE_PATCH)

    def _body(self, statement: Notice, known: ExistingEvent) -> object:
        return new_event(statement, known, node=self._node, now=to_seconds(self._clock.now_ns()))

    def _done(self, statement: Notice, answer: ApiAnswer | None, count: int) -> None:
        if answer is None:
            return
        now = self._clock.monotonic()
        if answer.status in {200, 201}:
            self.sent += 1
            self.ledger.said(statement, count, now)
            return
        self.ledger.put_off(statement, now)
        self.channel.refused(f"{statement.reason} on {statement.about}: {explanation(answer)}")

    def _may(self, statement: Notice) -> bool:
        return statement.scope == "node" or self._leads()


class _Metadata(msgspec.Struct, rename="camel"):
    uid: str = ""
    resource_version: str = ""
    generation: int = 0


class _Object(msgspec.Struct):
    metadata: _Metadata
    count: int = 1


_object = msgspec.json.Decoder(_Object)


def read_known(answer: ApiAnswer) -> ExistingEvent:
    """Read what an object's metadata say; nothing where they can't be read."""
    try:
        found = _object.decode(answer.body).metadata
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return ExistingEvent()
    return ExistingEvent(found.uid, found.resource_version, found.generation)


def _count(answer: ApiAnswer | None) -> int:
    """Read how often an Event says that it was said."""
    try:
        return max(1, _object.decode(answer.body).count) if answer is not None else 1
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return 1
