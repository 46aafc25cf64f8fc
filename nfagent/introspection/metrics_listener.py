"""Serves the metrics' routes over TCP, where `[metrics] listen` asks for it: without TLS and without a password.

Nothing else is served there. An address that can't be bound yet, or a port in use, is retried and stops nothing else.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Iterable

from aiohttp import web
from aiohttp.typedefs import Handler

from nfagent.clock import Clock
from nfagent.introspection import http_log
from nfagent.introspection.connections import BACKLOG, ConnectionLimits, SocketListener, connection_of
from nfagent.model.listen_address import ListenAddress

log = logging.getLogger(__name__)
_RETRY_SECONDS = 5.0
_STOP_SECONDS = 0.5
_LIMITS = ConnectionLimits(most=16)


class MetricsListener:
    """One listening address.

    problem: why nothing listens there, '' where it does
    """

    def __init__(self, address: ListenAddress, clock: Clock, limits: ConnectionLimits = _LIMITS) -> None:
        """Store the arguments; `run` binds the address."""
        self.problem = ""
        self._address = address
        self._clock = clock
        self._limits = limits

    async def run(self, routes: Iterable[web.RouteDef]) -> None:
        """Serve routes until cancelled."""
        application = web.Application(middlewares=[_deadlines])
        application.router.add_routes(routes)
        runner = web.AppRunner(
            application,
            access_log=None,
            logger=http_log.log,
            shutdown_timeout=_STOP_SECONDS,
            keepalive_timeout=self._limits.unread_seconds,
            lingering_time=self._limits.request_seconds,
        )
        await runner.setup()
        try:
            if runner.server is not None:
                await self._serve(await self._opened(), runner.server)
        finally:
            await runner.cleanup()

    async def _serve(self, opened: socket.socket, protocol: web.Server) -> None:
        listener = SocketListener(opened, protocol, self._limits)
        log.info("metrics are served at http://%s/metrics", self._address)
        try:
            await asyncio.Event().wait()
        finally:
            await listener.close()
            listener.abort()

    async def _opened(self) -> socket.socket:
        """Return a listening socket, as soon as the address can be bound."""
        while True:
            try:
                opened = self._bound()
            except OSError as error:
                problem = f"cannot serve metrics at {self._address}: {error.strerror or error}"
                if problem != self.problem:
                    log.error("%s; retrying; see [metrics] listen", problem)
                self.problem = problem
                await self._clock.wait(asyncio.Event(), _RETRY_SECONDS)
                continue
            self.problem = ""
            return opened

    def _bound(self) -> socket.socket:
        """Return a listening socket. Raises OSError."""
        family = socket.AF_INET6 if self._address.family == 6 else socket.AF_INET
        opened = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            opened.bind((self._address.host, self._address.port))
            opened.listen(BACKLOG)
        except OSError:
            opened.close()
            raise
        return opened


@web.middleware
async def _deadlines(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Stop the deadline of a request while it is answered. Bodies are never read: no route has one."""
    connection = connection_of(request)
    if connection is not None:
        connection.answer()
    try:
        return await handler(request)
    finally:
        if connection is not None:
            connection.await_request()
