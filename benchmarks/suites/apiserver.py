"""The cluster as source: cold start, memory, events and relists, all through HTTP from an API server on paper.

The server (`benchmarks.harness.synthetic_apiserver`), the agent's parts (`benchmarks.suites.apiserver_child`) and the
whole agent, as `nfagent run` starts it, are processes of their own in one network namespace: what each uses is counted
apart.
"""

from __future__ import annotations

import math
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Self, TypeVar

import msgspec

from benchmarks.data.synthetic import NODE
from benchmarks.harness.process_usage import metered, peak_rss_mib, rss_mib
from benchmarks.harness.synthetic_apiserver import EVENTS_A_ROLLOUT, Done, Serving
from benchmarks.registry import Run, bench
from benchmarks.results import Row, Target, at_most
from benchmarks.suites.apiserver_child import Heeded, Plain, Start, Usage
from nfagent.errors import KernelError
from nfagent.lab.agents import LabAgent
from nfagent.lab.topology import NetnsTopology
from nfagent.lab.topology_plan import NodePlan

ROOT = Path(__file__).resolve().parents[2]
QUICK_SIZE, FULL_SIZE = 5_000, 150_000
_NODE = NodePlan(NODE, ("192.0.2.1", "2001:db8:ffff::1"), ("10.0.1.0/24", "fd00:10:1::/64"))
_START_SECONDS = 120.0
_DRIFT_SECONDS = 120.0
_POLL_SECONDS = 0.005
_KUBECONFIG = """\
apiVersion: v1
kind: Config
current-context: paper
clusters: [{{name: paper, cluster: {{server: "http://127.0.0.1:{port}"}}}}]
users: [{{name: nobody, user: {{token: nothing}}}}]
contexts: [{{name: paper, context: {{cluster: paper, user: nobody}}}}]
"""

_Answer = TypeVar("_Answer", bound=msgspec.Struct)


class Sizes(msgspec.Struct, frozen=True):
    """How much is measured.

    seconds: of 100 events a second, twice
    rest:    seconds that the agent is left alone
    blocks:  how many samples of memory; between two of them are `block` events
    """

    pods: int
    seconds: int
    rest: int
    blocks: int
    block: int


QUICK = Sizes(QUICK_SIZE, 1, 1, 5, EVENTS_A_ROLLOUT * 20)
FULL = Sizes(FULL_SIZE, 20, 60, 40, EVENTS_A_ROLLOUT * 358)


class Slope(msgspec.Struct, frozen=True):
    """A straight line through points, by least squares, and the standard error of its slope."""

    slope: float
    error: float


def slope(points: Sequence[tuple[float, float]]) -> Slope:
    """Fit three or more points that don't all lie above each other."""
    across, up = [point[0] for point in points], [point[1] for point in points]
    line = statistics.linear_regression(across, up)
    rest = sum((y - line.intercept - line.slope * x) ** 2 for x, y in points)
    middle = statistics.fmean(across)
    spread = sum((x - middle) ** 2 for x in across)
    return Slope(line.slope, math.sqrt(rest / (len(points) - 2) / spread))


def waits(sent: Sequence[float], heeded: Heeded) -> list[float]:
    """Give how long each event waited for its commit, in ms: the first that brought so many changes.

    sent: the moment before each event was written; each changes the state by one generation. Raises KernelError for
    an event that no commit brought.
    """
    found, commits = [], iter(heeded.commits)
    commit = next(commits, None)
    for number, moment in enumerate(sent, 1):
        while commit is not None and commit[1] < heeded.began + number:
            commit = next(commits, None)
        if commit is None:
            raise KernelError(f"{len(sent) - number + 1} of {len(sent)} events were never committed")
        found.append((commit[0] - moment) * 1e3)
    return found


