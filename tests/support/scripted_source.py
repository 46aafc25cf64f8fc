"""An agent's informers with a scripted API server; the test controls time and jitter."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Iterable
from contextlib import asynccontextmanager
from typing import Any

from nfagent.kube.api import ApiClientProtocol
from nfagent.kube.client import ApiClient
from nfagent.kube.credentials import ClientConfig
from nfagent.kube.informers import Informers
from nfagent.kube.reflector_requests import Key, ObjectChange
from nfagent.model.gvk import RESOURCES, Resource
from tests.support.apiserver_documents import Document, Holder, added, encoded, end_mark, pod, status
from tests.support.scripted_http import Bell, HttpScript, http_script

BY_KIND = {resource.kind: resource for resource in RESOURCES}
PODS, POLICIES, EGRESS = BY_KIND["Pod"], BY_KIND["NetworkPolicy"], BY_KIND["EgressNATPolicy"]
EGRESS_POLICY = {"metadata": {"name": "e", "resourceVersion": "6"}, "spec": {"action": "NoSNAT", "destinations": []}}
PATIENT = 60.0
"""A read timeout, in seconds, that no test reaches."""

GONE = status(410, "Expired", "too old resource version")
A, B, C = pod("a", 1), pod("b", 2), pod("c", 6)


class HandClock:
    """Time that a test advances. `pauses`: the duration of every wait, in order."""

    def __init__(self, bell: Bell) -> None:
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
        """Whether a task waits."""
        return bool(self._sleeping)

    async def paused(self, number: int) -> float:
        """Wait for the first, second, ... pause; return its duration."""
        await self._bell.until(lambda: len(self.pauses) >= number)
        return self.pauses[number - 1]


class Stage:
    """The informers of one agent, a scripted server and a recording sink. Satisfies informers.EventSink."""

    def __init__(self, script: HttpScript, bell: Bell, nodes: int = 10) -> None:
        self.script = script
        self.bell = bell
        self.clock = HandClock(bell)
        self.holder = Holder()
        self.syncs: list[str] = []
        self.nodes = nodes

    def held(self, kind: str) -> Collection[Key]:
        return self.holder.held(kind)

    def count_nodes(self) -> int:
        return self.nodes

    async def take(self, changes: Iterable[ObjectChange]) -> None:
        self.holder.take(changes)
        self.bell.ring()

    def gathered(self) -> None:
        self.syncs.append(self.holder.names)
        self.bell.ring()

    async def holds(self, names: str) -> None:
        await self.bell.until(lambda: self.holder.names == names)

    async def comes(self, condition: Callable[[], bool]) -> None:
        """Wait for a condition; end all pauses before it."""
        for _ in range(200):
            if condition():
                return
            await self.bell.until(lambda: self.clock.sleeps or condition())
            self.clock.advance(5)
        raise AssertionError("the condition wasn't met in 1000 s")

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
    *resources: Resource, nodes: int = 10, lot: float = 0.5, silence: float = PATIENT
) -> AsyncIterator[tuple[Stage, Informers]]:
    """Create informers with a scripted server that is ready; they don't run yet."""
    bell = Bell()
    async with http_script(bell) as script:
        script.on("/readyz", b"ok", lasting=True)
        stage = Stage(script, bell, nodes)
        server = api_server(script)
        source = Informers(
            server, stage.clock, stage, resources=resources or (PODS,), silence=silence, lots=lambda: lot
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
        assert not task.done(), "the informers ended"
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@asynccontextmanager
async def following(
    *resources: Resource, nodes: int = 10, lot: float = 0.5, silence: float = PATIENT
) -> AsyncIterator[Stage]:
    async with waiting(*resources, nodes=nodes, lot=lot, silence=silence) as (stage, source), running(source):
        yield stage


def alone(server: ApiClientProtocol, stage: Stage) -> Informers:
    return Informers(server, stage.clock, stage, resources=(PODS,), lots=lambda: 0.5)


def initial(*objects: Document, version: str = "5") -> bytes:
    """Write initial events up to their end mark."""
    return added(*objects) + end_mark(version)


def refuse_initial_events(stage: Stage) -> None:
    stage.script.on(PODS.path, encoded(status(422, "Invalid")), status=422, query={"sendInitialEvents": "true"})
