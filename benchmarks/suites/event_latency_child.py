"""One size of the event-latency suite, in a process and a network namespace of its own; prints figures as JSON.

    python -m benchmarks.suites.event_latency_child PODS SEED QUICK

Events are the bytes of a watch: decoding is part of the measurement.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import msgspec
import nftables

from benchmarks.data import events
from benchmarks.harness.baselines import EbpfUpdates
from benchmarks.harness.fork import in_fork
from benchmarks.harness.process_usage import metered, peak_rss_mib, rss_mib
from nfagent.clock import SystemClock
from nfagent.controllers.reconciler import Reconciler
from nfagent.decode.registry import DECODERS
from nfagent.desired.state import DesiredState
from nfagent.errors import HostError, KernelError
from nfagent.kernel.nft_client import NftClient
from nfagent.lab.objects.documents import document
from nfagent.lab.objects.synthetic import SIZES, Synthetic, synthetic
from nfagent.model.gvk import Item
from nfagent.model.objects import ObjectRef
from nfagent.nftables.diff import diff
from nfagent.nftables.transaction import Transaction, transaction_text
from nfagent.system.gc_tuning import collect_and_freeze, limit_free_memory, relax_collection

_STORM = 1_000
_SAMPLE = 0.0005


class Figures(msgspec.Struct, kw_only=True):
    """Figures of one size. Times in ms, cold start and decoding in seconds; memory in MiB."""

    event: list[float]
    event_by_libnftables: list[float]
    event_by_full_compile: list[float]
    commit: list[float]
    map_update: list[float]
    policy: list[float]
    isolated: int
    sets: int
    elements: int
    cold_start: float
    cold_start_cpu: float
    plain_decoding: float
    bare_rss: float
    peak_rss: float
    steady_rss: float
    cpu_per_event: float
    storm_events: int
    storm_transactions: int
    storm_waits: list[float]
    longest_turn: float


def decode(line: bytes) -> Item | None:
    """Decode one object."""
    read = msgspec.json.decode(line)
    return DECODERS[read["apiVersion"], read["kind"]](read)


def cold_start(lines: Iterable[bytes], desired: DesiredState, kernel: NftClient) -> None:
    """Decode all objects, and commit their ruleset."""
    for line in lines:
        item = decode(line)
        if item is not None:
            desired.put(item)
    ruleset = desired.ruleset()
    desired.mark_synced()
    kernel.commit_now((*diff(kernel.read_now(), ruleset), *desired.recheck_all()))


def by_libnftables() -> Callable[[Transaction], None]:
    """Return a function that commits a transaction as text; it raises KernelError."""
    context = nftables.Nftables()

    def commit(transaction: Transaction) -> None:
        status, _output, error = context.cmd(transaction_text(transaction))
        if status:
            raise KernelError(error)

    return commit


class EncodedEvent:
    """An event as bytes: an object, or the reference of a deleted one."""

    def __init__(self, event: events.Event) -> None:
        """Encode it."""
        self.line = b"" if event.item is None else msgspec.json.encode(document(event.item))
        self.ref: ObjectRef = event.ref

    def take(self, desired: DesiredState) -> None:
        """Decode it and apply it to the desired state."""
        if not self.line:
            desired.remove(self.ref)
            return
        item = decode(self.line)
        if item is not None:
            desired.put(item)


class LoadedCluster:
    """A cluster with a committed ruleset, and the measurements on it."""

    def __init__(self, cluster: Synthetic, desired: DesiredState, kernel: NftClient, *, quick: bool) -> None:
        """Keep the parts."""
        self.cluster = cluster
        self.desired = desired
        self.kernel = kernel
        self.quick = quick

    def commit(self, transaction: Transaction) -> None:
        """Commit as the agent does."""
        if transaction:
            self.kernel.commit_now(transaction)

    def clear_recheck(self) -> None:
        """Clear the re-check sets, as the agent does after it has checked the connections."""
        self.desired.clear_recheck(self.desired.recheck_addresses)
        self.commit(self.desired.drain_changes())

    def resync(self) -> None:
        """Do the same where the kernel may lack the last transaction: the storm ends in the middle of a round."""
        self.desired.clear_recheck(self.desired.recheck_addresses)
        ruleset = self.desired.ruleset()
        self.desired.mark_synced()
        self.kernel.commit_now(diff(self.kernel.read_now(), ruleset))

    def timed(self, stream: Iterable[events.Event], commit: Callable[[Transaction], None]) -> list[float]:
        """Return the ms of each event, from its bytes to its commit."""
        encoded = [EncodedEvent(event) for event in stream]
        taken = []
        for event in encoded:
            began = time.perf_counter()
            event.take(self.desired)
            commit(self.desired.drain_changes())
            taken.append((time.perf_counter() - began) * 1e3)
            self.clear_recheck()
        return taken

    def commits(self, stream: Iterable[events.Event]) -> list[float]:
        """Return the ms of each event's commit only."""
        taken = []
        for event in stream:
            event.apply(self.desired)
            transaction = self.desired.drain_changes()
            began = time.perf_counter()
            self.commit(transaction)
            taken.append((time.perf_counter() - began) * 1e3)
            self.clear_recheck()
        return taken

    def full_compiles(self, stream: Iterable[events.Event]) -> list[float]:
        """Return the ms of each event without incremental indexes: compile everything again, and compare."""
        taken = []
        for event in stream:
            before = self.desired.ruleset()
            event.apply(self.desired)
            began = time.perf_counter()
            transaction = diff(before, self.desired.rebuilt().ruleset())
            self.commit(transaction)
            taken.append((time.perf_counter() - began) * 1e3)
            self.desired.mark_synced()
        return taken

    async def storm(self) -> tuple[int, list[float], float]:
        """Apply a thousand events as fast as possible; return transactions, each event's wait, the longest turn."""
        desired = self.desired
        committed: list[float] = []
        settled = asyncio.Event()

        def synced() -> None:
            committed.append(time.perf_counter())
            settled.set()

        reconciler = Reconciler(self.kernel, SystemClock(), desired, on_sync=synced)
        reconciler.wake()
        task = asyncio.create_task(reconciler.run())
        await settled.wait()
        before = reconciler.status.transactions
        encoded = [EncodedEvent(event) for event in events.storm(self.cluster, _STORM)]
        watch = asyncio.create_task(_longest_turn())
        await asyncio.sleep(0)
        came = []
        for event in encoded:
            event.take(desired)
            came.append(time.perf_counter())
            reconciler.wake()
            # Ten events a turn: a watch's socket delivers several at a time.
            if len(came) % 10 == 0:
                await asyncio.sleep(0)
        while committed[-1] < came[-1] or desired.dirty:
            settled.clear()
            await settled.wait()
        waits = [_wait(moment, committed) for moment in came]
        transactions = reconciler.status.transactions - before
        watch.cancel()
        task.cancel()
        results = await asyncio.gather(watch, task, return_exceptions=True)
        longest = results[0] if isinstance(results[0], float) else 0.0
        return transactions, waits, longest


