"""What following a cluster needs of an API server: answers, and answers that go on."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from nfagent.kube.client import ApiResponse
from nfagent.kube.credentials import ClientConfig


class ResponseStream(Protocol):
    """An answer that is being given."""

    @property
    def status(self) -> int:
        """The HTTP status code."""
        ...

    @property
    def retry_after(self) -> float | None:
        """Seconds that the server asks to wait."""
        ...

    def __aiter__(self) -> AsyncIterator[bytes]:
        """Give its bytes as they come. Raises ClusterError."""
        ...

    async def read(self) -> bytes:
        """Give the whole of it. Raises ClusterError."""
        ...


class ApiClientProtocol(Protocol):
    """An API server."""

    async def access(self) -> ClientConfig:
        """Find the credentials. Raises ClusterError."""
        ...

    async def close(self) -> None:
        """End the connections."""
        ...

    def stream(self, path: str, query: dict[str, str], silence: float) -> AbstractAsyncContextManager[ResponseStream]:
        """Begin to read an answer; `silence` is how many seconds may pass between two parts. Raises ClusterError."""
        ...

    async def ask(self, method: str, path: str, *, accept: str = ..., etag: str = ...) -> ApiResponse:
        """Give an answer, whatever its status. Raises ClusterError."""
        ...
