"""GET /v1/matrix?namespace=NS&port=5432/tcp: who reaches whom, a line of JSON for each part (simulate.matrix_answer).

`port` may be repeated; without it, all traffic counts.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec
from aiohttp import web

from nfagent.introspection.http_stream import stream
from nfagent.simulate.asked_ports import asked_ports
from nfagent.simulate.matrix import MatrixJob
from nfagent.simulate.matrix_answer import MatrixRequest
from nfagent.time_slices import TimeSlices

_encode = msgspec.json.Encoder().encode


def matrix_route(start: Callable[[MatrixRequest], MatrixJob], time_slices: TimeSlices) -> web.RouteDef:
    """Return the route; `start` may raise UsageError."""

    async def matrix(request: web.Request) -> web.StreamResponse:
        ports = asked_ports(request.query.getall("port", ()))
        job = start(MatrixRequest(request.query.get("namespace", ""), ports))
        lines = (b"" if part is None else _encode(part) + b"\n" for part in job.parts())
        return await stream(request, time_slices.slices(lines), "application/x-ndjson")

    return web.get("/v1/matrix", matrix)
