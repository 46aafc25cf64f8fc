"""Errors as answers: 400 for an invalid request, 503 where the kernel or this machine doesn't do it."""

from __future__ import annotations

import msgspec
from aiohttp import web
from aiohttp.typedefs import Handler

from nfagent.errors import HostError, KernelError, UsageError


async def answered(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Return a route's answer, or the error that it raises as {"error": "…"}."""
    try:
        return await handler(request)
    except UsageError as error:
        return error_answer(str(error), 400)
    except (KernelError, HostError) as error:
        return error_answer(str(error), 503)


def error_answer(words: str, status: int) -> web.Response:
    """Return {"error": words}."""
    return web.Response(body=msgspec.json.encode({"error": words}), status=status, content_type="application/json")
