"""A proxy between an agent and its API server that ends TLS, so that faults are HTTP's, too.

It has the server's own certificate. A fault begins and ends with a reset of all connections, but for `half-open`, which
forgets those that exist: no more bytes, no FIN, no RST, as of a peer that lost its power.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import socket
import ssl
import struct
import subprocess
import threading
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Literal, Self, TypeAlias

from nfagent.lab.topology import netns

ProxyFault: TypeAlias = Literal[
    "", "refused", "reset", "429", "500", "410", "hung", "half-open", "slow bytes", "truncated", "no JSON"
]
"""refused: nothing listens. reset: RST after the handshake. 429, 500: every answer. 410: every watch's answer. hung: no
answer. half-open: above. slow bytes: 20 bytes a second. truncated: a FIN after 500 bytes of an answer. no JSON: a watch
line that isn't"""

_HEAD = 65_536
_TRUNCATED_AFTER = 500
_SLOW_SECONDS = 0.05
_LINGER = struct.pack("ii", 1, 0)
_REASONS = {"429": "Too Many Requests", "500": "Internal Server Error", "410": "Gone"}
_STATUS_REASONS = {"429": "TooManyRequests", "500": "InternalError", "410": "Expired"}


class ApiProxy:
    """The proxy, in a thread of its own in a network namespace; a context manager that ends it."""

    def __init__(self, namespace: str, address: str, port: int, certificates: Path) -> None:
        """Plan it; address, port: the server's; certificates: the folder with apiserver.crt and apiserver.key."""
        self._namespace, self._address, self._target = namespace, address, port
        self._certificate, self._key = certificates / "apiserver.crt", certificates / "apiserver.key"
        self.port = 0
        self.requests = 0
        self._fault: ProxyFault = ""
        self._loop = asyncio.new_event_loop()
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._clients: dict[asyncio.StreamWriter, int] = {}
        self._forgotten: set[asyncio.StreamWriter] = set()
        self._listening = threading.Event()
        self._thread = threading.Thread(target=self._run, name="API proxy", daemon=True)

    def __enter__(self) -> Self:
        """Start, and return when it listens."""
        self._thread.start()
        self._listening.wait()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def set_fault(self, fault: ProxyFault) -> None:
        """Begin a fault, '' for none; returns when it is in force."""
        asyncio.run_coroutine_threadsafe(self._set(fault), self._loop).result()

    async def _set(self, fault: ProxyFault) -> None:
        self._fault, before = fault, self._fault
        if fault == "half-open":
            self._forgotten = set(self._writers)
            _drop(sorted(self._clients.values()), self.port)
            return
        if before == "half-open":
            return  # what was forgotten stays so; what came later goes on
        for writer in list(self._writers):
            _reset(writer)
        if fault == "refused" and self._server is not None:
            self._server.close()
            self._server = None
        elif self._server is None:
            await self._listen()

    def _run(self) -> None:
        netns.inside(self._namespace, self._serve)

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._listen())
        self._listening.set()
        try:
            self._loop.run_forever()
        finally:
            for task in asyncio.all_tasks(self._loop):
                task.cancel()
            for writer in list(self._writers):
                _reset(writer)
            if self._server is not None:
                self._server.close()
            self._loop.run_until_complete(self._ended())
            self._loop.close()

    async def _ended(self) -> None:
        # A connection that was accepted last begins its task meanwhile.
        while others := asyncio.all_tasks() - {asyncio.current_task()}:
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)

    async def _listen(self) -> None:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(self._certificate, self._key)
        self._server = await asyncio.start_server(self._connected, self._address, self.port, ssl=context)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        self._clients[writer] = writer.get_extra_info("peername")[1]
        try:
            await self._serve_one(reader, writer)
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, ssl.SSLError):
            pass
        finally:
            self._writers.discard(writer)
            del self._clients[writer]
            if writer not in self._forgotten:
                with contextlib.suppress(OSError, RuntimeError):
                    writer.close()

    async def _serve_one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._fault == "reset":
            _reset(writer)
            return
        context = ssl.create_default_context(cafile=str(self._certificate))
        upstream, sender = await asyncio.open_connection(self._address, self._target, ssl=context)
        self._writers.add(sender)
        try:
            answers = asyncio.create_task(self._pass_answers(upstream, writer))
            try:
                await self._pass_requests(reader, writer, sender)
            finally:
                answers.cancel()
        finally:
            self._writers.discard(sender)
            with contextlib.suppress(OSError, RuntimeError):
                sender.close()

    async def _pass_requests(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, sender: asyncio.StreamWriter
    ) -> None:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            self.requests += 1
            length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
            body = await reader.readexactly(int(length[1])) if length else b""
            fault = self._fault
            if fault == "hung" or writer in self._forgotten:
                await asyncio.Event().wait()
            if fault in {"429", "500"} or (fault == "410" and b"watch=" in head.partition(b"\r\n")[0]):
                writer.write(_answer(fault))
                await writer.drain()
                return
            sender.write(head + body)
            await sender.drain()

    async def _pass_answers(self, upstream: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        passed = 0
        while content := await upstream.read(_HEAD):
            if writer in self._forgotten:
                await asyncio.Event().wait()
            fault = self._fault
            if fault == "truncated" and passed + len(content) > _TRUNCATED_AFTER:
                writer.write(content[: max(1, _TRUNCATED_AFTER - passed)])
                await writer.drain()
                writer.close()
                return
            if fault == "no JSON":
                content = content.replace(b'{"type":', b'{{type":')
            if fault == "slow bytes":
                await self._write_slowly(writer, content)
            else:
                writer.write(content)
                await writer.drain()
            passed += len(content)
        writer.close()

    async def _write_slowly(self, writer: asyncio.StreamWriter, content: bytes) -> None:
        while content and self._fault == "slow bytes":
            writer.write(content[:1])
            await writer.drain()
            content = content[1:]
            await asyncio.sleep(_SLOW_SECONDS)
        writer.write(content)
        await writer.drain()


def _answer(code: str) -> bytes:
    status = {
        "kind": "Status",
        "apiVersion": "v1",
        "status": "Failure",
        "message": f"injected {code}",
        "reason": _STATUS_REASONS[code],
        "code": int(code),
    }
    body = json.dumps(status).encode()
    head = f"HTTP/1.1 {code} {_REASONS[code]}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    return (head + "Connection: close\r\n\r\n").encode() + body


def _drop(clients: Sequence[int], port: int) -> None:
    """Drop all packets of some connections, those of their kernel included: TCP's keepalives get no answer."""
    found = ", ".join(map(str, clients))
    for hook, own, other in (("input", "dport", "sport"), ("output", "sport", "dport")):
        rules = (
            f"add chain inet vanished {hook} {{ type filter hook {hook} priority 0; }}; "
            f"add rule inet vanished {hook} tcp {own} {port} tcp {other} {{ {found} }} drop"
        )
        subprocess.run(["nft", f"add table inet vanished; {rules}"], check=True, capture_output=True)


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close a connection by RST."""
    # Python 3.11's TLS transport has no attributes any more once it was closed.
    with contextlib.suppress(OSError, AttributeError):
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER)
        writer.transport.abort()
