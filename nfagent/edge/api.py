"""The running agent's answers, over its unix socket: HTTP with JSON, for root alone (mode 0600).

    GET /v1/dump/{view}?namespace=NS&pod=NS/POD     state, policies, ruleset, kernel, diff, counters; `form` names the
                                                    one of a ruleset's forms that is wanted (text, nft, objects),
                                                    or leaves lists out of the state (summary)
    GET /v1/explain?source=END&destination=END      the verdict with its reasons
    POST /v1/try                                    what a change of policies would do (asking, trials); the answer
                                                    is a line of JSON for each part

A long answer is written as it is made, in chunks, and its length isn't known before.
200 is an answer, 400 a question that can't be understood, 503 a kernel that doesn't answer; the latter two
carry {"error": "…"}.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Protocol

import msgspec
from aiohttp import web
from aiohttp.typedefs import Handler

from nfagent.edge.asking import MOST_BYTES, read_question, too_long
from nfagent.edge.given import Given, read_given
from nfagent.edge.trials import Part, Work, in_turns
from nfagent.edge.turns import Turns
from nfagent.errors import KernelError, MachineError, UsageError
from nfagent.explain.explanation import Explanation, explanation_parts
from nfagent.explain.trial import Trial
from nfagent.ruleset.pieces import encoded
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


async def serve(path: Path, answers: Answers, turns: Turns | None = None) -> web.AppRunner:
    """Answer at a socket path until the runner is cleaned up. Raises MachineError.

    turns: those that long answers take, where others take them too
    """
    application = web.Application(middlewares=[_errors], client_max_size=MOST_BYTES)
    turns = turns or Turns()

    async def dump(request: web.Request) -> web.StreamResponse:
        asked = request.query
        scope = Scope(asked.get("namespace", ""), asked.get("pod", ""), asked.get("form", ""))
        return await _told(request, turns.taken(encoded(await answers.view(request.match_info["view"], scope))))

    async def explain(request: web.Request) -> web.StreamResponse:
        found = await answers.explain(request.query.get("source", ""), request.query.get("destination", ""))
        return await _told(request, turns.taken(encoded(explanation_parts(found))))

    async def attempt(request: web.Request) -> web.StreamResponse:
        asked, seen = read_question(await request.read())
        given = await asyncio.to_thread(read_given, asked.files)
        trial = answers.begin_trial(given, delete=asked.delete)
        lines = (b"" if part is None else _line(part) for part in in_turns(Work(trial, given, asked, seen)))
        return await _told(request, turns.taken(lines), "application/x-ndjson")

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


async def _told(
    request: web.Request, turns: AsyncIterator[list[bytes]], content_type: str = "application/json"
) -> web.StreamResponse:
    """Write an answer as it is made; everybody else has a turn after each part."""
    response = web.StreamResponse(headers={"Content-Type": content_type})
    await asyncio.sleep(0)  # what was asked has been looked up, which was a turn of its own
    # Who asked may well have gone away, and wants no more then.
    with suppress(ConnectionResetError):
        async for made in turns:
            part = b"".join(made)
            if part and not response.prepared:
                await response.prepare(request)
            if part:
                await response.write(part)
        await response.write_eof()
    return response


def _line(part: Part) -> bytes:
    return msgspec.json.encode(part) + b"\n"


def _json(content: object, status: int = 200) -> web.Response:
    return web.Response(body=msgspec.json.encode(content), status=status, content_type="application/json")
