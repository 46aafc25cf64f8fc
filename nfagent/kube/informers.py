"""The API server as object source: one task for each resource lists and watches it.

`kube.reflector` decides the next request and what a response means. This module sends requests, waits after failures,
and passes changes on. An outage of the server changes no object: the last known state stays in force, and the watches
continue from there when the server is back.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Collection, Iterable
from typing import Any

from nfagent.checkpoint.store import CheckpointStore
from nfagent.clock import Clock
from nfagent.errors import ClusterError, ReadTimeoutError, UnreachableError, ValidationIssue
from nfagent.kube.api import ApiClientProtocol, ResponseStream
from nfagent.kube.availability import APIAvailability
from nfagent.kube.backoff import Backoff
from nfagent.kube.reflector import Reflector
from nfagent.kube.reflector_requests import Key, ReflectorRequest, WatchFailure
from nfagent.model.gvk import RESOURCES, SERVICES, ObjectChange, Resource
from nfagent.model.objects import ObjectRef
from nfagent.object_source import EventSink

log = logging.getLogger(__name__)

READ_TIMEOUT_SECONDS = 240.0
"""Read timeout of a watch: the server sends a bookmark every two minutes at least (measured)."""

_LIST_READ_TIMEOUT = 60.0
_WATCH_SECONDS = 300
"""Requested length of a watch, times one to two at random, so that agents spread over the server's replicas."""

_PROTOCOL = frozenset({"again", "expired"})
"""Failures that are a part of the protocol, and not logged."""

_SHORT_SECONDS = 1.0
_STEADY_SECONDS = 10.0
"""A watch of this length was a success, however it ended. (A list that expires before its end wasn't.)"""

_ONE_BY_ONE = frozenset({"Pod", "Service"})
"""Kinds with many independent objects: a list's objects are passed on before the list is complete."""

_TURN_SECONDS = 0.01
"""How long decoding a list may occupy the event loop at a time."""

_OK = 200
_NOT_FOUND = 404
_UNAVAILABLE = 503
_SERVICES_SECONDS, _MOST_EXPIRED = 10.0, 2


