"""Records of the verdict log over the agent's socket, filtered where they are.

GET /v1/records   new records as they are made, one JSON object a line. An empty line shows that the stream goes on;
                  `{"lost_records": N}` that the reader was too slow, and what it missed
                  filter=JSON: only these (verdicts.record_filter); last=N: before them the latest N of the 4,095 that
                  the agent keeps, `all` for all of these; follow=no: only those
GET /v1/summary   of the records that the agent keeps who talks to whom (SummaryView), or with of=denied what is denied
                  most (TopView); filter=JSON; top=N
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import suppress

import msgspec
from aiohttp import web

from nfagent.errors import DecodeError, UsageError
from nfagent.introspection.agent_client import FILTERED
from nfagent.time_slices import TimeSlices
from nfagent.verdicts.log_stream import RECENT_LINES, LogStream
from nfagent.verdicts.record_filter import NoCluster, PeerLookup, RecordFilter, RecordMatcher, decode_filter
from nfagent.verdicts.record_summary import RecordSummary, SummaryView, TopDenied, TopView
from nfagent.verdicts.records import Record, decode

_IDLE_SECONDS = 10.0
"""A reader whose connection is silent for longer than 30 s takes the agent for hung."""
_MOST_TOP = 1_000
_ALIVE = b"\n"


class _Asked(msgspec.Struct, frozen=True):
    """A request: which of the records, how many of the latest, and whether new ones follow."""

    wanted: RecordFilter
    last: int
    follow: bool

    @classmethod
    def of(cls, query: Mapping[str, str]) -> _Asked:
        """Return what a query asks for. Raises UsageError."""
        last, follow = query.get("last", "0"), query.get("follow", "yes")
        if follow not in {"yes", "no"}:
            raise UsageError(f"follow={follow!r}: write yes or no")
        written = query.get("filter", "")
        number = RECENT_LINES if last == "all" else _number("last", last, RECENT_LINES)
        return cls(decode_filter(written) if written else RecordFilter(), number, follow == "yes")


def _number(name: str, text: str, most: int) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) <= len(str(most)) and int(text) <= most):
        raise UsageError(f"{name}={text!r}: write a number up to {most}")
    return int(text)


def record_routes(
    stream: LogStream,
    peers: PeerLookup | None = None,
    time_slices: TimeSlices | None = None,
    idle_seconds: float = _IDLE_SECONDS,
) -> tuple[web.RouteDef, ...]:
    """Return the routes; a stream ends when the agent stops or the reader leaves."""
    slices, known = time_slices or TimeSlices(), peers or NoCluster()

    async def records(request: web.Request) -> web.StreamResponse:
        asked = _Asked.of(request.query)
        matches = RecordMatcher(asked.wanted, known)
        async with stream.reader() as reader:
            recent = stream.recent.newest_first() if asked.last else []
            response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson", FILTERED: "filtered"})
            with suppress(ConnectionError):
                await response.prepare(request)
                async for lines in _recent(recent, matches, slices, asked.last):
                    await response.write(lines)
                live = reader.batches(idle_seconds)
                async for lines in _live(live, asked, matches, slices, idle_seconds):
                    await response.write(lines)
                await response.write_eof()
            return response

    async def summary(request: web.Request) -> web.Response:
        asked = _Asked.of(request.query)
        number = _number("top", request.query.get("top", "10"), _MOST_TOP)
        of = request.query.get("of", "all")
        if of not in {"all", "denied"}:
            raise UsageError(f"of={of!r}: write all or denied")
        matches = RecordMatcher(asked.wanted, known)
        found: RecordSummary | TopDenied = TopDenied() if of == "denied" else RecordSummary()
        async for _ in slices.slices(_added(stream.recent.newest_first(), matches, found)):
            pass
        view: SummaryView | TopView = found.view(number)
        shown = msgspec.structs.replace(view, unknown_pods=list(matches.unknown))
        return web.Response(body=msgspec.json.encode(shown), content_type="application/json")

    return web.get("/v1/records", records), web.get("/v1/summary", summary)


async def _recent(
    newest_first: list[bytes], matches: RecordMatcher, slices: TimeSlices, most: int
) -> AsyncIterator[bytes]:
    """Yield the latest lines that match, so many, oldest first, joined; then the Pods whose labels aren't known."""
    if not newest_first:
        return
    kept = [line async for made in slices.slices(_matching(newest_first, matches, most)) for line in made]
    yield b"".join(reversed(kept))
    if matches.unknown:
        yield msgspec.json.encode({"unknown_pods": list(matches.unknown)}) + b"\n"


async def _live(
    batches: AsyncIterator[bytes], asked: _Asked, matches: RecordMatcher, slices: TimeSlices, idle_seconds: float
) -> AsyncIterator[bytes]:
    """Yield new lines, if they are asked for: those that match, and those that are no records, such as gaps.

    Where none matches for a while, an empty line shows that the stream goes on.
    """
    if not asked.follow:
        return
    clock = asyncio.get_running_loop().time
    yielded = clock()
    async for joined in batches:
        if asked.wanted == RecordFilter():
            yield joined
            continue
        lines = joined.splitlines(keepends=True)
        found = b"".join([line async for made in slices.slices(_passing(lines, matches)) for line in made])
        if found or joined == _ALIVE or clock() - yielded >= idle_seconds:
            yielded = clock()
            yield found or _ALIVE


def _decoded(line: bytes) -> Record | None:
    try:
        return decode(line)
    except DecodeError:
        return None


def _passing(lines: list[bytes], matches: RecordMatcher) -> Iterator[bytes]:
    """Yield each line that matches or is no record, and an empty one for each other."""
    for line in lines:
        record = _decoded(line)
        yield line if record is None or matches(record) else b""


def _matching(lines: list[bytes], matches: RecordMatcher, most: int) -> Iterator[bytes]:
    """Yield the first lines that match, so many, and an empty one for each other."""
    kept = 0
    for line in lines:
        record = _decoded(line)
        if record is not None and matches(record):
            kept += 1
            yield line
        else:
            yield b""
        if kept == most:
            return


def _added(lines: list[bytes], matches: RecordMatcher, found: RecordSummary | TopDenied) -> Iterator[None]:
    for line in lines:
        record = _decoded(line)
        if record is not None and matches(record):
            found.add(record)
        yield
