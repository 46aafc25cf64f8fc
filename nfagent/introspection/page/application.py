"""The page as an application: its files, and those of the agent's answers that it asks for. Nothing else is served."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib.resources import files
from typing import Any

from aiohttp import web
from aiohttp.typedefs import Handler

from nfagent.introspection.error_answers import answered
from nfagent.introspection.head_requests import answer_head
from nfagent.introspection.page.access import PageAccess, add_headers
from nfagent.introspection.tcp_listener import deadlines

ANSWERS = (
    ("/v1/status", "/v1/status"),
    ("/v1/records", "/v1/records"),
    ("/v1/explain", "/v1/explain"),
    ("/v1/dump/{view:policies|counters}", "/v1/dump/{view}"),
)
"""What the page asks for: its path, and the path of the agent's route."""
_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}


def page_application(access: PageAccess, answers: Mapping[str, Any]) -> web.Application:
    """Return the application. answers: the handler of each path of ANSWERS, as an agent's route has it."""
    application = web.Application(middlewares=[deadlines, access.middleware, _errors])
    application.on_response_prepare.append(add_headers)
    answer_head(application)
    for path, asked in ANSWERS:
        application.router.add_get(f"{access.base[:-1]}{path}", answers[asked])
    for name, content, content_type in _page_files():
        served = "" if name == "index.html" else name
        application.router.add_get(f"{access.base}{served}", _file(content, content_type))
    return application


def handlers_of(routes: Iterable[web.RouteDef]) -> dict[str, Any]:
    """Return the handlers of an agent's GET routes, by path."""
    return {route.path: route.handler for route in routes if route.method == "GET"}


def _file(content: bytes, content_type: str) -> Handler:
    async def answer(_: web.Request) -> web.StreamResponse:
        return web.Response(body=content, content_type=content_type, charset="utf-8")

    return answer


def _page_files() -> Iterable[tuple[str, bytes, str]]:
    for found in files("nfagent.introspection.page").joinpath("files").iterdir():
        suffix = f".{found.name.rpartition('.')[2]}"
        if suffix in _TYPES:
            yield found.name, found.read_bytes(), _TYPES[suffix]


@web.middleware
async def _errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    return await answered(request, handler)
