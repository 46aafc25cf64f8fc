"""Netlink sockets, opened in the network namespace of the calling thread."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from nfagent.errors import HostError, KernelError
from nfagent.netlink.codec import NETLINK_NETFILTER, NLMSG_DONE, NLMSG_ERROR, Message, messages

DATAGRAM_BYTES = 65_536
"""More than the kernel puts into one netlink datagram; NFLOG alone has larger ones."""
SOL_NETLINK = 270
SO_RCVBUFFORCE = 33
SO_SNDBUFFORCE = 32
_NETLINK_CAP_ACK = 10
_NETLINK_EXT_ACK = 11


def netlink_socket(protocol: int, *, blocking: bool = False) -> socket.socket:
    """Open a netlink socket of a protocol (NETLINK_*), without options. Raises OSError."""
    return socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | (0 if blocking else socket.SOCK_NONBLOCK), protocol)


NEEDS_ROOT = "nf_tables needs root (CAP_NET_ADMIN)"
AS_ROOT = "run nfagent with sudo, or as its service"
"""The hint of errors for a process without CAP_NET_ADMIN."""


def netfilter_socket(*, blocking: bool) -> socket.socket:
    """Open a socket of NETLINK_NETFILTER. Raises HostError without nfnetlink, KernelError otherwise."""
    try:
        return netlink_socket(NETLINK_NETFILTER, blocking=blocking)
    except OSError as error:
        if error.errno in {errno.EPROTONOSUPPORT, errno.EAFNOSUPPORT}:
            raise HostError("this kernel has no nfnetlink", hint="modprobe nfnetlink") from error
        raise KernelError(f"cannot open a netlink socket: {os.strerror(error.errno or 0)}") from error


def event_socket(receive_buffer: int, *, needs_root: str, failure: str) -> socket.socket:
    """Open a non-blocking socket of NETLINK_NETFILTER that receives what the kernel sends by itself.

    receive_buffer: half the bytes that the kernel may hold (it doubles them)
    needs_root, failure: messages of the HostError without CAP_NET_ADMIN, and of the KernelError otherwise
    """
    opened = netfilter_socket(blocking=False)
    with _closed_after_errors(opened, needs_root, failure):
        opened.bind((0, 0))
        opened.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, receive_buffer)
    return opened


def request_socket(needs_root: str, *, blocking: bool, send_buffer: int, receive_buffer: int) -> socket.socket:
    """Open a socket of NETLINK_NETFILTER connected to the kernel, with extended acknowledgements.

    needs_root: message of the HostError where the process lacks CAP_NET_ADMIN
    send_buffer, receive_buffer: half the bytes that the kernel may hold (it doubles them); no memory is reserved
    Raises HostError for what an administrator must change, KernelError otherwise.
    """
    opened = netfilter_socket(blocking=blocking)
    with _closed_after_errors(opened, needs_root, "cannot set up a netlink socket"):
        opened.connect((0, 0))
        opened.setsockopt(SOL_NETLINK, _NETLINK_EXT_ACK, 1)
        opened.setsockopt(SOL_NETLINK, _NETLINK_CAP_ACK, 1)
        opened.setsockopt(socket.SOL_SOCKET, SO_SNDBUFFORCE, send_buffer)
        opened.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, receive_buffer)
    return opened


def watch(loop: asyncio.AbstractEventLoop, opened: socket.socket, readable: Callable[..., None], *args: object) -> None:
    """Have the event loop call a function while a socket is readable.

    Raises KernelError where no further one can be watched: fs.epoll.max_user_watches is used up.
    """
    try:
        loop.add_reader(opened, readable, *args)
    except OSError as error:
        limit = "; see fs.epoll.max_user_watches" if error.errno == errno.ENOSPC else ""
        raise KernelError(f"cannot watch a netlink socket: {os.strerror(error.errno or 0)}{limit}") from error


@contextmanager
def _closed_after_errors(opened: socket.socket, needs_root: str, failure: str) -> Iterator[None]:
    """Close a socket that can't be set up. Raises HostError without CAP_NET_ADMIN, KernelError otherwise."""
    try:
        yield
    except PermissionError as error:
        opened.close()
        raise HostError(needs_root, hint=AS_ROOT) from error
    except OSError as error:
        opened.close()
        raise KernelError(f"{failure}: {os.strerror(error.errno or 0)}") from error


def discard_received(opened: socket.socket) -> None:
    """Discard what a non-blocking socket has received, such as the rest of a listing that was broken off."""
    with suppress(BlockingIOError):
        while True:
            opened.recv(DATAGRAM_BYTES)


def ask(opened: socket.socket, request: bytes, sequence: int) -> Message | None:
    """Send a request to a subsystem that replies within `send`, and return the reply; None without one.

    Raises OSError, WireError.
    """
    discard_received(opened)
    opened.send(request)
    return next((reply for reply in messages(opened.recv(DATAGRAM_BYTES)) if reply.sequence == sequence), None)


def dump_replies(opened: socket.socket, sequence: int) -> Iterator[Message]:
    """Yield the messages of the reply to a dump request; the last one is NLMSG_DONE or NLMSG_ERROR.

    The kernel queues the next datagram while this one is received. Raises OSError, WireError.
    """
    while True:
        datagram = opened.recv(DATAGRAM_BYTES)
        if not datagram:
            raise end_of_file()
        for reply in messages(datagram):
            if reply.sequence != sequence:
                continue
            yield reply
            if reply.type in {NLMSG_DONE, NLMSG_ERROR}:
                return


def end_of_file() -> OSError:
    """Return the error for a socket from which nothing can be received any more."""
    return OSError(errno.ECONNABORTED, "end of file on the socket")
