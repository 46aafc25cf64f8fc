"""Waiting for an API server: until it is reachable again, until it serves a kind that it lacked.

Everything that follows the server waits at one place, so one request finds out for all.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

from nfagent.edge.apiserver import Answer
from nfagent.errors import ClusterError
from nfagent.source.backoff import knock_pause, look_again_pause, window
from nfagent.source.discovery import ACCEPT, PATH, decode_discovery
from nfagent.source.resources import Resource

_READY = "/readyz"
_UNREADY_SECONDS = 30.0
"""How long a server that answers is waited for to call itself ready; then it is asked all the same."""

_UNREADY_PAUSE = 0.25
"""Of the window over which the cluster's agents return: then they ask it a few thousand times a second at most."""

_OK = 200
_BAD_REQUEST = 400
_TOO_MANY = 429
_UNREADY = 500


class Asks(Protocol):
    """What asks the API server."""

    async def ask(self, method: str, path: str, *, accept: str = ..., etag: str = ...) -> Answer:
        """Give an answer, whatever its status. Raises ClusterError."""
        ...


class Clock(Protocol):
    """What time is."""

    def monotonic(self) -> float:
        """Give seconds from an arbitrary start."""
        ...

    async def wait(self, event: asyncio.Event, seconds: float) -> bool:
        """Wait for an event; tell whether it came in time."""
        ...


class Lookout:
    """Looks for all."""

    def __init__(self, server: Asks, clock: Clock, nodes: Callable[[], int], lots: Callable[[], float]) -> None:
        """Join the server; `nodes` gives the cluster's size, `lots` a number from 0 to 1."""
        self._server = server
        self._clock = clock
        self._nodes = nodes
        self._lots = lots
        self._never = asyncio.Event()
        self._knocking = asyncio.Lock()
        self._opened = 0
        self._looking = asyncio.Lock()
        self._looks = 0
        self._etag = ""
        self._served: frozenset[tuple[str, str]] | None = frozenset()

    async def reachable(self) -> None:
        """Return when the server answers again, and is ready."""
        opened = self._opened
        async with self._knocking:
            if self._opened != opened:
                return  # somebody knocked meanwhile
            while not await self._knock():
                await self._pause(knock_pause(self._nodes(), self._lots()))
            self._opened += 1

    async def ready(self) -> bool:
        """Tell whether the server calls itself ready; one that won't say counts as ready."""
        try:
            return (await self._server.ask("GET", _READY)).status < _UNREADY
        except ClusterError:
            return False

    async def appears(self, resource: Resource) -> None:
        """Return when the server may serve a kind that it lacked."""
        while True:
            looks = self._looks
            async with self._looking:
                if self._looks == looks:
                    await self._pause(look_again_pause(self._lots()))
                    await self._look()
                    self._looks += 1
            if self._served is None or (resource.api_version, resource.plural) in self._served:
                return

    async def _knock(self) -> bool:
        """Tell whether somebody answers; where it isn't ready yet, wait for it a while."""
        end = self._clock.monotonic() + _UNREADY_SECONDS
        while True:
            try:
                answer = await self._server.ask("GET", _READY)
            except ClusterError:
                return False
            if answer.status < _UNREADY or self._clock.monotonic() > end:
                return True
            await self._pause(_UNREADY_PAUSE * window(self._nodes()) * (1 + self._lots()))

    async def _look(self) -> None:
        """Ask for what is served; where nobody answers, what was known before holds."""
        try:
            answer = await self._server.ask("GET", PATH, accept=ACCEPT, etag=self._etag)
        except ClusterError:
            return
        if answer.status == _OK:
            self._served, self._etag = decode_discovery(answer.body), answer.etag
        elif _BAD_REQUEST <= answer.status < _UNREADY and answer.status != _TOO_MANY:
            self._served, self._etag = None, ""  # it won't say: then each kind is asked for itself

    async def _pause(self, seconds: float) -> None:
        await self._clock.wait(self._never, seconds)