def _wait(moment: float, committed: list[float]) -> float:
    return next(((done - moment) * 1e3 for done in committed if done >= moment), 0.0)


async def _longest_turn() -> float:
    """Return the longest delay of a short sleep, in ms, when cancelled."""
    longest = 0.0
    try:
        while True:
            began = time.perf_counter()
            await asyncio.sleep(_SAMPLE)
            longest = max(longest, time.perf_counter() - began - _SAMPLE)
    except asyncio.CancelledError:
        return longest * 1e3


def _lines_by_pipe(path: Path) -> Iterator[bytes]:
    """Yield a file's lines through a pipe from another process."""
    with subprocess.Popen(["cat", str(path)], stdout=subprocess.PIPE) as source:  # noqa: S603, S607 - a pipe's far end
        if source.stdout is not None:
            yield from source.stdout


def _write(cluster: Synthetic, path: Path) -> None:
    with path.open("wb") as lines:
        for item in cluster.items():
            lines.write(msgspec.json.encode(document(item)) + b"\n")


def _cold_start(size: int, seed: int, path: Path) -> tuple[DesiredState, NftClient, dict[str, float]]:
    """Start cold in this process, which has done nothing else before: its memory is the engine's only."""
    in_fork(lambda: _write(synthetic(SIZES[size], seed), path), "the synthetic cluster could not be written")
    kernel = NftClient()
    bare = rss_mib()
    began = time.perf_counter()
    for line in _lines_by_pipe(path):
        msgspec.json.decode(line)
    decoding = time.perf_counter() - began
    desired = DesiredState("node-1")
    gc.collect()
    with metered() as usage:
        cold_start(_lines_by_pipe(path), desired, kernel)
    collect_and_freeze()
    figures = {
        "bare_rss": bare,
        "plain_decoding": decoding,
        "cold_start": usage.seconds,
        "cold_start_cpu": usage.cpu_seconds,
        "peak_rss": peak_rss_mib(),
        "steady_rss": rss_mib(),
    }
    return desired, kernel, figures


def measure(size: int, seed: int, *, quick: bool) -> Figures:
    """Measure one size of the cluster."""
    with tempfile.TemporaryDirectory() as folder:
        desired, kernel, loaded = _cold_start(size, seed, Path(folder) / "objects.jsonl")
    cluster = synthetic(SIZES[size], seed)
    gc.freeze()
    loaded_cluster = LoadedCluster(cluster, desired, kernel, quick=quick)
    loaded_cluster.clear_recheck()
    rounds = 200 if quick else 1_000
    ruleset = desired.ruleset()
    loaded_cluster.timed(events.peer_churn(cluster, 50), loaded_cluster.commit)
    with metered() as usage:
        event = loaded_cluster.timed(events.peer_churn(cluster, rounds), loaded_cluster.commit)
    transactions, waits, longest = asyncio.run(loaded_cluster.storm())
    loaded_cluster.resync()
    return Figures(
        event=event,
        event_by_libnftables=loaded_cluster.timed(events.peer_churn(cluster, 100), by_libnftables()),
        event_by_full_compile=loaded_cluster.full_compiles(
            events.peer_churn(cluster, 2 if quick or size > 20_000 else 6)
        ),
        commit=loaded_cluster.commits(events.peer_churn(cluster, rounds)),
        map_update=map_updates(rounds),
        policy=loaded_cluster.timed(itertools.islice(events.isolations(cluster, 100), 100), loaded_cluster.commit),
        isolated=SIZES[size].farm,
        sets=len(ruleset.sets),
        elements=sum(len(item.elements) for item in ruleset.sets.values()),
        cpu_per_event=usage.cpu_seconds / rounds,
        storm_events=_STORM,
        storm_transactions=transactions,
        storm_waits=waits,
        longest_turn=longest,
        **loaded,
    )


def map_updates(rounds: int) -> list[float]:
    """Return the ms of eBPF map updates, each one call from Python; [] where the machine can't build the program."""
    try:
        with EbpfUpdates() as updates:
            return updates.ms(rounds)
    except HostError:
        return []


if __name__ == "__main__":
    # As the agent does.
    relax_collection()
    limit_free_memory()
    pods, drawn, brief = (int(word) for word in sys.argv[1:4])
    sys.stdout.buffer.write(msgspec.json.encode(measure(pods, drawn, quick=bool(brief))))
