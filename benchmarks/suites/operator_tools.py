"""`nfagent status`, `logs`, `dump state`, `top` and `bundle` at 5,000 Pods, with 100,000 records in the log.

Each command is a process of its own, whose time, CPU and memory are measured. The agent's own server answers from a
synthetic cluster; its longest turn of the event loop is in CPU time, so that other load of the machine doesn't count.
"""

from __future__ import annotations

import asyncio
import random
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from aiohttp import web

from benchmarks.harness.command_usage import CommandUsage, run_measured
from benchmarks.harness.synthetic_agent import IN_SYNC, answerer
from benchmarks.registry import Run, bench
from benchmarks.results import Row, at_most
from benchmarks.suites.introspection import MeteredLoop
from nfagent.desired.state import DesiredState
from nfagent.errors import HostError
from nfagent.introspection import http_server
from nfagent.introspection.counts_view import CountReadings, CountsView, counts_parts
from nfagent.introspection.freshness import WHOLE
from nfagent.introspection.http_stream import view_route
from nfagent.introspection.record_peers import StatePeers
from nfagent.introspection.record_route import record_routes
from nfagent.introspection.status_answer import StatusReadings, status_parts
from nfagent.introspection.status_view import DeniedStatus, SourceStatus, StatusView
from nfagent.lab.objects.synthetic import Size, Synthetic, synthetic
from nfagent.metrics.readings import CountedPackets
from nfagent.model.objects import DIRECTIONS, Pod
from nfagent.nftables.verdict_keys import DISPOSITIONS, VerdictKey
from nfagent.system.gc_tuning import collect_and_freeze, relax_collection
from nfagent.time_slices import TimeSlices
from nfagent.verdicts.log_file import RotatingFile
from nfagent.verdicts.log_stream import RECENT_LINES, LogStream
from nfagent.verdicts.records import PolicyName, Record, RecordConnection, RecordEndpoint, encode, timestamp

_LONGEST_MS = 20
_ROUNDS = 3
_PORTS = (80, 443, 5432, 8080, 9090)
_FILE_BYTES, _FILES = 10_000_000, 20
_SECOND_NS = 1_000_000_000
_COMMANDS: dict[str, tuple[str, ...]] = {
    "status": ("status",),
    "dump state": ("dump", "state"),
    "logs --last 20": ("logs", "--last", "20"),
    "logs --last 20 --verdict deny --to-port 5432": ("logs", "--last", "20", "--verdict", "deny", "--to-port", "5432"),
    "logs --from-label app=web --last 20": ("logs", "--from-label", "app=web", "--last", "20"),
    "logs --from world --all -o json": ("logs", "--from", "world", "--all", "-o", "json"),
    "logs --not --from 10.0.0.0/8 --all": ("logs", "--not", "--from", "10.0.0.0/8", "--all"),
    "logs --all": ("logs", "--all"),
    "logs --summary": ("logs", "--summary"),
    "logs --top": ("logs", "--top"),
    "top -o json -n 3": ("top", "-o", "json", "-n", "3", "--interval", "1"),
    "bundle": ("bundle", "-"),
}
_OF_AGENT: dict[str, tuple[str, ...]] = {
    "logs --all, of the agent": ("logs", "--all"),
    "logs --from-label, of the agent": ("logs", "--from-label", "app=web", "--all"),
    "logs --not --from 10.0.0.0/8, of the agent": ("logs", "--not", "--from", "10.0.0.0/8", "--all"),
}
"""Where the settings write no file: the records that the agent keeps."""


@bench("operator-tools", "status, logs and dump state at 5,000 Pods and 100,000 records: the command and the agent")
def operator_tools(run: Run) -> Iterator[Row]:
    """Run every command, some times, and record the agent's turns meanwhile."""
    size = Size(5_000, 1_000, 60, 20)
    records = 10_000 if run.quick else 100_000
    cluster = synthetic(size, run.seed)
    desired = DesiredState(cluster.node)
    for item in cluster.items():
        desired.put(item)
    desired.ruleset()
    relax_collection()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        run.progress(f"{records:,} records")
        lines = _write_log(path, cluster, records, run.seed)
        collect_and_freeze()
        stream = LogStream()
        stream.recent.add(lines[-RECENT_LINES:])
        with agent_of(path / "agent.sock", desired, stream) as (loop, _):
            yield from _measured(run, path, loop, _COMMANDS, f"{records:,} records", {})
            kept = f"{min(records, RECENT_LINES):,} records"
            yield from _measured(run, path, loop, _OF_AGENT, kept, {"NFAGENT_LOGGING_SINKS": "journald"})


