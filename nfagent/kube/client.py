"""HTTP to the API server: one answer, or a stream of bytes. What the bytes say is read elsewhere.

Credentials are those of the moment: the token file is read for every request, files of certificates are looked at, an
exec plugin is asked again before what it gave expires, and a 401 has everything found anew, once.
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
from nfagent.kube.client_errors import CONNECT_SECONDS, FAILURES, in_words
from nfagent.kube.credential_cache import CredentialCache
from nfagent.kube.credentials import ClientConfig
from nfagent.kube.proxy import checked_proxy, environments_proxy
from nfagent.kube.tls import TLSContextCache

log = logging.getLogger(__name__)

ANSWER_SECONDS = 30
_READ_BUFFER = 256 * 1024
_UNAUTHORIZED = 401

Query: TypeAlias = Mapping[str, str | int]


class ApiResponse(msgspec.Struct, frozen=True):
    """What the API server said, whatever it is.

    status:      of HTTP: 200 to 599
    retry_after: seconds, where it asks for them
    etag:        what stands for this body, where the server names it (RFC 9110, section 8.8.3)
    """

    status: int
    body: bytes
    retry_after: float | None = None
    etag: str = ""


class ApiStream:
    """An answer that goes on: `async for chunk in stream` gives bytes as they come, cut anywhere."""

    def __init__(self, response: aiohttp.ClientResponse, failed: Callable[[Exception], ClusterError]) -> None:
        self.status = response.status
        self.retry_after = _retry_after(response)
        self._content = response.content
        self._failed = failed

    def __aiter__(self) -> Self:
        """Begin where the last reader stopped."""
        return self

    async def __anext__(self) -> bytes:
        """Give what has come by now, at least a byte. Raises ClusterError where it breaks off or falls silent."""
        try:
            chunk = await self._content.readany()
        except FAILURES as error:
            raise self._failed(error) from error
        if not chunk:
            raise StopAsyncIteration
        return chunk

    async def read(self) -> bytes:
        """Give the rest: for an answer that isn't 200. Raises ClusterError."""
        return b"".join([chunk async for chunk in self])


class _Request(msgspec.Struct, frozen=True):
    """What is sent; target is path and query."""

    method: str
    target: str
    headers: dict[str, str]
    patience: aiohttp.ClientTimeout
    seconds: float
    data: bytes | None = None


_Sent: TypeAlias = tuple[aiohttp.ClientResponse, Callable[[Exception], ClusterError]]
"""The beginning of an answer, and how to say what breaks it off."""


