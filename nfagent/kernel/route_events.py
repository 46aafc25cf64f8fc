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
from nfagent.kernel.sockets import DATAGRAM_BYTES, netlink_socket
from nfagent.netlink.rtnl_link import NETLINK_ROUTE

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


async def wait(events: socket.socket, woken: asyncio.Event) -> None:
    """Wait for a notification, or until the event is set by another task; clear it.

    Raises OSError where no further socket can be watched: fs.epoll.max_user_watches is used up.
    """
    loop = asyncio.get_running_loop()
    loop.add_reader(events, woken.set)
    try:
        await woken.wait()
    finally:
        loop.remove_reader(events)
        woken.clear()


async def follow(groups: int, changed: Callable[[], None]) -> None:
    """Call `changed` after notifications, twice a second at most, until cancelled. A failure is logged."""
    while True:
        try:
            with event_socket(groups) as events:
                await _follow(events, changed)
        except (KernelError, OSError) as error:
            log.warning("%s; retrying", error)
            await asyncio.sleep(_RETRY_SECONDS)


async def _follow(events: socket.socket, changed: Callable[[], None]) -> NoReturn:
    woken = asyncio.Event()
    changed()  # what changed before the subscription
    while True:
        await wait(events, woken)
        drain(events)
        changed()
        await asyncio.sleep(_PAUSE_SECONDS)


def _unsubscribed(error: OSError) -> KernelError:
    return KernelError(f"cannot subscribe to rtnetlink notifications: {os.strerror(error.errno or 0)}")
