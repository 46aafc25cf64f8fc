"""Bodies of requests: all that are in memory at once share one limit of bytes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web

from nfagent.errors import HostError, UsageError
from nfagent.simulate.codec import MAX_REQUEST_BYTES, request_too_large
from nfagent.system.gc_tuning import malloc_trim

MOST_TOGETHER = 64 * 1024 * 1024
"""Bytes of all bodies that are being read or answered."""
_LARGE = 1024 * 1024


class RequestBodies:
    """Reads bodies."""

    def __init__(self, most: int = MOST_TOGETHER) -> None:
        """Start with none."""
        self._most = most
        self._held = 0

    @asynccontextmanager
    async def read(self, request: web.BaseRequest) -> AsyncIterator[bytearray]:
        """Read a body, which counts until the block ends.

        Raises UsageError for one that is too long or breaks off, HostError where other bodies use up the limit.
        """
        if (request.content_length or 0) > MAX_REQUEST_BYTES:
            raise request_too_large()
        body = bytearray()
        try:
            async for part in request.content.iter_any():
                if len(body) + len(part) > MAX_REQUEST_BYTES:
                    raise request_too_large()
                if self._held + len(part) > self._most:
                    raise HostError(
                        f"other requests use all {self._most >> 20} MiB for request bodies; try again in a minute"
                    )
                self._held += len(part)
                body += part
            yield body
        except (web.RequestPayloadError, ConnectionError) as error:
            raise UsageError(f"the request body can't be read: {error}") from None
        finally:
            size = len(body)
            self._held -= size
            body.clear()  # a traceback may refer to it until the next garbage collection
            if size > _LARGE:
                asyncio.get_running_loop().run_in_executor(None, malloc_trim)
