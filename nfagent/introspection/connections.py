"""The connections of the agent's socket: limited in number, and closed when they are idle.

A client has some seconds to send a whole request and to read the answer. Connections beyond the limit wait in the
kernel's backlog, where they use no file descriptor: the agent needs those for netlink and the manifests.
"""

from __future__ import annotations

import asyncio
import resource
import socket
from collections.abc import Callable
from contextlib import suppress
from time import monotonic
from typing import cast

import msgspec
from aiohttp import web

from nfagent.introspection.http_log import MalformedRequest, log
from nfagent.system.background_task import background_task

BACKLOG = 128
"""Connections that wait in the kernel beside those that are accepted."""
_PAUSE_SECONDS = 1.0
_REPORT_SECONDS = 60.0
_SHARE = 4
"""Connections use at most this fraction (1/n) of the file descriptors."""
_READS = "_read_ready_cb"
"""Where asyncio's transport has a bound method of its own, not called once the connection is lost: a cycle, which
holds the transport and its socket until the next garbage collection. Thousands of connections would be megabytes."""


class ConnectionLimits(msgspec.Struct, frozen=True):
    """Limits of connections.

    most:            open at once
    request_seconds: until a whole request has arrived, from the connection or from the previous answer
    unread_seconds:  for which the client doesn't read an answer
    """

    most: int = 64
    request_seconds: float = 10.0
    unread_seconds: float = 60.0


class ServerConnection(asyncio.Protocol):
    """Passes one connection's bytes to aiohttp's protocol, and closes it at its deadlines."""

    def __init__(
        self, inner: web.RequestHandler, limits: ConnectionLimits, ended: Callable[[ServerConnection], None]
    ) -> None:
        """Wrap a protocol; `ended` is called when the connection is closed."""
        self._inner = inner
        self._limits = limits
        self._ended = ended
        self._transport: asyncio.Transport | None = None
        self._request: asyncio.TimerHandle | None = None
        self._reading: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Wait for a request."""
        self._transport = cast("asyncio.Transport", transport)
        self.await_request()
        self._inner.connection_made(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancel the deadlines."""
        self._cancel()
        transport, self._transport = self._transport, None
        self._inner.connection_lost(exc)
        self._ended(self)
        if hasattr(transport, _READS):
            setattr(transport, _READS, None)

    def data_received(self, data: bytes) -> None:
        """Pass bytes on; bytes that the parser refuses close this connection alone."""
        try:
            self._inner.data_received(data)
        except Exception as error:  # noqa: BLE001 - any error comes from these bytes
            log.warning("%s", error, exc_info=MalformedRequest(f"{type(error).__name__}: {error}"))
            self.abort()

    def eof_received(self) -> None:
        """Pass on that the client sends no more."""
        self._inner.eof_received()

    def pause_writing(self) -> None:
        """Start the deadline of an answer that the client doesn't read."""
        self._inner.pause_writing()
        self._reading = asyncio.get_running_loop().call_later(self._limits.unread_seconds, self.abort)

    def resume_writing(self) -> None:
        """Cancel that deadline: the client reads again."""
        if self._reading is not None:
            self._reading.cancel()
            self._reading = None
        self._inner.resume_writing()

    def await_request(self) -> None:
        """Start the deadline for a request."""
        self.answer()
        self._request = asyncio.get_running_loop().call_later(self._limits.request_seconds, self.abort)

    def answer(self) -> None:
        """Cancel that deadline: a whole request has arrived."""
        if self._request is not None:
            self._request.cancel()
            self._request = None

    def abort(self) -> None:
        """Close the connection and discard what isn't sent yet."""
        self._cancel()
        if self._transport is not None:
            self._transport.abort()

    def _cancel(self) -> None:
        for timer in (self._request, self._reading):
            if timer is not None:
                timer.cancel()


def connection_of(request: web.BaseRequest) -> ServerConnection | None:
    """Return the connection of a request; None where it is closed."""
    found = None if request.transport is None else request.transport.get_protocol()
    return found if isinstance(found, ServerConnection) else None


class SocketListener:
    """Accepts the connections of a listening socket, which it owns."""

    def __init__(
        self, opened: socket.socket, protocol: Callable[[], web.RequestHandler], limits: ConnectionLimits
    ) -> None:
        """Start to accept."""
        opened.settimeout(0)
        self._socket = opened
        self._protocol = protocol
        self._limits = limits
        self._free = asyncio.Semaphore(
            min(limits.most, max(1, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // _SHARE))
        )
        self._connections: set[ServerConnection] = set()
        self._reported_at = -_REPORT_SECONDS
        self._accepting = background_task(self._accept())

    @property
    def connected(self) -> bool:
        """Return whether there are connections."""
        return bool(self._connections)

    async def close(self) -> None:
        """Stop to accept; connections stay open."""
        self._accepting.cancel()
        with suppress(asyncio.CancelledError):
            await self._accepting
        self._socket.close()

    def abort(self) -> None:
        """Close the connections that are left."""
        for connection in tuple(self._connections):
            connection.abort()

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._free.acquire()
            try:
                opened, _ = await loop.sock_accept(self._socket)
            except OSError as error:
                self._free.release()
                self._report(error)
                await asyncio.sleep(_PAUSE_SECONDS)
                continue
            connection = ServerConnection(self._protocol(), self._limits, self._over)
            self._connections.add(connection)
            try:
                await loop.connect_accepted_socket(lambda made=connection: made, opened)  # type: ignore[misc]
            except OSError:
                opened.close()
                self._over(connection)

    def _over(self, connection: ServerConnection) -> None:
        if connection in self._connections:
            self._connections.remove(connection)
            self._free.release()

    def _report(self, error: OSError) -> None:
        if monotonic() - self._reported_at >= _REPORT_SECONDS:
            self._reported_at = monotonic()
            log.warning("cannot accept connections on the agent's socket, retrying: %s", error.strerror or error)
