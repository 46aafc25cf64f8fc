"""An agent for commands: the real answerer over a state and a fake kernel of the test."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
from aiohttp import web

from nfagent.config import load_settings
from nfagent.desired.state import DesiredState
from nfagent.introspection import http_server
from nfagent.introspection.agent_status import AgentStatus
from nfagent.introspection.answers import AgentAnswerer, AnswerSources
from nfagent.introspection.freshness import WHOLE, Freshness
from nfagent.kernel.table_listings import TableListings
from nfagent.nftables.objects import ABSENT, Ruleset
from nfagent.nftables.parse import CounterValue
from nfagent.time_slices import TimeSlices


class FakeListings:
    """The content of a table; `listed` counts how often it was read."""

    def __init__(self, ruleset: Ruleset = ABSENT) -> None:
        self.held = ruleset
        self.listed = 0

    def ruleset(self) -> Ruleset:
        self.listed += 1
        return self.held

    def counters(self) -> dict[str, CounterValue]:
        return dict.fromkeys(self.held.counters, CounterValue(3, 180))


STATUS = msgspec.convert(
    {
        "reconcile": {
            "in_sync": False,
            "failures": 0,
            "transactions": 0,
            "drifts": 0,
            "drift_by": "",
            "last_error": "",
        },
        "drift": {"listening": True, "others": 0},
        "bridges": [],
        "revoke": {"last_error": "", "suspects": 0, "judged": 0, "revoked": 0},  # codespell:ignore suspects
        "verdict_log": {
            "path": "policy_action.log",
            "problem": "",
            "received": 0,
            "lost": 0,
            "unattributed": {},
            "undecodable": 0,
            "lost_lines": 0,
            "lost_by": {},
        },
    },
    AgentStatus,
)


def introspection(
    desired: DesiredState,
    kernel: FakeListings | None = None,
    freshness: Freshness = WHOLE,
    *,
    services: str = "",
    time_slices: TimeSlices | None = None,
) -> AgentAnswerer:
    """Return an agent's answerer; `services` is why Services can't be read."""
    listings = kernel or FakeListings(desired.ruleset())

    async def read_services() -> str:
        return services

    reports = AnswerSources(lambda: freshness, lambda: (), lambda: STATUS, read_services)
    return AgentAnswerer(
        desired, TableListings(listings.ruleset, listings.counters), time_slices or TimeSlices(), reports
    )


@contextmanager
def running(
    answers: http_server.AnswerProvider, path: Path | None = None, routes: Iterable[web.RouteDef] = ()
) -> Iterator[None]:
    """Serve answers and further routes at a socket, by default the one that commands connect to."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        serving = http_server.serve(path or load_settings().socket_path, answers, routes=routes)
        runner = asyncio.run_coroutine_threadsafe(serving, loop).result(30)
        try:
            yield
        finally:
            asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(30)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