class Talk:
    """A process that answers lines with lines; a context manager that ends it."""

    def __init__(self, fabric: NetnsTopology, module: str, *arguments: str) -> None:
        """Start a module of ours in the node's network namespace."""
        command = [sys.executable, "-m", module, *arguments]
        self._process = subprocess.Popen(  # noqa: S603 - our own module
            fabric.command(fabric.node_namespace(NODE), command),
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def hear(self, kind: type[_Answer]) -> _Answer:
        """Wait for its next line. Raises KernelError where it ended instead; its own words are on our stderr."""
        line = self._process.stdout.readline() if self._process.stdout else b""
        if not line:
            raise KernelError(f"{self._process.args!r} ended with {self._process.wait()}")
        return msgspec.json.decode(line, type=kind)

    def say(self, wish: str, **details: Any) -> None:  # noqa: ANN401 - JSON
        """Ask for something."""
        if self._process.stdin:
            self._process.stdin.write(msgspec.json.encode({"do": wish, **details}) + b"\n")
            self._process.stdin.flush()

    def ask(self, kind: type[_Answer], wish: str, **details: Any) -> _Answer:  # noqa: ANN401 - JSON
        """Ask for something, and wait until it is done."""
        self.say(wish, **details)
        return self.hear(kind)

    def __enter__(self) -> Self:
        """Talk."""
        return self

    def __exit__(self, *_failure: object) -> None:
        """End it: without a line more, it ends by itself."""
        if self._process.stdin:
            self._process.stdin.close()
        try:
            self._process.wait(5.0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout:
            self._process.stdout.close()


class Scene:
    """One API server on paper, and what is started beside it."""

    def __init__(self, fabric: NetnsTopology, run: Run, sizes: Sizes) -> None:
        """Keep them."""
        self.fabric = fabric
        self.run = run
        self.sizes = sizes
        self.pods = f"{sizes.pods:,} Pods"
        self.largest = sizes.pods == FULL_SIZE

    @contextmanager
    def server(self, *flags: str) -> Iterator[tuple[Talk, int]]:
        """Serve; give the server and its port."""
        with Talk(
            self.fabric, "benchmarks.harness.synthetic_apiserver", str(self.sizes.pods), str(self.run.seed), *flags
        ) as talk:
            yield talk, talk.hear(Serving).port

    def parts(self, port: int) -> Talk:
        """Start the agent's parts."""
        return Talk(self.fabric, "benchmarks.suites.apiserver_child", f"http://127.0.0.1:{port}")

    def limits(self, figure: Any, limit: float) -> tuple[Target, ...]:  # noqa: ANN401 - a Figure
        """Ask for it in the largest size: the smaller one's figures are for a look."""
        return (at_most(figure, limit),) if self.largest else ()


@bench("apiserver", "the cluster as source: cold start, memory, events and relists through an API server")
def apiserver(run: Run) -> Iterator[Row]:
    """Measure the agent's parts, by streaming lists and by pages, and the whole agent."""
    sizes = QUICK if run.quick else FULL
    for part in (_streamed, _paged, _agent):
        # A network namespace for each: a start is cold where there is no table yet.
        with NetnsTopology([_NODE], tag="api") as fabric:
            yield from part(Scene(fabric, run, sizes))


def _streamed(scene: Scene) -> Iterator[Row]:
    scene.run.progress("cold start by streaming lists")
    with scene.server() as (server, port), scene.parts(port) as parts:
        before = server.ask(Done, "usage").total_cpu_seconds
        start = parts.hear(Start)
        served = server.ask(Done, "usage").total_cpu_seconds - before
        yield from _started(scene, start, _plain(scene, port), f"streamed; the server used {served:.1f} s of CPU")
        scene.run.progress("events, one by one")
        yield _latency(scene, server, parts)
        scene.run.progress("a relist")
        yield from _relisted(scene, server, parts)


def _paged(scene: Scene) -> Iterator[Row]:
    scene.run.progress("cold start by pages")
    with scene.server("--pages") as (_server, port), scene.parts(port) as parts:
        yield from _started(scene, parts.hear(Start), _plain(scene, port), "pages of 5,000", "by pages, ")


def _plain(scene: Scene, port: int) -> Plain:
    with Talk(scene.fabric, "benchmarks.suites.apiserver_child", f"http://127.0.0.1:{port}", "--plain") as talk:
        return talk.hear(Plain)


def _started(scene: Scene, start: Start, plain: Plain, note: str, way: str = "") -> Iterator[Row]:
    yield Row(
        name=f"cold start, {way}{scene.pods}",
        unit="s",
        values=[start.seconds],
        reference=[plain.seconds],
        reference_name="plain dict decoding",
        cpu_seconds=start.cpu_seconds,
        rss_mib=start.peak,
        targets=(*scene.limits("max", 10), *scene.limits("rss_mib", 350)),
        note=f"first request to ruleset committed, {plain.mib:,.0f} MiB of Pods; {note}; memory is the peak",
    )
    yield Row(
        name=f"memory afterwards, {way}{scene.pods}",
        unit="MiB",
        values=[start.steady],
        targets=scene.limits("max", 250),
        note=f"{start.bare:.0f} MiB of it are the interpreter and its modules",
    )


def _latency(scene: Scene, server: Talk, parts: Talk) -> Row:
    """Let a Pod join or leave a peer set, a hundred times a second."""
    parts.ask(Usage, "heed")
    count = 100 * scene.sizes.seconds
    sent = server.ask(Done, "events", mix="peers", count=count, rate=100).moments
    parts.ask(Usage, "synced", version="", changes=count)
    taken = waits(sent, parts.ask(Heeded, "heeded"))
    return Row(
        name=f"a Pod joins or leaves a peer set, {scene.pods}",
        unit="ms",
        values=taken,
        targets=(*scene.limits("p50", 1), *scene.limits("p99", 5)),
        note=f"written to the watch's socket to kernel commit; {count:,} events, 100 a second",
    )


def _relisted(scene: Scene, server: Talk, parts: Talk) -> Iterator[Row]:
    """Have every list expire: all is read again, and nothing is different."""
    parts.ask(Usage, "heed")
    began = time.perf_counter()
    version = server.ask(Done, "expire").version
    parts.ask(Usage, "synced", version=version, changes=0)
    heeded = parts.ask(Heeded, "heeded")
    yield Row(
        name=f"relist of everything, {scene.pods}",
        unit="s",
        values=[heeded.took_at - began],
        rss_mib=heeded.peak,
        targets=scene.limits("rss_mib", 350),
        note="410 on every watch, nothing else changed; memory is the peak",
    )
    yield Row(
        name=f"transactions in it, {scene.pods}",
        unit="",
        values=[heeded.transactions],
        targets=(at_most("max", 0),),
    )
    yield Row(
        name=f"longest turn of the event loop in it, {scene.pods}",
        unit="ms",
        values=[heeded.longest_turn],
        targets=scene.limits("max", 50),
    )


def _agent(scene: Scene) -> Iterator[Row]:
    """Start the whole agent; then let a cluster's events come at a rate, then as fast as it takes them."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        server, port = stack.enter_context(scene.server())
        kubeconfig = folder / "kubeconfig"
        kubeconfig.write_text(_KUBECONFIG.format(port=port), "utf-8")
        agent = LabAgent(scene.fabric, NODE, ("--kubeconfig", str(kubeconfig)), folder / "agent")
        stack.callback(agent.stop)
        scene.run.progress("the whole agent")
        began = time.monotonic()
        agent.start({"NFAGENT_LOG_LEVEL": "warning"}, _START_SECONDS)
        took, pid = time.monotonic() - began, agent.process.pid
        yield Row(
            name=f"the agent's start, {scene.pods}",
            unit="s",
            values=[took],
            rss_mib=peak_rss_mib(pid),
            targets=scene.limits("rss_mib", 350),
            note="`nfagent run --kubeconfig` to READY, interpreter and imports included; memory is the peak",
        )
        settled = rss_mib(pid)
        scene.run.progress("100 events a second")
        server.ask(Done, "events", mix="cluster", count=2 * EVENTS_A_ROLLOUT, rate=100)
        with metered(pid) as usage:
            server.ask(Done, "events", mix="cluster", count=100 * scene.sizes.seconds, rate=100)
        yield Row(
            name=f"the agent at 100 Pod events a second, {scene.pods}",
            unit="% of a core",
            values=[usage.cores * 100],
            targets=(at_most("max", 10),),
            note=f"half are lives of Pods, half status changes, over {usage.seconds:.0f} s",
        )
        scene.run.progress("a change by somebody else")
        yield Row(
            name=f"somebody changes the table, {scene.pods}",
            unit="s",
            values=[_drift(agent) for _ in range(3)],
            note="until the agent has compared the whole table and put it right; one after the other",
        )
        scene.run.progress("at rest")
        with metered(pid) as usage:
            time.sleep(scene.sizes.rest)
        yield Row(
            name=f"the agent's memory after that, {scene.pods}",
            unit="MiB",
            values=[rss_mib(pid)],
            targets=scene.limits("max", 250),
            note=f"{settled:.1f} MiB just after its start; the peak so far was {peak_rss_mib(pid):.1f} MiB",
        )
        yield Row(
            name=f"the agent's CPU at rest, {scene.pods}",
            unit="% of a core",
            values=[usage.cores * 100],
            note=f"over {usage.seconds:.0f} s",
        )
        yield from _flooded(scene, server, pid)


def _drift(agent: LabAgent) -> float:
    """Change the table behind an agent's back; give the seconds until it is as it was."""
    agent.nft("add", "counter", "inet", "nfagent", "somebody")
    began = time.monotonic()
    while "somebody" in agent.nft("list", "counters", "table", "inet", "nfagent"):
        if time.monotonic() > began + _DRIFT_SECONDS:
            raise KernelError(f"a change by somebody else was not put right: {agent.said[-2000:]}")
        time.sleep(_POLL_SECONDS)
    return time.monotonic() - began


def _flooded(scene: Scene, server: Talk, pid: int) -> Iterator[Row]:
    """Hand over events as fast as they are taken, and look at memory now and then."""
    points, seconds = [(0.0, rss_mib(pid))], 0.0
    with metered(pid) as usage:
        for number in range(1, scene.sizes.blocks + 1):
            scene.run.progress(f"{number * scene.sizes.block:,} events")
            seconds += server.ask(Done, "events", mix="cluster", count=scene.sizes.block, rate=0).seconds
            points.append((number * scene.sizes.block, rss_mib(pid)))
    count = scene.sizes.blocks * scene.sizes.block
    yield Row(
        name=f"the agent's events a second, {scene.pods}",
        unit="1/s",
        values=[count / seconds],
        better="higher",
        cpu_seconds=usage.cpu_seconds,
        rss_mib=peak_rss_mib(pid),
        note=f"{count:,} events as fast as they are taken",
    )
    # In the first half, each of Python's large dicts (Pods, addresses) takes its next size, once: a step of 5 to 7 MiB.
    half = points[scene.sizes.blocks // 2 + 1 :]
    line = slope(half)
    yield Row(
        name=f"growth of the agent's memory in it, {scene.pods}",
        unit="bytes/event",
        values=[line.slope * 1024 * 1024],
        note=f"+- {line.error * 1024 * 1024:.2g} (standard error); "
        f"{points[0][1]:.1f} MiB at first, {half[0][1]:.1f} after {half[0][0]:,.0f} events, "
        f"{half[-1][1]:.1f} after {half[-1][0]:,.0f}",
    )
