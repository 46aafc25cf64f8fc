"""The API server as the agent's source: cold start, memory, events and relists, all by HTTP from a synthetic server.

The server (`benchmarks.harness.synthetic_apiserver`), the agent's parts (`benchmarks.suites.apiserver_child`) and the
whole agent, as `nfagent run` starts it, are processes of their own in one network namespace: each one's usage is
measured separately.
"""

from __future__ import annotations

import math
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.harness.child_process import ChildProcess
from benchmarks.harness.process_usage import metered, peak_rss_mib, rss_mib
from benchmarks.harness.synthetic_apiserver import EVENTS_A_ROLLOUT, Done, ListeningPort
from benchmarks.registry import Run, bench
from benchmarks.results import Row, Target, at_most
from benchmarks.suites.apiserver_child import PlainDecode, RecordedCommits, Start, Usage
from nfagent.errors import KernelError
from nfagent.lab.cluster.agents import LabAgent
from nfagent.lab.objects.synthetic import NODE
from nfagent.lab.topology.netns_topology import NetnsTopology
from nfagent.lab.topology.plan import NodePlan

QUICK_SIZE, FULL_SIZE = 5_000, 150_000
_NODE = NodePlan(NODE, ("192.0.2.1", "2001:db8:ffff::1"), ("10.0.1.0/24", "fd00:10:1::/64"))
_START_SECONDS = 120.0
_DRIFT_SECONDS = 120.0
_POLL_SECONDS = 0.005
_KUBECONFIG = """\
apiVersion: v1
kind: Config
current-context: synthetic
clusters: [{{name: synthetic, cluster: {{server: "http://127.0.0.1:{port}"}}}}]
users: [{{name: anonymous, user: {{token: nothing}}}}]
contexts: [{{name: synthetic, context: {{cluster: synthetic, user: anonymous}}}}]
"""


class Sizes(msgspec.Struct, frozen=True):
    """The amount of measuring.

    seconds: of 100 events a second, twice
    rest:    seconds of the agent without events
    blocks:  samples of memory; between two of them are `block` events
    """

    pods: int
    seconds: int
    rest: int
    blocks: int
    block: int


QUICK = Sizes(QUICK_SIZE, 1, 1, 5, EVENTS_A_ROLLOUT * 20)
FULL = Sizes(FULL_SIZE, 20, 60, 40, EVENTS_A_ROLLOUT * 358)


class LinearFit(msgspec.Struct, frozen=True):
    """A straight line through points, by least squares, and the standard error of its slope."""

    slope: float
    error: float


def linear_fit(points: Sequence[tuple[float, float]]) -> LinearFit:
    """Fit three or more points with different x."""
    across, up = [point[0] for point in points], [point[1] for point in points]
    line = statistics.linear_regression(across, up)
    rest = sum((y - line.intercept - line.slope * x) ** 2 for x, y in points)
    middle = statistics.fmean(across)
    spread = sum((x - middle) ** 2 for x in across)
    return LinearFit(line.slope, math.sqrt(rest / (len(points) - 2) / spread))


def commit_waits(sent: Sequence[float], recorded: RecordedCommits) -> list[float]:
    """Return how long each event waited for its commit, in ms: the first commit that included so many changes.

    sent: the moment before each event was written; each changes the state by one generation. Raises KernelError for
    an event without commit.
    """
    found, commits = [], iter(recorded.commits)
    commit = next(commits, None)
    for number, moment in enumerate(sent, 1):
        while commit is not None and commit[1] < recorded.began + number:
            commit = next(commits, None)
        if commit is None:
            raise KernelError(f"{len(sent) - number + 1} of {len(sent)} events were never committed")
        found.append((commit[0] - moment) * 1e3)
    return found


class ServerRun:
    """One run with a synthetic API server, and the processes beside it."""

    def __init__(self, topology: NetnsTopology, run: Run, sizes: Sizes) -> None:
        """Keep the parameters."""
        self.topology = topology
        self.run = run
        self.sizes = sizes
        self.pods = f"{sizes.pods:,} Pods"
        self.largest = sizes.pods == FULL_SIZE

    @contextmanager
    def server(self, *flags: str) -> Iterator[tuple[ChildProcess, int]]:
        """Start a server; yield its process and port."""
        with self.child(
            "benchmarks.harness.synthetic_apiserver", str(self.sizes.pods), str(self.run.seed), *flags
        ) as child:
            yield child, child.receive(ListeningPort).port

    def parts(self, port: int) -> ChildProcess:
        """Start the agent's parts."""
        return self.child("benchmarks.suites.apiserver_child", f"http://127.0.0.1:{port}")

    def child(self, module: str, *arguments: str) -> ChildProcess:
        """Start a module of benchmarks in the node's network namespace."""
        within = self.topology.command(self.topology.node_namespace(NODE), [])
        return ChildProcess(module, *arguments, within=within)

    def limits(self, figure: Any, limit: float) -> tuple[Target, ...]:  # noqa: ANN401 - a Figure
        """Return the target at the largest size: the smaller one's figures have none."""
        return (at_most(figure, limit),) if self.largest else ()


