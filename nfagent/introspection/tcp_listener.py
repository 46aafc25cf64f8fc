"""Serves an application over TCP, at an address of the settings: without TLS.

An address that can't be bound yet, or a port in use, is retried and stops nothing else.
"""

from __future__ import annotations

import asyncio
import logging
import socket

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


class TcpListener:
    """One listening address.

    problem: why nothing listens there, '' where it does
    """

    def __init__(
        self, address: ListenAddress, clock: Clock, served: str, setting: str, limits: ConnectionLimits = _LIMITS
    ) -> None:
        """Store the arguments; `run` binds the address.

        served:  what is served there, for the log: `metrics`
        setting: the one that has the address, for the log: `[metrics] listen`
        """
        self.problem = ""
        self._address = address
        self._clock = clock
        self._served = served
        self._setting = setting
        self._limits = limits

    async def run(self, application: web.Application, path: str = "/") -> None:
        """Serve an application until cancelled. path: where what is served begins, for the log."""
        runner = runner_of(application, self._limits)
        await runner.setup()
        try:
            if runner.server is not None:
                opened = await self._opened()
                log.info("%s: served at http://%s%s", self._served, self._address, path)
                await serve(opened, runner.server, self._limits)
        finally:
            await runner.cleanup()

    async def _opened(self) -> socket.socket:
        """Return a listening socket, as soon as the address can be bound."""
        while True:
            try:
                opened = bound(self._address)
            except OSError as error:
                problem = f"cannot serve {self._served} at {self._address}: {error.strerror or error}"
                if problem != self.problem:
                    log.error("%s; retrying; see %s", problem, self._setting)
                self.problem = problem
                await self._clock.wait(asyncio.Event(), _RETRY_SECONDS)
                continue
            self.problem = ""
            return opened


def bound(address: ListenAddress) -> socket.socket:
    """Return a socket that listens at an address. Raises OSError."""
    family = socket.AF_INET6 if address.family == 6 else socket.AF_INET
    opened = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        opened.bind((address.host, address.port))
        opened.listen(BACKLOG)
    except OSError:
        opened.close()
        raise
    return opened


def runner_of(
    application: web.Application, limits: ConnectionLimits = _LIMITS, *, ends_with_client: bool = False
) -> web.AppRunner:
    """Return the runner of an application whose middlewares begin with `deadlines`.

    ends_with_client: whether an answer is broken off, by cancellation, at once when the client leaves
    """
    return web.AppRunner(
        application,
        access_log=None,
        logger=http_log.log,
        shutdown_timeout=_STOP_SECONDS,
        keepalive_timeout=limits.unread_seconds,
        lingering_time=limits.request_seconds,
        handler_cancellation=ends_with_client,
    )


async def serve(opened: socket.socket, protocol: web.Server, limits: ConnectionLimits = _LIMITS) -> None:
    """Accept connections at a listening socket, which is closed at the end, until cancelled."""
    listener = SocketListener(opened, protocol, limits)
    try:
        await asyncio.Event().wait()
    finally:
        await listener.close()
        listener.abort()


@web.middleware
async def deadlines(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Stop the deadline of a request while it is answered. Bodies are never read: no route has one."""
    connection = connection_of(request)
    if connection is not None:
        connection.answer()
    try:
        return await handler(request)
    finally:
        if connection is not None:
            connection.await_request()
