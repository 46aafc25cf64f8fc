"""Telling systemd how we are: the datagram protocol of sd_notify(3)."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from typing import Protocol

log = logging.getLogger(__name__)
PATIENCE_SECONDS = 45.0
"""How long kubelet is kept waiting for a cluster that can't be read: less than the unit's TimeoutStartSec."""


class Clock(Protocol):
    """What time is."""

    async def wait(self, event: asyncio.Event, seconds: float) -> bool:
        """Wait for an event; tell whether it came in time."""
        ...


def notify(state: str) -> bool:
    """Send a state, `READY=1`; tell whether somebody listens (NOTIFY_SOCKET) and took it."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return False
    target = "\0" + address[1:] if address.startswith("@") else address
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as opened:
            opened.sendto(state.encode(), target)
    except OSError:
        return False
    return True


async def let_the_node_start(gathered: asyncio.Event, clock: Clock) -> None:
    """Call the agent ready where the cluster can't be read for long: the API server may be one of this node's Pods."""
    if not await clock.wait(gathered, PATIENCE_SECONDS):
        log.warning("still waiting to read the cluster; the rules of before stay in force, and none are written")
        notify("READY=1\nSTATUS=waiting to read the cluster; the rules of before stay in force")
