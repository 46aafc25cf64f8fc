"""An API server as the source of objects: every resource listed and watched, each by a task of its own.

What to ask and what answers mean is decided in `source`; here they are asked, waited for and handed on. Losing the
server changes nothing: what was read last holds, and following goes on from there when it is back.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Collection, Iterable
from typing import Any, Protocol

from nfagent.checkpoint.store import CheckpointStore
from nfagent.clock import Clock
from nfagent.errors import ClusterError, ReadTimeoutError, UnreachableError, ValidationIssue
from nfagent.kube.api import ApiClientProtocol, ResponseStream
from nfagent.kube.availability import APIAvailability
from nfagent.kube.backoff import Backoff
from nfagent.kube.reflector import Reflector
from nfagent.kube.reflector_requests import Key, ObjectChange, ReflectorRequest, WatchFailure
from nfagent.model.gvk import RESOURCES, SERVICES, Resource
from nfagent.model.objects import ObjectRef

log = logging.getLogger(__name__)

SILENCE_SECONDS = 240.0
"""A watch that says nothing for so long is broken: the server sends a bookmark every two minutes at least (tried)."""

_LIST_SILENCE_SECONDS = 60.0
_WATCH_SECONDS = 300
"""The server ends a watch after one to two times as long, so that agents spread over its replicas."""

_PROTOCOL = frozenset({"again", "expired"})
"""Setbacks that nobody needs to hear of."""

_SHORT_SECONDS = 1.0
_STEADY_SECONDS = 10.0
"""A watch that held so long was a success, however it ended. (A list that is expired by its end wasn't.)"""

_ONE_BY_ONE = frozenset({"Pod", "Service"})
"""Kinds of which each object stands for itself, and there are many: what a list gives of them is handed on at once."""

_TURN_SECONDS = 0.01
"""How long the event loop is held while a list is read."""

_OK = 200
_NOT_FOUND = 404
_UNAVAILABLE = 503
_SERVICES_SECONDS = 10.0
_MOST_EXPIRED = 2


class EventSink(Protocol):
    """Receives the changes of all resources."""

    async def take(self, changes: Iterable[ObjectChange]) -> None:
        """Apply changes in the order of events; the informers continue when it returns."""
        ...

    def gathered(self) -> None:
        """Note that every resource was listed; called once."""
        ...


class Informers:
    """Follows all resources of one cluster."""

    def __init__(
        self,
        server: ApiClientProtocol,
        clock: Clock,
        sink: EventSink,
        keys: Callable[[str], Collection[Key]],
        last_good: CheckpointStore | None = None,
        *,
        resources: tuple[Resource, ...] = RESOURCES,
        silence: float = SILENCE_SECONDS,
        lots: Callable[[], float] = random.random,
    ) -> None:
        """Set up the reflectors; `run` sends the first request.

        sink:      receives every change
        keys:      returns namespace and name of the objects of a kind that the desired state contains
        last_good: the checkpoint for the next start of the agent
        """
        self._server = server
        self._clock = clock
        self._sink = sink
        self._keys = keys
        self._silence = silence
        self._lots = lots
        self._lookout = APIAvailability(server, clock, self._count_nodes, lots)
        self._last_good = last_good or CheckpointStore(None, "")
        self._reflectors = {
            resource.kind: Reflector(resource, keys, last_good=self._last_good) for resource in resources
        }
        self._troubles: dict[str, str] = {}
        self._heard_at: dict[str, float] = {}
        self._again = asyncio.Event()
        self._begun = asyncio.Event()
        self._listed = asyncio.Event()
        self._never = asyncio.Event()
        self._services_at: float | None = None
        self._service_problems: tuple[tuple[ValidationIssue, ...], ...] = ()
        self._reading_services = asyncio.Lock()
        self._origin = ""
        self.synced = False

    @property
    def faults(self) -> dict[ObjectRef, tuple[ValidationIssue, ...]]:
        """What is wrong with objects now, by object."""
        return {ref: flaws for each in self._reflectors.values() for ref, flaws in each.problems.items()}

    @property
    def problems(self) -> tuple[ValidationIssue, ...]:
        """Everything that is wrong with objects now; with Services as of the last question about them."""
        found = (*self.faults.values(), *self._service_problems)
        return tuple(sorted((flaw for flaws in found for flaw in flaws), key=str))

    def news(self) -> tuple[list[ValidationIssue], list[ValidationIssue]]:
        """Give the problems that came and those that went since the last time; it costs what changed."""
        came, went = list[ValidationIssue](), list[ValidationIssue]()
        for reflector in self._reflectors.values():
            new, gone = reflector.problems.news()
            came += new
            went += gone
        return came, went

    async def start(self) -> None:
        """Find the credentials. Raises ClusterError."""
        access = await self._server.access()
        self._origin = f"{access.server}, by {access.origin}"
        await self._last_good.open(f"API server {access.server}")
        log.info("following %s", self._origin)

    async def close(self) -> None:
        """End the connections."""
        await self._server.close()

    async def run(self) -> None:
        """Follow until cancelled."""
        while True:
            self._again.clear()
            async with asyncio.TaskGroup() as tasks:
                following = [tasks.create_task(self._follow(reflector)) for reflector in self._reflectors.values()]
                await self._again.wait()
                for task in following:
                    task.cancel()
            # Not before they have ended: what one of them was still reading isn't of the new lists.
            for reflector in self._reflectors.values():
                reflector.look_again()
            self._listed.clear()
            self._begun.set()

    async def reload(self) -> None:
        """List everything again, and return when all that is listed was taken."""
        self._begun.clear()
        self._again.set()
        await self._begun.wait()
        await self._listed.wait()

    def status(self) -> dict[str, Any]:
        """Tell where the objects come from, and how each resource stands, by kind."""
        standing = {kind: self._standing(reflector) for kind, reflector in self._reflectors.items()}
        return {"apiserver": {"server": self._origin, "synced": self.synced, "resources": standing}}

    async def read_services(self) -> str:
        """Have the Services as they are now, or were seconds ago; where they can't be read, what was known holds.

        Gives what was in the way, '' where nothing was.
        """
        async with self._reading_services:
            now = self._clock.monotonic()
            if self._services_at is not None and now - self._services_at < _SERVICES_SECONDS:
                return ""
            reflector = Reflector(SERVICES, self._keys)
            reflector.list_only()
            trouble = await self._list(reflector)
            if trouble:
                log.warning("Services can't be read: %s", trouble)
            else:
                self._services_at = now
                self._service_problems = tuple(reflector.problems.values())
            return trouble

    async def _list(self, reflector: Reflector) -> str:
        """Read a list by pages; give what stood in the way, or nothing. One that is expired is begun anew, twice."""
        expired = 0
        while not reflector.synced:
            try:
                await self._ask(reflector, reflector.request(0))
            except ClusterError as error:
                return str(error)
            setback = reflector.setback
            if setback is not None:
                expired += 1
                if setback.kind != "expired" or expired > _MOST_EXPIRED:
                    return setback.reason
        return ""

    async def _follow(self, reflector: Reflector) -> None:
        backoff, knocked = Backoff(), False
        while True:
            began = self._clock.monotonic()
            try:
                setback = await self._once(reflector)
            except UnreachableError as error:
                reflector.end()
                self._say(reflector.resource.kind, str(error))
                await self._lookout.reachable()
                if knocked:
                    # Reachable for whoever knocks, and not for this: a balancer with a dead server behind it.
                    await self._pause(backoff, WatchFailure("lost", str(error)))
                knocked = True
                continue
            knocked = False
            if self._clock.monotonic() - began > _STEADY_SECONDS and reflector.phase == "watching":
                backoff.succeeded()
            if setback is not None:
                await self._recover(reflector, backoff, setback)

    async def _once(self, reflector: Reflector) -> WatchFailure | None:
        """Ask once, as long as the answer goes; give what stood in the way. Raises Unreachable."""
        began = self._clock.monotonic()
        request = reflector.request(_WATCH_SECONDS + int(_WATCH_SECONDS * self._lots()))
        try:
            await self._ask(reflector, request)
        except UnreachableError:
            raise
        except ClusterError as error:
            reflector.end(silent=isinstance(error, ReadTimeoutError))
            return WatchFailure("lost", str(error))
        if reflector.setback is None and request.watch and self._clock.monotonic() - began < _SHORT_SECONDS:
            return WatchFailure("lost", "the API server ended a watch as soon as it began")
        return reflector.setback

    async def _recover(self, reflector: Reflector, backoff: Backoff, setback: WatchFailure) -> None:
        """Wait until it makes sense to ask again."""
        kind = reflector.resource.kind
        if setback.kind == "missing":
            self._say(kind, "")
            log.debug("%s is not served here: %s", kind, setback.reason)
            await self._lookout.appears(reflector.resource)
            reflector.look_again()
            return
        if setback.kind not in _PROTOCOL and not (backoff.fresh and _passes(setback)):
            self._say(kind, setback.reason)
        await self._pause(backoff, setback)

    def _count_nodes(self) -> int:
        return len(self._keys("Node"))

    async def _pause(self, backoff: Backoff, setback: WatchFailure) -> None:
        await self._clock.wait(self._never, backoff.pause(setback, self._count_nodes(), self._lots()))

    async def _ask(self, reflector: Reflector, request: ReflectorRequest) -> None:
        """Ask, and hand on what the answer changes. Raises ClusterError."""
        silence = self._silence if request.watch else _LIST_SILENCE_SECONDS
        async with self._server.stream(request.path, request.query, silence) as stream:
            if stream.status != _OK:
                await self._refused(reflector, stream)
            elif not request.watch:
                await self._take_page(reflector, stream)
            else:
                self._say_followed(reflector)
                self._hear(reflector)
                async for chunk in stream:
                    self._hear(reflector)
                    if (work := reflector.ahead.work(chunk)) is not None:
                        await asyncio.to_thread(work)
                    await self._hand_on(reflector, reflector.take_chunk(chunk))
                    if reflector.setback is not None:
                        return
                    self._say_followed(reflector)
                reflector.end()

    async def _take_page(self, reflector: Reflector, stream: ResponseStream) -> None:
        """Hand on a page's objects as they come: one of the server's cache is as long as the list."""
        async for chunk in stream:
            self._hear(reflector)
            await self._hand_on(reflector, reflector.take_part(chunk))
            if reflector.setback is not None:
                return
        await self._hand_on(reflector, reflector.end_page())

    def _hear(self, reflector: Reflector) -> None:
        self._heard_at[reflector.resource.kind] = self._clock.monotonic()

    async def _refused(self, reflector: Reflector, stream: ResponseStream) -> None:
        code, body = stream.status, await stream.read()
        if code == _NOT_FOUND and not await self._lookout.ready():
            # A server that is only starting may not know of its CRDs yet.
            code, body = _UNAVAILABLE, b"the API server isn't ready"
        elif code == _NOT_FOUND and reflector.resource.optional and reflector.expected:
            elsewhere = await self._lookout.elsewhere(reflector.resource)
            if elsewhere:
                await self._deliver([*reflector.withhold(f"{elsewhere}; what was read before stays in force")])
                self._look_whether_all_is_read()
                return
        await self._hand_on(reflector, reflector.refuse(code, body, stream.retry_after))

    async def _hand_on(self, reflector: Reflector, changes: Iterable[ObjectChange]) -> None:
        if reflector.phase == "watching" or reflector.resource.kind in _ONE_BY_ONE:
            await self._deliver(changes)
        else:
            await self._keep(reflector, changes)
        self._look_whether_all_is_read()

    def _look_whether_all_is_read(self) -> None:
        if not self._listed.is_set() and all(each.listed for each in self._reflectors.values()):
            self._listed.set()
        if not self.synced and all(each.synced for each in self._reflectors.values()):
            self.synced = True
            self._last_good.settle()
            self._sink.gathered()

    async def _deliver(self, changes: Iterable[ObjectChange]) -> None:
        await self._sink.take(self._last_good.noted(changes))

    async def _keep(self, reflector: Reflector, changes: Iterable[ObjectChange]) -> None:
        """Keep what a list gives until it is whole, and hand it on as one batch: no part of a relist takes effect."""
        lists, begun = reflector.lists, reflector.pending
        came: list[ObjectChange] = []
        turn = self._clock.monotonic()
        for change in changes:
            came.append(change)
            if self._clock.monotonic() - turn > _TURN_SECONDS:
                await asyncio.sleep(0)
                turn = self._clock.monotonic()
        if reflector.lists > lists:
            await self._deliver([*begun, *came])
        elif reflector.phase == "missing":
            await self._deliver(came)
        elif reflector.pending is begun:
            begun += came

    def _say_followed(self, reflector: Reflector) -> None:
        """Say that trouble is over; a list that has only begun is no end of it."""
        if self._troubles and reflector.phase == "watching":
            self._say(reflector.resource.kind, "")

    def _say(self, kind: str, trouble: str) -> None:
        """Log what is in the way, once for all kinds that it is in the way of, and that nothing is any more."""
        before = self._troubles.pop(kind, "")
        known = set(self._troubles.values())
        if trouble:
            self._troubles[kind] = trouble
            if trouble not in known | {before}:
                holds = "what was read last holds" if self.synced else "nothing is written before it was read"
                log.warning("%s: not followed for now, %s: %s", kind, holds, trouble)
        elif before and not known:
            log.info("every kind is followed again")

    def _trouble(self, reflector: Reflector) -> str:
        said = self._troubles.get(reflector.resource.kind, "")
        return said or (self._lookout.known_elsewhere(reflector.resource) if reflector.missing else "")

    def _standing(self, reflector: Reflector) -> dict[str, Any]:
        heard_at = self._heard_at.get(reflector.resource.kind)
        return {
            "phase": reflector.phase,
            "synced": reflector.synced,
            "version": reflector.version,
            "objects": len(self._keys(reflector.resource.kind)),
            "trouble": self._trouble(reflector),
            "heard_seconds_ago": None if heard_at is None else round(self._clock.monotonic() - heard_at, 1),
        }


def _passes(setback: WatchFailure) -> bool:
    """Tell whether a setback is no news unless it comes again: every connection ends, every server starts."""
    if setback.kind == "busy":
        return (setback.retry_after or 0.0) < _STEADY_SECONDS
    return setback.kind == "lost"
