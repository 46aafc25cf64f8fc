"""Connections of the lab that live through many steps: opened once, and probed after each change.

TCP and UDP: a connection answers for as long as packets of both ways pass.
"""

from __future__ import annotations

import contextlib
import functools
import select
import time
from collections.abc import Callable, Iterable

from nfagent.errors import KernelError
from nfagent.lab.probes.flow import LabFlow, next_nonce, open_flow
from nfagent.lab.probes.listeners import ProbeProtocol
from nfagent.lab.topology import netns
from nfagent.policy.evaluator import Flow

_QUIET_SECONDS = 0.02


class LongLivedConnections:
    """The open connections."""

    def __init__(self, namespace_of: Callable[[str], str], wait_idle: Callable[[], None]) -> None:
        """Start without connections.

        namespace_of: returns the network namespace of an address
        wait_idle:    returns when the servers have answered what has arrived
        """
        self._namespace_of = namespace_of
        self._wait_idle = wait_idle
        self._connections: dict[Flow, LabFlow] = {}

    @property
    def flows(self) -> tuple[Flow, ...]:
        """Flows of the open connections, the oldest first."""
        return tuple(self._connections)

    def make(self, flows: Iterable[Flow], deadline: float) -> None:
        """Open connections; those that aren't answered in time are closed."""
        made = {
            flow: opened for flow in flows if flow not in self._connections and (opened := self._open(flow)) is not None
        }
        self._connections |= made
        self.drop(made.keys() - self.answered(made, deadline))

    def answered(self, flows: Iterable[Flow], deadline: float) -> set[Flow]:
        """Send on each of these; return those that answered within so many seconds, and while answers go on coming."""
        waiting = {self._connections[flow].sock.fileno(): (flow, next_nonce()) for flow in flows}
        answered: set[Flow] = set()
        with select.epoll() as epoll:
            for number, (flow, nonce) in waiting.items():
                epoll.register(number, self._connections[flow].events)
                # An immediate error counts as no answer.
                with contextlib.suppress(OSError):
                    self._connections[flow].send(nonce)
            end, came = time.monotonic() + deadline, True
            while len(answered) < len(waiting) and came:
                left = end - time.monotonic()
                if left <= 0:
                    # On a busy machine, answers wait for the servers' thread or for this one.
                    self._wait_idle()
                events = epoll.poll(max(left, _QUIET_SECONDS))
                came = bool(events) or left > 0
                for number, _mask in events:
                    flow, nonce = waiting[number]
                    with contextlib.suppress(OSError):
                        answered |= {flow} if nonce in self._connections[flow].answers() else set()
        return answered

    def drop(self, flows: Iterable[Flow]) -> None:
        """Close connections."""
        for flow in list(flows):
            self._connections.pop(flow).close()

    def close(self) -> None:
        """Close all connections."""
        self.drop(self._connections)

    def _open(self, flow: Flow) -> LabFlow | None:
        where = self._namespace_of(flow.source)
        protocol: ProbeProtocol = "tcp" if flow.protocol == "tcp" else "udp"
        try:
            return netns.inside(where, functools.partial(open_flow, protocol, flow.destination, flow.port or 0))
        except OSError as error:
            raise KernelError(f"no socket in {where} for {flow}: {error.strerror}") from error
