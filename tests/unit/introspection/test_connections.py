"""Connections of the agent's socket that ask nothing, ask slowly, don't listen, or send what is no request."""

from __future__ import annotations

import asyncio
import gc
import os
import resource
import socket
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nfagent.introspection import http_log, http_server
from nfagent.introspection.connections import ConnectionLimits
from nfagent.introspection.view_filter import ViewFilter
from nfagent.introspection.views import View
from nfagent.simulate.codec import encode_request
from nfagent.simulate.job import SimulationRequest
from tests.support.idle_time import run_in_idle_time
from tests.support.packet_labs import wait_until
from tests.unit.introspection.test_http_server import DEADLINE, OPEN, Told

SHORT = ConnectionLimits(most=4, request_seconds=0.3, unread_seconds=0.3)
PATIENT = ConnectionLimits(most=4)
GET = b"GET /v1/dump/state HTTP/1.1\r\nHost: a\r\n\r\n"
MIB = 1 << 20


class Large(Told):
    """Has a long state."""

    async def view(self, name: str, scope: ViewFilter) -> View:
        return {**await super().view(name, scope), "long": ["x" * MIB] * 16}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run" / "agent.sock"


@pytest.fixture(autouse=True)
def _nothing_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_log.log, "filters", [http_log.OncePerMinuteFilter()])


