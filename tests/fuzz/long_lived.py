"""Connections of the lab that live through many steps: made once, and asked again after each change.

TCP and UDP: a connection answers for as long as packets of both ways pass.
"""

from __future__ import annotations

import contextlib
import functools
import select
import time
from collections.abc import Callable, Iterable

from nfagent.errors import KernelError
from nfagent.lab import netns
from nfagent.lab.flow import LabFlow as Line
from nfagent.lab.flow import next_nonce, open_flow
from nfagent.lab.listeners import Protocol
from nfagent.policy.evaluator import Flow


class Standing:
    """The connections that live."""

    def __init__(self, namespace_of: Callable[[str], str]) -> None:
        """Begin without any; `namespace_of` gives the network namespace that an address is in."""
        self._namespace_of = namespace_of
        self._lines: dict[Flow, Line] = {}

    @property
    def flows(self) -> tuple[Flow, ...]:
        """Those that live, the oldest first."""
        return tuple(self._lines)

    def make(self, flows: Iterable[Flow], deadline: float) -> None:
        """Make connections; those that aren't answered in time are none."""
        made = {flow: line for flow in flows if flow not in self._lines and (line := self._open(flow)) is not None}
        self._lines |= made
        self.drop(made.keys() - self.answered(made, deadline))

    def answered(self, flows: Iterable[Flow], deadline: float) -> set[Flow]:
        """Send something on each of these; give those that answered within so many seconds."""
        waiting = {self._lines[flow].sock.fileno(): (flow, next_nonce()) for flow in flows}
        answered: set[Flow] = set()
        with select.epoll() as epoll:
            for number, (flow, nonce) in waiting.items():
                epoll.register(number, self._lines[flow].events)
                # Refused at once: the answer that doesn't come says so.
                with contextlib.suppress(OSError):
                    self._lines[flow].send(nonce)
            end = time.monotonic() + deadline
            while len(answered) < len(waiting) and (left := end - time.monotonic()) > 0:
                for number, _mask in epoll.poll(left):
                    flow, nonce = waiting[number]
                    with contextlib.suppress(OSError):
                        answered |= {flow} if nonce in self._lines[flow].answers() else set()
        return answered

    def drop(self, flows: Iterable[Flow]) -> None:
        """End connections."""
        for flow in list(flows):
            self._lines.pop(flow).close()

    def close(self) -> None:
        """End them all."""
        self.drop(self._lines)

    def _open(self, flow: Flow) -> Line | None:
        where = self._namespace_of(flow.source)
        protocol: Protocol = "tcp" if flow.protocol == "tcp" else "udp"
        try:
            return netns.inside(where, functools.partial(open_flow, protocol, flow.destination, flow.port or 0))
        except OSError as error:
            raise KernelError(f"no socket in {where} for {flow}: {error.strerror}") from error
