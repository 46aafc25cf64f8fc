"""Follows this node's interfaces: which of them lead to Pods, and which are tunnels.

The kernel notifies of changed interfaces and routes. After a notification, all interfaces are listed, and the route to
each Pod of this node is looked up. Routes are never listed: a BGP node has a million. However often they change,
reading takes a twentieth of the time at most.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import suppress
from itertools import islice
from typing import Any

import msgspec

from nfagent.desired.node_interfaces import NodeInterfaces
from nfagent.desired.pod_interfaces import node_links
from nfagent.errors import KernelError, WireError
from nfagent.kernel import route_events
from nfagent.kernel.rtnetlink import listed_links, raise_refusal, rtnetlink_socket
from nfagent.kernel.sockets import DATAGRAM_BYTES
from nfagent.model.netaddr import text
from nfagent.netlink import codec
from nfagent.netlink.rtnl_route import RTM_NEWROUTE, Route, decode_route, encode_route_request
from nfagent.state.cluster import ClusterState

log = logging.getLogger(__name__)

_SLICE_SECONDS = 0.005
_PAUSE_SECONDS, _REST = 0.1, 20
"""The pause after reading: so many seconds, or so many times the duration of reading, the longer of both."""
_RETRY_SECONDS = 5.0
_RESYNC_SECONDS = 60.0
"""Changes without a notification (policy routing rules, for one) are found after so long."""
_OTHER_NODES = 8
_INTERNET = ("1.0.0.1", "203.0.113.1", "2001:4860::1", "2a00::1")
"""Remote addresses, one in either half of each family's range; nothing is sent to them."""
_NO_ROUTE = {
    errno.ENETUNREACH,
    errno.EHOSTUNREACH,
    errno.EINVAL,
    errno.EACCES,
    errno.ESRCH,
    errno.EAFNOSUPPORT,
    errno.EOPNOTSUPP,
}
"""Errors of a route look-up for an address without a usable route."""


class LinkQuery(msgspec.Struct, frozen=True):
    """Addresses whose routes show the purpose of the node's interfaces.

    pods:   addresses of Pods of this node, and the end of its Pod ranges
    beyond: addresses of a few other Nodes, and of the internet
    """

    pods: frozenset[str] = frozenset()
    beyond: frozenset[str] = frozenset(_INTERNET)


def link_query(cluster: ClusterState) -> LinkQuery:
    """Return the addresses to look up, for the current cluster state."""
    pods = {address for pod in cluster.local.values() if pod.holds_addresses for address in pod.addresses}
    own = cluster.nodes.get(cluster.node)
    for item in own.pod_cidrs if own is not None else ():
        # The last address but one: no broadcast, and rarely a Pod's. It finds a bridge before the first Pod.
        pods.add(text(item.family, max(item.first, item.last - 1)))
    others = islice((node for node in cluster.nodes.values() if node.name != cluster.node), _OTHER_NODES)
    # The Node of a virtual kubelet has the address of its Pod: its route leads to the Pod only.
    beyond = frozenset(_INTERNET).union(*(node.addresses for node in others)) - pods
    return LinkQuery(frozenset(pods), beyond)


