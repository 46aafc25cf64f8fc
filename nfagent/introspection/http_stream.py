"""Writes an answer while it is made, with chunked transfer encoding."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress

from aiohttp import web

from nfagent.introspection.chunks import encoded
from nfagent.time_slices import TimeSlices


async def stream(
    request: web.Request, batches: AsyncIterator[list[bytes]], content_type: str = "application/json"
) -> web.StreamResponse:
    """Write an answer while it is made; other tasks run after each part."""
    response = web.StreamResponse(headers={"Content-Type": content_type})
    await asyncio.sleep(0)  # looking up the objects has taken a time slice already
    # The client may have closed the connection.
    with suppress(ConnectionError):
        async for made in batches:
            part = b"".join(made)
            if part and not response.prepared:
                await response.prepare(request)
            if part:
                await response.write(part)
        await response.write_eof()
    return response


def view_route(path: str, view: Callable[[], Awaitable[object]], time_slices: TimeSlices) -> web.RouteDef:
    """Return a route that answers with a view, which may be unfinished (chunks)."""

    async def answer(request: web.Request) -> web.StreamResponse:
        return await stream(request, time_slices.slices(encoded(await view())))

    return web.get(path, answer)
