"""Sends a probe every millisecond, to find the first packet that meets a changed verdict.

Run it in parallel with the change, and compare the times:

    with ThreadPoolExecutor() as pool:
        first = pool.submit(watch_change, source, "10.244.2.11", "udp", 53, want=False, deadline=5)
        committed = change_the_rules()      # time.monotonic() at the commit
        print((first.result() - committed) * 1000, "ms from change to packet")
"""

from __future__ import annotations

import collections
import functools
import select
import time

from nfagent.errors import UsageError
from nfagent.lab.machine.patience import patient
from nfagent.lab.probes.flow import LabFlow, next_nonce, open_flow
from nfagent.lab.probes.listeners import ProbeProtocol
from nfagent.lab.topology import netns

_INTERVAL = 0.001
# How long a probe waits for its answer: far above a lab's round trip, far below a SYN's first retransmission.
_PATIENCE = patient(0.25)


def watch_change(
    source: str,
    destination: str,
    protocol: ProbeProtocol,
    port: int,
    *,
    want: bool,
    deadline: float,
    live: bool = False,
) -> float | None:
    """Send a probe about every millisecond until the verdict is the wanted one.

    source: network namespace
    want:   True waits until probes are answered, False until they no longer are
    live:   False makes each probe a new connection; True sends all on one connection (not SCTP), to detect the end of
            a live one; a TCP connection that was cut off is answered again only with its next retransmission
    Returns time.monotonic() just after the first packet with the wanted verdict was sent, None where there was none
    within `deadline` seconds. The destination's server must listen already; call this from a thread of its own.
    Raises UsageError, KernelError for a source that doesn't exist.
    """
    if live and protocol == "sctp":
        raise UsageError("SCTP probes are INIT packets only: probe a live connection by tcp, udp or icmp")
    make = functools.partial(open_flow, protocol, destination, port)
    return netns.inside(source, functools.partial(_watch, make, want=want, deadline=deadline, live=live))


def _watch(make: functools.partial[LabFlow], *, want: bool, deadline: float, live: bool) -> float | None:
    with select.epoll() as epoll:
        stream = _ProbeStream(epoll, make, live=live)
        try:
            end = time.monotonic() + deadline
            while (now := time.monotonic()) < end:
                stream.send(now)
                answered = stream.read_until(now + _INTERVAL)
                if want and answered is not None:
                    return answered
                unanswered = stream.unanswered_since()
                if not want and unanswered is not None and time.monotonic() - unanswered > _PATIENCE:
                    return unanswered
            return None
        finally:
            stream.close()


class _ProbeStream:
    """The probes without an answer so far, and when each was sent."""

    def __init__(self, epoll: select.epoll, make: functools.partial[LabFlow], *, live: bool) -> None:
        self._epoll = epoll
        self._make = make
        self._live = live
        self._flows: dict[int, LabFlow] = {}
        self._ages: collections.deque[tuple[float, int]] = collections.deque()
        self._sent: dict[int, float] = {}

    def send(self, now: float) -> None:
        """Send one probe; one that the kernel refuses to send stays without an answer."""
        while self._ages and not self._live and self._ages[0][0] < now - _PATIENCE:
            self._end(self._ages.popleft()[1])
        nonce = next_nonce()
        try:
            fresh = None if self._live and self._flows else self._make()
            flow = fresh or next(iter(self._flows.values()))
            if fresh is not None:
                self._flows[flow.sock.fileno()] = flow
                self._ages.append((now, flow.sock.fileno()))
            flow.send(nonce)
            if fresh is not None:
                self._epoll.register(flow.sock.fileno(), flow.events)
        except OSError:
            pass
        # The rules have seen the packet by now: a lab's veth links deliver it within the call.
        self._sent[nonce] = time.monotonic()

    def read_until(self, until: float) -> float | None:
        """Read answers until a time; return when the first of the answered packets was sent."""
        first: float | None = None
        while (left := until - time.monotonic()) > 0:
            for descriptor, _mask in self._epoll.poll(left):
                for nonce in self._answers(descriptor):
                    sent = self._answered(nonce)
                    if sent is not None:
                        first = sent if first is None else min(first, sent)
        return first

    def unanswered_since(self) -> float | None:
        """Return when the first of the trailing unanswered packets was sent."""
        return next(iter(self._sent.values()), None)

    def close(self) -> None:
        """Close all flows."""
        for flow in self._flows.values():
            flow.close()

    def _answers(self, descriptor: int) -> list[int]:
        try:
            return list(self._flows[descriptor].answers())
        except OSError:
            # Refused: no answer will come.
            self._epoll.unregister(descriptor)
            return []

    def _answered(self, nonce: int) -> float | None:
        sent = self._sent.get(nonce)
        if sent is not None:
            for earlier in [number for number in self._sent if number <= nonce]:
                del self._sent[earlier]
        return sent

    def _end(self, descriptor: int) -> None:
        self._flows.pop(descriptor).close()
