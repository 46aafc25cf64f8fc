"""HTTPS to one server from any network namespace: synchronous, by several threads, over connections that are kept.

It shares no code with the agent's own client, which it helps to test.
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
from nfagent.lab import netns as network_namespaces

JSON = "application/json"


class HttpReply(msgspec.Struct, frozen=True):
    """An HTTP status and the body."""

    status: int
    text: str

    @property
    def ok(self) -> bool:
        """Tell whether it is a success."""
        return 200 <= self.status < 300

    def document(self, what: str) -> dict[str, Any]:
        """Read the body of what was asked as JSON. Raises ClusterError, with the server's words, where it failed."""
        if self.ok:
            document: dict[str, Any] = json.loads(self.text)
            return document
        words = self.text
        # A failure is a Status (meta.k8s.io/v1), but for what fails on the way.
        with contextlib.suppress(ValueError, KeyError, TypeError):
            words = json.loads(words)["message"]
        raise ClusterError(f"{what}: {self.status}: {words}")

    @property
    def lines(self) -> list[Any]:
        """Read the body as JSON documents, one a line, as a watch has them. Raises ValueError."""
        return [json.loads(line) for line in self.text.splitlines()]


class HttpsClient:
    """One user of one server, by a bearer token; connects when it is asked, and closes its connections on leaving."""

    def __init__(
        self, address: str, port: int, ca_file: Path, token: str, *, netns: str = "", timeout: float = 60.0
    ) -> None:
        """Plan it.

        netns:   the network namespace to call from, this process's own where it's empty
        timeout: how long it waits for a connection, and for each part of a reply, in seconds
        Raises OSError for a ca_file that can't be read.
        """
        self._address, self._port, self._netns = address, port, netns
        self._token, self._timeout = token, timeout
        self._tls = ssl.create_default_context(cafile=str(ca_file))
        self._idle: queue.LifoQueue[http.client.HTTPSConnection] = queue.LifoQueue()

    def __enter__(self) -> Self:
        """Give the client."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the connections."""
        self.close()

    def close(self) -> None:
        """Close the connections that nobody uses right now; the client can be used again."""
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
        """Ask anything, with a body that is sent as JSON; every HTTP status is a reply.

        Raises ClusterError where there is no reply.
        """
        target = path + ("?" + urlencode(query) if query else "")
        headers = {"Authorization": f"Bearer {self._token}", "Accept": accept, "Content-Type": content_type}
        content = None if body is None else json.dumps(body)
        try:
            with contextlib.suppress(queue.Empty):
                connection = self._idle.get_nowait()
                # One that was kept may have died since; then a new one is asked.
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

        # A socket stays in the namespace that it was made in.
        plain = network_namespaces.inside(self._netns, connect) if self._netns else connect()
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return self._tls.wrap_socket(plain, server_hostname=self._address)