def run(body: Coroutine[Any, Any, None]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(DEADLINE):
            await body

    run_in_idle_time(limited())


class Peer:
    """A connection that is written to by hand."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def ended(self) -> bytes:
        """Wait until the agent ends it; give what it answered."""
        found = bytearray()
        try:
            while part := await self.reader.read(65536):
                found += part
        except ConnectionError:
            pass
        return bytes(found)


@asynccontextmanager
async def connected(path: Path, sent: bytes = b"") -> AsyncIterator[Peer]:
    reader, writer = await asyncio.open_unix_connection(str(path))
    try:
        writer.write(sent)
        yield Peer(reader, writer)
    finally:
        writer.transport.abort()


@asynccontextmanager
async def serving(
    path: Path, limits: ConnectionLimits, answers: http_server.AnswerProvider | None = None
) -> AsyncIterator[http_server.SocketServer]:
    served = await http_server.serve(path, answers or Told(), limits=limits)
    try:
        yield served
    finally:
        await served.cleanup()


async def answers(path: Path) -> bool:
    """Return whether a request is answered."""
    async with connected(path, GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")) as peer:
        return (await peer.ended()).startswith(b"HTTP/1.1 200 OK")


POST = b"POST /v1/try HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n"


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"GET /v1/dump/st", id="a part of its first line"),
        pytest.param(GET[:-2], id="headers without their end"),
        pytest.param(POST + b"{", id="a part of a body"),
        pytest.param(GET, id="a whole question, and no other after it"),
        pytest.param(GET + GET[:20], id="a question, and a part of another"),
        pytest.param(POST.replace(b"/try", b"/none") + b"x", id="a part of an unexpected body"),
    ],
)
def test_a_connection_ends_that_sends(path: Path, sent: bytes) -> None:
    async def body() -> None:
        async with serving(path, SHORT), connected(path, sent) as peer:
            found = await peer.ended()
            assert found.count(b"HTTP/1.1 200 OK") == sent.count(GET)
            assert await answers(path)

    run(body())


def test_a_connection_ends_that_sends_a_byte_now_and_then(path: Path) -> None:
    async def drip(peer: Peer) -> None:
        while True:
            peer.writer.write(b"y")
            await asyncio.sleep(0.01)

    async def body() -> None:
        async with serving(path, SHORT), connected(path, GET[:-2] + b"x: ") as peer:
            dripping = asyncio.create_task(drip(peer))
            try:
                await peer.ended()
            finally:
                dripping.cancel()

    run(body())


def test_who_comes_beyond_the_limit_is_answered_as_soon_as_another_has_gone(path: Path) -> None:
    async def body() -> None:
        async with serving(path, PATIENT), AsyncExitStack() as kept:
            peers = [await kept.enter_async_context(connected(path, GET)) for _ in range(PATIENT.most)]
            for peer in peers:
                assert await peer.reader.readline() == b"HTTP/1.1 200 OK\r\n"
            waiting = asyncio.create_task(answers(path))
            await asyncio.wait([waiting], timeout=0.2)
            assert not waiting.done()
            peers[1].writer.transport.abort()
            assert await waiting

    run(body())


def test_idle_connections_make_room_for_who_asks(path: Path) -> None:
    async def body() -> None:
        async with serving(path, SHORT):
            peers = [await asyncio.open_unix_connection(str(path)) for _ in range(12)]
            assert await answers(path)
            for _, writer in peers:
                writer.transport.abort()

    run(body())


def test_a_reader_ends_that_takes_up_nothing_of_a_long_answer(path: Path) -> None:
    async def body() -> None:
        async with serving(path, SHORT, Large()) as served:
            peers = [await asyncio.open_unix_connection(str(path)) for _ in range(SHORT.most)]
            for reader, writer in peers:
                reader._transport.pause_reading()  # type: ignore[attr-defined]  # noqa: SLF001 - as a stopped process
                writer.write(GET)
            assert await answers(path), "they have ended: each took the place of one who asks"
            assert served is not None
            for _, writer in peers:
                writer.transport.abort()

    run(body())


def test_a_long_answer_is_given_whole_to_who_reads_it(path: Path) -> None:
    async def body() -> None:
        async with serving(path, SHORT, Large()), connected(path, GET) as peer:
            assert len(await peer.ended()) > 16 * MIB

    run(body())


def long_body(length: int) -> bytes:
    return POST.replace(b"100", str(length).encode())


def test_bodies_that_are_sent_at_once_share_their_room_and_who_comes_too_late_is_told(path: Path) -> None:
    async def body() -> None:
        async with serving(path, PATIENT):
            for _ in range(2):  # the room is free again after those who held it have gone
                async with connected(path, long_body(32 * MIB)) as one, connected(path, long_body(32 * MIB)) as other:
                    for peer in (one, other):
                        peer.writer.write(b"x" * (31 * MIB))
                        await peer.writer.drain()
                    async with connected(path, long_body(4 * MIB) + b"x" * (4 * MIB)) as late:
                        said = await late.reader.readuntil(b"}")
                        assert said.startswith(b"HTTP/1.1 503 ")
                        assert b"other requests use all 64 MiB for request bodies; try again in a minute" in said
                    assert await answers(path), "who sends none is answered meanwhile"
            asked = encode_request(SimulationRequest((OPEN,)), [])
            async with connected(path, long_body(len(asked)) + asked) as peer:
                assert (await peer.reader.readline()) == b"HTTP/1.1 200 OK\r\n"

    run(body())


def resident() -> int:
    """Return this process's memory in bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_bodies_that_break_off_are_given_back_and_write_a_line_at_most(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def breaks_off() -> None:
        async with AsyncExitStack() as peers:
            for _ in range(2):
                peer = await peers.enter_async_context(connected(path, long_body(32 * MIB)))
                peer.writer.write(b"x" * (31 * MIB))
                await peer.writer.drain()
        assert await answers(path)

    async def body() -> None:
        async with serving(path, PATIENT):
            await breaks_off()
            before = resident()
            for _ in range(3):
                await breaks_off()
                # A thread returns the memory to the system.
                while resident() - before >= 16 * MIB:  # noqa: ASYNC110 - nothing tells of it
                    await asyncio.sleep(0.02)

    run(body())
    assert len(caplog.records) <= 1
    assert all(record.exc_info is None for record in caplog.records)


GARBAGE = {
    "bytes that are no text": bytes(range(256)),
    "an empty line": b"\r\n\r\n",
    "a line without an end": b"x" * 100_000,
    "a method that isn't one": b"\x00\x01 / HTTP/1.1\r\n\r\n",
    "a version that isn't one": b"GET / HTTP/9.9\r\nHost: a\r\n\r\n",
    "no version": b"GET /\r\n\r\n",
    "a header without a name": b"GET / HTTP/1.1\r\n: x\r\n\r\n",
    "a header with a NUL": b"GET / HTTP/1.1\r\nHost: \0\r\n\r\n",
    "a header that folds": b"GET / HTTP/1.1\r\nHost: a\r\n b\r\n\r\n",
    "a header without end": b"GET / HTTP/1.1\r\nx: " + b"y" * 100_000 + b"\r\n\r\n",
    "many headers": b"GET / HTTP/1.1\r\n" + b"x: y\r\n" * 10_000 + b"\r\n",
    "a length that is no number": POST.replace(b"100", b"-1"),
    "two lengths": POST.replace(b"Host: a", b"Content-Length: 3"),
    "a length and chunks": POST.replace(b"Host: a", b"Transfer-Encoding: chunked"),
    "a chunk without a length": POST.replace(b"Content-Length: 100", b"Transfer-Encoding: chunked") + b"zzz\r\n",
    "a chunk of a negative length": POST.replace(b"Content-Length: 100", b"Transfer-Encoding: chunked") + b"-5\r\n",
    "an unknown encoding": POST.replace(b"Host: a", b"Content-Encoding: zip") + b"x" * 100,
    "gzip that is none": POST.replace(b"Host: a", b"Content-Encoding: gzip") + b"x" * 100,
    "a path that is none": b"GET http://[::1/ HTTP/1.1\r\nHost: a\r\n\r\n",
    "a host that is none": b"GET /v1/dump/state HTTP/1.1\r\nHost: [[[\r\n\r\n",
    "a query that is no text": b"GET /v1/explain?source=%ff%fe&destination=%00 HTTP/1.1\r\nHost: a\r\n\r\n",
    "an upgrade": b"GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n\x00\x01",
    "a websocket": b"GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n\x81\x00",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500),
    "a question behind one": b"GARBAGE\r\n\r\n" + GET,
    "one behind a question": GET + b"GARBAGE\r\n\r\n",
    "a body that is no text": POST + b"\xff" * 100,
    "an expectation": POST.replace(b"Host: a", b"Expect: 200-maybe"),
    "a tunnel": b"CONNECT host:1 HTTP/1.1\r\nHost: a\r\n\r\n\0",
}


