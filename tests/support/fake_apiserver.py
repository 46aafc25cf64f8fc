"""An API server's store in memory, for Events, conditions and a Lease; time that a test advances.

Paths lead to objects. resourceVersion, uid and generation are kept as an API server keeps them; a PUT with another
resourceVersion is a conflict; a server-side apply replaces the conditions that its manager owns by type.
"""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import msgspec

from nfagent.errors import ClusterError

TURNS = 8
"""Turns of the event loop after which every task has sent its request."""
Body: TypeAlias = dict[str, Any]
MERGE, APPLY = "application/merge-patch+json", "application/apply-patch+yaml"


class StoreReply(msgspec.Struct, frozen=True):
    """A response."""

    status: int
    body: bytes = b""
    retry_after: float | None = None


def refusal(status: int, message: str = "no", cause: str = "") -> StoreReply:
    details = {"causes": [{"reason": cause}]} if cause else {}
    return StoreReply(status, msgspec.json.encode({"kind": "Status", "message": message, "details": details}))


class StoreRequest(msgspec.Struct, frozen=True):
    """A request of a client, its time, and the status of the response; 0 where there was none."""

    who: str
    at: float
    method: str
    path: str
    body: Any
    status: int


Fault = Callable[[str, str, str], StoreReply | Exception | None]
"""(who, method, path) -> the response or error in place of the real one; None for the real one."""


class ObjectStore:
    """Objects by path."""

    def __init__(self, time: SteppedTime) -> None:
        self.objects: dict[str, dict[str, Any]] = {}
        self.requests: list[StoreRequest] = []
        self.silent = False
        self.fault: Fault = lambda _who, _method, _path: None
        self.lost_response: Fault = lambda _who, _method, _path: None
        self._time = time
        self._version = 0

    def put(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Create an object, or change its content, as its owner does."""
        before = self.objects.get(path)
        made = copy.deepcopy(dict(body))
        metadata = made.setdefault("metadata", {})
        metadata.setdefault("name", path.rpartition("/")[2])
        self._version += 1
        metadata["resourceVersion"] = str(self._version)
        metadata["uid"] = before["metadata"]["uid"] if before else f"uid-{self._version}"
        metadata["generation"] = before["metadata"]["generation"] + 1 if before else 1
        if before is not None and "status" in before:
            made.setdefault("status", before["status"])
        self.objects[path] = made
        return made

    def client(self, who: str) -> StoreClient:
        return StoreClient(self, who)

    def events(self) -> list[dict[str, Any]]:
        return [found for path, found in self.objects.items() if "/events/" in path]

    def asked(self, method: str = "", within: str = "", who: str = "") -> list[StoreRequest]:
        return [
            request
            for request in self.requests
            if (not method or request.method == method) and within in request.path and (not who or request.who == who)
        ]

    def serve(self, who: str, method: str, path: str, body: Body, content_type: str) -> StoreReply:
        wrong = self.fault(who, method, path)
        if isinstance(wrong, Exception):
            self._note(who, method, path, body, 0)
            raise wrong
        answer = wrong if wrong is not None else self._answer(method, path, body, content_type)
        lost = self.lost_response(who, method, path)
        self._note(who, method, path, body, 0 if lost is not None else answer.status)
        if isinstance(lost, Exception):
            raise lost
        return answer

    def _note(self, who: str, method: str, path: str, body: Body, status: int) -> None:
        self._time.requests += 1
        self.requests.append(StoreRequest(who, self._time.now, method, path, body, status))

    def _answer(self, method: str, path: str, body: Body, content_type: str) -> StoreReply:
        found = self.objects.get(path.removesuffix("/status"))
        if method == "POST":
            path = f"{path}/{body['metadata']['name']}"
            return refusal(409, "AlreadyExists") if path in self.objects else self._kept(201, path, body)
        if found is None:
            return refusal(404, "not found")
        if method == "GET":
            return StoreReply(200, msgspec.json.encode(found))
        stands = found["metadata"]
        if method == "PUT":
            modified = body["metadata"]["resourceVersion"] != stands["resourceVersion"]
            return refusal(409, "the object has been modified") if modified else self._kept(200, path, body)
        if content_type == MERGE:
            return self._kept(200, path, {**found, **body})
        assert path.endswith("/status")
        return _applied(found, body) if body["metadata"]["uid"] == stands["uid"] else refusal(409, "uid mismatch")

    def _kept(self, status: int, path: str, body: Mapping[str, Any]) -> StoreReply:
        return StoreReply(status, msgspec.json.encode(self.put(path, body)))


def _applied(found: Body, body: Body) -> StoreReply:
    mine = {entry["type"] for entry in body["status"]["conditions"]}
    others = [entry for entry in found.get("status", {}).get("conditions", []) if entry["type"] not in mine]
    found.setdefault("status", {})["conditions"] = [*others, *copy.deepcopy(body["status"]["conditions"])]
    return StoreReply(200, msgspec.json.encode(found))


class StoreClient:
    """One agent's client of the store. Satisfies reporting.request_retrier.ApiRequests."""

    def __init__(self, store: ObjectStore, who: str) -> None:
        self._store = store
        self._who = who

    async def request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: object = None,
        content_type: str = "application/json",
        accept: str = "application/json",
    ) -> StoreReply:
        assert accept == "application/json"
        assert (content_type == APPLY) == (query == {"fieldManager": "nfagent", "force": "true"})
        await asyncio.sleep(0)
        if self._store.silent:
            await asyncio.Event().wait()
        sent = {} if body is None else msgspec.json.decode(msgspec.json.encode(body))
        return self._store.serve(self._who, method, path, sent, content_type)