def _measured(  # noqa: PLR0917 - a table of commands, and where they run
    run: Run,
    folder: Path,
    loop: MeteredLoop,
    commands: Mapping[str, tuple[str, ...]],
    size: str,
    environment: Mapping[str, str],
) -> Iterator[Row]:
    for name, arguments in commands.items():
        run.progress(name)
        loop.longest = 0.0
        rounds = [_run(folder, arguments, environment) for _ in range(1 if run.quick else _ROUNDS)]
        turn = loop.longest * 1e3
        yield Row(
            name=f"{name}, {size}",
            unit="s",
            values=[used.seconds for used in rounds],
            cpu_seconds=min(used.cpu for used in rounds),
            rss_mib=max(used.mib for used in rounds),
            note=f"CPU seconds: the least of {len(rounds)} runs",
        )
        yield Row(
            name=f"the agent's longest turn meanwhile: {name}",
            unit="ms",
            values=[turn],
            targets=(at_most("max", _LONGEST_MS),),
        )


def _run(folder: Path, arguments: Sequence[str], environment: Mapping[str, str]) -> CommandUsage:
    """Run a command. Raises HostError."""
    used = run_measured(arguments, folder, environment)
    if used.code not in {0, 1}:
        raise HostError(f"nfagent {' '.join(arguments)} ended with {used.code}: {used.said}")
    return used


def _write_log(folder: Path, cluster: Synthetic, count: int, seed: int) -> list[bytes]:
    """Write records to the log's file; return their lines."""
    lines = log_lines(cluster, count, seed)
    sink = RotatingFile(folder / "policy_action.log", _FILE_BYTES, _FILES)
    sink.write(lines)
    sink.close()
    return lines


def log_lines(cluster: Synthetic, count: int, seed: int) -> list[bytes]:
    """Return records of connections among the cluster's Pods and with addresses outside."""
    rng = random.Random(seed)  # noqa: S311 - records, not secrets
    begin = time.time_ns() - count * _SECOND_NS // 100
    here = [pod for pod in cluster.pods if pod.node == cluster.node]
    lines = []
    for number in range(count):
        peer = rng.choice(cluster.pods) if rng.random() < 0.8 else None
        lines.append(encode(_record(rng, begin + number * _SECOND_NS // 100, peer, rng.choice(here))))
    return lines


def _record(rng: random.Random, when: int, peer: Pod | None, here: Pod) -> Record:
    denied = rng.random() < 0.3
    address = peer.addresses[0] if peer is not None else f"203.0.113.{rng.randrange(256)}"
    policies = (PolicyName("default-deny", here.namespace, "NetworkPolicy"),)
    return Record(
        connection=RecordConnection(
            src_ip=address,
            dest_ip=here.addresses[0],
            src_port=rng.randrange(32_768, 61_000),
            dest_port=rng.choice(_PORTS),
            protocol="tcp",
            direction="ingress",
        ),
        disposition="deny" if denied else "allow",
        policies=() if denied else policies,
        isolating_policies=policies if denied else (),
        src=RecordEndpoint.of_pod(peer) if peer is not None else RecordEndpoint(instance=address),
        dest=RecordEndpoint.of_pod(here),
        count=rng.randrange(1, 10) if denied else 1,
        node_name=here.node,
        timestamp=timestamp(when),
    )


def _counted(desired: DesiredState) -> CountedPackets:
    """Return a count for each local Pod, active policy, direction and disposition."""
    kinds = [(direction, disposition) for direction in DIRECTIONS for disposition in DISPOSITIONS]
    return CountedPackets(
        pods={(*key, *kind): 5 for key in desired.cluster.local for kind in kinds},
        policies={
            VerdictKey(disposition, direction, (ref,)): 5
            for ref in desired.index.active
            for direction, disposition in kinds
        },
    )


@contextmanager
def agent_of(
    path: Path, desired: DesiredState, stream: LogStream
) -> Iterator[tuple[MeteredLoop, tuple[web.RouteDef, ...]]]:
    """Serve the agent's answers in a thread of its own; yields its loop, and all its routes."""
    loop, slices = MeteredLoop(), TimeSlices()

    async def view() -> StatusView:
        return status_parts(
            desired,
            StatusReadings(
                version="0",
                now=time.monotonic(),
                started=0.0,
                in_sync_at=1.0,
                source=SourceStatus(kind="manifests", name=str(path.parent), synced=True),
                freshness=WHOLE,
                agent=IN_SYNC,
                problems=(),
                denied=DeniedStatus(seconds=300.0, packets=0, by="log", top=[]),
            ),
        )

    counted = _counted(desired)

    async def counts() -> CountsView:
        read = CountReadings(version="0", started=1.0, read_at=time.monotonic(), problem="", counts=counted)
        return counts_parts(desired, read)

    answers = answerer(desired, slices)
    routes = (
        *record_routes(stream, StatePeers(desired), slices),
        view_route("/v1/peers", answers.peers, slices),
        view_route("/v1/status", view, slices),
        view_route("/v1/counts", counts, slices),
    )
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        serving = asyncio.run_coroutine_threadsafe(
            http_server.serve(path, answers, slices, routes=routes), loop
        ).result(30)
        yield loop, (*http_server.answer_routes(answers, slices), *routes)
        asyncio.run_coroutine_threadsafe(serving.cleanup(), loop).result(30)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
