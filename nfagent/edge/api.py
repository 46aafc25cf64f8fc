"""The running agent's answers, over its unix socket: HTTP with JSON, for root alone (mode 0600).

    GET /v1/dump/{view}?namespace=NS&pod=NS/POD     state, policies, ruleset, kernel, diff, counters
    GET /v1/explain?source=END&destination=END      the verdict with its reasons
    POST /v1/try                                    what a change of policies would do (asking, trials); the answer
                                                    is a line of JSON for each part

200 is an answer, 400 a question that can't be understood, 503 a kernel that doesn't answer; the latter two
carry {"error": "…"}.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Protocol

import msgspec
from aiohttp import web
from aiohttp.typedefs import Handler

from nfagent.edge.asking import MOST_BYTES, read_question, too_long
from nfagent.edge.given import Given, read_given
from nfagent.edge.trials import Part, Work, in_turns
from nfagent.errors import KernelError, MachineError, UsageError
from nfagent.explain.explanation import Explanation, explanation_view
from nfagent.explain.trial import Trial
from nfagent.ruleset.views import Scope, View

_STOP_SECONDS = 0.5
"""How long an agent that stops waits for answers that are being given."""


class Answers(Protocol):
    """What the agent must be able to tell."""

    async def view(self, name: str, scope: Scope) -> View:
        """Give a view. Raises UsageError, KernelError."""
        ...

    async def explain(self, source: str, destination: str) -> Explanation:
        """Judge a connection. Raises UsageError."""
        ...

    def begin_trial(self, given: Given, *, delete: bool) -> Trial:
        """Make ready to try policies, or their deletion, against the state of now. Raises UsageError."""
        ...


async def serve(path: Path, answers: Answers) -> web.AppRunner:
    """Answer at a socket path until the runner is cleaned up. Raises MachineError."""
    application = web.Application(middlewares=[_errors], client_max_size=MOST_BYTES)

    async def dump(request: web.Request) -> web.Response:
        scope = Scope(request.query.get("namespace", ""), request.query.get("pod", ""))
        return _json(await answers.view(request.match_info["view"], scope))

    async def explain(request: web.Request) -> web.Response:
        found = await answers.explain(request.query.get("source", ""), request.query.get("destination", ""))
        return _json(explanation_view(found))

    async def attempt(request: web.Request) -> web.StreamResponse:
        asked, seen = read_question(await request.read())
        given = await asyncio.to_thread(read_given, asked.files)
        trial = answers.begin_trial(given, delete=asked.delete)
        return await _told(request, in_turns(Work(trial, given, asked, seen)))

    async def forget_socket(_application: web.Application) -> None:
        _remove(path)

    application.on_cleanup.append(forget_socket)
    application.router.add_get("/v1/dump/{view}", dump)
    application.router.add_get("/v1/explain", explain)
    application.router.add_post("/v1/try", attempt)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=_STOP_SECONDS)
    await runner.setup()
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        before = os.umask(0o177)
        try:
            await web.UnixSite(runner, str(path)).start()
        finally:
            os.umask(before)
    except OSError as error:
        await runner.cleanup()
        raise MachineError(f"{path} can't be listened at: {error}; set another runtime_dir") from None
    return runner


def _remove(path: Path) -> None:
    # asyncio closes a socket, and leaves its file behind. What is no socket kept us from listening: it isn't ours.
    if path.is_socket():
        path.unlink(missing_ok=True)


@web.middleware
async def _errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except UsageError as error:
        return _json({"error": str(error)}, status=400)
    except web.HTTPRequestEntityTooLarge:
        return _json({"error": str(too_long())}, status=400)
    except (KernelError, MachineError) as error:
        return _json({"error": str(error)}, status=503)


async def _told(request: web.Request, parts: Iterable[Part | None]) -> web.StreamResponse:
    """Write parts as they are found; everybody else has a turn after each."""
    response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
    # Who asked may well have gone away, and wants no more then.
    with suppress(ConnectionResetError):
        for part in parts:
            if part is not None:
                if not response.prepared:
                    await response.prepare(request)
                await response.write(msgspec.json.encode(part) + b"\n")
            await asyncio.sleep(0)
        await response.write_eof()
    return response


def _json(content: object, status: int = 200) -> web.Response:
    return web.Response(body=msgspec.json.encode(content), status=status, content_type="application/json")
