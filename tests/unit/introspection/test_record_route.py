"""GET /v1/records: streams over a real socket, a reader that doesn't read, and the agent's stop."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from nfagent.introspection import http_server
from nfagent.introspection.record_route import record_routes
from nfagent.verdicts.log_stream import MAX_READERS, SLOW_READER, LogStream
from nfagent.verdicts.record_filter import Clause, RecordFilter, encode_filter
from nfagent.verdicts.records import encode
from tests.support.packet_labs import wait_until
from tests.unit.introspection.test_http_server import Told
from tests.unit.verdicts.test_record_filter import record

LINE = b'{"record":"' + b"x" * 1000 + b'"}\n'


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "agent.sock"


@asynccontextmanager
async def streaming(path: Path, queue_bytes: int = 1 << 20) -> AsyncIterator[tuple[LogStream, aiohttp.ClientSession]]:
    stream = LogStream(queue_bytes)
    serving = await http_server.serve(path, Told(), routes=record_routes(stream, idle_seconds=0.05))
    connector = aiohttp.UnixConnector(str(path), limit=0)
    try:
        async with asyncio.timeout(60), aiohttp.ClientSession("http://agent", connector=connector) as session:
            yield stream, session
    finally:
        await serving.cleanup()


def test_records_arrive_as_they_are_made_and_the_stream_ends_with_the_last_one(path: Path) -> None:
    async def body() -> list[bytes]:
        async with streaming(path) as (stream, session), session.get("/v1/records") as response:
            assert (response.status, response.content_type) == (200, "application/x-ndjson")
            stream.write([b'{"record":1}\n'])
            while (first := await response.content.readline()) == b"\n":
                continue
            stream.write([b'{"record":2}\n', b'{"record":3}\n'])
            stream.close()
            rest = await response.content.read()
            return [first, *(line for line in rest.splitlines(keepends=True) if line != b"\n")]

    assert asyncio.run(body()) == [b'{"record":1}\n', b'{"record":2}\n', b'{"record":3}\n']


def test_a_reader_that_stops_to_read_is_told_its_loss_and_sees_what_follows(path: Path) -> None:
    async def body() -> tuple[int, int, int, bytes]:
        async with streaming(path, queue_bytes=100_000) as (stream, session), session.get("/v1/records") as response:
            written = 0
            while not stream.lost:
                stream.write([LINE] * 10)
                written += 10
                await asyncio.sleep(0)
            counted = stream.lost[SLOW_READER]
            read = told = 0
            while read + told < written:
                line = await response.content.readline()
                read += line == LINE
                told += json.loads(line)["lost_records"] if line.startswith(b'{"lost') else 0
            stream.write([b'{"record":"next"}\n'])
            while (line := await response.content.readline()) == b"\n":
                continue
            assert read + told == written
            return counted, told, stream.lost[SLOW_READER], line

    counted, told, in_all, following = asyncio.run(body())
    assert counted == told == in_all > 0
    assert following == b'{"record":"next"}\n'


def test_a_reader_that_left_makes_room_for_another(path: Path) -> None:
    async def body() -> None:
        async with streaming(path) as (stream, session):
            opened = [await session.get("/v1/records") for _ in range(MAX_READERS)]
            async with session.get("/v1/records") as refused:
                assert refused.status == 503
                assert "readers follow the verdict log already" in (await refused.json())["error"]
            opened.pop().close()
            await asyncio.to_thread(wait_until, lambda: stream.readers < MAX_READERS)
            async with session.get("/v1/records") as accepted:
                assert accepted.status == 200
            for response in opened:
                response.close()
            await asyncio.to_thread(wait_until, lambda: stream.readers == 0)
            assert stream.readers == 0

    asyncio.run(body())


def test_a_reader_that_leaves_without_having_read_leaves_no_error(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def body() -> None:
        async with streaming(path) as (stream, _session):
            with socket.socket(socket.AF_UNIX) as client:
                await asyncio.to_thread(client.connect, str(path))
                client.sendall(b"GET /v1/records HTTP/1.1\r\nHost: agent\r\n\r\n")
                while not stream.lost:
                    stream.write([LINE] * 10)
                    await asyncio.sleep(0)
            await asyncio.to_thread(wait_until, lambda: stream.readers == 0)

    asyncio.run(body())
    assert caplog.records == []


LINES = [encode(record(ports=(number, 80 + number % 2))) for number in range(1, 11)]


def asked(path: Path, route: str = "/v1/records", status: int = 200, **query: str) -> bytes:
    """Return the answer about ten records, the ports to which are 81 and 80 in turns."""

    async def body() -> bytes:
        async with streaming(path) as (stream, session):
            stream.write(LINES)
            async with session.get(route, params=query) as response:
                assert response.status == status
                return await response.content.read()

    return asyncio.run(body())


def of_port(port: int) -> str:
    return encode_filter(RecordFilter((Clause("to_port", (str(port),)),)))


def test_the_latest_records_that_match_are_answered_oldest_first(path: Path) -> None:
    assert asked(path, last="3", follow="no") == b"".join(LINES[-3:])
    assert asked(path, last="2", follow="no", filter=of_port(80)) == LINES[7] + LINES[9]
    assert asked(path, last="all", follow="no", filter=of_port(1)) == b""
    assert asked(path, follow="no") == b""


def test_new_records_that_match_follow_the_latest_without_a_gap(path: Path) -> None:
    async def body() -> list[bytes]:
        async with (
            streaming(path) as (stream, session),
            session.get("/v1/records", params={"last": "1", "filter": of_port(80)}) as response,
        ):
            await asyncio.to_thread(wait_until, lambda: stream.readers == 1)
            stream.write(LINES)
            stream.write(LINES)
            stream.close()
            return [line for line in (await response.content.read()).splitlines(keepends=True) if line != b"\n"]

    assert asyncio.run(body()) == 2 * LINES[1::2]


def test_where_nothing_matches_the_stream_shows_that_it_goes_on(path: Path) -> None:
    async def body() -> bytes:
        async with (
            streaming(path) as (stream, session),
            session.get("/v1/records", params={"filter": of_port(1)}) as response,
        ):
            await response.content.readline()
            stream.write(LINES)
            return await response.content.readline()

    assert asyncio.run(body()) == b"\n"


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ({"last": "x"}, "write a number up to 4095"),
        ({"last": "9" * 50}, "write a number up to 4095"),
        ({"follow": "maybe"}, "write yes or no"),
        ({"filter": "{"}, "can't be read"),
        ({"filter": '{"all":[{"field":"from","terms":["A"]}]}'}, "write a Pod"),
    ],
)
def test_a_query_that_cannot_be_answered_is_refused(path: Path, query: dict[str, str], words: str) -> None:
    assert words in json.loads(asked(path, status=400, **query))["error"]


def test_the_latest_records_are_added_up(path: Path) -> None:
    found = json.loads(asked(path, "/v1/summary", filter=of_port(80)))
    assert (found["records"], found["pairs"][0]["destination"]) == (5, "data/db:80/tcp")
    top = json.loads(asked(path, "/v1/summary", of="denied", top="1"))
    assert (top["denied"], [item["name"] for item in top["sources"]]) == (10, ["shop/web"])


def test_a_pod_that_is_gone_is_named_where_its_labels_are_asked_for(path: Path) -> None:
    of_label = encode_filter(RecordFilter((Clause("from", ("app=web",)),)))
    assert json.loads(asked(path, last="all", follow="no", filter=of_label)) == {"unknown_pods": ["shop/web"]}


@pytest.mark.parametrize("query", ["follow=no&last=all", "follow=yes&last=all", "follow=perhaps"])
def test_head_writes_no_byte_behind_the_headers(path: Path, query: str) -> None:
    async def body() -> bytes:
        async with streaming(path) as (stream, _):
            stream.write([LINE])
            reader, writer = await asyncio.open_unix_connection(str(path))
            writer.write(f"HEAD /v1/records?{query} HTTP/1.1\r\nHost: agent\r\nConnection: close\r\n\r\n".encode())
            answer = await reader.read()
            writer.close()
            assert stream.readers == 0
            return answer

    head, end, rest = asyncio.run(body()).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400" if "perhaps" in query else b"HTTP/1.1 200")
    assert (end, rest) == (b"\r\n\r\n", b"")
