"""Protocols of an API server's client, as list and watch need it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from nfagent.kube.client import ApiResponse
from nfagent.kube.credentials import ClientConfig


class ResponseStream(Protocol):
    """A response whose body is read while it arrives."""

    @property
    def status(self) -> int:
        """The HTTP status code."""
        ...

    @property
    def retry_after(self) -> float | None:
        """Seconds that the server asks to wait."""
        ...

    def __aiter__(self) -> AsyncIterator[bytes]:
        """Iterate over the body as it arrives. Raises ClusterError."""
        ...

    async def read(self) -> bytes:
        """Read the whole body. Raises ClusterError."""
        ...


class ApiClientProtocol(Protocol):
    """A client of one API server."""

    async def client_config(self) -> ClientConfig:
        """Return the server's address and the credentials. Raises ClusterError."""
        ...

    async def close(self) -> None:
        """Close all connections."""
        ...

    def stream(
        self, path: str, query: dict[str, str], read_timeout: float
    ) -> AbstractAsyncContextManager[ResponseStream]:
        """Send a GET request and return its response as a stream.

        read_timeout: the most seconds between two parts of the body
        Raises ClusterError.
        """
        ...

    async def request(self, method: str, path: str, *, accept: str = ..., etag: str = ...) -> ApiResponse:
        """Send a request and return the whole response, of any status. Raises ClusterError."""
        ...
