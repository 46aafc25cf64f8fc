"""Many probes at once: which are answered, and which source address the server saw.

    with NetnsTopology(...) as topology, Listeners() as listeners:
        listeners.listen(pod_endpoints(topology, [("tcp", 80)]))
        probe = Probe(topology.pod_namespace("x", "a"), "10.244.2.11", "tcp", 80)
        assert run_probes(listeners, [probe])[probe].reached

A probe is reached when its answer arrived, so both directions of the connection are allowed. A lost packet is no
denial: each probe is repeated within the deadline.
"""

from __future__ import annotations

import contextlib
import functools
import select
import time
from collections.abc import Iterable, Sequence

import msgspec

from nfagent.lab.machine.patience import patient
from nfagent.lab.probes.flow import LabFlow, next_nonce, open_flow
from nfagent.lab.probes.listeners import Listeners, ProbeProtocol
from nfagent.lab.topology import netns

# When a probe is repeated, in seconds. A SYN is retransmitted only after a second, so TCP opens another connection.
_AGAIN = (0.2, 0.4)
_TCP_FLOWS = 2
# After the deadline, answers are read as long as they keep arriving: seconds for the next one, and for all.
_QUIET = 0.02
_PATIENCE = patient(10.0)
DEADLINE = patient(0.6)
"""Seconds until a probe without an answer counts as denied."""


class Probe(msgspec.Struct, frozen=True):
    """A connection attempt: from a network namespace to an address, with a protocol and a port (0 for icmp)."""

    source: str
    destination: str
    protocol: ProbeProtocol
    port: int = 0


class ProbeResult(msgspec.Struct, frozen=True):
    """The result of a probe.

    reached:   an answer arrived
    seen_from: the source address that the destination's server saw; known also where only the answer was lost
               (for TCP once the connection was established)
    latency:   seconds from the first packet sent to the answer, None without one
    error:     the sender's socket error ('Connection refused'), empty without an error
    """

    reached: bool
    seen_from: str | None = None
    latency: float | None = None
    error: str = ""


class _Attempt:
    """A probe in progress."""

    def __init__(self, probe: Probe, flows: list[LabFlow], error: str = "") -> None:
        self.probe = probe
        self.flows = flows
        self.unused = list(reversed(flows))
        self.nonces: list[int] = []
        self.began = 0.0
        self.latency: float | None = None
        self.error = error
        self.over = not flows

    def send(self) -> LabFlow | None:
        """Send the probe once more; return the flow where it is a new one."""
        fresh = self.unused.pop() if self.unused else None
        if fresh is None and self.probe.protocol == "tcp":
            return None
        if not self.nonces:
            self.began = time.monotonic()
        nonce = next_nonce()
        self.nonces.append(nonce)
        try:
            (fresh or self.flows[-1]).send(nonce)
        except OSError as error:
            # Not final: a rule in the sender's own namespace may accept the next one.
            self.error = error.strerror or str(error)
        return fresh

    def read(self, flow: LabFlow) -> None:
        """Read a flow's answers."""
        try:
            if any(nonce in self.nonces for nonce in flow.answers()):
                self.latency = time.monotonic() - self.began
                self.over = True
        except OSError as error:
            self.error = error.strerror or str(error)
            self.over = True

    def outcome(self, servers: Listeners) -> ProbeResult:
        """Return the result."""
        seen = [peer for nonce in self.nonces if (peer := servers.seen_from(nonce)) is not None]
        reached = self.latency is not None
        return ProbeResult(reached, seen[0] if seen else None, self.latency, "" if reached else self.error)


def run_probes(servers: Listeners, probes: Iterable[Probe], deadline: float = DEADLINE) -> dict[Probe, ProbeResult]:
    """Send all probes at once; return when all are answered or refused, or after `deadline` seconds.

    Where answers still arrive then, it goes on as long as they do. Raises KernelError for a source that doesn't exist.
    """
    attempts = _open(list(dict.fromkeys(probes)))
    try:
        with select.epoll() as epoll:
            _Round(epoll, attempts).run(servers, deadline)
        # The kernel answers ICMP, often before the listener has read the request.
        servers.wait_idle()
        return {attempt.probe: attempt.outcome(servers) for attempt in attempts}
    finally:
        _close(attempts)


class _Round:
    """One run of all attempts."""

    def __init__(self, epoll: select.epoll, attempts: Sequence[_Attempt]) -> None:
        self._epoll = epoll
        self._open = [attempt for attempt in attempts if not attempt.over]
        self._listening: dict[int, tuple[_Attempt, LabFlow]] = {}

    def run(self, servers: Listeners, deadline: float) -> None:
        self._send()
        start = time.monotonic()
        for pause in (*(again for again in _AGAIN if again < deadline), deadline):
            self._read_until(start + pause)
            if not self._open:
                return
            if pause != deadline:
                self._send()
        # On a busy machine, answers wait for the listeners' thread or for this one, not for the network.
        end = time.monotonic() + _PATIENCE
        while self._open and time.monotonic() < end:
            servers.wait_idle()
            late = self._epoll.poll(_QUIET)
            if not late:
                return
            self._read(late)
            self._open = [attempt for attempt in self._open if not attempt.over]

    def _send(self) -> None:
        for attempt in self._open:
            fresh = attempt.send()
            if fresh is not None:
                self._listening[fresh.sock.fileno()] = (attempt, fresh)
                self._epoll.register(fresh.sock.fileno(), fresh.events)

    def _read_until(self, end: float) -> None:
        while self._open and (left := end - time.monotonic()) > 0:
            self._read(self._epoll.poll(left))
            self._open = [attempt for attempt in self._open if not attempt.over]

    def _read(self, events: Sequence[tuple[int, int]]) -> None:
        for descriptor, _mask in events:
            attempt, flow = self._listening[descriptor]
            if attempt.over:
                self._epoll.unregister(descriptor)
            else:
                attempt.read(flow)


def _open(probes: Sequence[Probe]) -> list[_Attempt]:
    by_source: dict[str, list[Probe]] = {}
    for probe in probes:
        by_source.setdefault(probe.source, []).append(probe)
    attempts: list[_Attempt] = []
    try:
        for source, group in by_source.items():
            netns.inside(source, functools.partial(_open_group, group, attempts))
    except BaseException:
        _close(attempts)
        raise
    return attempts


def _open_group(probes: Sequence[Probe], attempts: list[_Attempt]) -> None:
    for probe in probes:
        count = _TCP_FLOWS if probe.protocol == "tcp" else 1
        with contextlib.ExitStack() as unless_all_open:
            try:
                flows = [_held(unless_all_open, probe) for _flow in range(count)]
            except OSError as refusal:
                attempts.append(_Attempt(probe, [], refusal.strerror or str(refusal)))
            else:
                unless_all_open.pop_all()
                attempts.append(_Attempt(probe, flows))


def _held(stack: contextlib.ExitStack, probe: Probe) -> LabFlow:
    flow = open_flow(probe.protocol, probe.destination, probe.port)
    stack.callback(flow.close)
    return flow


def _close(attempts: Iterable[_Attempt]) -> None:
    for attempt in attempts:
        for flow in attempt.flows:
            flow.close()
