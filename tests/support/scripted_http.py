"""An HTTP server on loopback that answers after a script, with faults: cut, reset, silent or refused connections.

Each response answers one request with its path and query; those of a path are used in their order. A request
without one gets no answer, and its connection stays open, as a watch without events.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Literal, TypeAlias
from urllib.parse import parse_qsl, urlsplit

import msgspec

DEADLINE = 60.0
"""Seconds after which a wait fails."""

Fault: TypeAlias = Literal["cut", "reset", "silent"]
"""The end of a body: a FIN in its middle, a RST, or no more bytes."""

Part: TypeAlias = bytes | asyncio.Event | Fault
"""Bytes, one HTTP chunk; an event that is waited for; or a fault, which is the last."""

_LONGEST_HEAD = 65_536


class EventBell:
    """Wakes a waiting test after each event."""

    def __init__(self) -> None:
        self._rung = asyncio.Event()

    def ring(self) -> None:
        self._rung.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until a condition holds; it is checked after every ring."""
        async with asyncio.timeout(DEADLINE):
            while not condition():
                self._rung.clear()
                await self._rung.wait()


class ReceivedRequest(msgspec.Struct):
    """A request that the server received."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]


class ScriptedReply(msgspec.Struct):
    """The response to one request; headless: without a status line; lasting: for any number of requests."""

    path: str
    query: dict[str, str]
    status: int
    headers: dict[str, str]
    parts: tuple[Part, ...]
    headless: bool = False
    lasting: bool = False


class HttpScript:
    """The server; `asked`: all requests in the order of arrival."""

    def __init__(self, bell: EventBell) -> None:
        self.requests: list[ReceivedRequest] = []
        # Bound for as long as the server exists, and never listened at: while it refuses connections, no other
        # process gets the port. A socket that listens may have it beside one that doesn't (SO_REUSEADDR).
        self._reserved = socket.socket()
        self._reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._reserved.bind(("127.0.0.1", 0))
        self.port: int = self._reserved.getsockname()[1]
        self._bell = bell
        self._steps: list[ScriptedReply] = []
        self._listening: asyncio.Server | None = None
        self._open: dict[asyncio.Task[None], asyncio.StreamWriter] = {}

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def on(
        self,
        path: str,
        *parts: Part,
        status: int = 200,
        query: dict[str, str] | None = None,
        headers: dict[str, str] | None = None,
        lasting: bool = False,
    ) -> None:
        """Add a response; a lasting one answers all requests of the path without another response."""
        self._steps.append(ScriptedReply(path, query or {}, status, headers or {}, parts, lasting=lasting))

    def drop(self, path: str, fault: Fault) -> None:
        """Answer requests without another response by a fault alone, without a status line."""
        self._steps.append(ScriptedReply(path, {}, 0, {}, (fault,), headless=True, lasting=True))

    def unready(self) -> None:
        """Answer /readyz with status 500 from now on."""
        self._steps = [step for step in self._steps if step.path != "/readyz"]
        self.on("/readyz", b"[-]poststarthook failed", status=500, lasting=True)

    def of(self, path: str) -> list[ReceivedRequest]:
        """Return the requests for a path."""
        return [asked for asked in self.requests if asked.path == path]

    async def nth(self, path: str, number: int) -> ReceivedRequest:
        """Wait for the first, second, ... request for a path."""
        await self._bell.until(lambda: len(self.of(path)) >= number)
        return self.of(path)[number - 1]

    async def listen(self) -> None:
        """Listen, on the same port as before."""
        self._listening = await asyncio.start_server(
            self._serve, "127.0.0.1", self.port, limit=_LONGEST_HEAD, reuse_address=True
        )

    async def refuse(self) -> None:
        """Stop listening, and reset all connections."""
        if self._listening is not None:
            self._listening.close()
            await self._listening.wait_closed()
            self._listening = None
        tasks = dict(self._open)
        for task, writer in tasks.items():
            _reset(writer)
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def close(self) -> None:
        """Give the port back."""
        self._reserved.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._open[task] = writer
        try:
            with suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
                while await self._answer(await _read_head(reader), reader, writer):
                    pass
        finally:
            del self._open[task]
            writer.close()

    async def _answer(self, asked: ReceivedRequest, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Answer a request; return whether the connection stays open."""
        self.requests.append(asked)
        step = self._step(asked)
        self._bell.ring()
        if step is None:
            await reader.read()  # until the peer closes the connection
            return False
        if not step.headless:
            head = {"Transfer-Encoding": "chunked", "Content-Type": "application/json", **step.headers}
            lines = [f"HTTP/1.1 {step.status} Scripted", *(f"{name}: {value}" for name, value in head.items())]
            writer.write("\r\n".join([*lines, "", ""]).encode())
        for part in step.parts:
            match part:
                case bytes():
                    # An empty chunk would be the end.
                    writer.write(b"%x\r\n%b\r\n" % (len(part), part) if part else b"")
                    await writer.drain()
                case asyncio.Event():
                    await part.wait()
                case "silent":
                    await reader.read()
                    return False
                case "cut":
                    return False
                case "reset":
                    await writer.drain()
                    _reset(writer)
                    return False
        writer.write(b"0\r\n\r\n")
        await writer.drain()
        return True

    def _step(self, asked: ReceivedRequest) -> ScriptedReply | None:
        fitting = [
            step for step in self._steps if step.path == asked.path and step.query.items() <= asked.query.items()
        ]
        for step in sorted(fitting, key=lambda step: step.lasting):
            if not step.lasting:
                self._steps.remove(step)
            return step
        return None


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close a connection by RST: buffered bytes are lost."""
    found = writer.get_extra_info("socket")
    if found is not None:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def _read_head(reader: asyncio.StreamReader) -> ReceivedRequest:
    text = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    first, *lines = text.strip().split("\r\n")
    method, target, _ = first.split(" ")
    parts = urlsplit(target)
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    return ReceivedRequest(method, parts.path, dict(parse_qsl(parts.query)), headers)


@asynccontextmanager
async def http_script(bell: EventBell | None = None) -> AsyncIterator[HttpScript]:
    """Run a server; close its socket and connections at the end."""
    server = HttpScript(bell or EventBell())
    try:
        await server.listen()
        yield server
    finally:
        await server.refuse()
        server.close()
