"""The agent's parts with an API server as source, in a process of their own, so that usage is theirs only.

    python -m benchmarks.suites.apiserver_child URL            starts, prints Start, then answers each line it reads
    python -m benchmarks.suites.apiserver_child URL --plain    reads Pods into plain dicts, and prints PlainDecode

    {"do": "usage"}    Usage: CPU seconds, memory, transactions
    {"do": "record"}   records commits from now on, times the event loop's turns, and resets the peak of memory
    {"do": "recorded"} RecordedCommits: the result
    {"do": "synced", "version": "", "changes": 0}
                       waits until every kind is watched, after a list of that version ('' for any), and as many
                       changes since `record` are committed; then Usage

The parts are connected as in `agent`, without the verdict log and the introspection socket.
"""

from __future__ import annotations

import asyncio
import gc
import sys
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.harness.child_process import say
from benchmarks.harness.process_usage import peak_rss_mib, rss_mib
from nfagent.clock import SystemClock
from nfagent.controllers.conntrack_revoker import ConntrackRevoker
from nfagent.controllers.event_applier import EventApplier
from nfagent.controllers.reconciler import Reconciler
from nfagent.desired.state import DesiredState
from nfagent.kernel.conntrack import ConntrackClient
from nfagent.kernel.local_addresses import is_local_address
from nfagent.kernel.nft_client import NftClient
from nfagent.kube.client import ApiClient
from nfagent.kube.credentials import ClientConfig
from nfagent.kube.informers import Informers
from nfagent.kube.reflector import PAGE_SIZE
from nfagent.kube.watch_codec import LineDecoder
from nfagent.lab.objects.synthetic import NODE
from nfagent.model.gvk import Item
from nfagent.model.objects import ObjectRef
from nfagent.nftables.objects import Ruleset
from nfagent.nftables.transaction import Transaction
from nfagent.system.gc_tuning import collect_and_freeze, limit_free_memory, relax_collection

_SAMPLE = 0.0005
_POLL = 0.5
_PODS = "/api/v1/pods"
_SILENCE = 60.0
_OK = 200


class Start(msgspec.Struct, kw_only=True):
    """A cold start: from the first request to the first commit. Seconds, CPU seconds, MiB.

    bare:   memory before the first request
    synced: seconds until everything was read
    peak:   peak of resident memory until memory was settled
    """

    bare: float
    synced: float
    seconds: float
    cpu_seconds: float
    peak: float
    steady: float
    pods: int
    policies: int


class PlainDecode(msgspec.Struct, kw_only=True):
    """The minimum work of a client: read every Pod's bytes, and decode them to plain dicts."""

    seconds: float
    cpu_seconds: float
    mib: float


class Usage(msgspec.Struct, kw_only=True):
    """CPU time since the start, and memory, of this process."""

    cpu_seconds: float
    rss: float
    peak: float
    transactions: int


class RecordedCommits(msgspec.Struct, kw_only=True):
    """Results since `record`.

    commits:      monotonic seconds of each commit, and the generation of the state that it included at least
    began:        the generation at `record`
    longest_turn: of the event loop, in ms
    peak:         MiB
    applied_at:   monotonic seconds of the last change that was applied
    """

    commits: list[tuple[float, int]]
    began: int
    longest_turn: float
    peak: float
    transactions: int
    applied_at: float


