"""An API server with synthetic objects: serves a cluster as fast as it is read, in a process of its own.

    python -m benchmarks.harness.synthetic_apiserver PODS SEED [--pages]      prints Serving, then Done for each line

    {"do": "events", "mix": "cluster", "count": 1000, "rate": 100}   Pod events; rate 0: as fast as they are read
    {"do": "expire"}                                                 410 on every watch: everything is listed again
    {"do": "usage"}                                                  CPU seconds so far

Plain HTTP/1.1 on loopback, one chunk per object or event, as Go's server writes them. Pods are sorted by key, as in
etcd. Lists are streamed (`sendInitialEvents`); with `--pages` that is rejected, and they are listed.
"""

from __future__ import annotations

import asyncio
import itertools
import sys
import time
from asyncio import StreamReader, StreamWriter
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeAlias
from urllib.parse import parse_qsl, urlsplit

import msgspec

from benchmarks.data import events
from benchmarks.data.synthetic_pods import LIFE, Stage, written
from nfagent.lab.objects.documents import document
from nfagent.lab.objects.synthetic import SIZES, Deployment, Size, Synthetic, synthetic
from nfagent.model.objects import ObjectRef, Pod

SIZES_SERVED = {**SIZES, 5_000: Size(5_000, 1_000, 100, 40)}
"""By the number of Pods."""

PODS = "/api/v1/pods"
FIRST_VERSION = 1_000_000
_ROLLOUT = 10
_BLOCK = 64
_BUFFER = 1024 * 1024
_OK = "200 OK"
_STREAM = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json;stream=watch\r\nCache-Control: no-cache, private\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n"
)
_EVENT = b'{"type":"%b","object":%b}\n'
_SERVED = {
    "Namespace": ("v1", "/api/v1/namespaces"),
    "Node": ("v1", "/api/v1/nodes"),
    "Pod": ("v1", PODS),
    "ConfigMap": ("v1", "/api/v1/namespaces/kube-system/configmaps"),
    "NetworkPolicy": ("networking.k8s.io/v1", "/apis/networking.k8s.io/v1/networkpolicies"),
    "ServiceCIDR": ("networking.k8s.io/v1", "/apis/networking.k8s.io/v1/servicecidrs"),
}
_GROUPS = {
    "kind": "APIGroupDiscoveryList",
    "apiVersion": "apidiscovery.k8s.io/v2",
    "metadata": {},
    "items": [
        {
            "metadata": {"name": "networking.k8s.io"},
            "versions": [
                {"version": "v1", "resources": [{"resource": name} for name in ("networkpolicies", "servicecidrs")]}
            ],
        }
    ],
}

Command: TypeAlias = dict[str, Any]


class ListeningPort(msgspec.Struct, frozen=True):
    """The server's first line: its port."""

    port: int


class Done(msgspec.Struct, frozen=True, kw_only=True):
    """The response to a command: its duration, and all CPU time so far.

    moments: of events with a rate, monotonic seconds before each was written
    version: the current resourceVersion of lists
    """

    seconds: float
    cpu_seconds: float
    total_cpu_seconds: float
    version: str
    moments: list[float] = []


class PodEvent(msgspec.Struct, frozen=True):
    """A watch event of a Pod: ADDED, MODIFIED or DELETED, and the object's JSON by its resourceVersion."""

    event_type: bytes
    body: Callable[[int], bytes]


def _pod_event(event_type: bytes, pod: Pod, stage: Stage = "running") -> PodEvent:
    return PodEvent(event_type, lambda version: written(pod, version, stage))


def cluster_mix(cluster: Synthetic) -> Iterator[PodEvent]:
    """Yield a cluster's Pod events, without end; after every 140 the cluster is as it was.

    Half of them are lives of Pods, ten of a Deployment's new ReplicaSet at a time: created, scheduled, starting,
    running, ending, ended, deleted. The other half are probes of other nodes' Pods that fail and succeed again: status
    changes that no policy depends on.
    """
    rng = cluster.rng
    deployments = [deployment for group in cluster.deployments.values() for deployment in group]
    remote = [pod for pod in cluster.pods if pod.node != cluster.node]
    serials = itertools.count(1)
    while True:
        old = rng.choice(deployments)
        digest = f"{rng.getrandbits(36):09x}"
        fresh = tuple(sorted({**dict(old.labels), "pod-template-hash": digest}.items()))
        rollout = Deployment(old.namespace, f"{old.name.partition('-')[0]}-{digest}", fresh, old.ports)
        # Above every host number that the cluster has given.
        pods = [rollout.pod(next(serials), cluster.remote_node(), 100 + turn) for turn in range(_ROLLOUT)]
        lives = [_life_events(pod) for pod in pods]
        for changes in zip(*lives, strict=True):
            for change in changes:
                yield change
                pod = rng.choice(remote)
                yield _pod_event(b"MODIFIED", pod, "unready" if rng.random() < 0.5 else "running")


