"""Writes status conditions: where an object's are not as they should be, and only there."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from nfagent.clock import WallClock
from nfagent.model.objects import ObjectRef
from nfagent.reporting.conditions import APPLY_PATCH, FIELD_MANAGER, ObjectConditions, status_apply
from nfagent.reporting.event_recorder import read_known
from nfagent.reporting.notice import object_path
from nfagent.reporting.request_retrier import ApiAnswer, RequestRetrier, explanation
from nfagent.reporting.timestamps import to_seconds
from nfagent.reporting.token_bucket import TokenBucket

_LOOK_AGAIN_SECONDS = 300.0
"""Between two looks at conditions that nothing was told about: others may write them, or make the object anew."""

_SOON_SECONDS = 10.0
"""Before the next look at an object that changed while it was written to."""

_BURST = 20.0
_RATE = 5.0
"""Objects that are looked at: so many at once, then so many a second."""

_LONGEST_WAIT = 3600.0


class ConditionWriter:
    """The conditions of all objects that have them, while this agent speaks for the cluster.

    sent: how many objects' conditions were written so far
    """

    def __init__(
        self, channel: RequestRetrier, clock: WallClock, draw: Callable[[], float], leads: Callable[[], bool]
    ) -> None:
        """Stand ready; leads: whether this agent speaks for the cluster now."""
        self.sent = 0
        self.channel = channel
        self._clock = clock
        self._draw = draw
        self._leads = leads
        self._due: dict[ObjectRef, tuple[ObjectConditions, float]] = {}
        self._led = False
        self._bucket = TokenBucket(_BURST, _RATE, clock.monotonic())
        self._woken = asyncio.Event()

    def keep(self, standings: Iterable[ObjectConditions]) -> None:
        """Take in how it stands with all objects now."""
        now = self._clock.monotonic()
        before = self._due
        self._due = {}
        for standing in standings:
            found = before.get(standing.about)
            self._due[standing.about] = found if found is not None and found[0] == standing else (standing, now)
        self._woken.set()

    def wake(self) -> None:
        """Have a look: who speaks for the cluster may have changed."""
        self._woken.set()

    async def run(self) -> None:
        """Write what isn't as it should be, until cancelled."""
        while True:
            self._woken.clear()
            pause = self.channel.wait()
            if pause <= 0.0:
                pause = self._until()
                if pause <= 0.0:
                    await self._bring(min(self._due.values(), key=lambda turn: turn[1])[0])
                    continue
            await self._clock.wait(self._woken, min(pause, _LONGEST_WAIT))

    def _until(self) -> float:
        """Give the seconds until the next object's turn. One that begins to speak looks at all of them."""
        leads, now = self._leads(), self._clock.monotonic()
        if leads and not self._led:
            self._due = {about: (standing, now) for about, (standing, _) in self._due.items()}
        self._led = leads
        if not leads or not self._due:
            return _LONGEST_WAIT
        return max(min(due for _, due in self._due.values()) - now, self._bucket.wait(now))

    async def _bring(self, standing: ObjectConditions) -> None:
        """Bring one object's conditions up to date."""
        path = object_path(standing.about)
        self._bucket.take(self._clock.monotonic())
        answer = await self.channel.ask("GET", path)
        if answer is None:
            return
        if answer.status == 200:
            body = status_apply(standing, _conditions(answer), read_known(answer), to_seconds(self._clock.now_ns()))
            if body is not None:
                if not self._leads():
                    return
                query = {"fieldManager": FIELD_MANAGER, "force": "true"}
                path = f"{path}/status"
                answer = await self.channel.ask("PATCH", path, query=query, body=body, content_type=APPLY_PATCH)
                if answer is None:
                    return
                self.sent += answer.status == 200
        self._settle(standing, answer)

    def _settle(self, standing: ObjectConditions, answer: ApiAnswer) -> None:
        """Leave an object alone for a while, unless something new was told of it meanwhile."""
        seconds = _LOOK_AGAIN_SECONDS * (0.5 + 0.5 * self._draw())
        if answer.status in {404, 409}:
            seconds = _SOON_SECONDS  # it was deleted, or made anew, meanwhile: that is told, or found
        elif answer.status != 200:
            self.channel.refused(f"status of {standing.about}: {explanation(answer)}")
        found = self._due.get(standing.about)
        if found is not None and found[0] == standing:
            self._due[standing.about] = (standing, self._clock.monotonic() + seconds)


class _Status(msgspec.Struct):
    conditions: list[Any] | None = None


class _Object(msgspec.Struct):
    status: _Status | None = None


_object = msgspec.json.Decoder(_Object)


def _conditions(answer: ApiAnswer) -> list[Any]:
    try:
        status = _object.decode(answer.body).status
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return []
    return (status.conditions if status is not None else None) or []