class ApiClient:
    """One API server, by whatever way `find` gives. It opens no connection before it is asked."""

    def __init__(
        self,
        find: Callable[[], Awaitable[ClientConfig]],
        *,
        environment: Mapping[str, str] = os.environ,
        now: Callable[[], float] = time.time,
        seconds: float = ANSWER_SECONDS,
    ) -> None:
        """Know how to find the server.

        environment: where the proxies are named
        now:         seconds since the epoch
        seconds:     how long `ask` waits for a whole answer
        """
        self._wallet = CredentialCache(find, now)
        self._environment = environment
        self._seconds = seconds
        self._trust = TLSContextCache()
        self._session: aiohttp.ClientSession | None = None
        self._warned = False

    async def access(self) -> ClientConfig:
        """Say which server is asked, and by what right. Raises ClusterError."""
        return await self._wallet.access()

    async def ask(
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
        """Ask, and wait for the whole answer: any status is one.

        path: from the server's root, `/api/v1/pods`
        body: bytes as they are, anything else as JSON; None for none
        etag: of an answer that is known: where it is still the same, the status is 304 and there is no body
        Raises ClusterError where there is no answer, Unreachable where nobody is there.
        """
        patience = aiohttp.ClientTimeout(total=self._seconds, connect=CONNECT_SECONDS)
        headers = {"Accept": accept, **({"If-None-Match": etag} if etag else {})}
        data = None
        if body is not None:
            headers["Content-Type"] = content_type
            data = body if isinstance(body, bytes) else msgspec.json.encode(body)
        request = _Request(method, _target(path, query), headers, patience, self._seconds, data)
        response, failed = await self._sent(request)
        try:
            async with response:
                body_read = await response.read()
                return ApiResponse(response.status, body_read, _retry_after(response), response.headers.get("ETag", ""))
        except FAILURES as error:
            raise failed(error) from error

    @asynccontextmanager
    async def stream(
        self, path: str, query: Query | None, silence: float, *, accept: str = "application/json"
    ) -> AsyncIterator[ApiStream]:
        """Ask, and read as it comes, without an end.

        silence: most seconds between two pieces
        Raises ClusterError where there is no answer; so does the stream where there is no more of it.
        """
        patience = aiohttp.ClientTimeout(total=None, connect=CONNECT_SECONDS, sock_read=silence)
        request = _Request("GET", _target(path, query), {"Accept": accept}, patience, silence)
        response, failed = await self._sent(request)
        try:
            yield ApiStream(response, failed)
        finally:
            # Closed, not released: what is left of a stream can be much, and nobody wants it.
            response.close()

    async def close(self) -> None:
        """Close all connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def _sent(self, request: _Request) -> _Sent:
        """Send; with a 401, find the credentials anew and send once more."""
        access = await self._wallet.access()
        response, failed = await self._sent_by(access, request)
        if response.status != _UNAUTHORIZED:
            return response, failed
        try:
            renewed = await self._wallet.renewed(access)
        except BaseException:
            response.close()
            raise
        if renewed is None:
            return response, failed
        response.close()
        # A connection may be known by the certificate that it began with: so a new one.
        self._trust.forget()
        return await self._sent_by(renewed, request)

    async def _sent_by(self, access: ClientConfig, request: _Request) -> _Sent:
        self._warn_of(access)
        proxy = self._proxy(access)
        secure = access.server.startswith("https://")
        headers = CIMultiDict(request.headers)
        headers.extend(self._wallet.headers(access))
        failed = partial(in_words, access=access, proxy=proxy, seconds=request.seconds)
        try:
            response = await self._opened().request(
                request.method,
                # Encoded already: aiohttp is not to guess.
                URL(access.server + request.target, encoded=True),
                headers=headers,
                data=request.data,
                allow_redirects=False,
                proxy=proxy or None,
                ssl=self._trust.context(access) if secure else True,
                server_hostname=(access.tls_server_name or None) if secure else None,
                timeout=request.patience,
            )
        except FAILURES as error:
            raise failed(error) from error
        return response, failed

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            # No limit: every watch keeps a connection for itself.
            connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=30, socket_factory=_socket)
            self._session = aiohttp.ClientSession(
                connector=connector,
                cookie_jar=aiohttp.DummyCookieJar(),
                read_bufsize=_READ_BUFFER,
                # Packing costs the server more than the wire does.
                headers={"User-Agent": f"nfagent/{__version__}", "Accept-Encoding": "identity"},
            )
        return self._session

    def _proxy(self, access: ClientConfig) -> str:
        if access.proxy:
            return checked_proxy(access.proxy, access.origin)
        proxy = environments_proxy(access.server, self._environment)
        return checked_proxy(proxy, "the environment") if proxy else ""

    def _warn_of(self, access: ClientConfig) -> None:
        if access.insecure and not self._warned:
            self._warned = True
            log.warning(
                "%s: insecure-skip-tls-verify is set: who is on the way to %s can read and change everything; "
                "give the server's CA instead",
                access.origin,
                access.server,
            )


def _target(path: str, query: Query | None) -> str:
    return f"{path}?{urlencode(query)}" if query else path


def _retry_after(response: aiohttp.ClientResponse) -> float | None:
    """Read Retry-After: seconds, or a date. Source: RFC 9110, section 10.2.3. What can't be read is none."""
    text = response.headers.get("Retry-After", "").strip()
    if text.isdecimal():
        return float(text)
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except (ValueError, OverflowError):
        return None


def _socket(address: aiohttp.AddrInfoType) -> socket.socket:
    """Make a socket that finds out within a minute that the other side is gone."""
    family, kind, protocol, _, _ = address
    made = socket.socket(family, kind, protocol)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 30)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 10)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)
    return made