class RecordingClient:
    """An nft client that records when each generation was committed; satisfies the reconciler's Protocol."""

    def __init__(self, kernel: NftClient, desired: DesiredState) -> None:
        """Wrap the client."""
        self._kernel = kernel
        self._desired = desired
        self._applied = False
        self.commits: list[tuple[float, int]] = []
        self.notes = False

    async def read(self) -> Ruleset:
        """Return the kernel's ruleset."""
        return await self._kernel.read()

    async def difference(self, wanted: Ruleset, *, anew: bool = False) -> Transaction:
        """Return the transaction that makes the kernel's ruleset equal."""
        return await self._kernel.difference(wanted, anew=anew)

    async def accept_variants(self, wanted: Ruleset, repair: Transaction) -> tuple[str, ...]:
        """Return what the kernel lists differently from what was written."""
        return await self._kernel.accept_variants(wanted, repair)

    async def apply(self, transaction: Transaction) -> None:
        """Commit. No change came between computing the transaction and this call."""
        generation = self._desired.generation
        await self._kernel.apply(transaction)
        self._applied = True
        self._note(generation)

    def agreed(self) -> None:
        """Record the end of a round; without a transaction, changes had no effect, or cancelled out."""
        if not self._applied:
            self._note(self._desired.generation)
        self._applied = False

    def _note(self, generation: int) -> None:
        if self.notes:
            self.commits.append((time.perf_counter(), generation))


class AgentParts:
    """The agent's parts; satisfies the informers' EventSink."""

    def __init__(self, url: str) -> None:
        """Connect them, for the API server at that URL."""
        self._url = url
        self._clock = SystemClock()
        self.kernel = NftClient()
        self.desired = DesiredState(NODE)
        self.recording = RecordingClient(self.kernel, self.desired)
        self.reconciler = Reconciler(self.recording, self._clock, self.desired, on_sync=self._agreed)
        self.revoker = ConntrackRevoker(
            self.desired, ConntrackClient(), self.kernel, self._clock, self.reconciler.wake, own=is_local_address
        )
        self._intake = EventApplier(self.desired, self._clock, self.reconciler.wake)
        self.source = Informers(ApiClient(self._find), self._clock, self, self.desired.keys)
        self.settled = asyncio.Event()
        self.synced_at = 0.0
        self.committed_at = 0.0
        self.applied_at = 0.0

    async def _find(self) -> ClientConfig:
        return ClientConfig(server=self._url, origin="the benchmark")

    async def apply(self, changes: Iterable[Item | ObjectRef], received: float | None = None) -> None:  # noqa: ARG002 - of the protocol
        """Apply changes."""
        await self._intake.apply(changes)
        self.applied_at = time.perf_counter()

    def on_synced(self) -> None:
        """Begin to commit: everything was read once."""
        self.synced_at = time.perf_counter()
        self._intake.open()

    def _agreed(self) -> None:
        self.revoker.committed()
        self.recording.agreed()
        if not self.committed_at:
            self.committed_at = time.perf_counter()
            collect_and_freeze()
            self.settled.set()

    def follows(self, version: str) -> bool:
        """Return whether every served kind is watched, after a list of that version; '' for any."""
        resources = self.source.status()["apiserver"]["resources"].values()
        served = [each for each in resources if each["phase"] != "missing"]
        return all(each["phase"] == "watching" and version in {"", each["version"]} for each in served)

    def is_committed(self, generation: int) -> bool:
        """Return whether the state has that generation, and the kernel is in sync."""
        calm = self.reconciler.status.in_sync and not self.desired.recheck_addresses
        return calm and self.desired.generation >= generation


class CommitRecorder:
    """Records commits and turns between `record` and `recorded`."""

    def __init__(self, parts: AgentParts) -> None:
        """Record nothing yet."""
        self._parts = parts
        self._longest = 0.0
        self.began = 0
        self._transactions = 0
        self._timing: asyncio.Task[None] | None = None

    def begin(self) -> None:
        """Start recording."""
        self._parts.recording.commits.clear()
        self._parts.recording.notes = True
        self.began = self._parts.desired.generation
        self._transactions = self._parts.reconciler.status.transactions
        # proc_pid_clear_refs(5): resets the peak of resident memory.
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5", "ascii")
        self._longest = 0.0
        self._timing = asyncio.create_task(self._time())

    def end(self) -> RecordedCommits:
        """Stop recording; return the results."""
        if self._timing is not None:
            self._timing.cancel()
            self._timing = None
        self._parts.recording.notes = False
        return RecordedCommits(
            commits=list(self._parts.recording.commits),
            began=self.began,
            longest_turn=self._longest * 1e3,
            peak=peak_rss_mib(),
            transactions=self._parts.reconciler.status.transactions - self._transactions,
            applied_at=self._parts.applied_at,
        )

    async def _time(self) -> None:
        """Sleep briefly again and again; keep the longest delay."""
        while True:
            began = time.perf_counter()
            await asyncio.sleep(_SAMPLE)
            self._longest = max(self._longest, time.perf_counter() - began - _SAMPLE)


