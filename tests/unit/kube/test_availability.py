"""A server that comes back: when it counts as ready, and what is asked of it first."""

from __future__ import annotations

import asyncio
import json

import pytest

from nfagent.errors import UnreachableError
from nfagent.kube.availability import APIAvailability
from nfagent.kube.client import ApiResponse
from nfagent.model.gvk import RESOURCES

EGRESS = next(resource for resource in RESOURCES if resource.kind == "EgressNATPolicy")
VERSION = {"version": "v1", "resources": [{"resource": EGRESS.plural}]}
KINDS = {"kind": "APIGroupDiscoveryList", "items": [{"metadata": {"name": EGRESS.group}, "versions": [VERSION]}]}


class Server:
    """Answers with one status after the other, then with the last again; 0 is none at all. asked: paths so far."""

    def __init__(self, *statuses: int) -> None:
        self._statuses = list(statuses)
        self.asked: list[str] = []

    async def ask(self, method: str, path: str, **_headers: str) -> ApiResponse:  # noqa: ARG002 - the protocol has it
        self.asked.append(path)
        status = self._statuses.pop(0) if len(self._statuses) > 1 else self._statuses[0]
        if not status:
            raise UnreachableError("nobody")
        return ApiResponse(status, json.dumps(KINDS).encode() if path == "/apis" else b"")


class Clock:
    """Time passes when somebody waits."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    async def wait(self, _event: asyncio.Event, seconds: float) -> bool:
        self.now += seconds
        return False


@pytest.mark.parametrize(
    ("statuses", "least", "most"),
    [
        pytest.param([200], 0, 0, id="one that is ready is asked at once"),
        pytest.param([0, 500, 200], 0.25, 2, id="one that isn't ready is waited for"),
        pytest.param([0, 403, 403, 500, 200], 0.75, 3, id="one that knows nobody's rights yet isn't ready"),
        pytest.param([0, 401, 200], 0.25, 2, id="one that knows nobody yet isn't ready"),
        pytest.param([403], 5, 6, id="one that goes on to refuse won't say, and counts as ready"),
        pytest.param([500], 30, 31, id="one that never gets ready is asked all the same"),
    ],
)
def test_a_server_counts_as_back(statuses: list[int], least: float, most: float) -> None:
    clock = Clock()
    asyncio.run(APIAvailability(Server(*statuses), clock, lambda: 2, lambda: 0.0).wait_reachable())
    assert least <= clock.now <= most


def test_a_look_that_finds_nobody_is_made_as_soon_as_somebody_is_there() -> None:
    """Else a kind whose definition came before an outage would be found two pauses later."""
    clock, server = Clock(), Server(0, 0, 0, 200)
    asyncio.run(APIAvailability(server, clock, lambda: 2, lambda: 1.0).wait_served(EGRESS))
    assert server.asked == ["/apis", "/readyz", "/readyz", "/readyz", "/apis"]
    assert clock.now < 55
