"""The return of an API server: when it counts as ready, and which requests come first."""

from __future__ import annotations

import asyncio
import json

import pytest

from nfagent.errors import ClusterError, UnreachableError
from nfagent.kube.availability import APIAvailability
from nfagent.kube.client import ApiResponse
from nfagent.model.gvk import RESOURCES

EGRESS = next(resource for resource in RESOURCES if resource.kind == "EgressNATPolicy")
VERSION = {"version": "v1", "resources": [{"resource": EGRESS.plural}]}
KINDS = {"kind": "APIGroupDiscoveryList", "items": [{"metadata": {"name": EGRESS.group}, "versions": [VERSION]}]}


def ignored(_reason: str) -> None:
    """Take a report of a probe that failed."""


class Server:
    """Responds with one status after the other, then repeats the last; 0 is unreachable. asked: paths so far."""

    def __init__(self, *statuses: int) -> None:
        self._statuses = list(statuses)
        self.asked: list[str] = []

    async def request(self, method: str, path: str, **_headers: str) -> ApiResponse:  # noqa: ARG002 - the protocol has it
        self.asked.append(path)
        status = self._statuses.pop(0) if len(self._statuses) > 1 else self._statuses[0]
        if not status:
            raise UnreachableError("no server")
        return ApiResponse(status, json.dumps(KINDS).encode() if path == "/apis" else b"")


class Clock:
    """Time advances by each wait."""

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
        pytest.param([200], 0, 0, id="one that is ready needs no wait"),
        pytest.param([0, 500, 200], 0.25, 2, id="one that isn't ready is probed again"),
        pytest.param([0, 403, 403, 500, 200], 0.75, 3, id="one that has not read its RBAC rules yet isn't ready"),
        pytest.param([0, 401, 200], 0.25, 2, id="one that does not authenticate users yet isn't ready"),
        pytest.param([403], 5, 6, id="one that still refuses after 5 s counts as ready"),
        pytest.param([500], 30, 31, id="one that is unready for 30 s counts as ready"),
    ],
)
def test_a_server_counts_as_back(statuses: list[int], least: float, most: float) -> None:
    clock = Clock()
    asyncio.run(APIAvailability(Server(*statuses), clock, lambda: 2, lambda: 0.0, ignored).wait_reachable())
    assert least <= clock.now <= most


def test_a_discovery_that_fails_is_repeated_when_the_server_is_reachable() -> None:
    """Otherwise a kind whose CRD was created before an outage would be found two pauses later."""
    clock, server = Clock(), Server(0, 0, 0, 200)
    asyncio.run(APIAvailability(server, clock, lambda: 2, lambda: 1.0, ignored).wait_served(EGRESS))
    assert server.asked == ["/apis", "/readyz", "/readyz", "/readyz", "/apis"]
    assert clock.now < 55


class FailingServer(Server):
    """Fails with one reason after the other, then answers."""

    def __init__(self, *reasons: str) -> None:
        super().__init__(200)
        self._reasons = list(reasons)

    async def request(self, method: str, path: str, **headers: str) -> ApiResponse:
        if self._reasons:
            raise ClusterError(self._reasons.pop(0))
        return await super().request(method, path, **headers)


def test_why_a_server_stays_away_is_reported_once_it_is_the_same_twice() -> None:
    reported: list[str] = []
    server = FailingServer("refused", "reset", "not trusted", "not trusted", "reset")
    asyncio.run(APIAvailability(server, Clock(), lambda: 2, lambda: 0.0, reported.append).wait_reachable())
    assert reported == ["not trusted"]
