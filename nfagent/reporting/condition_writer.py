"""Writes status conditions: compares each object's conditions with the desired ones and applies those that differ."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from nfagent.clock import WallClock
from nfagent.model.objects import ObjectRef
from nfagent.reporting.api_writer import MAX_WAIT, ApiWriter
from nfagent.reporting.conditions import APPLY_PATCH, FIELD_MANAGER, ObjectConditions, status_apply
from nfagent.reporting.event_recorder import read_object_meta
from nfagent.reporting.notice import object_path
from nfagent.reporting.request_retrier import ApiReply, RequestRetrier, status_message
from nfagent.reporting.timestamps import to_seconds
from nfagent.reporting.token_bucket import TokenBucket

_RESYNC_SECONDS = 300.0
"""Between two reads of an object whose desired conditions are unchanged: other writers may change its conditions, and
the object may be deleted and created again."""

_CONFLICT_RETRY_SECONDS = 10.0
"""Before the next read of an object that changed while its status was written."""

_BURST = 20.0
_RATE = 5.0
"""Rate limit: objects read at once, then objects a second."""


class ConditionWriter(ApiWriter):
    """Keeps the status conditions of all objects that have them, while this agent is leader.

    sent: writes of an object's conditions so far
    """

    def __init__(
        self, retrier: RequestRetrier, clock: WallClock, jitter: Callable[[], float], is_leader: Callable[[], bool]
    ) -> None:
        """Start with no object."""
        super().__init__(retrier, clock, jitter, is_leader)
        self.sent = 0
        self._due: dict[ObjectRef, tuple[ObjectConditions, float]] = {}
        self._was_leader = False
        self._bucket = TokenBucket(_BURST, _RATE, clock.monotonic())

    def replace(self, conditions: Iterable[ObjectConditions]) -> None:
        """Set the desired conditions of all objects."""
        now = self._clock.monotonic()
        before = self._due
        self._due = {}
        for desired in conditions:
            found = before.get(desired.about)
            self._due[desired.about] = found if found is not None and found[0] == desired else (desired, now)
        self.wake()

    @property
    def _has_work(self) -> bool:
        return bool(self._due) and self._is_leader()

    async def _write_next(self) -> float:
        pause = self._delay()
        if pause <= 0.0:
            await self._sync(min(self._due.values(), key=lambda event: event[1])[0])
        return pause

    def _delay(self) -> float:
        """Return the seconds until the next object is due. A new leader reads all of them."""
        is_leader, now = self._is_leader(), self._clock.monotonic()
        if is_leader and not self._was_leader:
            self._due = {about: (desired, now) for about, (desired, _) in self._due.items()}
        self._was_leader = is_leader
        if not is_leader or not self._due:
            return MAX_WAIT
        return max(min(due for _, due in self._due.values()) - now, self._bucket.delay(now))

    async def _sync(self, desired: ObjectConditions) -> None:
        """Read one object and apply its conditions where they differ."""
        path = object_path(desired.about)
        self._bucket.take(self._clock.monotonic())
        response = await self.retrier.request("GET", path)
        if response is None:
            return
        if response.status == 200:
            body = status_apply(
                desired, _conditions(response), read_object_meta(response), to_seconds(self._clock.now_ns())
            )
            if body is not None:
                if not self._is_leader():
                    return
                query = {"fieldManager": FIELD_MANAGER, "force": "true"}
                path = f"{path}/status"
                response = await self.retrier.request("PATCH", path, query=query, body=body, content_type=APPLY_PATCH)
                if response is None:
                    return
                self.sent += response.status == 200
        self._requeue(desired, response)

    def _requeue(self, desired: ObjectConditions, response: ApiReply) -> None:
        """Schedule the next read of an object, unless its desired conditions changed meanwhile."""
        seconds = _RESYNC_SECONDS * (0.5 + 0.5 * self._jitter())
        if response.status in {404, 409}:
            seconds = _CONFLICT_RETRY_SECONDS  # deleted or created again meanwhile
        elif response.status != 200:
            self.retrier.record_rejection(f"status of {desired.about}: {status_message(response)}")
        found = self._due.get(desired.about)
        if found is not None and found[0] == desired:
            self._due[desired.about] = (desired, self._clock.monotonic() + seconds)


class _Status(msgspec.Struct):
    conditions: list[Any] | None = None


class _Object(msgspec.Struct):
    status: _Status | None = None


_object = msgspec.json.Decoder(_Object)


def _conditions(response: ApiReply) -> list[Any]:
    try:
        status = _object.decode(response.body).status
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return []
    return (status.conditions if status is not None else None) or []
