"""Writes an answer while it is made, with chunked transfer encoding."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress

from aiohttp import web


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
