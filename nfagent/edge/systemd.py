"""Telling systemd how we are: the datagram protocol of sd_notify(3)."""

from __future__ import annotations

import os
import socket


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
