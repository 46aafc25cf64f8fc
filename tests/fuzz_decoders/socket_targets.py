"""Targets: requests at the agent's socket."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from nfagent.errors import KernelError, UsageError
from nfagent.explain.explanation import Explanation, explain
from nfagent.introspection import http_log, http_server
from nfagent.introspection.connections import ConnectionLimits
from nfagent.introspection.record_peers import StatePeers
from nfagent.introspection.view_filter import ViewFilter
from nfagent.manifests.policy_file_reader import decode_policies
from nfagent.policy.evaluator import Flow
from nfagent.simulate.codec import decode_request, encode_request
from nfagent.simulate.job import SimulationJob, SimulationRequest, run_in_slices, start_simulation
from nfagent.simulate.policy_files import PolicyFile, PolicyFiles
from nfagent.simulate.simulation import ObservedFlow, PolicySimulation
from nfagent.verdicts.record_filter import Clause, RecordFilter, RecordMatcher, decode_filter, encode_filter
from nfagent.verdicts.records import PolicyName, Record, RecordConnection, RecordEndpoint
from tests.fuzz_decoders.target import FuzzTarget
from tests.support.two_node_cluster import TwoNodeCluster, pod, policy

_ANSWER_SECONDS = 50.0
_POLICY = """
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: shop, name: x}
spec: {podSelector: {}}
"""


class _Answers:
    """Answers from the state of a small cluster."""

    def __init__(self) -> None:
        self._state = TwoNodeCluster(pod("shop/web", "a", 10), pod("shop/db", "a", 20), policy("shop/all")).views["a"]

    async def view(self, name: str, scope: ViewFilter) -> dict[str, Any]:
        if name == "kernel":
            raise KernelError("netlink: Operation not permitted")
        if name != "state":
            raise UsageError(f"there is no view {name!r}")
        return {"node": "a", "scope": scope.words}

    async def explain(self, source: str, destination: str) -> Explanation:
        return explain(self._state.cluster, self._state.index, source, destination)

    def start_simulation(self, given: PolicyFiles, *, delete: bool) -> PolicySimulation:
        state = self._state
        return start_simulation(state.cluster, state.index, state.policy_options, given, delete=delete)


class _ErrorCounter(logging.Handler):
    """Keeps what the server logs as its own error."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.found: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        # A malformed request becomes a warning there, of which one a minute is written.
        if http_log.OncePerMinuteFilter().filter(record) and record.levelno >= logging.ERROR:
            self.found.append(record)


