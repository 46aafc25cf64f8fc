"""GET /v1/records: the records of the verdict log as they are made, one JSON object a line.

An empty line shows that the stream goes on; `{"lost_records": N}` that the reader was too slow, and what it missed.
"""

from __future__ import annotations

from contextlib import suppress

from aiohttp import web

from nfagent.verdicts.log_stream import LogStream

_IDLE_SECONDS = 10.0
"""A reader whose connection is silent for longer than 30 s takes the agent for hung."""


def record_route(stream: LogStream, idle_seconds: float = _IDLE_SECONDS) -> web.RouteDef:
    """Return the route that streams records until the agent stops or the reader leaves."""

    async def records(request: web.Request) -> web.StreamResponse:
        async with stream.reader() as reader:
            response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
            with suppress(ConnectionError):
                await response.prepare(request)
                async for lines in reader.batches(idle_seconds):
                    await response.write(lines)
                await response.write_eof()
            return response

    return web.get("/v1/records", records)
