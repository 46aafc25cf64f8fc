"""Waiting for an API server: until it is reachable again, and until it serves a kind that it lacked.

All reflectors wait here, so that one request answers for all of them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

from nfagent.clock import Clock
from nfagent.errors import ClusterError, UnreachableError
from nfagent.kube.backoff import probe_pause, refresh_pause, window
from nfagent.kube.client import ApiResponse
from nfagent.kube.discovery import ACCEPT, PATH, decode_discovery
from nfagent.kube.served_versions import resource_availability
from nfagent.model.gvk import Resource

_READY = "/readyz"
_UNREADY_SECONDS = 30.0
"""How long to wait for a server that answers to become ready. After that, requests are sent all the same."""

_UNREADY_PAUSE = 0.25
"""Share of the window over which the cluster's agents return: at most a few thousand probes a second in all."""

_OK = 200
_BAD_REQUEST = 400
_TOO_MANY = 429
_UNREADY = 500
_REFUSALS = frozenset({401, 403})
_REFUSED_SECONDS = 5.0
"""A starting server refuses all clients until it has read its RBAC rules. A longer refusal says nothing about that."""


class DiscoveryClient(Protocol):
    """Sends single requests to the API server."""

    async def request(self, method: str, path: str, *, accept: str = ..., etag: str = ...) -> ApiResponse:
        """Send a request and return the response, of any status. Raises ClusterError."""
        ...


class APIAvailability:
    """Probes one API server for all reflectors."""

    def __init__(
        self,
        server: DiscoveryClient,
        clock: Clock,
        nodes: Callable[[], int],
        jitter: Callable[[], float],
        report: Callable[[str], None],
    ) -> None:
        """Keep the client.

        nodes:  returns the number of the cluster's Nodes
        jitter: returns a random number from 0 to 1
        report: called with why the server still isn't reached, where two probes in a row had that reason
        """
        self._server = server
        self._clock = clock
        self._nodes = nodes
        self._jitter = jitter
        self._report = report
        self._never = asyncio.Event()
        self._probing = asyncio.Lock()
        self._times_reached = 0
        self._unready: tuple[float, float] | None = None  # when the server was found unready first, and last
        self._refreshing = asyncio.Lock()
        self._refreshes = 0
        self._etag = ""
        self._served: frozenset[tuple[str, str]] | None = frozenset()

    async def wait_reachable(self) -> None:
        """Wait until the server answers and is ready."""
        times_reached = self._times_reached
        async with self._probing:
            if self._times_reached != times_reached:
                return  # another reflector has probed meanwhile
            before = ""
            while failure := await self._probe():
                # A server that starts has another reason each time; one that stays may be the credentials' fault.
                if failure == before:
                    self._report(failure)
                before = failure
                await self._pause(probe_pause(self._nodes(), self._jitter()))
            self._times_reached += 1

    async def is_ready(self) -> bool:
        """Return whether the server is ready.

        A server that refuses to say, or that has been unready for 30 s, counts as ready.
        """
        try:
            answer = await self._server.request("GET", _READY)
        except ClusterError:
            return False
        if answer.status < _UNREADY:
            return True
        now = self._clock.monotonic()
        if self._unready is None or now - self._unready[1] > _UNREADY_SECONDS:
            self._unready = (now, now)
        self._unready = (self._unready[0], now)
        return now - self._unready[0] > _UNREADY_SECONDS

    async def wait_served(self, resource: Resource) -> None:
        """Wait until the server may serve a kind that it lacked."""
        while True:
            refreshes = self._refreshes
            async with self._refreshing:
                if self._refreshes == refreshes:
                    await self._pause(refresh_pause(self._jitter()))
                    await self._refresh()
                    self._refreshes += 1
            if self._served is None or (resource.api_version, resource.plural) in self._served:
                return

    async def other_versions(self, resource: Resource) -> str | None:
        """Ask in which other versions the server has a kind that it lacks; '' for none, None without an answer."""
        try:
            answered = await self._discover()
        except ClusterError:
            return None
        return self.known_other_versions(resource) if answered else None

    def known_other_versions(self, resource: Resource) -> str:
        """Return in which other versions the server has a kind that it lacks, by the last discovery document."""
        [serving] = resource_availability(self._served or frozenset(), [resource])
        return str(serving) if serving.others else ""

    async def _probe(self) -> str:
        """Return why the server doesn't answer, '' if it does; wait a while for one that isn't ready yet."""
        began = self._clock.monotonic()
        while True:
            try:
                answer = await self._server.request("GET", _READY)
            except ClusterError as error:
                return str(error)
            refuses = answer.status in _REFUSALS
            longest = _REFUSED_SECONDS if refuses else _UNREADY_SECONDS if answer.status >= _UNREADY else 0.0
            if self._clock.monotonic() - began >= longest:
                return ""
            await self._pause(_UNREADY_PAUSE * window(self._nodes()) * (1 + self._jitter()))

    async def _refresh(self) -> None:
        """Read what is served; where the server is unreachable, wait until it answers."""
        try:
            await self._discover()
        except UnreachableError:
            await self.wait_reachable()
            with suppress(ClusterError):
                await self._discover()
        except ClusterError:
            return

    async def _discover(self) -> bool:
        """Read the discovery document; return whether there was an answer, else the previous one stays.

        Raises ClusterError.
        """
        answer = await self._server.request("GET", PATH, accept=ACCEPT, etag=self._etag)
        if answer.status == _OK:
            self._served, self._etag = decode_discovery(answer.body), answer.etag
        elif _BAD_REQUEST <= answer.status < _UNREADY and answer.status != _TOO_MANY:
            self._served, self._etag = None, ""  # discovery is refused: then each kind is requested by itself
        return answer.status < _UNREADY and answer.status != _TOO_MANY

    async def _pause(self, seconds: float) -> None:
        await self._clock.wait(self._never, seconds)
