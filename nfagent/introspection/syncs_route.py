"""GET /v1/syncs: the last syncs of the agent, step by step (controllers.sync_trace)."""

from __future__ import annotations

import msgspec
from aiohttp import web

from nfagent.clock import MonotonicClock
from nfagent.controllers.sync_trace import SyncTrace


def syncs_route(trace: SyncTrace, clock: MonotonicClock) -> web.RouteDef:
    """Return the route."""

    async def syncs(_: web.Request) -> web.Response:
        found = trace.reply(clock.monotonic())
        return web.Response(body=msgspec.json.encode(found), content_type="application/json")

    return web.get("/v1/syncs", syncs)
