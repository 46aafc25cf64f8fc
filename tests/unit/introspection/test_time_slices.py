"""Long answers share the event loop: how much is done from one turn of the loop to the next."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, suppress
from itertools import pairwise
from pathlib import Path

import aiohttp
import pytest

from nfagent.decode.core import named_labels
from nfagent.desired.state import DesiredState
from nfagent.introspection import http_server
from nfagent.kernel.table_listings import SharedListing
from nfagent.model.objects import Namespace, Node, Pod
from nfagent.model.services import Service, ServicePort
from nfagent.nftables.objects import ABSENT
from nfagent.simulate.codec import encode_request
from nfagent.simulate.job import SimulationRequest
from nfagent.simulate.policy_files import PolicyFile
from nfagent.system.gc_tuning import relax_collection
from nfagent.time_slices import TimeSlices
from tests.support.two_node_cluster import DECODERS, labelled, policy
from tests.support.work_counts import CountingLoop
from tests.unit.cli.agents import FakeListings, introspection

DEADLINE = 120.0
PODS, LOCAL, POLICIES = 6_000, 100, 1_000
MOST_CALLS = 75_000
"""Of functions in one step: some 8 ms. Each of these questions made more than this in one, of a larger cluster."""


class Ticking:
    """A clock of which each look takes so long: turns are then counted in steps, not in time."""

    def __init__(self, step: float) -> None:
        self._now, self._step = 0.0, step

    def __call__(self) -> float:
        self._now += self._step
        return self._now


@pytest.mark.parametrize(("step", "most"), [(0.001, 9), (0.005, 2), (0.02, 1)])
def test_other_tasks_have_a_turn_after_some_milliseconds(step: float, most: int) -> None:
    made: list[int] = []
    seen: list[int] = []

    def steps() -> Iterator[int]:
        for number in range(1000):
            made.append(number)
            yield number

    async def look() -> None:
        while True:
            seen.append(len(made))
            await asyncio.sleep(0)

    async def body() -> list[int]:
        watching = asyncio.create_task(look())
        await asyncio.sleep(0)
        given = [number async for batch in TimeSlices(0.008, Ticking(step)).slices(steps()) for number in batch]
        watching.cancel()
        with suppress(asyncio.CancelledError):
            await watching
        return given

    assert asyncio.run(body()) == list(range(1000))
    assert max(after - before for before, after in pairwise(seen)) <= most


def test_a_hundred_answers_at_once_do_one_turns_work_in_a_turn() -> None:
    made: list[int] = []
    seen: list[int] = []

    def steps() -> Iterator[int]:
        for number in range(20):
            made.append(number)
            yield number

    async def answer(turns: TimeSlices) -> None:
        async for _ in turns.slices(steps()):
            pass

    async def look() -> None:
        while True:
            seen.append(len(made))
            await asyncio.sleep(0)

    async def body() -> None:
        turns = TimeSlices(0.008, Ticking(0.001))
        watching = asyncio.create_task(look())
        await asyncio.gather(*(answer(turns) for _ in range(100)))
        watching.cancel()

    asyncio.run(body())
    assert len(made) == 2000
    assert max(after - before for before, after in pairwise(seen)) <= 9


def test_who_asks_at_once_shares_what_was_asked_after_them() -> None:
    async def body() -> tuple[list[int], int]:
        asked: list[asyncio.Future[int]] = []
        news: asyncio.Queue[None] = asyncio.Queue()

        async def ask() -> int:
            asked.append(asyncio.get_running_loop().create_future())
            news.put_nowait(None)
            return await asked[-1]

        shared = SharedListing(ask)
        first = asyncio.create_task(shared.read())
        await news.get()
        later = [asyncio.create_task(shared.read()) for _ in range(99)]
        for _ in range(5):
            await asyncio.sleep(0)
        assert len(asked) == 1
        later[0].cancel()  # takes nothing from the others
        asked[0].set_result(1)
        await news.get()
        asked[1].set_result(2)
        return [await first, *await asyncio.gather(*later[1:])], len(asked)

    assert asyncio.run(body()) == ([1, *[2] * 98], 2)


def test_a_question_that_failed_is_asked_again_for_the_next() -> None:
    outcomes: list[int | Exception] = [OSError("once"), 5]

    async def ask() -> int:
        found = outcomes.pop(0)
        if isinstance(found, Exception):
            raise found
        return found

    async def body() -> int:
        shared = SharedListing(ask)
        with pytest.raises(OSError, match="once"):
            await shared.read()
        return await shared.read()

    assert asyncio.run(body()) == 5


@pytest.fixture(scope="module")
def large() -> Iterator[DesiredState]:
    """Make a cluster of 6,000 Pods, with a policy that names all of them and 1,000 others."""
    desired = DesiredState("a")
    desired.put(Node("a", addresses=("192.0.2.1",)))
    desired.put(Namespace("shop", named_labels("shop", ())))
    for number in range(PODS):
        labels = (("app", f"app-{number % 1500}"), ("tier", "web"))
        here = "a" if number < LOCAL else f"b{number % 50}"
        space = "shop" if number % 2 else f"space-{number % 300}"
        desired.put(
            Pod(space, f"pod-{number}", labels, here, (f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}",))
        )
    all_web = [{"from": [{"namespaceSelector": {}, "podSelector": labelled(tier="web")}]}]
    documents = [policy("shop/wide", labelled(tier="web"), types=["Ingress"], ingress=all_web)]
    documents += [
        policy(f"space-{number % 300}/p{number}", labelled(app=f"app-{number}")) for number in range(POLICIES)
    ]
    for document in documents:
        item = DECODERS["NetworkPolicy"](document)
        assert item is not None
        desired.put(item)
    ports = (ServicePort(80, 80, "tcp"),)
    desired.put(
        Service(
            namespace="shop", name="all", cluster_addresses=("10.96.0.1",), ports=ports, selector=(("tier", "web"),)
        )
    )
    desired.ruleset()
    # As the agent does once its state is whole: a collection of garbage is nothing that a question did.
    thresholds = gc.get_threshold()
    relax_collection()
    gc.collect()
    gc.freeze()
    yield desired
    # Not thawed: what the test run itself has frozen would be looked at again.
    gc.set_threshold(*thresholds)


Ask = Callable[[aiohttp.ClientSession], Coroutine[None, None, int]]


def got(path: str, **query: str) -> Ask:
    async def ask(session: aiohttp.ClientSession) -> int:
        async with session.get(path, params=query) as response:
            return len(await response.read())

    return ask


WALL = PolicyFile(
    "wall.yaml",
    "{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {namespace: space-2, name: wall}, spec: {}}",
)


CIDRS = ", ".join(f"{{cidr: 198.18.{number // 256}.{number % 256}/32}}" for number in range(1000))
NAT = PolicyFile(
    "nat.yaml",
    "{apiVersion: networking.gke.io/v1, kind: EgressNATPolicy, metadata: {name: nat}, "
    f"spec: {{action: NoSNAT, sources: [{{podSelector: {{matchLabels: {{tier: web}}}}}}], destinations: [{CIDRS}]}}}}",
)


def tried(request: SimulationRequest) -> Ask:
    async def ask(session: aiohttp.ClientSession) -> int:
        async with session.post("/v1/try", data=encode_request(request, [])) as response:
            return len(await response.read())

    return ask


QUESTIONS: dict[str, Ask] = {
    "dump state": got("/v1/dump/state"),
    "dump policies": got("/v1/dump/policies"),
    "dump ruleset": got("/v1/dump/ruleset", form="text"),
    "dump ruleset as objects": got("/v1/dump/ruleset", form="objects"),
    "dump kernel": got("/v1/dump/kernel", form="text"),
    "dump diff of a table that is missing": got("/v1/dump/diff"),
    "dump counters": got("/v1/dump/counters"),
    "explain a Service with 3,000 Pods": got(
        "/v1/explain", source="space-2/pod-302", destination="svc/shop/all:80/tcp"
    ),
    "explain a Pod that isn't there": got("/v1/explain", source="shop/pod-x", destination="shop/pod-1"),
    "explain a Pod to an outside address": got("/v1/explain", source="space-2/pod-302", destination="198.51.100.1"),
    "try": tried(SimulationRequest((WALL,), pods=True, namespace="space-4")),
    "try an EgressNATPolicy": tried(SimulationRequest((NAT,))),
}


@asynccontextmanager
async def _served(desired: DesiredState, path: Path, *, held: bool) -> AsyncIterator[None]:
    kernel = FakeListings(desired.ruleset() if held else ABSENT)
    turns = TimeSlices(clock=Ticking(1.0))  # one step in each turn
    runner = await http_server.serve(path, introspection(desired, kernel, time_slices=turns), turns)
    try:
        yield
    finally:
        await runner.cleanup()


@pytest.mark.parametrize("name", QUESTIONS)
def test_no_question_holds_the_event_loop(large: DesiredState, tmp_path: Path, name: str) -> None:
    path = tmp_path / "agent.sock"
    loop = CountingLoop()
    answered: list[int] = []

    def ask_from_outside() -> None:
        async def body() -> None:
            connector = aiohttp.UnixConnector(str(path))
            async with asyncio.timeout(DEADLINE), aiohttp.ClientSession("http://agent", connector=connector) as session:
                answered.append(await QUESTIONS[name](session))

        asyncio.run(body())

    async def serve() -> None:
        async with _served(large, path, held="missing" not in name):
            loop.most = 0
            client = threading.Thread(target=ask_from_outside)
            client.start()
            await asyncio.to_thread(client.join)

    try:
        loop.run_until_complete(serve())
    finally:
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()
    assert answered
    assert 0 < loop.most < MOST_CALLS