async def _start(parts: AgentParts, tasks: asyncio.TaskGroup) -> Start:
    """Start cold, and return the figures."""
    gc.collect()
    bare = rss_mib()
    began, cpu = time.perf_counter(), time.process_time()
    for work in (parts.reconciler.run(), parts.revoker.run(), parts.source.run()):
        tasks.create_task(work)
    await parts.settled.wait()
    return Start(
        bare=bare,
        synced=parts.synced_at - began,
        seconds=parts.committed_at - began,
        cpu_seconds=time.process_time() - cpu,
        peak=peak_rss_mib(),
        steady=rss_mib(),
        pods=len(parts.desired.cluster.pods),
        policies=len(parts.desired.index.policies),
    )


async def _do(parts: AgentParts, record: CommitRecorder, command: dict[str, Any]) -> msgspec.Struct:
    match command["do"]:
        case "record":
            record.begin()
        case "recorded":
            return record.end()
        case "synced":
            wanted = record.began + command["changes"]
            while not (parts.follows(command["version"]) and parts.is_committed(wanted)):  # noqa: ASYNC110 - several parts change it, and none tells
                await asyncio.sleep(_POLL)
    return Usage(
        cpu_seconds=time.process_time(),
        rss=rss_mib(),
        peak=peak_rss_mib(),
        transactions=parts.reconciler.status.transactions,
    )


async def _plain_decode(url: str) -> PlainDecode:
    """Read Pods as the server sends them, streamed or in pages, and keep none."""

    async def find() -> ClientConfig:
        return ClientConfig(server=url, origin="the benchmark")

    server, began, cpu = ApiClient(find), time.perf_counter(), time.process_time()
    size = await _streamed(server) or await _paged(server)
    await server.close()
    return PlainDecode(
        seconds=time.perf_counter() - began, cpu_seconds=time.process_time() - cpu, mib=size / 1024 / 1024
    )


async def _streamed(server: ApiClient) -> int:
    """Read a streaming list up to its end; return its bytes, 0 where it isn't served."""
    size, lines = 0, LineDecoder()
    async with server.stream(_PODS, {"watch": "1", "sendInitialEvents": "true"}, _SILENCE) as stream:
        if stream.status != _OK:
            return 0
        async for chunk in stream:
            size += len(chunk)
            read = [msgspec.json.decode(line) for line in lines.feed(chunk)]
            if read and read[-1]["type"] == "BOOKMARK":
                break
    return size


async def _paged(server: ApiClient) -> int:
    """Read a list page by page; return its bytes."""
    size, query = 0, {"limit": str(PAGE_SIZE)}
    while True:
        async with server.stream(_PODS, query, _SILENCE) as stream:
            body = await stream.read()
        size += len(body)
        rest = msgspec.json.decode(body)["metadata"].get("continue", "")
        if not rest:
            return size
        query["continue"] = rest


async def _main(url: str) -> None:
    relax_collection()
    limit_free_memory()
    parts = AgentParts(url)
    await parts.kernel.read()
    await parts.source.start()
    loop = asyncio.get_running_loop()
    async with asyncio.TaskGroup() as tasks:
        say(await _start(parts, tasks))
        record = CommitRecorder(parts)
        while line := await loop.run_in_executor(None, sys.stdin.buffer.readline):
            say(await _do(parts, record, msgspec.json.decode(line)))
        raise SystemExit(0)


if __name__ == "__main__":
    if sys.argv[2:] == ["--plain"]:
        say(asyncio.run(_plain_decode(sys.argv[1])))
    else:
        asyncio.run(_main(sys.argv[1]))
