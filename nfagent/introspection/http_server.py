"""The running agent's answers, over its unix socket: HTTP with JSON, for root alone (mode 0600).

    GET /v1/dump/{view}?namespace=NS&pod=NS/POD     state, policies, ruleset, kernel, diff, counters; `form` names the
                                                    one of a ruleset's forms that is wanted (text, nft, objects),
                                                    or leaves lists out of the state (summary); pods=here leaves
                                                    out of it the Pods of other nodes
    GET /v1/explain?source=END&destination=END      the verdict with its reasons
    POST /v1/try                                    what a change of policies would do (simulate.job); the answer
                                                    is a line of JSON for each part
    GET /metrics, /healthz, /readyz                 for monitoring systems (metrics_routes)
    GET /v1/syncs                                   the last syncs, step by step (syncs_route)
    GET /v1/matrix?namespace=NS&port=5432/tcp       who reaches whom (matrix_route)
    GET /v1/records?filter=JSON&last=N&follow=no    records of the verdict log (record_route)
    GET /v1/summary?filter=JSON&of=denied&top=N     these added up (record_route)
    GET /v1/peers                                   what decides about the filters of records (record_peers)
    GET /v1/status                                  whether all is well, in a few lines (status_view)
    GET /v1/counts                                  packets allowed and denied by Pod and by policy (counts_view)
    GET /v1/config                                  the settings, each with its origin (settings_parts)
    GET /v1/names?kind=KIND&prefix=TEXT             names of Pods, policies, namespaces (names_route)

The live page (page.application) asks for status, records, explain and dump policies and counters: what these answers
have is what its modules in page/files read.

A long answer is written while it is made, with chunked transfer encoding.
Status 200 is an answer, 400 an invalid request, 503 a kernel that doesn't answer or too many requests at once; 400 and
503 carry {"error": "…"}. HEAD has the status and the headers of GET (head_requests). Connections have limits and
deadlines (connections, request_bodies).
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol

import msgspec
from aiohttp import web
from aiohttp.typedefs import Handler

from nfagent.errors import HostError
from nfagent.explain.explanation import Explanation, explanation_parts
from nfagent.introspection.chunks import encoded
from nfagent.introspection.connections import BACKLOG, ConnectionLimits, SocketListener, connection_of
from nfagent.introspection.error_answers import answered
from nfagent.introspection.freshness import ViewHead
from nfagent.introspection.head_requests import answer_head
from nfagent.introspection.http_log import log
from nfagent.introspection.http_stream import stream
from nfagent.introspection.request_bodies import RequestBodies
from nfagent.introspection.socket_folder import make_folder
from nfagent.introspection.view_filter import ViewFilter
from nfagent.manifests.policy_file_reader import decode_policies
from nfagent.simulate.codec import decode_request
from nfagent.simulate.job import SimulationJob, SimulationPart, run_in_slices
from nfagent.simulate.policy_files import PolicyFiles
from nfagent.simulate.simulation import PolicySimulation
from nfagent.time_slices import TimeSlices

_STOP_SECONDS = 0.5
"""How long an agent that stops waits for answers that are being written."""


class AnswerProvider(Protocol):
    """Answers requests: introspection.answers.AgentAnswerer."""

    async def view(self, name: str, scope: ViewFilter) -> ViewHead | dict[str, Any]:
        """Return a view, which may be unfinished (chunks). Raises UsageError, KernelError."""
        ...

    async def explain(self, source: str, destination: str) -> Explanation:
        """Return the verdict on a connection. Raises UsageError."""
        ...

    def start_simulation(self, given: PolicyFiles, *, delete: bool) -> PolicySimulation:
        """Return a simulation of new policies, or of their deletion, in the current state. Raises UsageError."""
        ...


class SocketServer:
    """Serves requests at a socket's path."""

    def __init__(self, path: Path, runner: web.AppRunner, protocol: web.Server, limits: ConnectionLimits) -> None:
        """Store a runner that is set up; `open` starts to listen."""
        self._path = path
        self._runner = runner
        self._protocol = protocol
        self._limits = limits
        self._listeners: list[SocketListener] = []  # the last accepts, those before have connections that go on
        self._named = (0, 0)

    def open(self) -> None:
        """Listen at the path. Raises OSError, HostError."""
        self._accept(self._bound())

    def bound_again(self) -> socket.socket | None:
        """Return a new socket for `renew` where the folder or the socket was removed; None where they exist.

        Blocks as long as the disk does. Raises OSError, and HostError where something else is in their place.
        """
        if _named(self._path) == self._named:
            make_folder(self._path.parent)
            return None
        if _listens(self._path):
            raise HostError(f"{self._path} is another process's socket; give each agent its own runtime_dir")
        return self._bound()

    async def renew(self, opened: socket.socket) -> None:
        """Accept at a new socket; connections of the earlier ones stay open."""
        self._accept(opened)
        for before in self._listeners[:-1]:
            await before.close()
        self._listeners = [*(left for left in self._listeners[:-1] if left.connected), self._listeners[-1]]

    def _bound(self) -> socket.socket:
        make_folder(self._path.parent)
        _remove(self._path)
        opened = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            os.fchmod(opened.fileno(), 0o600)  # its file has this mode from the first moment, whatever the umask
            opened.bind(str(self._path))
            opened.listen(BACKLOG)
        except BaseException:
            opened.close()
            raise
        return opened

    def _accept(self, opened: socket.socket) -> None:
        self._named = _named(self._path)
        self._listeners.append(SocketListener(opened, self._protocol, self._limits))

    async def cleanup(self) -> None:
        """Finish the answers that are being written, for half a second, and close."""
        for listener in self._listeners:
            await listener.close()
        await self._runner.cleanup()
        for listener in self._listeners:
            listener.abort()
        if self._listeners and _named(self._path) == self._named:
            _remove(self._path)
        self._listeners = []