class SteppedTime:
    """Time that a test advances; waiting tasks wake in the order of their deadlines."""

    def __init__(self) -> None:
        self.now = 0.0
        self.requests = 0
        self._sleepers: dict[asyncio.Future[None], float] = {}

    async def turn(self) -> None:
        """Run all tasks that can run now."""
        before = -1
        while before != self.requests:
            before = self.requests
            for _ in range(TURNS):
                await asyncio.sleep(0)

    async def passes(self, seconds: float, watch: Callable[[], object] = lambda: None) -> None:
        """Advance the time; watch: called at each moment, after all tasks that can run."""
        until = self.now + seconds
        while True:
            await self.turn()
            watch()
            due = [(deadline, sleeper) for sleeper, deadline in self._sleepers.items() if deadline <= until]
            if not due:
                break
            self.now, sleeper = min(due, key=lambda pair: pair[0])
            del self._sleepers[sleeper]
            sleeper.set_result(None)
        self.now = until

    async def wait(self, event: asyncio.Event, seconds: float) -> bool:
        assert seconds > 0.0, "a wait of no duration would never end"
        sleeper: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._sleepers[sleeper] = self.now + seconds
        told = asyncio.ensure_future(event.wait())
        try:
            await asyncio.wait((sleeper, told), return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._sleepers.pop(sleeper, None)
            sleeper.cancel()
            told.cancel()
        return event.is_set()


class SkewedClock:
    """One agent's clocks, with their own zero and skew. Satisfies clock.WallClock."""

    def __init__(self, time: SteppedTime, *, started: float = 0.0, skew: float = 0.0) -> None:
        self._time = time
        self._started = started
        self._skew = skew

    def monotonic(self) -> float:
        return self._time.now - self._started

    def now_ns(self) -> int:
        return int((1_795_000_000 + self._time.now + self._skew) * 1e9)

    async def wait(self, event: asyncio.Event, seconds: float) -> bool:
        return await self._time.wait(event, seconds)


def unreachable(*agents: str) -> Fault:
    """Return a fault that cuts off some agents; without names, all."""
    lost = ClusterError("connection refused")
    return lambda who, _method, _path: lost if not agents or who in agents else None
