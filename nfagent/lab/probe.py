"""Many probes at once: who reaches whom, and as which address it was seen.

    with Fabric(...) as fabric, Servers() as servers:
        servers.listen(pod_endpoints(fabric, [("tcp", 80)]))
        probe = Probe(fabric.pod_namespace("x", "a"), "10.244.2.11", "tcp", 80)
        assert run_probes(servers, [probe])[probe].reached

A probe counts as reached when its answer came back, so both directions of the connection passed. A packet that was
lost is no denial: each probe is repeated within the deadline.
"""

from __future__ import annotations

import contextlib
import functools
import select
import time
from collections.abc import Iterable, Sequence

import msgspec

from nfagent.lab import netns
from nfagent.lab.flow import LabFlow, next_nonce, open_flow
from nfagent.lab.listeners import Listeners, Protocol

# When a probe is repeated, in seconds. A SYN would be only after a second, so TCP tries another connection instead.
_AGAIN = (0.2, 0.4)
_TCP_FLOWS = 2
# After the deadline answers are waited for as long as they keep coming: this long for the next one, that long for all.
_QUIET = 0.02
_PATIENCE = 10.0


class Probe(msgspec.Struct, frozen=True):
    """A question: from a network namespace to an address, a protocol, and a port (0 for icmp)."""

    source: str
    destination: str
    protocol: Protocol
    port: int = 0


class ProbeResult(msgspec.Struct, frozen=True):
    """The answer to a probe.

    reached:   an answer came back
    seen_from: the source address that the destination's server saw; known too where only the answer was lost
               (of TCP once the connection was made)
    latency:   seconds from the first packet sent to the answer, None without one
    error:     what the sender's kernel said instead ('Connection refused'), empty for silence
    """

    reached: bool
    seen_from: str | None = None
    latency: float | None = None
    error: str = ""


class _Trial:
    """A probe under way."""

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
        """Send the probe once more; give the flow when it is a fresh one."""
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
            # A rule in the sender's own namespace may let the next one pass: this isn't the end.
            self.error = error.strerror or str(error)
        return fresh

    def hear(self, flow: LabFlow) -> None:
        """Read what a flow has got."""
        try:
            if any(nonce in self.nonces for nonce in flow.answers()):
                self.latency = time.monotonic() - self.began
                self.over = True
        except OSError as error:
            self.error = error.strerror or str(error)
            self.over = True

    def outcome(self, servers: Listeners) -> ProbeResult:
        """Sum up."""
        seen = [peer for nonce in self.nonces if (peer := servers.seen_from(nonce)) is not None]
        reached = self.latency is not None
        return ProbeResult(reached, seen[0] if seen else None, self.latency, "" if reached else self.error)


def run_probes(servers: Listeners, probes: Iterable[Probe], deadline: float = 0.6) -> dict[Probe, ProbeResult]:
    """Send all probes at once; done when all were answered, or refused, or `deadline` seconds after that.

    Where answers still come then, it goes on as long as they do. Raises KernelError for a source that isn't there.
    """
    trials = _open(list(dict.fromkeys(probes)))
    try:
        with select.epoll() as epoll:
            _Round(epoll, trials).run(servers, deadline)
        # ICMP is answered by the kernel, often before the server that looks on has its turn.
        servers.settle()
        return {trial.probe: trial.outcome(servers) for trial in trials}
    finally:
        _close(trials)


class _Round:
    """One run over all trials."""

    def __init__(self, epoll: select.epoll, trials: Sequence[_Trial]) -> None:
        self._epoll = epoll
        self._open = [trial for trial in trials if not trial.over]
        self._listening: dict[int, tuple[_Trial, LabFlow]] = {}

    def run(self, servers: Listeners, deadline: float) -> None:
        self._send()
        start = time.monotonic()
        for pause in (*(again for again in _AGAIN if again < deadline), deadline):
            self._hear_until(start + pause)
            if not self._open:
                return
            if pause != deadline:
                self._send()
        # On a busy machine answers wait for the servers' thread, or for this one, rather than for the network.
        end = time.monotonic() + _PATIENCE
        while self._open and time.monotonic() < end:
            servers.settle()
            late = self._epoll.poll(_QUIET)
            if not late:
                return
            self._hear(late)
            self._open = [trial for trial in self._open if not trial.over]

    def _send(self) -> None:
        for trial in self._open:
            fresh = trial.send()
            if fresh is not None:
                self._listening[fresh.sock.fileno()] = (trial, fresh)
                self._epoll.register(fresh.sock.fileno(), fresh.events)

    def _hear_until(self, end: float) -> None:
        while self._open and (left := end - time.monotonic()) > 0:
            self._hear(self._epoll.poll(left))
            self._open = [trial for trial in self._open if not trial.over]

    def _hear(self, events: Sequence[tuple[int, int]]) -> None:
        for descriptor, _mask in events:
            trial, flow = self._listening[descriptor]
            if trial.over:
                self._epoll.unregister(descriptor)
            else:
                trial.hear(flow)


def _open(probes: Sequence[Probe]) -> list[_Trial]:
    by_source: dict[str, list[Probe]] = {}
    for probe in probes:
        by_source.setdefault(probe.source, []).append(probe)
    trials: list[_Trial] = []
    try:
        for source, group in by_source.items():
            netns.inside(source, functools.partial(_open_group, group, trials))
    except BaseException:
        _close(trials)
        raise
    return trials


def _open_group(probes: Sequence[Probe], trials: list[_Trial]) -> None:
    for probe in probes:
        count = _TCP_FLOWS if probe.protocol == "tcp" else 1
        with contextlib.ExitStack() as unless_all_open:
            try:
                flows = [_held(unless_all_open, probe) for _flow in range(count)]
            except OSError as refusal:
                trials.append(_Trial(probe, [], refusal.strerror or str(refusal)))
            else:
                unless_all_open.pop_all()
                trials.append(_Trial(probe, flows))


def _held(stack: contextlib.ExitStack, probe: Probe) -> LabFlow:
    flow = open_flow(probe.protocol, probe.destination, probe.port)
    stack.callback(flow.close)
    return flow


def _close(trials: Iterable[_Trial]) -> None:
    for trial in trials:
        for flow in trial.flows:
            flow.close()