async def serve(
    path: Path,
    answers: AnswerProvider,
    time_slices: TimeSlices | None = None,
    limits: ConnectionLimits | None = None,
    routes: Iterable[web.RouteDef] = (),
) -> SocketServer:
    """Serve at a socket path until `cleanup`. Raises HostError.

    time_slices: the time slices that long answers share with other work
    routes:      further routes
    """
    application = web.Application(middlewares=[_errors])
    answer_head(application)
    limits = limits or ConnectionLimits()

    application.router.add_routes((*answer_routes(answers, time_slices or TimeSlices()), *routes))
    runner = web.AppRunner(
        application,
        access_log=None,
        logger=log,
        shutdown_timeout=_STOP_SECONDS,
        keepalive_timeout=limits.request_seconds,
        lingering_time=limits.request_seconds,
        auto_decompress=False,
    )
    await runner.setup()
    if runner.server is None:
        raise HostError(f"cannot listen at {path}: aiohttp has no server")
    serving = SocketServer(path, runner, runner.server, limits)
    try:
        serving.open()
    except (OSError, HostError) as error:
        await serving.cleanup()
        raise HostError(f"cannot listen at {path}: {error}; set another runtime_dir") from None
    return serving


def answer_routes(answers: AnswerProvider, time_slices: TimeSlices) -> list[web.RouteDef]:
    """Return the routes of questions about the agent's state."""
    bodies = RequestBodies()

    async def dump(request: web.Request) -> web.StreamResponse:
        asked = request.query
        scope = ViewFilter(*(asked.get(name, "") for name in ViewFilter.__struct_fields__))
        return await stream(request, time_slices.slices(encoded(await answers.view(request.match_info["view"], scope))))

    async def explain(request: web.Request) -> web.StreamResponse:
        found = await answers.explain(request.query.get("source", ""), request.query.get("destination", ""))
        return await stream(request, time_slices.slices(encoded(explanation_parts(found))))

    async def attempt(request: web.Request) -> web.StreamResponse:
        async with bodies.read(request) as body:
            _read_whole(request)
            asked, seen = decode_request(body)
            given = await asyncio.to_thread(decode_policies, asked.files)
            simulation = answers.start_simulation(given, delete=asked.delete)
            lines = (
                b"" if part is None else _line(part)
                for part in run_in_slices(SimulationJob(simulation, given, asked, seen))
            )
            return await stream(request, time_slices.slices(lines), "application/x-ndjson")

    return [web.get("/v1/dump/{view}", dump), web.get("/v1/explain", explain), web.post("/v1/try", attempt)]


def _named(path: Path) -> tuple[int, int]:
    """Return device and inode of a path; zeros where it doesn't exist."""
    try:
        found = path.lstat()
    except OSError:
        return 0, 0
    return found.st_dev, found.st_ino


def _listens(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK) as opened:
        try:
            opened.connect(str(path))
        except BlockingIOError:
            return True  # its backlog is full
        except OSError:
            return False
    return True


def _read_whole(request: web.BaseRequest) -> None:
    connection = connection_of(request)
    if connection is not None:
        connection.answer()


def _remove(path: Path) -> None:
    # asyncio closes a socket and leaves its file. A file that is no socket isn't ours: it stays.
    if path.is_socket():
        path.unlink(missing_ok=True)


@web.middleware
async def _errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    connection = connection_of(request)
    if not request.body_exists:
        _read_whole(request)
    try:
        return await answered(request, handler)
    finally:
        if connection is not None:
            connection.await_request()


def _line(part: SimulationPart) -> bytes:
    return msgspec.json.encode(part) + b"\n"