class Informers:
    """Lists and watches all resources of one cluster."""

    def __init__(
        self,
        server: ApiClientProtocol,
        clock: Clock,
        sink: EventSink,
        keys: Callable[[str], Collection[Key]],
        last_good: CheckpointStore | None = None,
        *,
        resources: tuple[Resource, ...] = RESOURCES,
        read_timeout: float = READ_TIMEOUT_SECONDS,
        jitter: Callable[[], float] = random.random,
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
        self._read_timeout = read_timeout
        self._jitter = jitter
        self._availability = APIAvailability(server, clock, self._count_nodes, jitter, self._log_unreachable)
        self._last_good = last_good or CheckpointStore(None, "")
        self._reflectors = {
            resource.kind: Reflector(resource, keys, last_good=self._last_good) for resource in resources
        }
        # A reflector is synced when a list has ended. Its changes may wait for those of other kinds until they are
        # applied, or never be, where a reload cancels that.
        self._applied = set[str]()
        self._applied_again = set[str]()
        self._failures: dict[str, str] = {}
        self._unreachable: set[str] = set()
        self._read_at: dict[str, float] = {}
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
        """The issues of objects now, by object."""
        return {ref: flaws for each in self._reflectors.values() for ref, flaws in each.problems.items()}

    @property
    def problems(self) -> tuple[ValidationIssue, ...]:
        """All issues of objects now; those of Services as of the last time that they were read."""
        found = (*self.faults.values(), *self._service_problems)
        return tuple(sorted((flaw for flaws in found for flaw in flaws), key=str))

    @property
    def trouble(self) -> str:
        """Why kinds aren't watched now, each reason once; '' where all are."""
        reasons = dict.fromkeys(self._failures.values())
        return f"API server not followed: {'; '.join(reasons)}" if reasons else ""

    def news(self) -> tuple[list[ValidationIssue], list[ValidationIssue]]:
        """Return the issues that came and those that went since the last call; the cost is that of the changes."""
        came, went = list[ValidationIssue](), list[ValidationIssue]()
        for reflector in self._reflectors.values():
            new, gone = reflector.problems.drain_changes()
            came += new
            went += gone
        return came, went

    async def start(self) -> None:
        """Resolve the credentials and read the checkpoint. Raises ClusterError."""
        access = await self._server.client_config()
        self._origin = f"{access.server}, by {access.origin}"
        await self._last_good.open(f"API server {access.server}")
        log.info("watching API server %s", self._origin)

    async def close(self) -> None:
        """Close all connections."""
        await self._server.close()

    async def run(self) -> None:
        """List and watch until cancelled."""
        while True:
            self._again.clear()
            async with asyncio.TaskGroup() as tasks:
                watching = [
                    tasks.create_task(self._list_and_watch(reflector)) for reflector in self._reflectors.values()
                ]
                await self._again.wait()
                for task in watching:
                    task.cancel()
            # Only after the tasks have ended: what one was still reading isn't part of the new lists.
            for reflector in self._reflectors.values():
                reflector.relist()
            self._applied_again.clear()
            self._listed.clear()
            self._begun.set()

    async def reload(self) -> None:
        """List every resource again, and return when the changes were applied."""
        self._begun.clear()
        self._again.set()
        await self._begun.wait()
        await self._listed.wait()

    def status(self) -> dict[str, Any]:
        """Return the status of `dump -o json`: the server, and the state of each resource, by kind."""
        resources = {kind: self._resource_status(reflector) for kind, reflector in self._reflectors.items()}
        return {"apiserver": {"server": self._origin, "synced": self.synced, "resources": resources}}

    async def read_services(self) -> str:
        """List the Services, unless that was done less than 10 s ago; after a failure the known ones stay.

        Returns the reason of the failure, '' without one.
        """
        async with self._reading_services:
            now = self._clock.monotonic()
            if self._services_at is not None and now - self._services_at < _SERVICES_SECONDS:
                return ""
            reflector = Reflector(SERVICES, self._keys)
            reflector.list_only()
            failure = await self._list(reflector)
            if failure:
                log.warning("list of Services failed: %s; keeping the known ones", failure)
            else:
                self._services_at = now
                self._service_problems = tuple(reflector.problems.values())
            return failure

    async def _list(self, reflector: Reflector) -> str:
        """Read a list by pages; return the reason of a failure, '' without one. Starts over twice after it expired."""
        expired = 0
        while not reflector.synced:
            try:
                await self._ask(reflector, reflector.request(0))
            except ClusterError as error:
                return str(error)
            failure = reflector.failure
            if failure is not None:
                expired += 1
                if failure.kind != "expired" or expired > _MOST_EXPIRED:
                    return failure.reason
        return ""

    async def _list_and_watch(self, reflector: Reflector) -> None:
        backoff, probed = Backoff(), False
        while True:
            began = self._clock.monotonic()
            try:
                failure = await self._once(reflector)
            except UnreachableError as error:
                reflector.end()
                self._log_failure(reflector.resource.kind, str(error))
                await self._await_server(reflector.resource.kind)
                if probed:
                    # Reachable for the probe, not for this request: a load balancer with a dead server behind it.
                    await self._pause(backoff, WatchFailure("lost", str(error)))
                probed = True
                continue
            probed = False
            if self._clock.monotonic() - began > _STEADY_SECONDS and reflector.phase == "watching":
                backoff.succeeded()
            if failure is not None:
                await self._recover(reflector, backoff, failure)

    async def _await_server(self, kind: str) -> None:
        self._unreachable.add(kind)
        try:
            await self._availability.wait_reachable()
        finally:
            self._unreachable.discard(kind)

    async def _once(self, reflector: Reflector) -> WatchFailure | None:
        """Send one request and read its response to the end; return the failure. Raises UnreachableError."""
        began = self._clock.monotonic()
        request = reflector.request(_WATCH_SECONDS + int(_WATCH_SECONDS * self._jitter()))
        try:
            await self._ask(reflector, request)
        except UnreachableError:
            raise
        except ClusterError as error:
            reflector.end(timed_out=isinstance(error, ReadTimeoutError))
            return WatchFailure("lost", str(error))
        if reflector.failure is None and request.watch and self._clock.monotonic() - began < _SHORT_SECONDS:
            return WatchFailure("lost", "the API server ended a watch as soon as it began")
        return reflector.failure

    async def _recover(self, reflector: Reflector, backoff: Backoff, failure: WatchFailure) -> None:
        """Log a failure, and wait until the next request."""
        kind = reflector.resource.kind
        if failure.kind == "missing":
            self._log_failure(kind, "")
            log.debug("%s: not served by the API server: %s", kind, failure.reason)
            await self._availability.wait_served(reflector.resource)
            reflector.relist()
            return
        if failure.kind not in _PROTOCOL and not (backoff.fresh and _is_transient(failure)):
            self._log_failure(kind, failure.reason)
        await self._pause(backoff, failure)

    def _count_nodes(self) -> int:
        return len(self._keys("Node"))

    async def _pause(self, backoff: Backoff, failure: WatchFailure) -> None:
        await self._clock.wait(self._never, backoff.pause(failure, self._count_nodes(), self._jitter()))

    async def _ask(self, reflector: Reflector, request: ReflectorRequest) -> None:
        """Send a request and pass on the changes of its response. Raises ClusterError."""
        read_timeout = self._read_timeout if request.watch else _LIST_READ_TIMEOUT
        async with self._server.stream(request.path, request.query, read_timeout) as stream:
            if stream.status != _OK:
                await self._refused(reflector, stream)
            elif not request.watch:
                await self._take_page(reflector, stream)
            else:
                self._log_recovery(reflector)
                self._note_read(reflector)
                async for chunk in stream:
                    received = self._note_read(reflector)
                    if (work := reflector.predecoder.work(chunk)) is not None:
                        await asyncio.to_thread(work)
                    await self._pass_on(reflector, reflector.feed_watch(chunk), received)
                    if reflector.failure is not None:
                        return
                    self._log_recovery(reflector)
                reflector.end()

    async def _take_page(self, reflector: Reflector, stream: ResponseStream) -> None:
        """Pass on a page's objects as they arrive: a page from the watch cache is as long as the list."""
        async for chunk in stream:
            received = self._note_read(reflector)
            await self._pass_on(reflector, reflector.feed_page(chunk), received)
            if reflector.failure is not None:
                return
        await self._pass_on(reflector, reflector.end_page())

    def _note_read(self, reflector: Reflector) -> float:
        now = self._read_at[reflector.resource.kind] = self._clock.monotonic()
        return now

    async def _refused(self, reflector: Reflector, stream: ResponseStream) -> None:
        code, body = stream.status, await stream.read()
        if code == _NOT_FOUND and not await self._availability.is_ready():  # it may not have read its CRDs yet
            code, body = _UNAVAILABLE, b"the API server is not ready"
        elif code == _NOT_FOUND and reflector.resource.optional and reflector.has_objects:
            elsewhere = await self._availability.other_versions(reflector.resource)
            if elsewhere is None:
                code, body = _UNAVAILABLE, b"not served, and the API server doesn't say in which versions it serves it"
            elif elsewhere:
                await self._deliver([*reflector.keep_in_force(f"{elsewhere}; the last known state stays in force")])
                self._note_applied(reflector)
                return
        await self._pass_on(reflector, reflector.end_with_error(code, body, stream.retry_after))

    async def _pass_on(
        self, reflector: Reflector, changes: Iterable[ObjectChange], received: float | None = None
    ) -> None:
        if reflector.phase == "watching" or reflector.resource.kind in _ONE_BY_ONE:
            await self._deliver(changes, received)
        else:
            await self._keep(reflector, changes, received)
        self._note_applied(reflector)

    def _note_applied(self, reflector: Reflector) -> None:
        """Note that everything that was read of a resource is applied; the last resource makes the source synced."""
        kind = reflector.resource.kind
        if reflector.listed:
            self._applied.add(kind)
            self._applied_again.add(kind)
        if self._applied_again >= self._reflectors.keys():
            self._listed.set()
        if not self.synced and self._applied >= self._reflectors.keys():
            self.synced = True
            self._last_good.mark_synced()
            self._sink.on_synced()

    async def _deliver(self, changes: Iterable[ObjectChange], received: float | None = None) -> None:
        await self._sink.apply(self._last_good.record(changes), received)

    async def _keep(self, reflector: Reflector, changes: Iterable[ObjectChange], received: float | None) -> None:
        """Keep a list's changes until it is complete, and apply them as one batch: no part of a relist takes effect."""
        lists, begun = reflector.lists, reflector.pending
        came: list[ObjectChange] = []
        turn = self._clock.monotonic()
        for change in changes:
            came.append(change)
            if self._clock.monotonic() - turn > _TURN_SECONDS:
                await asyncio.sleep(0)
                turn = self._clock.monotonic()
        if reflector.lists > lists:
            await self._deliver([*begun, *came], received)
        elif reflector.phase == "missing":
            await self._deliver(came, received)
        elif reflector.pending is begun:
            begun += came

    def _log_recovery(self, reflector: Reflector) -> None:
        """Log the end of a failure; a list that has only begun doesn't end it."""
        if self._failures and reflector.phase == "watching":
            self._log_failure(reflector.resource.kind, "")

    def _log_failure(self, kind: str, reason: str) -> None:
        """Log the reason of a failure once for all kinds that have it; '' for a kind that recovered."""
        before = self._failures.pop(kind, "")
        known = set(self._failures.values())
        if reason:
            self._failures[kind] = reason
            if reason not in known | {before}:
                kept = "keeping the last known state" if self.synced else "no rules are written until it was read"
                log.warning("%s: watch interrupted: %s; %s", kind, reason, kept)
        elif before and not known:
            log.info("all kinds are watched again")

    def _log_unreachable(self, reason: str) -> None:
        """Log why probes fail: what was the server's absence may have become a certificate that isn't trusted."""
        for kind in sorted(self._unreachable):
            self._log_failure(kind, reason)

    def _failure(self, reflector: Reflector) -> str:
        reason = self._failures.get(reflector.resource.kind, "")
        return reason or (self._availability.known_other_versions(reflector.resource) if reflector.missing else "")

    def _resource_status(self, reflector: Reflector) -> dict[str, Any]:
        read_at = self._read_at.get(reflector.resource.kind)
        return {
            "phase": reflector.phase,
            "synced": reflector.resource.kind in self._applied,
            "version": reflector.version,
            "objects": len(self._keys(reflector.resource.kind)),
            "trouble": self._failure(reflector),
            "heard_seconds_ago": None if read_at is None else round(self._clock.monotonic() - read_at, 1),
        }


def _is_transient(failure: WatchFailure) -> bool:
    """Return whether a failure is logged only when it repeats: every connection ends, and every server restarts."""
    if failure.kind == "busy":
        return (failure.retry_after or 0.0) < _STEADY_SECONDS
    return failure.kind == "lost"
