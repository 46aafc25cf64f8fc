"""Notifications of rtnetlink: that something changed, not what. The reader lists what it needs again."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
from collections.abc import Callable
from typing import NoReturn

from nfagent.errors import KernelError
from nfagent.kernel.sockets import DATAGRAM_BYTES, netlink_socket, watch
from nfagent.netlink.rtnl_link import NETLINK_ROUTE
from nfagent.system.problem_log import log_problem

log = logging.getLogger(__name__)

# linux/rtnetlink.h: RTNLGRP_LINK, _IPV4_IFADDR, _IPV4_ROUTE, _IPV4_RULE, _IPV6_IFADDR, _IPV6_ROUTE, _IPV6_RULE
LINKS = 1 << 0
ADDRESSES = 1 << 4 | 1 << 8
ROUTES = 1 << 6 | 1 << 10
RULES = 1 << 7 | 1 << 18
_EVENT_BUFFER = 32 * 1024
_DRAINED = 256
_PAUSE_SECONDS = 0.5
_RETRY_SECONDS = 5.0


def event_socket(groups: int) -> socket.socket:
    """Open a socket for the notifications of groups. Raises KernelError."""
    try:
        opened = netlink_socket(NETLINK_ROUTE)
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _EVENT_BUFFER)
        opened.bind((0, groups))
    except OSError as error:
        raise _unsubscribed(error) from error
    return opened


def drain(events: socket.socket) -> None:
    """Discard queued notifications: each one, and an overrun, means that something changed. Raises KernelError."""
    for _ in range(_DRAINED):
        try:
            events.recv(DATAGRAM_BYTES)
        except BlockingIOError:
            return
        except OSError as error:
            if error.errno != errno.ENOBUFS:
                raise _unsubscribed(error) from error


async def wait(events: socket.socket, woken: asyncio.Event, watched: Callable[[], None] = lambda: None) -> None:
    """Wait for a notification, or until the event is set by another task; clear it.

    watched: called when the socket is watched
    Raises KernelError where no further one can be watched.
    """
    loop = asyncio.get_running_loop()
    watch(loop, events, woken.set)
    watched()
    try:
        await woken.wait()
    finally:
        loop.remove_reader(events)
        woken.clear()


class RouteEvents:
    """Follows the notifications of groups.

    problem: why they can't be received, '' while they are
    """

    def __init__(self, groups: int, changed: Callable[[], None]) -> None:
        """Store the arguments; `run` subscribes. changed: called after notifications, twice a second at most."""
        self.problem = ""
        self._groups = groups
        self._changed = changed

    async def run(self) -> None:
        """Follow until cancelled. A failure is logged once."""
        while True:
            try:
                with event_socket(self._groups) as events:
                    await self._follow(events)
            except KernelError as error:
                self._set_problem(str(error))
                await asyncio.sleep(_RETRY_SECONDS)

    async def _follow(self, events: socket.socket) -> NoReturn:
        woken = asyncio.Event()
        self._changed()  # what changed before the subscription
        while True:
            await wait(events, woken, lambda: self._set_problem(""))
            drain(events)
            self._changed()
            await asyncio.sleep(_PAUSE_SECONDS)

    def _set_problem(self, problem: str) -> None:
        self.problem = log_problem(log, self.problem, problem, "; retrying")


def _unsubscribed(error: OSError) -> KernelError:
    return KernelError(f"cannot subscribe to rtnetlink notifications: {os.strerror(error.errno or 0)}")
