"""Streams of records: order, slow readers, the number of readers, the end."""

from __future__ import annotations

import asyncio
import json
from itertools import accumulate, takewhile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nfagent.errors import HostError
from nfagent.verdicts.log_stream import MAX_READERS, SLOW_READER, LogStream, RecentLines, StreamReader

IDLE = 30.0


def line(number: int) -> bytes:
    return b'{"record":%d}\n' % number


async def read(reader: StreamReader) -> bytes:
    """Return what a reader gets until its end."""
    return b"".join([lines async for lines in reader.batches(IDLE)])


def without_empty(content: bytes) -> list[bytes]:
    return [part for part in content.splitlines(keepends=True) if part != b"\n"]


def test_every_reader_gets_every_line_in_order() -> None:
    async def run() -> list[bytes]:
        stream = LogStream()
        async with stream.reader() as one, stream.reader() as other:
            reading = [asyncio.create_task(read(one)), asyncio.create_task(read(other))]
            for number in range(100):
                stream.write([line(2 * number), line(2 * number + 1)])
                if number % 3 == 0:
                    await asyncio.sleep(0)
            stream.close()
            return list(await asyncio.gather(*reading))

    expected = [line(number) for number in range(200)]
    assert [without_empty(content) for content in asyncio.run(run())] == [expected, expected]


def test_a_slow_reader_is_told_where_and_how_much_it_lost_and_another_loses_nothing() -> None:
    async def run() -> tuple[list[bytes], list[bytes], dict[str, int]]:
        stream = LogStream(queue_bytes=10 * len(line(10)))
        async with stream.reader() as slow, stream.reader() as fast:
            got = []
            batches = fast.batches(IDLE)
            await anext(batches)
            for number in range(10, 40):
                stream.write([line(number)])
                got.append(await anext(batches))
            taken = slow.batches(IDLE)
            await anext(taken)
            first = await anext(taken)
            stream.write([line(40)])
            return without_empty(first + await anext(taken)), got, dict(stream.lost)

    slow, fast, lost = asyncio.run(run())
    assert slow == [*map(line, range(10, 20)), b'{"lost_records":20}\n', line(40)]
    assert fast == [line(number) for number in range(10, 40)]
    assert lost == {SLOW_READER: 20}


@given(st.lists(st.one_of(st.integers(1, 5), st.just("read")), max_size=40))
def test_lines_read_and_lines_that_gaps_name_are_all_lines(steps: list[int | str]) -> None:
    async def run() -> None:
        reader = StreamReader(queue_bytes=6 * len(line(0)))
        batches = reader.batches(IDLE)
        written = 0
        content = await anext(batches)
        for step in steps:
            if step == "read":
                reader.add([line(written % 10)])
                written += 1
                content += await anext(batches)
            else:
                assert isinstance(step, int)
                reader.add([line((written + more) % 10) for more in range(step)])
                written += step
        reader.end()
        content += b"".join([lines async for lines in batches])
        position = 0
        for found in map(json.loads, without_empty(content)):
            if "lost_records" in found:
                position += found["lost_records"]
            else:
                assert found["record"] == position % 10, "in order, and each gap where it is"
                position += 1
        assert position == written

    asyncio.run(run())


def test_an_idle_stream_sends_empty_lines() -> None:
    async def run() -> list[bytes]:
        async with LogStream().reader() as reader:
            batches = reader.batches(idle_seconds=0.001)
            return [await anext(batches) for _ in range(4)]

    assert asyncio.run(run()) == [b"\n"] * 4


def test_a_reader_too_many_is_refused_until_another_leaves() -> None:
    async def run() -> None:
        stream = LogStream()
        opened = [stream.reader() for _ in range(MAX_READERS)]
        for reader in opened:
            await reader.__aenter__()
        with pytest.raises(HostError, match="8 readers follow the verdict log already"):
            async with stream.reader():
                pass
        await opened[0].__aexit__(None, None, None)
        async with stream.reader():
            assert stream.readers == MAX_READERS

    asyncio.run(run())


def test_a_reader_of_a_closed_stream_ends_at_once() -> None:
    async def run() -> bytes:
        stream = LogStream()
        stream.close()
        async with stream.reader() as reader:
            return await read(reader)

    assert without_empty(asyncio.run(run())) == []


def test_of_lines_the_latest_are_kept_by_number_and_by_bytes() -> None:
    recent = RecentLines(most=3, most_bytes=10)
    recent.add([b"1\n", b"2\n", b"3\n", b"4\n"])
    assert recent.newest_first() == [b"4\n", b"3\n", b"2\n"]
    recent.add([b"5678\n"])
    assert recent.newest_first() == [b"5678\n", b"4\n", b"3\n"]
    recent.add([b"x" * 11])
    assert recent.newest_first() == []
    recent.add([b"9\n"])
    assert recent.newest_first() == [b"9\n"]


@given(
    batches=st.lists(st.lists(st.binary(max_size=25), max_size=6), max_size=30),
    most=st.integers(1, 8),
    most_bytes=st.integers(1, 40),
)
def test_the_latest_lines_are_the_longest_end_of_all_within_the_limits(
    batches: list[list[bytes]], most: int, most_bytes: int
) -> None:
    recent = RecentLines(most=most, most_bytes=most_bytes)
    every: list[bytes] = []
    for lines in batches:
        recent.add(lines)
        every += lines
        # A line that is longer than the limit forgets all before it, and isn't kept itself.
        held = takewhile(lambda size: size <= most_bytes, accumulate(map(len, reversed(every))))
        assert recent.newest_first() == every[::-1][: min(most, len(list(held)))]
