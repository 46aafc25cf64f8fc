"""HEAD: status and headers of what GET answers, which is ended as soon as these are known.

aiohttp leaves the body of a whole answer out, but sends one that is written while it is made.
"""

from __future__ import annotations

from aiohttp import web
from aiohttp.typedefs import Handler


class _HeadAnswer(web.StreamResponse):
    """An answer without a body, nor its length."""


class _HeadersKnownError(Exception):
    """The headers of an answer to HEAD are known: there is nothing more to make. found: the answer so far."""

    def __init__(self, found: web.StreamResponse) -> None:
        super().__init__()
        self.found = found


def answer_head(application: web.Application) -> None:
    """Let an application answer HEAD where it answers GET by a stream."""
    application.middlewares.append(_ended)
    application.on_response_prepare.append(_end)


async def _end(request: web.Request, response: web.StreamResponse) -> None:
    if request.method == "HEAD" and not isinstance(response, web.Response | _HeadAnswer):
        raise _HeadersKnownError(response)


@web.middleware
async def _ended(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except _HeadersKnownError as known:
        return _HeadAnswer(status=known.found.status, headers=known.found.headers)
