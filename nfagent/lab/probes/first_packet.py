"""Sends a probe every millisecond, to find the first packet that meets a changed verdict.

Run it in parallel with the change, and compare the times:

    with ThreadPoolExecutor() as pool:
        first = pool.submit(watch_change, source, "10.244.2.11", "udp", 53, want=False, deadline=5, servers=listeners)
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
from nfagent.lab.probes.listeners import Listeners, ProbeProtocol
from nfagent.lab.topology import netns

_INTERVAL = 0.001
# How long a probe waits for its answer: far above a lab's round trip, far below a SYN's first retransmission.
_PATIENCE = patient(0.25)
# Looks for a late answer, each after the servers have read what arrived: a handshake takes two.
_LATE_LOOKS = 3


def watch_change(
    source: str,
    destination: str,
    protocol: ProbeProtocol,
    port: int,
    *,
    want: bool,
    deadline: float,
    live: bool = False,
    servers: Listeners | None = None,
) -> float | None:
    """Send a probe about every millisecond until the verdict is the wanted one.

    source: network namespace
    want:   True waits until probes are answered, False until they no longer are
    live:   False makes each probe a new connection; True sends all on one connection (not SCTP), to detect the end of
            a live one; a TCP connection that was cut off is answered again only with its next retransmission
    servers: the destination's, where they are of this process: a packet counts as unanswered once they have read all
            that arrived. Without them, it does after a quarter of a second, for which a busy machine may stand still
    Returns time.monotonic() just after the first packet with the wanted verdict was sent, None where there was none
    within `deadline` seconds. The destination's server must listen already; call this from a thread of its own.
    Raises UsageError, KernelError for a source that doesn't exist.
    """
    if live and protocol == "sctp":
        raise UsageError("SCTP probes are INIT packets only: probe a live connection by tcp, udp or icmp")
    make = functools.partial(open_flow, protocol, destination, port)
    return netns.inside(source, functools.partial(_watch, make, servers, want=want, deadline=deadline, live=live))


def _watch(
    make: functools.partial[LabFlow], servers: Listeners | None, *, want: bool, deadline: float, live: bool
) -> float | None:
    with select.epoll() as epoll:
        stream = _ProbeStream(epoll, make, servers, live=live)
        try:
            end = time.monotonic() + deadline
            while (now := time.monotonic()) < end:
                stream.send(now)
                answered = stream.read_until(now + _INTERVAL)
                if want and answered is not None:
                    return answered
                if not want and (unanswered := stream.unanswered_since()) is not None:
                    return unanswered
                # After the read: where this thread stood still, answers wait to be read.
                stream.end_before(now - _PATIENCE)
            return None
        finally:
            stream.close()


class _ProbeStream:
    """The probes without an answer so far, and when each was sent."""

    def __init__(
        self, epoll: select.epoll, make: functools.partial[LabFlow], servers: Listeners | None, *, live: bool
    ) -> None:
        self._epoll = epoll
        self._make = make
        self._servers = servers
        self._live = live
        self._flows: dict[int, LabFlow] = {}
        self._ages: collections.deque[tuple[float, int]] = collections.deque()
        self._sent: dict[int, float] = {}

    def send(self, now: float) -> None:
        """Send one probe; one that the kernel refuses to send stays without an answer."""
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
        """Read answers until a time, and once where it has passed; return when the first answered packet was sent."""
        answered: list[float] = []
        left = until - time.monotonic()
        while True:
            for descriptor, _mask in self._epoll.poll(max(left, 0.0)):
                nonces = self._answers(descriptor)
                answered += [sent for nonce in nonces if (sent := self._answered(nonce)) is not None]
            left = until - time.monotonic()
            if left <= 0.0:
                return min(answered, default=None)

    def unanswered_since(self) -> float | None:
        """Return when the first of the trailing unanswered packets was sent; None where an answer may still come."""
        since = self._unanswered
        if since is None or time.monotonic() - since <= _PATIENCE:
            return None
        # This thread, or that of the servers, may have stood still: then answers wait to be sent or read.
        for _look in range(_LATE_LOOKS):
            if self._servers is not None:
                self._servers.wait_idle()
            self.read_until(time.monotonic() + _INTERVAL)
            if self._unanswered != since:
                return None
        return since

    def end_before(self, sent: float) -> None:
        """Close the connections, but a live one, that were opened before a time."""
        while self._ages and not self._live and self._ages[0][0] < sent:
            self._flows.pop(self._ages.popleft()[1]).close()

    def close(self) -> None:
        """Close all flows."""
        for flow in self._flows.values():
            flow.close()

    @property
    def _unanswered(self) -> float | None:
        return next(iter(self._sent.values()), None)

    def _answers(self, descriptor: int) -> list[int]:
        flow = self._flows[descriptor]
        try:
            answered = list(flow.answers())
            if self._live or not flow.repeats:
                return answered
        except OSError:
            pass
        # Refused; or its SYN was sent again: what that one met is later than the time of the first.
        self._epoll.unregister(descriptor)
        return []

    def _answered(self, nonce: int) -> float | None:
        sent = self._sent.get(nonce)
        if sent is not None:
            for earlier in [number for number in self._sent if number <= nonce]:
                del self._sent[earlier]
        return sent
