"""Netlink sockets of the kernel's netfilter subsystems, opened in the calling thread's network namespace."""

from __future__ import annotations

import errno
import os
import socket

from nfagent.errors import HostError, KernelError
from nfagent.netlink.codec import NETLINK_NETFILTER

_SOL_NETLINK = 270
_NETLINK_CAP_ACK = 10
_NETLINK_EXT_ACK = 11
_SO_SNDBUFFORCE = 32
_SO_RCVBUFFORCE = 33

AS_ROOT = "run nfagent with sudo, or as its service"
"""The hint of errors for a process without CAP_NET_ADMIN."""


def netfilter_socket(*, blocking: bool) -> socket.socket:
    """Open a socket that nothing is set on. Raises MachineError without nfnetlink, KernelError otherwise."""
    kind = socket.SOCK_RAW | (0 if blocking else socket.SOCK_NONBLOCK)
    try:
        return socket.socket(socket.AF_NETLINK, kind, NETLINK_NETFILTER)
    except OSError as error:
        if error.errno in {errno.EPROTONOSUPPORT, errno.EAFNOSUPPORT}:
            raise HostError("this kernel has no nfnetlink", hint="modprobe nfnetlink") from error
        raise KernelError(f"no netlink socket: {os.strerror(error.errno or 0)}") from error


def asking_socket(needs_root: str, *, blocking: bool, send_buffer: int, receive_buffer: int) -> socket.socket:
    """Open a socket that talks to the kernel alone, whose refusals say what was wrong, and where.

    needs_root: what to say where the process may not
    send_buffer, receive_buffer: half the bytes that the kernel may hold (it doubles them); nothing is reserved
    Raises MachineError where this machine stands in the way, KernelError otherwise.
    """
    opened = netfilter_socket(blocking=blocking)
    try:
        opened.connect((0, 0))
        opened.setsockopt(_SOL_NETLINK, _NETLINK_EXT_ACK, 1)
        opened.setsockopt(_SOL_NETLINK, _NETLINK_CAP_ACK, 1)
        opened.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, send_buffer)
        opened.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, receive_buffer)
    except PermissionError as error:
        opened.close()
        raise HostError(needs_root, hint=AS_ROOT) from error
    except OSError as error:
        opened.close()
        raise KernelError(f"the netlink socket can't be set up: {os.strerror(error.errno or 0)}") from error
    return opened