@bench("apiserver", "the API server as source: cold start, memory, events and relists")
def apiserver(run: Run) -> Iterator[Row]:
    """Measure the agent's parts, by streaming lists and by pages, and the whole agent."""
    sizes = QUICK if run.quick else FULL
    for part in (_streamed, _paged, _agent):
        # A network namespace for each: a start is cold where there is no table yet.
        with NetnsTopology([_NODE], tag="api") as topology:
            yield from part(ServerRun(topology, run, sizes))


def _streamed(server_run: ServerRun) -> Iterator[Row]:
    server_run.run.progress("cold start by streaming lists")
    with server_run.server() as (server, port), server_run.parts(port) as parts:
        before = server.request(Done, "usage").total_cpu_seconds
        start = parts.receive(Start)
        served = server.request(Done, "usage").total_cpu_seconds - before
        yield from _start_rows(
            server_run, start, _plain_decode(server_run, port), f"streamed; the server used {served:.1f} s of CPU"
        )
        server_run.run.progress("events, one by one")
        yield _latency(server_run, server, parts)
        server_run.run.progress("a relist")
        yield from _relist_rows(server_run, server, parts)


def _paged(server_run: ServerRun) -> Iterator[Row]:
    server_run.run.progress("cold start by pages")
    with server_run.server("--pages") as (_server, port), server_run.parts(port) as parts:
        yield from _start_rows(
            server_run, parts.receive(Start), _plain_decode(server_run, port), "pages of 5,000", "by pages, "
        )


def _plain_decode(server_run: ServerRun, port: int) -> PlainDecode:
    with server_run.child("benchmarks.suites.apiserver_child", f"http://127.0.0.1:{port}", "--plain") as child:
        return child.receive(PlainDecode)


def _start_rows(server_run: ServerRun, start: Start, plain: PlainDecode, note: str, way: str = "") -> Iterator[Row]:
    yield Row(
        name=f"cold start, {way}{server_run.pods}",
        unit="s",
        values=[start.seconds],
        reference=[plain.seconds],
        reference_name="plain dict decoding",
        cpu_seconds=start.cpu_seconds,
        rss_mib=start.peak,
        targets=(*server_run.limits("max", 10), *server_run.limits("rss_mib", 350)),
        note=f"first request to ruleset committed, {plain.mib:,.0f} MiB of Pods; {note}; memory is the peak",
    )
    yield Row(
        name=f"memory after the cold start, {way}{server_run.pods}",
        unit="MiB",
        values=[start.steady],
        targets=server_run.limits("max", 250),
        note=f"of these, {start.bare:.0f} MiB are the interpreter and its modules",
    )


def _latency(server_run: ServerRun, server: ChildProcess, parts: ChildProcess) -> Row:
    """Send events in which a Pod joins or leaves a peer set, a hundred a second."""
    parts.request(Usage, "record")
    count = 100 * server_run.sizes.seconds
    sent = server.request(Done, "events", mix="peers", count=count, rate=100).moments
    parts.request(Usage, "synced", version="", changes=count)
    taken = commit_waits(sent, parts.request(RecordedCommits, "recorded"))
    return Row(
        name=f"a Pod joins or leaves a peer set, {server_run.pods}",
        unit="ms",
        values=taken,
        targets=(*server_run.limits("p50", 1), *server_run.limits("p99", 5)),
        note=f"written to the watch's socket to kernel commit; {count:,} events, 100 a second",
    )


def _relist_rows(server_run: ServerRun, server: ChildProcess, parts: ChildProcess) -> Iterator[Row]:
    """Let every list expire: everything is read again, unchanged."""
    parts.request(Usage, "record")
    began = time.perf_counter()
    version = server.request(Done, "expire").version
    parts.request(Usage, "synced", version=version, changes=0)
    recorded = parts.request(RecordedCommits, "recorded")
    yield Row(
        name=f"relist of everything, {server_run.pods}",
        unit="s",
        values=[recorded.applied_at - began],
        rss_mib=recorded.peak,
        targets=server_run.limits("rss_mib", 350),
        note="410 on every watch, nothing else changed; memory is the peak",
    )
    yield Row(
        name=f"transactions of the relist, {server_run.pods}",
        unit="",
        values=[recorded.transactions],
        targets=(at_most("max", 0),),
    )
    yield Row(
        name=f"longest turn of the event loop during the relist, {server_run.pods}",
        unit="ms",
        values=[recorded.longest_turn],
        targets=server_run.limits("max", 50),
    )


