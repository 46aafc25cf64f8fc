"""Waiting for an API server: until it is reachable again, until it serves a kind that it lacked.

Everything that follows the server waits at one place, so one request finds out for all.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

from nfagent.clock import Clock
from nfagent.errors import ClusterError, UnreachableError
from nfagent.kube.backoff import knock_pause, look_again_pause, window
from nfagent.kube.client import ApiResponse
from nfagent.kube.discovery import ACCEPT, PATH, decode_discovery
from nfagent.kube.served_versions import servings
from nfagent.model.gvk import Resource

_READY = "/readyz"
_UNREADY_SECONDS = 30.0
"""How long a server that answers is waited for to call itself ready; then it is taken at its word all the same."""

_UNREADY_PAUSE = 0.25
"""Of the window over which the cluster's agents return: then they ask it a few thousand times a second at most."""

_OK = 200
_BAD_REQUEST = 400
_TOO_MANY = 429
_UNREADY = 500
_REFUSALS = frozenset({401, 403})
_REFUSED_SECONDS = 5.0
"""A server that starts refuses everybody until it has read who may what. One that refuses for longer won't say."""


class DiscoveryClient(Protocol):
    """What asks the API server."""

    async def ask(self, method: str, path: str, *, accept: str = ..., etag: str = ...) -> ApiResponse:
        """Give an answer, whatever its status. Raises ClusterError."""
        ...


class APIAvailability:
    """Looks for all."""

    def __init__(
        self, server: DiscoveryClient, clock: Clock, nodes: Callable[[], int], lots: Callable[[], float]
    ) -> None:
        """Join the server; `nodes` gives the cluster's size, `lots` a number from 0 to 1."""
        self._server = server
        self._clock = clock
        self._nodes = nodes
        self._lots = lots
        self._never = asyncio.Event()
        self._knocking = asyncio.Lock()
        self._opened = 0
        self._unready: tuple[float, float] | None = None  # when the server was found unready first, and last
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
        """Tell whether the server calls itself ready; one that won't say, or says no for long, counts as ready."""
        try:
            answer = await self._server.ask("GET", _READY)
        except ClusterError:
            return False
        if answer.status < _UNREADY:
            return True
        now = self._clock.monotonic()
        if self._unready is None or now - self._unready[1] > _UNREADY_SECONDS:
            self._unready = (now, now)
        self._unready = (self._unready[0], now)
        return now - self._unready[0] > _UNREADY_SECONDS

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

    async def elsewhere(self, resource: Resource) -> str:
        """Say in which other versions the server has a kind that it lacks; '' where it has none, or won't say."""
        with suppress(ClusterError):
            await self._ask_for_kinds()
        return self.known_elsewhere(resource)

    def known_elsewhere(self, resource: Resource) -> str:
        """Say in which other versions the server has a kind that it lacks, as far as it was asked already."""
        [serving] = servings(self._served or frozenset(), [resource])
        return str(serving) if serving.others else ""

    async def _knock(self) -> bool:
        """Tell whether somebody answers; where it isn't ready yet, wait for it a while."""
        began = self._clock.monotonic()
        while True:
            try:
                answer = await self._server.ask("GET", _READY)
            except ClusterError:
                return False
            refuses = answer.status in _REFUSALS
            longest = _REFUSED_SECONDS if refuses else _UNREADY_SECONDS if answer.status >= _UNREADY else 0.0
            if self._clock.monotonic() - began >= longest:
                return True
            await self._pause(_UNREADY_PAUSE * window(self._nodes()) * (1 + self._lots()))

    async def _look(self) -> None:
        """Ask for what is served; where nobody is there, as soon as somebody is."""
        try:
            await self._ask_for_kinds()
        except UnreachableError:
            await self.reachable()
            with suppress(ClusterError):
                await self._ask_for_kinds()
        except ClusterError:
            return

    async def _ask_for_kinds(self) -> None:
        """Ask for what is served; without an answer, what was known before holds. Raises ClusterError."""
        answer = await self._server.ask("GET", PATH, accept=ACCEPT, etag=self._etag)
        if answer.status == _OK:
            self._served, self._etag = decode_discovery(answer.body), answer.etag
        elif _BAD_REQUEST <= answer.status < _UNREADY and answer.status != _TOO_MANY:
            self._served, self._etag = None, ""  # it won't say: then each kind is asked for itself

    async def _pause(self, seconds: float) -> None:
        await self._clock.wait(self._never, seconds)
