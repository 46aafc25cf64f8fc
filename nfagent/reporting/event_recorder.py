"""Writes Events to the API server one after the other, in the order of the queue."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import msgspec

from nfagent.clock import WallClock
from nfagent.reporting.api_writer import MAX_WAIT, ApiWriter
from nfagent.reporting.event_queue import EventQueue, QueuedEvent
from nfagent.reporting.events import event_name, events_path, new_event, node_object_meta, repeat_patch
from nfagent.reporting.notice import Notice, ObjectMeta, object_path
from nfagent.reporting.request_retrier import ApiReply, RequestRetrier, is_namespace_terminating, status_message
from nfagent.reporting.timestamps import to_seconds

MERGE_PATCH = "application/merge-patch+json"


class EventRecorder(ApiWriter):
    """Records the Events of one agent.

    sent: Events written so far, repetitions included
    gone: notices whose object didn't exist any more
    """

    def __init__(
        self,
        retrier: RequestRetrier,
        clock: WallClock,
        node: str,
        jitter: Callable[[], float],
        is_leader: Callable[[], bool],
    ) -> None:
        """Record as the agent of `node`."""
        super().__init__(retrier, clock, jitter, is_leader)
        self.sent = 0
        self.gone = 0
        self.queue = EventQueue(clock.monotonic())
        self._node = node

    def publish(self, notices: Iterable[Notice]) -> None:
        """Set all active notices; one that isn't among them is no longer published."""
        self.queue.replace(notices, self._clock.monotonic(), self._jitter())
        self.wake()

    @property
    def _has_work(self) -> bool:
        return self.queue.has_active(leading=self._is_leader())

    async def _write_next(self) -> float:
        self.queue.set_leading(leading=self._is_leader())
        event = self.queue.next_event(self._clock.monotonic())
        if not isinstance(event, QueuedEvent):
            return MAX_WAIT if event is None else event
        await self._send(event)
        return 0.0

    async def _send(self, event: QueuedEvent) -> None:
        notice = event.notice
        meta = event.meta or await self._object_meta(notice)
        if meta is None or not self._may_write(notice):
            return
        if event.count:
            response = await self._patch_event(notice, meta, event.count + 1)
            if response is None or response.status != 404:
                self._record_response(notice, response, event.count + 1)
                return
            if not self._may_write(notice):
                return
        response = await self.retrier.request("POST", events_path(notice.about), body=self._body(notice, meta))
        if response is None or response.status != 409:
            self._record_response(notice, response, 1)
        elif notice.once:
            # The leader before this one published it.
            self.queue.record(notice, 1, self._clock.monotonic())
        elif self._may_write(notice):
            response = await self._patch_event(notice, meta, None)
            self._record_response(notice, response, _count(response))

    async def _object_meta(self, notice: Notice) -> ObjectMeta | None:
        """Return the object's metadata; None where it doesn't exist, or the request failed.

        Without permission to read it the uid stays empty.
        """
        about = notice.about
        if about.kind == "Node":
            meta = node_object_meta(about.name)
        else:
            response = await self.retrier.request("GET", object_path(about), expected=(403,))
            if response is None:
                return None
            if response.status == 404:
                self.gone += 1
                self.queue.postpone(notice, self._clock.monotonic())
                return None
            meta = read_object_meta(response)
        self.queue.set_object_meta(notice, meta)
        return meta

    async def _patch_event(self, notice: Notice, meta: ObjectMeta, count: int | None) -> ApiReply | None:
        path = f"{events_path(notice.about)}/{event_name(notice, meta)}"
        body = repeat_patch(to_seconds(self._clock.now_ns()), count)
        return await self.retrier.request("PATCH", path, body=body, content_type=MERGE_PATCH)

    def _body(self, notice: Notice, meta: ObjectMeta) -> object:
        return new_event(notice, meta, node=self._node, now=to_seconds(self._clock.now_ns()))

    def _record_response(self, notice: Notice, response: ApiReply | None, count: int) -> None:
        if response is None:
            return
        now = self._clock.monotonic()
        if response.status in {200, 201}:
            self.sent += 1
            self.queue.record(notice, count, now)
            return
        self.queue.postpone(notice, now)
        self.retrier.record_rejection(
            f"{notice.reason} on {notice.about}: {status_message(response)}",
            of_one_object=response.status == 404 or is_namespace_terminating(response),
        )

    def _may_write(self, notice: Notice) -> bool:
        return notice.scope == "node" or self._is_leader()


class _Metadata(msgspec.Struct, rename="camel"):
    uid: str = ""
    resource_version: str = ""
    generation: int = 0


class _Object(msgspec.Struct):
    metadata: _Metadata
    count: int = 1


_object = msgspec.json.Decoder(_Object)


def read_object_meta(response: ApiReply) -> ObjectMeta:
    """Return an object's metadata; empty where they can't be decoded."""
    try:
        found = _object.decode(response.body).metadata
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return ObjectMeta()
    return ObjectMeta(found.uid, found.resource_version, found.generation)


def _count(response: ApiReply | None) -> int:
    """Return an Event's `count`; 1 where it can't be decoded."""
    try:
        return max(1, _object.decode(response.body).count) if response is not None else 1
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return 1
