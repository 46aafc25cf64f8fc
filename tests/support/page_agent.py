"""An agent for the live page: a real HTTP server at a unix socket with a test's answers; and `nfagent ui` before it."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
from aiohttp import web

from nfagent.introspection.error_answers import answered
from nfagent.introspection.page.foreground import serve_page
from nfagent.introspection.record_route import record_routes
from nfagent.model.listen_address import ListenAddress
from nfagent.verdicts.log_stream import LogStream

STATUS: dict[str, Any] = {
    "version": "0.1.0",
    "node": "worker-1",
    "uptime_seconds": 97_200.0,
    "source": {"kind": "apiserver", "name": "https://192.0.2.1:6443", "synced": True, "age_seconds": 2.0},
    "in_sync": True,
    "in_sync_seconds": 420.0,
    "enforced": "",
    "local_pods": 42,
    "pods": 5000,
    "policies": 120,
    "failing_closed": [],
    "failing_closed_in_all": 0,
    "denied": {
        "seconds": 300.0,
        "packets": 45,
        "by": "log",
        "top": [{"packets": 30, "source": "shop/web", "destination": "shop/db:5432/tcp", "policies": ["shop/db"]}],
    },
    "log_loss": {"unread": 0, "unwritten": 0, "dropped": 0, "problem": ""},
    "drift_repairs": 0,
    "drift_by": "",
    "health": "ok",
    "problems": [],
}
for _top in STATUS["denied"]["top"]:
    _top["reason"] = ""

EXPLANATION: dict[str, Any] = {
    "connection": "guest/visitor (10.0.1.2) -> shop/db (10.0.1.3):5432/tcp",
    "verdict": "denied",
    "allowed": False,
    "lines": [
        "egress of guest/visitor: no policy isolates it: allowed",
        "ingress of shop/db: NetworkPolicy shop/db: denied",
    ],
    "judged": [{"judgement": {"egress": None, "ingress": {"allowed": False}}}],  # codespell:ignore judgement
    "unknown": [],
    "notes": [],
}

POLICY: dict[str, Any] = {
    "kind": "NetworkPolicy",
    "namespace": "shop",
    "name": "db",
    "tier": "network",
    "priority": None,
    "selects": "app=db",
    "isolates": ["ingress"],
    "local_pods": ["shop/db"],
    "rules": {},
    "problem": None,
    "audit": False,
}
COUNTER: dict[str, Any] = {
    "verdict": "deny",
    "direction": "ingress",
    "kind": "NetworkPolicy",
    "namespace": "shop",
    "policies": ["db"],
    "packets": 31,
    "bytes": 1860,
}


class PageAgent:
    """One agent.

    answers: by path, what is answered: JSON, or a status with an error
    asked:   the requests that came, as path with query
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.answers: dict[str, Any] = {
            "/v1/status": STATUS,
            "/v1/explain": EXPLANATION,
            "/v1/dump/policies": {"policies": [POLICY]},
            "/v1/dump/counters": {"counters": [COUNTER], "unknown": [], "notes": []},
        }
        self.asked: list[str] = []
        self.stream = LogStream()
        self.loop = asyncio.new_event_loop()
        self._runner: web.AppRunner | None = None
        self._thread = threading.Thread(target=self.loop.run_forever)

    def begin(self) -> None:
        """Run the event loop in a thread."""
        self._thread.start()

    def run(self, made: Any) -> Any:  # noqa: ANN401 - a coroutine of any result
        """Run a coroutine in the agent's event loop and return its result."""
        return asyncio.run_coroutine_threadsafe(made, self.loop).result(30)

    def listen(self) -> None:
        """Start to listen, as an agent that starts does."""
        self.run(self._listen())

    async def _listen(self) -> None:
        self.stream = LogStream()
        application = web.Application(middlewares=[self._noted])
        application.router.add_routes(record_routes(self.stream, idle_seconds=0.2))
        application.router.add_get("/{path:.*}", self._answer)
        self._runner = web.AppRunner(application, shutdown_timeout=0.5)
        await self._runner.setup()
        await web.UnixSite(self._runner, str(self.path)).start()

    def stop(self) -> None:
        """Stop to listen, as an agent that stops does."""
        self.run(self._stop())

    async def _stop(self) -> None:
        self.stream.close()
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None
            self.path.unlink(missing_ok=True)

    def end(self) -> None:
        """Stop, and end the thread."""
        self.stop()
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()

    def write(self, lines: Iterable[bytes]) -> None:
        """Write lines to the verdict log."""
        found = list(lines)

        async def write() -> None:
            self.stream.write(found)

        self.run(write())

    @web.middleware
    async def _noted(self, request: web.Request, handler: Callable[[web.Request], Any]) -> web.StreamResponse:
        self.asked.append(request.path_qs)
        found = self.answers.get(request.path)
        if isinstance(found, tuple):
            status, words = found
            return web.json_response({"error": words}, status=status)
        answer: web.StreamResponse = await answered(request, handler)
        return answer

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        found = self.answers.get(request.path)
        if found is None:
            raise web.HTTPNotFound
        return web.Response(body=msgspec.json.encode(found), content_type="application/json")


@contextmanager
def free_port() -> Iterator[int]:
    """Return a port of 127.0.0.1 that nothing listens at.

    It is bound meanwhile, so that no other process gets it; a server with SO_REUSEADDR may listen there all the same.
    """
    with socket.socket() as bound:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


@contextmanager
def served_page(agent: PageAgent) -> Iterator[str]:
    """Serve the page for an agent, and yield the address to open."""
    opened: list[str] = []
    ready = threading.Event()

    def started(url: str) -> None:
        opened.append(url)
        ready.set()

    async def begin(address: ListenAddress) -> asyncio.Task[None]:
        return asyncio.create_task(serve_page(address, agent.path, started))

    async def end(serving: asyncio.Task[None]) -> None:
        serving.cancel()
        await asyncio.wait((serving,))

    with free_port() as port:
        serving = agent.run(begin(ListenAddress("127.0.0.1", port)))
        try:
            assert ready.wait(30), "the page isn't served"
            yield opened[0]
        finally:
            agent.run(end(serving))


@contextmanager
def page_agent(path: Path) -> Iterator[PageAgent]:
    """Run an agent that doesn't listen yet."""
    agent = PageAgent(path)
    agent.begin()
    try:
        yield agent
    finally:
        agent.end()
