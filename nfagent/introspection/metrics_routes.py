"""The routes that a monitoring system asks, on the agent's socket and over TCP.

GET /metrics   the metrics of docs/metrics.md, in Prometheus' text format
GET /healthz   200 while the agent's event loop runs and its reconciler makes progress; otherwise 503 and the reason
GET /readyz    200 where all objects were read and the kernel holds their rules; otherwise 503 and the reason
"""

from __future__ import annotations

from typing import Protocol

from aiohttp import web

from nfagent.metrics.exposition import CONTENT_TYPE
from nfagent.model.printable import printable


class MetricsProvider(Protocol):
    """Returns what these routes answer."""

    async def page(self) -> bytes:
        """Return the metrics' page."""
        ...

    def stalled(self) -> str:
        """Return why the agent should be started anew, '' where it works."""
        ...

    def unready(self) -> str:
        """Return why the agent isn't ready, '' where it is."""
        ...


def metrics_routes(provider: MetricsProvider) -> list[web.RouteDef]:
    """Return the routes."""

    async def metrics(_: web.Request) -> web.Response:
        return web.Response(body=await provider.page(), headers={"Content-Type": CONTENT_TYPE})

    async def healthz(_: web.Request) -> web.Response:
        return _probed(provider.stalled())

    async def readyz(_: web.Request) -> web.Response:
        return _probed(provider.unready())

    return [web.get("/metrics", metrics), web.get("/healthz", healthz), web.get("/readyz", readyz)]


def _probed(reason: str) -> web.Response:
    return web.Response(text=f"{printable(reason)}\n" if reason else "ok\n", status=503 if reason else 200)