@pytest.mark.parametrize("sent", [pytest.param(sent, id=name) for name, sent in GARBAGE.items()])
def test_what_is_no_request_is_answered_with_a_refusal_or_an_end_and_a_line_of_the_log_at_most(
    path: Path, sent: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async def body() -> None:
        async with serving(path, SHORT):
            for _ in range(5):
                async with connected(path, sent) as peer:
                    found = await peer.ended()
                assert b" 500 " not in found.partition(b"\r\n")[0]
            assert await answers(path)

    run(body())
    assert len(caplog.records) <= 1
    for record in caplog.records:
        assert (record.name, record.levelname) == ("nfagent.introspection.http_log", "WARNING")
        assert record.exc_info is None
        assert record.getMessage().startswith("malformed request on the agent's socket: ")
        assert record.getMessage().isprintable()


def test_a_client_that_leaves_before_it_is_told_to_continue_writes_no_line(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def body() -> None:
        async with serving(path, SHORT):
            async with connected(path, POST.replace(b"Host: a", b"Host: a\r\nExpect: 100-continue") + b"{") as peer:
                peer.writer.write_eof()
                await peer.ended()
            assert await answers(path)

    run(body())
    assert caplog.messages == []


@given(st.lists(st.one_of(st.binary(max_size=200), st.sampled_from([GET, GET[:30], POST, b"\r\n\r\n", b"0\r\n\r\n"]))))
@settings(max_examples=60, deadline=None)
def test_whatever_is_sent_the_next_who_asks_is_answered(parts: list[bytes]) -> None:
    run(_after(parts))


async def _after(parts: list[bytes]) -> None:
    address = Path(f"/tmp/nfagent-{os.getpid()}") / "agent.sock"  # noqa: S108 - a folder of this process alone
    async with serving(address, SHORT):
        async with connected(address) as peer:
            for part in parts:
                peer.writer.write(part)
        assert await answers(address)
    address.parent.rmdir()


@contextmanager
def no_descriptor_left() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.dup(0)
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_connection_that_finds_no_descriptor_waits_for_one_and_that_is_said_once(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def body() -> None:
        loop = asyncio.get_running_loop()
        async with serving(path, PATIENT):
            with socket.socket(socket.AF_UNIX) as peer:
                with no_descriptor_left():
                    peer.connect(str(path))
                    peer.settimeout(0)
                    await loop.sock_sendall(peer, GET)
                    await asyncio.to_thread(wait_until, lambda: bool(caplog.messages))
                assert (await loop.sock_recv(peer, 65536)).startswith(b"HTTP/1.1 200 OK\r\n")

    run(body())
    assert caplog.messages == ["cannot accept connections on the agent's socket, retrying: Too many open files"]


def test_a_closed_connection_leaves_nothing_to_the_garbage_collector(path: Path) -> None:
    """Thousands of short connections would be megabytes between two collections."""

    def accepted() -> int:
        return sum(
            isinstance(each, asyncio.Transport) and each.get_extra_info("sockname") == str(path)
            for each in gc.get_objects()
        )

    async def body() -> None:
        async with serving(path, PATIENT):
            assert await answers(path)
            gc.collect()
            gc.disable()
            try:
                for _ in range(3):
                    assert await answers(path)
                async with asyncio.timeout(DEADLINE):
                    while accepted():  # noqa: ASYNC110 - nothing tells of the end of an object
                        await asyncio.sleep(0.01)
            finally:
                gc.enable()

    run(body())