def _life_events(pod: Pod) -> list[PodEvent]:
    return [
        _pod_event(b"ADDED", pod, LIFE[0]),
        *(_pod_event(b"MODIFIED", pod, stage) for stage in LIFE[1:]),
        _pod_event(b"DELETED", pod, LIFE[-1]),
    ]


EVENTS_A_ROLLOUT = 2 * _ROLLOUT * (len(LIFE) + 1)
"""Number of events of `cluster_mix` after which the cluster is as it was."""


def peers_mix(cluster: Synthetic, count: int) -> Iterator[PodEvent]:
    """Yield events each of which changes a member of a set on the local node."""
    came: dict[ObjectRef, Pod] = {}
    for event in events.peer_churn(cluster, count):
        if isinstance(event.item, Pod):
            came[event.ref] = event.item
            yield _pod_event(b"ADDED", event.item)
        else:
            yield _pod_event(b"DELETED", came.pop(event.ref), "ended")


class SyntheticAPIServer:
    """Serves one cluster."""

    def __init__(self, cluster: Synthetic, *, streaming: bool) -> None:
        """Encode all objects but Pods, which are encoded on request."""
        self._cluster = cluster
        self._streaming = streaming
        self._version = FIRST_VERSION
        self._pods = sorted(cluster.pods, key=lambda pod: (pod.namespace, pod.name))
        self._others: dict[str, list[bytes]] = {path: [] for _version, path in _SERVED.values()}
        for item in cluster.items():
            if not isinstance(item, Pod):
                self._others[_SERVED[type(item).__name__][1]].append(msgspec.json.encode(document(item)))
        self._kinds = {path: (version, kind) for kind, (version, path) in _SERVED.items()}
        self._watches: dict[str, list[StreamWriter]] = {path: [] for path in self._others}
        self._mix = cluster_mix(cluster)
        self._listening: asyncio.Server | None = None
        self._clients: set[StreamWriter] = set()

    async def serve(self) -> int:
        """Listen on loopback; return the port."""
        self._listening = await asyncio.start_server(self._client, "127.0.0.1", 0)
        port: int = self._listening.sockets[0].getsockname()[1]
        return port

    def close(self) -> None:
        """Stop listening, and close every connection."""
        if self._listening is not None:
            self._listening.close()
        for writer in self._clients:
            writer.close()

    @property
    def watched(self) -> int:
        """Number of watches."""
        return sum(map(len, self._watches.values()))

    async def _client(self, reader: StreamReader, writer: StreamWriter) -> None:
        writer.transport.set_write_buffer_limits(high=_BUFFER)
        self._clients.add(writer)
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                await self._answer(head.split(b" ", 2)[1].decode(), writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the client closed it, as at the end of a watch
        finally:
            for writers in self._watches.values():
                if writer in writers:
                    writers.remove(writer)
            self._clients.discard(writer)
            writer.close()

    async def _answer(self, target: str, writer: StreamWriter) -> None:
        parts = urlsplit(target)
        query = dict(parse_qsl(parts.query))
        if parts.path == "/readyz":
            await _respond(writer, _OK, b"ok")
        elif parts.path == "/apis":
            await _respond(writer, _OK, msgspec.json.encode(_GROUPS))
        elif parts.path not in self._others:
            await _respond(writer, "404 Not Found", _status(404, "NotFound", "the server could not find it"))
        elif "watch" not in query:
            # As a watch cache, which ignores the limit where any version is accepted.
            limit = 0 if query.get("resourceVersion") == "0" else int(query.get("limit", "0"))
            await self._page(parts.path, limit, int(query.get("continue", "0")), writer)
        elif "sendInitialEvents" in query and not self._streaming:
            await _respond(
                writer, "422 Unprocessable Entity", _status(422, "Invalid", "sendInitialEvents is forbidden")
            )
        else:
            await self._watch(parts.path, writer, initial="sendInitialEvents" in query)

    def _objects(self, path: str, start: int = 0, end: int | None = None) -> Iterator[bytes]:
        if path == PODS:
            return (written(pod, FIRST_VERSION) for pod in itertools.islice(self._pods, start, end))
        return iter(self._others[path][start:end])

    async def _page(self, path: str, limit: int, start: int, writer: StreamWriter) -> None:
        size = len(self._pods) if path == PODS else len(self._others[path])
        end = min(start + limit, size) if limit else size
        version, kind = self._kinds[path]
        rest = {"continue": str(end), "remainingItemCount": size - end} if end < size else {}
        head = {
            "kind": f"{kind}List",
            "apiVersion": version,
            "metadata": {"resourceVersion": str(self._version), **rest},
        }
        first = msgspec.json.encode(head)[:-1] + b',"items":['
        # Items of a list omit kind and apiVersion.
        bodies = (b"{" + body[body.index(b'"metadata"') :] for body in self._objects(path, start, end))
        listed = (b"," + body if number else body for number, body in enumerate(bodies))
        writer.write(_STREAM.replace(b";stream=watch", b""))
        await _written(writer, itertools.chain([first], listed, [b"]}\n"]))
        writer.write(b"0\r\n\r\n")
        await writer.drain()

    async def _watch(self, path: str, writer: StreamWriter, *, initial: bool) -> None:
        writer.write(_STREAM)
        if initial:
            await _written(writer, (_EVENT % (b"ADDED", body) for body in self._objects(path)))
            writer.write(_chunk(self._bookmark(path, {"k8s.io/initial-events-end": "true"})))
        # It lasts until the client closes it, or all watches expire: then its connection serves another request.
        self._watches[path].append(writer)

    def _bookmark(self, path: str, annotations: dict[str, str]) -> bytes:
        version, kind = self._kinds[path]
        metadata = {"resourceVersion": str(self._version), "annotations": annotations}
        return _EVENT % (b"BOOKMARK", msgspec.json.encode({"kind": kind, "apiVersion": version, "metadata": metadata}))

    async def do(self, command: Command) -> Done:
        """Run a command."""
        began, cpu = time.perf_counter(), time.process_time()
        moments: list[float] = []
        if command["do"] == "events":
            mix = self._mix if command["mix"] == "cluster" else peers_mix(self._cluster, command["count"])
            lines = (self._line(change) for change in itertools.islice(mix, command["count"]))
            moments = await self._send(lines, command["rate"])
        elif command["do"] == "expire":
            self._expire()
        return Done(
            seconds=time.perf_counter() - began,
            cpu_seconds=time.process_time() - cpu,
            total_cpu_seconds=time.process_time(),
            version=str(self._version),
            moments=moments,
        )

    def _line(self, change: PodEvent) -> bytes:
        self._version += 1
        return _EVENT % (change.event_type, change.body(self._version))

    async def _send(self, lines: Iterator[bytes], rate: float) -> list[float]:
        """Write to every watch of Pods; with a rate, return the moment before each was written."""
        writers = self._watches[PODS]
        if not rate:
            for writer in writers:
                await _written(writer, lines)
                await _drained(writer)
            return []
        began = time.perf_counter()
        moments = []
        for number, line in enumerate(lines):
            await asyncio.sleep(max(0.0, began + number / rate - time.perf_counter()))
            moments.append(time.perf_counter())
            for writer in writers:
                writer.write(_chunk(line))
        return moments

    def _expire(self) -> None:
        self._version += 1
        gone = _chunk(_EVENT % (b"ERROR", _status(410, "Expired", "too old resource version: 1 (2)")))
        for writers in self._watches.values():
            for writer in writers:
                writer.write(gone + b"0\r\n\r\n")
            writers.clear()


def _chunk(part: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(part), part)


async def _written(writer: StreamWriter, parts: Iterable[bytes]) -> None:
    """Write a chunk for each part, in blocks, no faster than they are read."""
    waiting = iter(parts)
    while block := b"".join(map(_chunk, itertools.islice(waiting, _BLOCK))):
        writer.write(block)
        await writer.drain()


async def _drained(writer: StreamWriter) -> None:
    """Return when everything was passed to the kernel."""
    writer.transport.set_write_buffer_limits(high=0)
    await writer.drain()
    writer.transport.set_write_buffer_limits(high=_BUFFER)


async def _respond(writer: StreamWriter, status: str, body: bytes) -> None:
    head = f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)
    await writer.drain()


def _status(code: int, reason: str, message: str) -> bytes:
    found = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": message}
    return msgspec.json.encode({**found, "reason": reason, "code": code})


async def _main(pods: int, seed: int, *, streaming: bool) -> None:
    server = SyntheticAPIServer(synthetic(SIZES_SERVED[pods], seed), streaming=streaming)
    _say(ListeningPort(await server.serve()))
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.buffer.readline):
        _say(await server.do(msgspec.json.decode(line)))


def _say(words: msgspec.Struct) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(words) + b"\n")
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    asyncio.run(_main(int(sys.argv[1]), int(sys.argv[2]), streaming="--pages" not in sys.argv))
