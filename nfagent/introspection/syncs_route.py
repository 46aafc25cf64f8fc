"""GET /v1/syncs?last=N: the last syncs of the agent, step by step (controllers.sync_trace)."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
from aiohttp import web

from nfagent.clock import MonotonicClock
from nfagent.controllers.sync_trace import KEPT, SyncTrace
from nfagent.errors import UsageError


def syncs_route(
    trace: SyncTrace, clock: MonotonicClock, recheck: Callable[[], tuple[float, float]] = lambda: (0.0, 0.0)
) -> web.RouteDef:
    """Return the route. recheck: returns when the last re-check of connections began and ended."""

    async def syncs(request: web.Request) -> web.Response:
        last = request.query.get("last", str(KEPT))
        if not (last.isascii() and last.isdecimal() and len(last) <= len(str(KEPT)) and 1 <= int(last) <= KEPT):
            raise UsageError(f"last={last!r}: write a number from 1 to {KEPT}")
        found = trace.reply(clock.monotonic(), recheck(), int(last))
        return web.Response(body=msgspec.json.encode(found), content_type="application/json")

    return web.get("/v1/syncs", syncs)
