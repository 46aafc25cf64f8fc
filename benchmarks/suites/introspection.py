"""Longest turn of the agent's event loop while it answers a request: the delay that others see.

The agent's own server answers over its unix socket, from a synthetic cluster; the kernel's table is a value. A turn is
measured in CPU time of the thread, so that other load of the machine doesn't count; the reference is the same answer
computed and encoded without slices.
"""

from __future__ import annotations

import asyncio
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import aiohttp
import msgspec

from benchmarks.harness.synthetic_agent import answerer
from benchmarks.registry import Run, bench
from benchmarks.results import Row, at_most
from nfagent.desired.state import DesiredState
from nfagent.errors import UsageError
from nfagent.explain.explanation import explain, explanation_view
from nfagent.introspection import http_server
from nfagent.introspection.diff_report import diff_view
from nfagent.introspection.view_filter import ViewFilter
from nfagent.introspection.views import annotation, counters_view, policies_view, ruleset_view, state_view
from nfagent.lab.objects.synthetic import SIZES, Synthetic, synthetic
from nfagent.nftables.objects import ABSENT, Ruleset
from nfagent.simulate.codec import encode_request
from nfagent.simulate.job import SimulationRequest
from nfagent.simulate.policy_files import PolicyFile
from nfagent.system.gc_tuning import collect_and_freeze, relax_collection
from nfagent.time_slices import TimeSlices

_AT_ONCE = 20
_LONGEST_MS = 20
_ALL = ViewFilter()

Ask = Callable[[aiohttp.ClientSession], Awaitable[int]]


class MeteredLoop(asyncio.SelectorEventLoop):
    """An event loop that records the longest CPU time of its turns, in seconds."""

    longest = 0.0

    def _run_once(self) -> None:
        began = time.thread_time()
        super()._run_once()  # type: ignore[misc]
        self.longest = max(self.longest, time.thread_time() - began)


@bench("introspection", "the longest turn of the event loop while a request is answered")
def introspection(run: Run) -> Iterator[Row]:
    """Send every request to one agent."""
    size = 15_000 if run.quick else 150_000
    cluster = synthetic(SIZES[size], run.seed)
    desired = DesiredState(cluster.node)
    for item in cluster.items():
        desired.put(item)
    desired.ruleset()
    relax_collection()
    collect_and_freeze()
    for name, (ask, whole) in _questions(cluster, desired).items():
        run.progress(name)
        took, answered, count = _measured(desired, ask, ABSENT if name.startswith("dump diff") else desired.ruleset())
        yield Row(
            name=f"{name}, {size:,} Pods",
            unit="ms",
            values=[took * 1e3],
            reference=[_in_one_piece(whole) * 1e3] if whole is not None else None,
            reference_name="without slices",
            targets=(at_most("max", _LONGEST_MS),),
            note=f"{count:,} bytes in {answered:.2f} s",
        )


def _questions(cluster: Synthetic, desired: DesiredState) -> dict[str, tuple[Ask, Callable[[], object] | None]]:
    """Return the requests, each with a function that computes the same answer without slices."""
    ruleset, index = desired.ruleset(), desired.index
    here, there = cluster.pods[-1].ref.path, f"{cluster.pods[200].ref.path}:8080/tcp"
    kernel = _got("/v1/dump/kernel", form="text")
    wall = "{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {namespace: farm, name: wall}, spec: {}}"
    body = encode_request(SimulationRequest((PolicyFile("wall.yaml", wall),), pods=True, namespace="monitoring"), [])

    async def tried(session: aiohttp.ClientSession) -> int:
        async with session.post("/v1/try", data=body) as response:
            return len(await response.read())

    async def many(session: aiohttp.ClientSession) -> int:
        return sum(await asyncio.gather(*(kernel(session) for _ in range(_AT_ONCE))))

    def explained(source: str) -> object:
        try:
            return explanation_view(explain(desired.cluster, index, source, there))
        except UsageError as error:
            return str(error)

    return {
        "dump state": (_got("/v1/dump/state"), lambda: state_view(desired, _ALL, ())),
        "dump policies": (_got("/v1/dump/policies"), lambda: policies_view(desired, _ALL, ())),
        "dump ruleset": (
            _got("/v1/dump/ruleset", form="text"),
            lambda: ruleset_view(ruleset, annotation(desired)),
        ),
        "dump ruleset -o json": (
            _got("/v1/dump/ruleset", form="objects"),
            lambda: ruleset_view(ruleset, annotation(desired)),
        ),
        "dump kernel": (kernel, lambda: ruleset_view(ruleset, annotation(desired))),
        f"dump kernel, {_AT_ONCE} at once": (many, None),
        "dump diff, no table": (_got("/v1/dump/diff"), lambda: diff_view(ABSENT, ruleset)),
        "dump counters": (_got("/v1/dump/counters"), lambda: counters_view(desired, {}, _ALL)),
        "explain": (_got("/v1/explain", source=here, destination=there), lambda: explained(here)),
        "explain a Pod that isn't there": (
            _got("/v1/explain", source="farm/x", destination=there),
            lambda: explained("farm/x"),
        ),
        "try --pods": (tried, None),
    }


def _got(path: str, **query: str) -> Ask:
    async def ask(session: aiohttp.ClientSession) -> int:
        async with session.get(path, params=query) as response:
            return len(await response.read())

    return ask


def _measured(desired: DesiredState, ask: Ask, held: Ruleset) -> tuple[float, float, int]:
    """Send a request over a socket; return the longest turn and the whole time in seconds, and the answer's length."""
    loop, turns = MeteredLoop(), TimeSlices()
    counted: list[int] = []

    def client(path: Path) -> None:
        async def asking() -> None:
            connector = aiohttp.UnixConnector(str(path))
            timeout = aiohttp.ClientTimeout(total=None)
            async with aiohttp.ClientSession("http://agent", connector=connector, timeout=timeout) as session:
                counted.append(await ask(session))

        asyncio.run(asking())

    async def serve(path: Path) -> float:
        answers = answerer(desired, turns, held)
        runner = await http_server.serve(path, answers, turns)
        loop.longest = 0.0
        began = time.monotonic()
        asking = threading.Thread(target=client, args=(path,))
        asking.start()
        await asyncio.to_thread(asking.join)
        took = time.monotonic() - began
        await runner.cleanup()
        return took

    with tempfile.TemporaryDirectory() as folder:
        took = loop.run_until_complete(serve(Path(folder) / "agent.sock"))
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()
    return loop.longest, took, sum(counted)


def _in_one_piece(make: Callable[[], object]) -> float:
    began = time.thread_time()
    msgspec.json.encode(make())
    return time.thread_time() - began
