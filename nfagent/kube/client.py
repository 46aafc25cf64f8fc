"""HTTP requests to the API server, with whole or streamed responses. It doesn't decode bodies.

Every request uses current credentials: the token file is read each time, certificate files are read again after a
change, an exec plugin runs again before its credentials expire, and a 401 resolves all credentials again, once.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from email.utils import parsedate_to_datetime
from functools import partial
from typing import Self, TypeAlias
from urllib.parse import urlencode

import aiohttp
import msgspec
from multidict import CIMultiDict
from yarl import URL

from nfagent import __version__
from nfagent.errors import ClusterError
from nfagent.kube.client_errors import CONNECT_SECONDS, FAILURES, as_cluster_error
from nfagent.kube.credential_cache import CredentialCache
from nfagent.kube.credentials import ClientConfig
from nfagent.kube.proxy import checked_proxy, environment_proxy
from nfagent.kube.tls import TLSContextCache

log = logging.getLogger(__name__)

ANSWER_SECONDS = 30
_READ_BUFFER = 256 * 1024
_UNAUTHORIZED = 401

Query: TypeAlias = Mapping[str, str | int]


class ApiResponse(msgspec.Struct, frozen=True):
    """A response of the API server.

    status:      HTTP status code, 200 to 599
    retry_after: seconds that the server asks to wait; None where it doesn't
    etag:        the body's entity tag (RFC 9110, section 8.8.3); '' without one
    """

    status: int
    body: bytes
    retry_after: float | None = None
    etag: str = ""


class ApiStream:
    """A response whose body is read while it arrives: `async for chunk in stream` yields bytes, split anywhere."""

    def __init__(self, response: aiohttp.ClientResponse, failed: Callable[[Exception], ClusterError]) -> None:
        self.status = response.status
        self.retry_after = _retry_after(response)
        self._content = response.content
        self._failed = failed

    def __aiter__(self) -> Self:
        """Return this iterator: it continues where the last reader stopped."""
        return self

    async def __anext__(self) -> bytes:
        """Return what has arrived, at least a byte. Raises ClusterError for a lost connection and a read timeout."""
        try:
            chunk = await self._content.readany()
        except FAILURES as error:
            raise self._failed(error) from error
        if not chunk:
            raise StopAsyncIteration
        return chunk

    async def read(self) -> bytes:
        """Read the rest of the body, for a status other than 200. Raises ClusterError."""
        return b"".join([chunk async for chunk in self])


class _Request(msgspec.Struct, frozen=True):
    """A request; target is path and query."""

    method: str
    target: str
    headers: dict[str, str]
    timeout: aiohttp.ClientTimeout
    seconds: float
    data: bytes | None = None


_Sent: TypeAlias = tuple[aiohttp.ClientResponse, Callable[[Exception], ClusterError]]
"""The begun response, and a function that converts what interrupts it to a ClusterError."""


class ApiClient:
    """A client of the API server that `find` returns. It opens no connection before the first request."""

    def __init__(
        self,
        find: Callable[[], Awaitable[ClientConfig]],
        *,
        environment: Mapping[str, str] = os.environ,
        now: Callable[[], float] = time.time,
        seconds: float = ANSWER_SECONDS,
    ) -> None:
        """Keep the settings.

        find:        resolves address and credentials; raises ClusterError
        environment: has the proxy variables
        now:         returns seconds since the epoch
        seconds:     how long `ask` waits for a whole response
        """
        self._credentials = CredentialCache(find, now)
        self._environment = environment
        self._seconds = seconds
        self._tls = TLSContextCache()
        self._session: aiohttp.ClientSession | None = None
        self._warned = False

    @property
    def credential_problem(self) -> str:
        """Why credentials or their files can't be read again, so that those of before are used; '' where they can."""
        return "; ".join(filter(None, (self._credentials.problem, self._tls.problem)))

    async def client_config(self) -> ClientConfig:
        """Return the server's address and the credentials. Raises ClusterError."""
        return await self._credentials.access()

    async def request(
        self,
        method: str,
        path: str,
        *,
        query: Query | None = None,
        body: object = None,
        content_type: str = "application/json",
        accept: str = "application/json",
        etag: str = "",
    ) -> ApiResponse:
        """Send a request and return the whole response, of any status.

        path: from the server's root, `/api/v1/pods`
        body: bytes are sent as they are, other values as JSON; None for no body
        etag: of a response that the caller has: while it is current, the status is 304 and there is no body
        Raises ClusterError without a response, UnreachableError where the server can't be reached.
        """
        timeout = aiohttp.ClientTimeout(total=self._seconds, connect=CONNECT_SECONDS)
        headers = {"Accept": accept, **({"If-None-Match": etag} if etag else {})}
        data = None
        if body is not None:
            headers["Content-Type"] = content_type
            data = body if isinstance(body, bytes) else msgspec.json.encode(body)
        request = _Request(method, _target(path, query), headers, timeout, self._seconds, data)
        response, failed = await self._sent(request)
        try:
            async with response:
                body_read = await response.read()
                return ApiResponse(response.status, body_read, _retry_after(response), response.headers.get("ETag", ""))
        except FAILURES as error:
            raise failed(error) from error

    @asynccontextmanager
    async def stream(
        self, path: str, query: Query | None, read_timeout: float, *, accept: str = "application/json"
    ) -> AsyncIterator[ApiStream]:
        """Send a GET request and return its response as a stream, without a total timeout.

        read_timeout: the most seconds between two parts of the body
        Raises ClusterError without a response; the stream raises it where the response is interrupted.
        """
        timeout = aiohttp.ClientTimeout(total=None, connect=CONNECT_SECONDS, sock_read=read_timeout)
        request = _Request("GET", _target(path, query), {"Accept": accept}, timeout, read_timeout)
        response, failed = await self._sent(request)
        try:
            yield ApiStream(response, failed)
        finally:
            # Closed, not released: the unread rest of a stream can be large.
            response.close()

    async def close(self) -> None:
        """Close all connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def _sent(self, request: _Request) -> _Sent:
        """Send a request; after a 401, resolve the credentials again and send it once more."""
        access = await self._credentials.access()
        response, failed = await self._sent_by(access, request)
        if response.status != _UNAUTHORIZED:
            return response, failed
        try:
            renewed = await self._credentials.renewed(access)
        except BaseException:
            response.close()
            raise
        if renewed is None:
            return response, failed
        response.close()
        # The server may identify a connection by the certificate of its handshake, so open a new one.
        self._tls.clear()
        return await self._sent_by(renewed, request)

    async def _sent_by(self, access: ClientConfig, request: _Request) -> _Sent:
        self._warn_of(access)
        proxy = self._proxy(access)
        secure = access.server.startswith("https://")
        headers = CIMultiDict(request.headers)
        headers.extend(self._credentials.headers(access))
        failed = partial(as_cluster_error, access=access, proxy=proxy, seconds=request.seconds)
        try:
            response = await self._opened().request(
                request.method,
                # Encoded already: aiohttp must not encode it again.
                URL(access.server + request.target, encoded=True),
                headers=headers,
                data=request.data,
                allow_redirects=False,
                proxy=proxy or None,
                ssl=self._tls.context(access) if secure else True,
                server_hostname=(access.tls_server_name or None) if secure else None,
                timeout=request.timeout,
            )
        except FAILURES as error:
            raise failed(error) from error
        return response, failed

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            # No limit: every watch holds a connection of its own.
            connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=30, socket_factory=_socket)
            self._session = aiohttp.ClientSession(
                connector=connector,
                cookie_jar=aiohttp.DummyCookieJar(),
                read_bufsize=_READ_BUFFER,
                # No compression: it costs the server more than it saves on the network.
                headers={"User-Agent": f"nfagent/{__version__}", "Accept-Encoding": "identity"},
            )
        return self._session

    def _proxy(self, access: ClientConfig) -> str:
        if access.proxy:
            return checked_proxy(access.proxy, access.origin)
        proxy = environment_proxy(access.server, self._environment)
        return checked_proxy(proxy, "the environment") if proxy else ""

    def _warn_of(self, access: ClientConfig) -> None:
        if access.insecure and not self._warned:
            self._warned = True
            log.warning(
                "%s: insecure-skip-tls-verify is set: an attacker between this node and %s can read and change all "
                "traffic; set certificate-authority instead",
                access.origin,
                access.server,
            )


def _target(path: str, query: Query | None) -> str:
    return f"{path}?{urlencode(query)}" if query else path


def _retry_after(response: aiohttp.ClientResponse) -> float | None:
    """Read Retry-After: seconds, or a date. Source: RFC 9110, section 10.2.3. None where it can't be read."""
    text = response.headers.get("Retry-After", "").strip()
    if text.isdecimal():
        return float(text)
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except (ValueError, OverflowError):
        return None


def _socket(address: aiohttp.AddrInfoType) -> socket.socket:
    """Return a socket with keepalive: it detects within a minute that its peer is gone."""
    family, kind, protocol, _, _ = address
    sock = socket.socket(family, kind, protocol)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 30)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 10)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)
    return sock
