"""A scrape of a node with 250 Pods and 1,000 policies: its size, its CPU time, and the longest turn of the event loop.

The page is made as the agent makes it, over its unix socket; the kernel's counts are values, those of reading them not
included. Turns are measured in CPU time of the thread, so that other load of the machine doesn't count; the reference
is the same page made without slices.
"""

from __future__ import annotations

import asyncio
import tempfile
import threading
import time
from collections.abc import Iterator
from itertools import islice, product
from pathlib import Path

import aiohttp
import msgspec
from prometheus_client import generate_latest

from benchmarks.harness.synthetic_agent import answerer
from benchmarks.registry import Run, bench
from benchmarks.results import Row, at_most
from benchmarks.suites.introspection import MeteredLoop
from nfagent.clock import SystemClock
from nfagent.controllers.reconcile_status import ReconcileStatus
from nfagent.controllers.sync_latency import SyncLatency
from nfagent.desired.state import DesiredState
from nfagent.introspection import http_server
from nfagent.introspection.agent_status import VerdictLogStatus
from nfagent.introspection.metrics_routes import metrics_routes
from nfagent.kernel.nat_port_watch import NatPortStatus
from nfagent.lab.objects.synthetic import Size, synthetic
from nfagent.metrics.collector import NodeCollector
from nfagent.metrics.exposition import MetricsPage
from nfagent.metrics.readings import CountedPackets, Readings
from nfagent.model.objects import DIRECTIONS, ObjectRef
from nfagent.nftables.verdict_keys import DISPOSITIONS, allowed_by, denied_by
from nfagent.system.gc_tuning import collect_and_freeze, relax_collection
from nfagent.time_slices import TimeSlices
from nfagent.verdicts.record_latency import RecordLatency

_PODS, _POLICIES = 250, 1_000
_ISOLATING = 4
"""Policies that isolate a Pod together, and share a count of denied packets."""
_ROUNDS, _QUICK_ROUNDS = 30, 5
_LONGEST_MS = 20


@bench("metrics", "a scrape of a node with 250 Pods and 1,000 policies")
def metrics(run: Run) -> Iterator[Row]:
    """Scrape one agent again and again."""
    cluster = synthetic(Size(5_000, _POLICIES, _PODS, 100), run.seed)
    desired = DesiredState(cluster.node)
    for item in cluster.items():
        desired.put(item)
    desired.ruleset()
    relax_collection()
    collect_and_freeze()
    scrapes = _Scrapes(desired)
    for number in range(_QUICK_ROUNDS if run.quick else _ROUNDS):
        run.progress(f"scrape {number}")
        scrapes.measure()
    size = f"{scrapes.size:,} bytes, {scrapes.series:,} series"
    yield Row(
        name="longest turn of the event loop during a scrape",
        unit="ms",
        values=[value * 1e3 for value in scrapes.turns],
        reference=[value * 1e3 for value in scrapes.whole],
        reference_name="in one piece",
        targets=(at_most("max", _LONGEST_MS),),
        note=size,
    )
    yield Row(
        name="CPU time of a scrape",
        unit="ms",
        values=[value * 1e3 for value in scrapes.cpu],
        reference=[value * 1e3 for value in scrapes.whole],
        reference_name="in one piece, without a server",
        note=size,
    )


class _Scrapes:
    """Measured scrapes; times in seconds, one for each scrape."""

    def __init__(self, desired: DesiredState) -> None:
        self._desired = desired
        self._readings = _readings(desired)
        self.turns: list[float] = []
        self.cpu: list[float] = []
        self.whole: list[float] = []
        self.size = self.series = 0

    def measure(self) -> None:
        """Make the page in one piece, then scrape it over the socket."""
        began = time.thread_time()
        page = generate_latest(self._collector())
        self.whole.append(time.thread_time() - began)
        self.size, self.series = len(page), sum(not line.startswith(b"#") for line in page.splitlines())
        loop = MeteredLoop()
        with tempfile.TemporaryDirectory() as folder:
            loop.run_until_complete(self._scrape(loop, Path(folder) / "agent.sock"))
            loop.run_until_complete(loop.shutdown_default_executor())
            loop.close()

    def _collector(self) -> NodeCollector:
        return NodeCollector(self._readings, self._desired)

    async def _scrape(self, loop: MeteredLoop, path: Path) -> None:
        turns, found = TimeSlices(), list[int]()

        async def collect() -> NodeCollector:
            return self._collector()

        def client() -> None:
            async def asking() -> None:
                connector = aiohttp.UnixConnector(str(path))
                session = aiohttp.ClientSession("http://agent", connector=connector)
                async with session, session.get("/metrics") as response:
                    found.append(len(await response.read()))

            asyncio.run(asking())

        made = MetricsPage(collect, SystemClock(), turns)
        answers = answerer(self._desired, turns)
        serving = await http_server.serve(path, answers, turns, routes=metrics_routes(_Provider(made)))
        loop.longest = 0.0
        began = time.thread_time()
        asking = threading.Thread(target=client)
        asking.start()
        await asyncio.to_thread(asking.join)
        self.cpu.append(time.thread_time() - began)
        self.turns.append(loop.longest)
        await serving.cleanup()
        if found[0] < self.size // 2:
            raise AssertionError(f"a page of {found[0]} bytes instead of {self.size}")


class _Provider:
    """Implements introspection.metrics_routes.MetricsProvider."""

    def __init__(self, made: MetricsPage) -> None:
        self._made = made

    async def page(self) -> bytes:
        return await self._made.read()

    def stalled(self) -> str:
        return ""

    def unready(self) -> str:
        return ""


def _readings(desired: DesiredState) -> Readings:
    """Return the readings of a node on which every Pod and every policy has every count."""
    pods = [(pod.namespace, pod.name) for pod in desired.cluster.local.values()]
    policies = [ref for ref in desired.index.policies if ref.kind == "NetworkPolicy"]
    allows = [allowed_by(direction, (ref,)) for direction, ref in product(DIRECTIONS, policies)]
    denies = [denied_by(direction, group) for direction in DIRECTIONS for group in _groups(policies)]
    counts = CountedPackets(
        {(*pod, way, verdict): 1_000 for pod, way, verdict in product(pods, DIRECTIONS, DISPOSITIONS)},
        dict.fromkeys((*allows, *denies), 1_000),
    )
    return Readings(
        unready="",
        synced=True,
        uptime=3600.0,
        reconcile=ReconcileStatus(in_sync=True),
        sync_latency=SyncLatency(),
        record_latency=RecordLatency(),
        revoked=0,
        resources={},
        invalid={},
        reading_log=True,
        verdict_log=msgspec.to_builtins(VerdictLogStatus(path="")),
        own_log_lost=0,
        python_blocks=300_000,
        foreign_nat=0,
        nat_ports=NatPortStatus(available=64_512),
        conntrack=None,
        counts=counts,
    )


def _groups(policies: list[ObjectRef]) -> Iterator[tuple[ObjectRef, ...]]:
    refs = iter(policies)
    while group := tuple(islice(refs, _ISOLATING)):
        yield group
