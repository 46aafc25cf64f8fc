"""Follows this node's interfaces: which of them Pods are behind, and where its tunnels end.

The kernel says that interfaces or routes changed; what they are then is asked anew: all interfaces, and the route to
each of this node's Pods. Routes are never listed: a node that speaks BGP has a million. However often they change,
looking takes a twentieth of the time at most.
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
from nfagent.kernel.rtnetlink import listed_links, raise_refusal, rtnetlink_socket
from nfagent.kernel.sockets import DATAGRAM_BYTES, netlink_socket
from nfagent.model.netaddr import text
from nfagent.netlink import codec
from nfagent.netlink.rtnl_link import NETLINK_ROUTE
from nfagent.netlink.rtnl_route import RTM_NEWROUTE, Route, decode_route, encode_route_request
from nfagent.state.cluster import ClusterState

log = logging.getLogger(__name__)

_GROUPS = 1 << 0 | 1 << 6 | 1 << 10  # RTNLGRP_LINK, RTNLGRP_IPV4_ROUTE, RTNLGRP_IPV6_ROUTE: linux/rtnetlink.h
_DRAINED = 256
_TURN_SECONDS = 0.005
_PAUSE_SECONDS, _REST = 0.1, 20
"""After a look nobody looks for so long, or for so many times what it took."""
_RETRY_SECONDS = 5.0
_ANYWAY_SECONDS = 60.0
"""What nobody tells of (a rule of policy routing, for one) is found after this long."""
_EVENT_BUFFER = 32 * 1024
_OTHERS = 8
_WORLD = ("1.0.0.1", "203.0.113.1", "2001:4860::1", "2a00::1")
"""Addresses far away, in either half of each family; nothing is sent there."""
_NO_ROUTE = {
    errno.ENETUNREACH,
    errno.EHOSTUNREACH,
    errno.EINVAL,
    errno.EACCES,
    errno.ESRCH,
    errno.EAFNOSUPPORT,
    errno.EOPNOTSUPP,
}
"""What the kernel answers of an address that it would send nothing to."""


class LinkQuery(msgspec.Struct, frozen=True):
    """Addresses whose routes tell what the node's interfaces are for.

    pods:   of Pods of this node, and of the end of its Pod ranges
    beyond: of a few other Nodes, and of the world
    """

    pods: frozenset[str] = frozenset()
    beyond: frozenset[str] = frozenset(_WORLD)


def question_of(cluster: ClusterState) -> LinkQuery:
    """Give what is to be asked for, in a cluster as it is known."""
    pods = {address for pod in cluster.local.values() if pod.holds_addresses for address in pod.addresses}
    own = cluster.nodes.get(cluster.node)
    for item in own.pod_cidrs if own is not None else ():
        # The last address but one: no broadcast, and rarely a Pod's. A bridge shows so before it has Pods.
        pods.add(text(item.family, max(item.first, item.last - 1)))
    others = islice((node for node in cluster.nodes.values() if node.name != cluster.node), _OTHERS)
    # A virtual kubelet's Node has the address of a Pod: that leads to the Pod, and nowhere else.
    beyond = frozenset(_WORLD).union(*(node.addresses for node in others)) - pods
    return LinkQuery(frozenset(pods), beyond)


class LinkMonitor:
    """Keeps what is known of the node's interfaces; what can't be asked stays as it was known last.

    problem: why it can't be asked, or isn't told, '' where that isn't so
    """

    def __init__(self, ask: Callable[[], LinkQuery], changed: Callable[[NodeInterfaces], None]) -> None:
        """Start with nothing known.

        ask:     what is to be asked for now
        changed: called with what is known, whenever that has changed
        """
        self._ask = ask
        self._changed = changed
        self._woken = asyncio.Event()
        self._asked = LinkQuery(beyond=frozenset())
        self.links: NodeInterfaces | None = None
        self.problem = ""

    def look(self) -> None:
        """Look now, in one piece. What can't be asked is a line in the log."""
        with suppress(KernelError):
            for _ in self._steps():
                pass

    def pods_changed(self) -> None:
        """Say that Pods of this node, or its ranges, have changed; looks where others are to be asked for."""
        if self._ask() != self._asked:
            self._woken.set()

    async def run(self) -> None:
        """Follow until cancelled."""
        while True:
            try:
                with _event_socket() as events:
                    await self._follow(events)
            except KernelError as error:
                self._say(str(error))
                await asyncio.sleep(_RETRY_SECONDS)

    def status(self) -> dict[str, Any]:
        """Give what is known, for `dump state`."""
        known = self.links or NodeInterfaces()
        return {
            "pod_links": sorted(known.pod_links),
            "tunnels": [f"{port.port}/{port.protocol}" for port in sorted(known.tunnels)],
            "shared": [{"link": name, "why": why} for name, why in known.shared],
            "problem": self.problem,
        }

    async def _follow(self, events: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            _drain(events)
            began = time.monotonic()
            took = await self._look_in_turns()
            self._say("")
            await asyncio.sleep(max(_PAUSE_SECONDS, took * _REST))
            try:
                loop.add_reader(events, self._woken.set)
            except OSError as error:  # fs.epoll.max_user_watches is used up
                raise self._failed(os.strerror(error.errno or 0)) from error
            try:
                with suppress(TimeoutError):
                    # Not by `wait_for`, which Python 3.11 has swallow a cancellation now and then.
                    async with asyncio.timeout(began + _ANYWAY_SECONDS - time.monotonic()):
                        await self._woken.wait()
            finally:
                loop.remove_reader(events)
            self._woken.clear()

    async def _look_in_turns(self) -> float:
        """Look, and let others have their turn; give the seconds that it took itself."""
        took, turn = 0.0, time.monotonic()
        for _ in self._steps():
            spent = time.monotonic() - turn
            if spent > _TURN_SECONDS:
                took += spent
                await asyncio.sleep(0)
                turn = time.monotonic()
        return took + time.monotonic() - turn

    def _steps(self) -> Iterator[object]:
        """Look in steps. Raises KernelError, and has said so."""
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
            self._tell(found)

    def _tell(self, found: NodeInterfaces) -> None:
        before = self.links.shared if self.links is not None else ()
        for name, why in found.shared:
            if (name, why) not in before:
                log.warning("sources of Pods behind %s aren't held against the interface: %s", name, why)
        self.links = found
        self._changed(found)

    def _failed(self, reason: str) -> KernelError:
        error = KernelError(f"this node's interfaces can't be asked for, what was known stays: {reason}")
        self._say(str(error))
        return error

    def _say(self, problem: str) -> None:
        if problem and problem != self.problem:
            log.warning("%s", problem)
        elif self.problem and not problem:
            log.info("mended: this node's interfaces are known again")
        self.problem = problem


def _event_socket() -> socket.socket:
    """Open a socket that is told of changes. Raises KernelError."""
    try:
        opened = netlink_socket(NETLINK_ROUTE)
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _EVENT_BUFFER)
        opened.bind((0, _GROUPS))
    except OSError as error:
        raise _unheard(error) from error
    return opened


def _unheard(error: OSError) -> KernelError:
    return KernelError(f"changes of this node's interfaces aren't heard: {os.strerror(error.errno or 0)}")


def _drain(events: socket.socket) -> None:
    """Take out what was told: all of it means the same. What there was no room for means it too."""
    for _ in range(_DRAINED):
        try:
            events.recv(DATAGRAM_BYTES)
        except BlockingIOError:
            return
        except OSError as error:
            if error.errno != errno.ENOBUFS:
                raise _unheard(error) from error


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
