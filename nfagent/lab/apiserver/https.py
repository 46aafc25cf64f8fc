"""A synchronous, thread-safe HTTPS client for one server, from any network namespace, with keep-alive connections.

It shares no code with the agent's own client, because it helps to test that one.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import queue
import socket
import ssl
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlencode

import msgspec

from nfagent.errors import ClusterError
from nfagent.lab.topology import netns as network_namespaces

JSON = "application/json"


class HttpReply(msgspec.Struct, frozen=True):
    """An HTTP status and body."""

    status: int
    text: str

    @property
    def ok(self) -> bool:
        """Whether the status is 2xx."""
        return 200 <= self.status < 300

    def document(self, what: str) -> dict[str, Any]:
        """Return the body as a JSON object. Raises ClusterError, with the server's message, for a failure.

        what: the request, for the error message
        """
        if self.ok:
            document: dict[str, Any] = json.loads(self.text)
            return document
        words = self.text
        # The API server's failures are a Status (meta.k8s.io/v1), those of a proxy aren't.
        with contextlib.suppress(ValueError, KeyError, TypeError):
            words = json.loads(words)["message"]
        raise ClusterError(f"{what}: {self.status}: {words}")

    @property
    def lines(self) -> list[Any]:
        """The body as JSON documents, one a line, as in a watch. Raises ValueError."""
        return [json.loads(line) for line in self.text.splitlines()]


class HttpsClient:
    """A client with one bearer token; a context manager that closes its connections. Connects when first used."""

    def __init__(
        self, address: str, port: int, ca_file: Path, token: str, *, netns: str = "", timeout: float = 60.0
    ) -> None:
        """Set the options.

        netns:   the network namespace to connect from, this process's own where it is empty
        timeout: seconds to wait for a connection, and for each part of a reply
        Raises OSError for a ca_file that can't be read.
        """
        self._address, self._port, self._netns = address, port, netns
        self._token, self._timeout = token, timeout
        self._tls = ssl.create_default_context(cafile=str(ca_file))
        self._idle: queue.LifoQueue[http.client.HTTPSConnection] = queue.LifoQueue()

    def __enter__(self) -> Self:
        """Return the client."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the connections."""
        self.close()

    def close(self) -> None:
        """Close the idle connections; the client can be used again."""
        with contextlib.suppress(queue.Empty):
            while True:
                self._idle.get_nowait().close()

    def ask(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        query: Mapping[str, str] | None = None,
        content_type: str = JSON,
        accept: str = JSON,
    ) -> HttpReply:
        """Send a request with a JSON body; return the reply, with any status.

        Raises ClusterError where there is no reply.
        """
        target = path + ("?" + urlencode(query) if query else "")
        headers = {"Authorization": f"Bearer {self._token}", "Accept": accept, "Content-Type": content_type}
        content = None if body is None else json.dumps(body)
        try:
            with contextlib.suppress(queue.Empty):
                connection = self._idle.get_nowait()
                # The server may have closed an idle connection; then a new one is used.
                with contextlib.suppress(OSError, http.client.HTTPException):
                    return self._ask(connection, method, target, content, headers)
            connection = http.client.HTTPSConnection(
                self._address, self._port, timeout=self._timeout, context=self._tls
            )
            connection.sock = self._connect()
            return self._ask(connection, method, target, content, headers)
        except (OSError, http.client.HTTPException) as error:
            what = str(error) or type(error).__name__
            raise ClusterError(f"{method} {path} at {self._address} port {self._port}: {what}") from error

    def _ask(
        self,
        connection: http.client.HTTPSConnection,
        method: str,
        target: str,
        content: str | None,
        headers: Mapping[str, str],
    ) -> HttpReply:
        try:
            connection.request(method, target, content, headers)
            answer = connection.getresponse()
            reply = HttpReply(answer.status, answer.read().decode("utf-8", "replace"))
        except BaseException:
            connection.close()
            raise
        self._idle.put(connection)
        return reply

    def _connect(self) -> ssl.SSLSocket:
        def connect() -> socket.socket:
            return socket.create_connection((self._address, self._port), self._timeout)

        # A socket stays in the network namespace in which it was opened.
        plain = network_namespaces.inside(self._netns, connect) if self._netns else connect()
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return self._tls.wrap_socket(plain, server_hostname=self._address)