class _Server:
    """A server with a socket, on an event loop that runs while an input is answered."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._errors = _ErrorCounter()
        self._unexpected: list[dict[str, Any]] = []
        self._loop.set_exception_handler(lambda _, context: self._unexpected.append(context))
        http_log.log.filters = []
        http_log.log.propagate = False
        http_log.log.addHandler(self._errors)
        self._path = Path(tempfile.mkdtemp(prefix="nfagent-fuzz-")) / "s"
        limits = ConnectionLimits(request_seconds=_ANSWER_SECONDS)
        self._loop.run_until_complete(http_server.serve(self._path, _Answers(), limits=limits))

    def answer(self, content: bytes) -> None:
        self._errors.found.clear()
        self._unexpected.clear()
        self._loop.run_until_complete(self._answer(content))
        assert not self._errors.found, self._errors.found[0].getMessage()
        assert not self._unexpected, self._unexpected

    async def _answer(self, content: bytes) -> None:
        """Send an input, and read until the server closes; the next request is answered whatever it was."""
        async with asyncio.timeout(_ANSWER_SECONDS):
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as client:
                client.connect(str(self._path))
                with suppress(ConnectionError):
                    # An input fits into the socket's buffer.
                    assert client.send(content) == len(content)
                    client.shutdown(socket.SHUT_WR)
                    while await self._loop.sock_recv(client, 65536):
                        pass
            await asyncio.sleep(0)


@cache
def _server() -> _Server:
    return _Server()


def _read_request(content: bytes) -> None:
    _server().answer(content)


def _request_seeds() -> Iterator[bytes]:
    for where in (
        "dump/state?namespace=shop&pod=web",
        "dump/kernel",
        "explain?source=shop/web&destination=shop/db:80/tcp",
    ):
        yield f"GET /v1/{where} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".encode()
    yield b"GET /v1/dump/state HTTP/1.1\r\nHost: a\r\n\r\nGET /v1/dump/none HTTP/1.0\r\n\r\n"
    body = _try_body()
    yield b"POST /v1/try HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
    yield b"POST /v1/try HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n" % (
        len(body),
        body,
    )
    expecting = b"POST /v1/try HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n"
    yield expecting + b"Content-Encoding: gzip\r\nContent-Length: 1\r\n\r\n{"


def _try_body() -> bytes:
    request = SimulationRequest((PolicyFile("p.yaml", _POLICY),), pods=True)
    return encode_request(
        request, [ObservedFlow(Flow("10.64.0.10", "10.64.0.20", "tcp", 80), 3, "shop/web", "shop/db")]
    )


def _read_try(content: bytes) -> None:
    asked, seen = decode_request(content)
    given = decode_policies(asked.files)
    state = _state()
    simulation = start_simulation(state.cluster, state.index, state.policy_options, given, delete=asked.delete)
    for _ in run_in_slices(SimulationJob(simulation, given, asked, seen)):
        pass


@cache
def _state() -> Any:  # noqa: ANN401 - a DesiredState
    return TwoNodeCluster(pod("shop/web", "a", 10), pod("shop/db", "a", 20), policy("shop/all")).views["a"]


def _try_seeds() -> Iterator[bytes]:
    yield _try_body()


def _read_filter(content: bytes) -> None:
    """Decode a filter of records; of a clause and its reverse one holds for each record."""
    wanted = decode_filter(content)
    assert decode_filter(encode_filter(wanted)) == wanted
    peers = StatePeers(_state())
    matches = RecordMatcher(wanted, peers)
    for record in _records():
        matches(record)
    for clause in (*wanted.all, *wanted.none)[:8]:
        one, other = (RecordMatcher(reverse, peers) for reverse in _both(clause))
        assert all(one(record) != other(record) for record in _records())


def _both(clause: Clause) -> tuple[RecordFilter, RecordFilter]:
    return RecordFilter(all=(clause,)), RecordFilter(none=(clause,))


@cache
def _records() -> tuple[Record, ...]:
    """Return a connection of two Pods, one of a Pod that is gone, and one from outside without ports."""
    web, gone, db = (
        RecordEndpoint(pod_name=name, workload_kind="Pod", workload_name=name, pod_namespace="shop", namespace="shop")
        for name in ("web", "gone", "db")
    )
    ends = {
        "10.64.0.10": web,
        "10.64.0.99": gone,
        "2001:db8::9": RecordEndpoint(instance="2001:db8::9"),
    }
    return tuple(
        Record(
            connection=RecordConnection(
                src_ip=address,
                dest_ip="2001:db8:0:a::20" if ":" in address else "10.64.0.20",
                src_port=None if ":" in address else 40_000,
                dest_port=None if ":" in address else 80,
                protocol="icmpv6" if ":" in address else "tcp",
                direction="ingress",
            ),
            disposition="deny",
            isolating_policies=(PolicyName("all", "shop", "NetworkPolicy"),),
            src=end,
            dest=db,
            count=1,
            node_name="a",
            timestamp="2026-01-02T03:04:05.000000000Z",
        )
        for address, end in ends.items()
    )


def _filter_seeds() -> Iterator[bytes]:
    clauses = {
        "from": ("shop", "app=web,tier!=db", "app in (web,api)", "!app"),
        "to": ("shop/web", "shop/web-*", "10.0.0.0/8"),
        "peer": ("node", "world", "2001:db8::/32"),
        "port": ("80", "8000-8100"),
        "from_port": ("1",),
        "to_port": ("5432",),
        "protocol": ("tcp", "icmpv6"),
        "direction": ("ingress",),
        "verdict": ("deny", "audit-deny"),
        "policy": ("shop/all", "ClusterNetworkPolicy floor"),
        "family": ("6",),
    }
    for field, terms in clauses.items():
        yield json.dumps({"all": [{"field": field, "terms": terms}]}).encode()
        yield json.dumps({"none": [{"field": field, "terms": terms[:1]}], "since": "2026-01-01"}).encode()
    yield b'{"all": [], "none": [], "since": "2026-01-02T03:04:05.000000000Z", "until": "2026-01-03"}'
    yield b'{"all": [{"field": "from", "terms": []}]}'


_FILTER_WORDS = (
    b'{"all":[',
    b'"none":[',
    b'{"field":"',
    b'","terms":["',
    b'"since":"',
    b'"until":"',
    b" in (",
    b"notin",
)

_HTTP_WORDS = (
    b"GET ",
    b"POST ",
    b"HTTP/1.1\r\n",
    b"Content-Length: ",
    b"Transfer-Encoding: chunked\r\n",
    b"\r\n\r\n",
    b"/v1/try",
    b"/v1/matrix?port=",
    b"/v1/explain?source=",
    b"&destination=",
    b"%00",
    b"%ff",
    b"Upgrade: websocket\r\n",
    b"Expect: 100-continue\r\n",
    b"Content-Encoding: gzip\r\n",
    b"Range: bytes=0-\r\n",
)

TARGETS = (
    FuzzTarget(name="socket-requests", read=_read_request, seeds=_request_seeds, words=_HTTP_WORDS, longest=1024),
    FuzzTarget(name="try-requests", read=_read_try, seeds=_try_seeds, longest=1024),
    FuzzTarget(name="record-filters", read=_read_filter, seeds=_filter_seeds, words=_FILTER_WORDS, longest=512),
)
