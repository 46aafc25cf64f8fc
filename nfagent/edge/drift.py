"""Hears when somebody else changes the table: the kernel's notifications, without those of our own commits.

The kernel leaves out what this process's own netlink sockets committed (a socket filter), so changes of ours cost
nothing here. Every other commit in this network namespace is looked at, by its bytes: 0.1 to 0.3 ms of CPU for a
thousand elements.
"""

from __future__ import annotations

import asyncio
import ctypes
import errno
import logging
import os
import socket
import struct
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from nfagent.edge.netfilter import NEEDS_ROOT
from nfagent.edge.sockets import netfilter_socket
from nfagent.errors import KernelError, MachineError, WireError
from nfagent.wire.netlink import NETLINK_NETFILTER
from nfagent.wire.notifications import NFNLGRP_NFTABLES, Committer, decode_committer, names_table

log = logging.getLogger(__name__)

_SOL_NETLINK = 270
_NETLINK_ADD_MEMBERSHIP = 1
_SO_ATTACH_FILTER = 26
_SO_RCVBUFFORCE = 33
_DATAGRAM = 65536  # more than the kernel puts into one
_BATCH = 64  # datagrams after which a wake-up ends: below a millisecond
_OPEN_FILES = Path("/proc/self/fd")

_INSTRUCTION = struct.Struct("=HBBI")  # struct sock_filter: code, jump if true, jump if false, operand
_PROGRAM = struct.Struct("@HP")  # struct sock_fprog: number of instructions, where they stand
_LOAD_WORD, _JUMP_IF_EQUAL, _RETURN = 0x20, 0x15, 0x06  # BPF_LD|BPF_W|BPF_ABS, BPF_JMP|BPF_JEQ|BPF_K, BPF_RET|BPF_K
_PORT_OFFSET = 12  # nlmsghdr.nlmsg_pid: the port id of the socket whose request this tells of
_MOST_PORTS = 254  # a jump reaches 255 instructions

OnChange = Callable[[Committer], None]


class DriftWatch:
    """The notifications of the network namespace in which `open` is called, as far as they name our table.

    receive_buffer: half the bytes that the kernel may hold for us; where a commit's notifications are more, we are told
                    that something was lost, and take it for a change of our table
    """

    def __init__(self, *, receive_buffer: int = 4 * 1024 * 1024) -> None:
        """Open nothing yet."""
        self._receive_buffer = receive_buffer
        self._socket: socket.socket | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._named = False  # by a transaction whose end, and with it the committer, is still to come

    def open(self, changed: OnChange) -> None:
        """From now on call back, on the running event loop, after every commit of others that names our table.

        Where notifications were lost, the callback is told of nobody. Raises MachineError without the right to listen,
        KernelError otherwise.
        """
        opened = netfilter_socket(blocking=False)
        try:
            opened.bind((0, 0))
            opened.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, self._receive_buffer)
            self._socket = opened
            self.leave_out_own()
            opened.setsockopt(_SOL_NETLINK, _NETLINK_ADD_MEMBERSHIP, NFNLGRP_NFTABLES)
        except OSError as error:
            self._socket = None
            opened.close()
            if error.errno == errno.EPERM:
                raise MachineError(NEEDS_ROOT) from error
            raise KernelError(f"nf_tables' notifications can't be heard: {os.strerror(error.errno or 0)}") from error
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(opened, self._read, opened, changed)

    def close(self) -> None:
        """Hear no more. Closing twice is harmless."""
        opened, self._socket = self._socket, None
        if opened is not None and self._loop is not None:
            self._loop.remove_reader(opened)
            opened.close()

    def leave_out_own(self) -> None:
        """Have the kernel leave out what the sockets commit that this process has open now; any thread may ask.

        To be called before the first commit of a socket that is opened later.
        """
        opened = self._socket
        if opened is not None:
            _attach(opened, _leaving_out(own_ports()))

    def _read(self, opened: socket.socket, changed: OnChange) -> None:
        for _ in range(_BATCH):
            try:
                datagram = opened.recv(_DATAGRAM)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                self._named = False
                changed(Committer())
                continue
            self._take(datagram, changed)

    def _take(self, datagram: bytes, changed: OnChange) -> None:
        self._named = self._named or names_table(datagram)
        try:
            committer = decode_committer(datagram)
        except WireError as error:
            log.debug("a notification of nf_tables can't be read: %s", error)
            committer = Committer()
        if committer is not None:
            named, self._named = self._named, False
            if named:
                changed(committer)


def own_ports() -> set[int]:
    """Give the port ids of this process's nfnetlink sockets, those that libraries opened too."""
    return set(_own_ports())


def _own_ports() -> Iterator[int]:
    for entry in _OPEN_FILES.iterdir():
        try:
            found = socket.socket(fileno=int(entry.name))
        except OSError:
            continue  # it is no socket, or was closed meanwhile
        try:
            if (found.family, found.proto) == (socket.AF_NETLINK, NETLINK_NETFILTER):
                yield found.getsockname()[0]
        except OSError:
            continue
        finally:
            found.detach()  # it is somebody else's to close


def _leaving_out(ports: Iterable[int]) -> bytes:
    """Write the filter: nothing of a datagram whose first message has one of these ports, all of any other."""
    ports = sorted(ports)[:_MOST_PORTS]
    program = [(_LOAD_WORD, 0, 0, _PORT_OFFSET)]
    # A word is loaded as if it were in network order; the port is in the machine's.
    program += [
        (_JUMP_IF_EQUAL, len(ports) - index, 0, socket.htonl(port & 0xFFFFFFFF)) for index, port in enumerate(ports)
    ]
    program += [(_RETURN, 0, 0, 0xFFFFFFFF), (_RETURN, 0, 0, 0)]
    return b"".join(_INSTRUCTION.pack(*instruction) for instruction in program)


def _attach(opened: socket.socket, program: bytes) -> None:
    kept = ctypes.create_string_buffer(program)
    size = len(program) // _INSTRUCTION.size
    opened.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, _PROGRAM.pack(size, ctypes.addressof(kept)))