def _agent(server_run: ServerRun) -> Iterator[Row]:
    """Start the whole agent; send a cluster's events at a rate, then as fast as it reads them."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        server, port = stack.enter_context(server_run.server())
        kubeconfig = folder / "kubeconfig"
        kubeconfig.write_text(_KUBECONFIG.format(port=port), "utf-8")
        agent = LabAgent(server_run.topology, NODE, ("--kubeconfig", str(kubeconfig)), folder / "agent")
        stack.callback(agent.stop)
        server_run.run.progress("the whole agent")
        began = time.monotonic()
        agent.start({"NFAGENT_LOG_LEVEL": "warning"}, _START_SECONDS)
        took, pid = time.monotonic() - began, agent.process.pid
        yield Row(
            name=f"the agent's start, {server_run.pods}",
            unit="s",
            values=[took],
            rss_mib=peak_rss_mib(pid),
            targets=server_run.limits("rss_mib", 350),
            note="`nfagent run --kubeconfig` to READY, interpreter and imports included; memory is the peak",
        )
        settled = rss_mib(pid)
        server_run.run.progress("100 events a second")
        server.request(Done, "events", mix="cluster", count=2 * EVENTS_A_ROLLOUT, rate=100)
        with metered(pid) as usage:
            server.request(Done, "events", mix="cluster", count=100 * server_run.sizes.seconds, rate=100)
        yield Row(
            name=f"the agent at 100 Pod events a second, {server_run.pods}",
            unit="% of a core",
            values=[usage.cores * 100],
            targets=(at_most("max", 10),),
            note=f"half are lives of Pods, half status changes, over {usage.seconds:.0f} s",
        )
        server_run.run.progress("a change by another program")
        yield Row(
            name=f"drift repair after another program's change, {server_run.pods}",
            unit="s",
            values=[_drift(agent) for _ in range(3)],
            note="until the agent has compared the whole table and repaired it; one after the other",
        )
        server_run.run.progress("idle")
        with metered(pid) as usage:
            time.sleep(server_run.sizes.rest)
        yield Row(
            name=f"the agent's memory after these events, {server_run.pods}",
            unit="MiB",
            values=[rss_mib(pid)],
            targets=server_run.limits("max", 250),
            note=f"{settled:.1f} MiB just after its start; the peak so far was {peak_rss_mib(pid):.1f} MiB",
        )
        yield Row(
            name=f"the idle agent's CPU, {server_run.pods}",
            unit="% of a core",
            values=[usage.cores * 100],
            note=f"over {usage.seconds:.0f} s",
        )
        yield from _event_rate(server_run, server, pid)


def _drift(agent: LabAgent) -> float:
    """Change the table as another program would; return the seconds until the agent has repaired it."""
    agent.nft("add", "counter", "inet", "nfagent", "foreign")
    began = time.monotonic()
    while "foreign" in agent.nft("list", "counters", "table", "inet", "nfagent"):
        if time.monotonic() > began + _DRIFT_SECONDS:
            raise KernelError(f"the change of another program was not repaired: {agent.stderr_text[-2000:]}")
        time.sleep(_POLL_SECONDS)
    return time.monotonic() - began


def _event_rate(server_run: ServerRun, server: ChildProcess, pid: int) -> Iterator[Row]:
    """Send events as fast as they are read, and sample memory."""
    points, seconds = [(0.0, rss_mib(pid))], 0.0
    with metered(pid) as usage:
        for number in range(1, server_run.sizes.blocks + 1):
            server_run.run.progress(f"{number * server_run.sizes.block:,} events")
            seconds += server.request(Done, "events", mix="cluster", count=server_run.sizes.block, rate=0).seconds
            points.append((number * server_run.sizes.block, rss_mib(pid)))
    count = server_run.sizes.blocks * server_run.sizes.block
    yield Row(
        name=f"the agent's events a second, {server_run.pods}",
        unit="1/s",
        values=[count / seconds],
        better="higher",
        cpu_seconds=usage.cpu_seconds,
        rss_mib=peak_rss_mib(pid),
        note=f"{count:,} events as fast as they are read",
    )
    # In the first half, each of Python's large dicts (Pods, addresses) grows once: a step of 5 to 7 MiB.
    half = points[server_run.sizes.blocks // 2 + 1 :]
    line = linear_fit(half)
    yield Row(
        name=f"growth of the agent's memory per event, {server_run.pods}",
        unit="bytes/event",
        values=[line.slope * 1024 * 1024],
        note=f"+- {line.error * 1024 * 1024:.2g} (standard error); "
        f"{points[0][1]:.1f} MiB at first, {half[0][1]:.1f} after {half[0][0]:,.0f} events, "
        f"{half[-1][1]:.1f} after {half[-1][0]:,.0f}",
    )