class LinkMonitor:
    """Keeps the last known state of the node's interfaces, also while it can't be read.

    links:   the last known interfaces, None before the first reading
    problem: why they can't be read or followed, '' without a problem
    """

    def __init__(self, ask: Callable[[], LinkQuery], changed: Callable[[NodeInterfaces], None]) -> None:
        """Store the arguments; `refresh` and `run` read the interfaces.

        ask:     returns the addresses to look up
        changed: called with the new state, after it changed
        """
        self._ask = ask
        self._changed = changed
        self._woken = asyncio.Event()
        self._asked = LinkQuery(beyond=frozenset())
        self.links: NodeInterfaces | None = None
        self.problem = ""

    def refresh(self) -> None:
        """Read now, without a turn for the event loop. A failure is logged."""
        with suppress(KernelError):
            for _ in self._steps():
                pass

    @property
    def is_outdated(self) -> bool:
        """Return whether Pods of this node, its ranges, or Nodes changed the addresses to look up since the reading."""
        return self._ask() != self._asked

    def pods_changed(self) -> None:
        """Read soon where there are other addresses to look up."""
        if self.is_outdated:
            self._woken.set()

    async def run(self) -> None:
        """Follow changes until cancelled."""
        while True:
            try:
                with route_events.event_socket(route_events.LINKS | route_events.ROUTES) as events:
                    await self._follow(events)
            except KernelError as error:
                self._set_problem(str(error))
                await asyncio.sleep(_RETRY_SECONDS)

    def status(self) -> dict[str, Any]:
        """Return the last known state, for `dump state`."""
        known = self.links or NodeInterfaces()
        return {
            "pod_links": sorted(known.pod_links),
            "tunnels": [f"{port.port}/{port.protocol}" for port in sorted(known.tunnels)],
            "shared": [{"link": name, "why": why} for name, why in known.shared],
            "outdated": self.is_outdated,
            "problem": self.problem,
        }

    async def _follow(self, events: socket.socket) -> None:
        while True:
            route_events.drain(events)
            began = time.monotonic()
            took = await self._refresh_in_slices()
            await asyncio.sleep(max(_PAUSE_SECONDS, took * _REST))
            with suppress(TimeoutError):
                # Not by `wait_for`: in Python 3.11 it may swallow a cancellation.
                async with asyncio.timeout(began + _RESYNC_SECONDS - time.monotonic()):
                    await route_events.wait(events, self._woken, lambda: self._set_problem(""))

    async def _refresh_in_slices(self) -> float:
        """Read in slices of the event loop's time; return the seconds of all slices."""
        took, began = 0.0, time.monotonic()
        for _ in self._steps():
            spent = time.monotonic() - began
            if spent > _SLICE_SECONDS:
                took += spent
                await asyncio.sleep(0)
                began = time.monotonic()
        return took + time.monotonic() - began

    def _steps(self) -> Iterator[object]:
        """Read in steps. Raises KernelError, which is logged."""
        try:
            asked = self._ask()
            with rtnetlink_socket() as opened:
                links = yield from listed_links(opened)
                pods = yield from _routes(opened, asked.pods)
                beyond = yield from _routes(opened, asked.beyond)
            found = node_links(links, pods, beyond)
        except WireError as error:
            raise self._failed(str(error)) from None
        except OSError as error:
            raise self._failed(os.strerror(error.errno or 0)) from error
        self._asked = asked
        if found != self.links:
            self._publish(found)

    def _publish(self, found: NodeInterfaces) -> None:
        before = self.links.shared if self.links is not None else ()
        for name, why in found.shared:
            if (name, why) not in before:
                log.warning("source addresses are not checked on interface %s: %s", name, why)
        self.links = found
        self._changed(found)

    def _failed(self, reason: str) -> KernelError:
        error = KernelError(f"cannot read interfaces and routes: {reason}; keeping the last known state")
        self._set_problem(str(error))
        return error

    def _set_problem(self, problem: str) -> None:
        if problem and problem != self.problem:
            log.warning("%s", problem)
        elif self.problem and not problem:
            log.info("resolved: interfaces and routes are read again")
        self.problem = problem


def _routes(opened: socket.socket, addresses: Iterable[str]) -> Generator[None, None, list[Route | None]]:
    found: list[Route | None] = []
    for sequence, address in enumerate(sorted(addresses), 1):
        opened.send(encode_route_request(sequence, address))
        for part in codec.messages(opened.recv(DATAGRAM_BYTES)):
            if part.type == codec.NLMSG_ERROR and codec.ack_errno(part) in _NO_ROUTE:
                continue
            raise_refusal(part)
            if part.type == RTM_NEWROUTE:
                found.append(decode_route(part))
        yield
    return found
