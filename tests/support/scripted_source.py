"""Informers with a scripted API server, and with the clock and the random numbers of the test."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Iterable
from contextlib import asynccontextmanager
from typing import Any

from nfagent.kube.api import ApiClientProtocol
from nfagent.kube.client import ApiClient
from nfagent.kube.credentials import ClientConfig
from nfagent.kube.informers import Informers
from nfagent.kube.reflector_requests import Key
from nfagent.model.gvk import RESOURCES, ObjectChange, Resource
from tests.support.apiserver_documents import Document, RecordingSink, added, encoded, end_mark, pod, status
from tests.support.scripted_http import EventBell, HttpScript, http_script

BY_KIND = {resource.kind: resource for resource in RESOURCES}
PODS, POLICIES, EGRESS = BY_KIND["Pod"], BY_KIND["NetworkPolicy"], BY_KIND["EgressNATPolicy"]
EGRESS_POLICY = {"metadata": {"name": "e", "resourceVersion": "6"}, "spec": {"action": "NoSNAT", "destinations": []}}
PATIENT = 60.0
"""A read timeout that no test reaches, in seconds."""

GONE = status(410, "Expired", "too old resource version")
A, B, C = pod("a", 1), pod("b", 2), pod("c", 6)


class SteppedClock:
    """Time that passes when the test says so. `pauses` is every wait, in order, as long as it is meant to be."""

    def __init__(self, bell: EventBell) -> None:
        self.now = 1000.0
        self.pauses: list[float] = []
        self._bell = bell
        self._sleeping: list[tuple[float, asyncio.Event]] = []

    def monotonic(self) -> float:
        return self.now

    async def wait(self, event: asyncio.Event, seconds: float) -> bool:
        assert not event.is_set(), "no event ends these pauses"
        if seconds <= 0:
            await asyncio.sleep(0)
            return False
        due = asyncio.Event()
        self.pauses.append(seconds)
        self._sleeping.append((self.now + seconds, due))
        self._bell.ring()
        await due.wait()
        return False

    def advance(self, seconds: float) -> None:
        self.now += seconds
        for until, due in self._sleeping:
            if until <= self.now:
                due.set()
        self._sleeping = [entry for entry in self._sleeping if not entry[1].is_set()]

    @property
    def sleeps(self) -> bool:
        """Return whether a task waits."""
        return bool(self._sleeping)

    async def paused(self, number: int) -> float:
        """Wait for the first, second, ... pause, and return its seconds."""
        await self._bell.until(lambda: len(self.pauses) >= number)
        return self.pauses[number - 1]


class InformersHarness:
    """The EventSink of one agent with a scripted server, and the objects that it holds."""

    def __init__(self, script: HttpScript, bell: EventBell, nodes: int = 10) -> None:
        self.script = script
        self.bell = bell
        self.clock = SteppedClock(bell)
        self.holder = RecordingSink()
        self.syncs: list[str] = []
        self.nodes = nodes

    def held(self, kind: str) -> Collection[Key]:
        """Return the keys of a kind; of Nodes as many as the cluster of the test has."""
        return [("", f"node-{number}") for number in range(self.nodes)] if kind == "Node" else self.holder.keys(kind)

    async def apply(self, changes: Iterable[ObjectChange], received: float | None = None) -> None:  # noqa: ARG002 - of the protocol
        self.holder.take(changes)
        self.bell.ring()

    def on_synced(self) -> None:
        self.syncs.append(self.holder.names)
        self.bell.ring()

    async def holds(self, names: str) -> None:
        await self.bell.until(lambda: self.holder.names == names)

    async def comes(self, condition: Callable[[], bool]) -> None:
        """Wait for something, through all the pauses before it."""
        for _ in range(200):
            if condition():
                return
            await self.bell.until(lambda: self.clock.sleeps or condition())
            self.clock.advance(5)
        raise AssertionError("it didn't come in a thousand seconds")

    def begins(self, what: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Start a task whose end `comes` can wait for."""
        begun = asyncio.create_task(what)
        begun.add_done_callback(lambda _: self.bell.ring())
        return begun

    async def in_sync(self) -> None:
        await self.bell.until(lambda: bool(self.syncs))


def api_server(script: HttpScript) -> ApiClient:
    async def find() -> ClientConfig:
        return ClientConfig(server=script.url, origin="the test")

    return ApiClient(find, environment={})


@asynccontextmanager
async def waiting(
    *resources: Resource, nodes: int = 10, jitter: float = 0.5, read_timeout: float = PATIENT
) -> AsyncIterator[tuple[InformersHarness, Informers]]:
    """Put a source before a scripted server that is ready; it doesn't run yet."""
    bell = EventBell()
    async with http_script(bell) as script:
        script.on("/readyz", b"ok", lasting=True)
        stage = InformersHarness(script, bell, nodes)
        server = api_server(script)
        source = Informers(
            server,
            stage.clock,
            stage,
            stage.held,
            resources=resources or (PODS,),
            read_timeout=read_timeout,
            jitter=lambda: jitter,
        )
        try:
            yield stage, source
        finally:
            await server.close()


@asynccontextmanager
async def running(source: Informers) -> AsyncIterator[None]:
    task = asyncio.create_task(source.run())
    try:
        yield
        assert not task.done(), "following ended"
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@asynccontextmanager
async def following(
    *resources: Resource, nodes: int = 10, jitter: float = 0.5, read_timeout: float = PATIENT
) -> AsyncIterator[InformersHarness]:
    async with (
        waiting(*resources, nodes=nodes, jitter=jitter, read_timeout=read_timeout) as (stage, source),
        running(source),
    ):
        yield stage


def alone(server: ApiClientProtocol, stage: InformersHarness) -> Informers:
    return Informers(server, stage.clock, stage, stage.held, resources=(PODS,), jitter=lambda: 0.5)


def initial(*objects: Document, version: str = "5") -> bytes:
    """Write initial events up to their end mark."""
    return added(*objects) + end_mark(version)


def refuse_initial_events(stage: InformersHarness) -> None:
    stage.script.on(PODS.path, encoded(status(422, "Invalid")), status=422, query={"sendInitialEvents": "true"})
