"""Hears when somebody else changes the table: the kernel's notifications, without those of our own commits.

The kernel leaves out what this process's own netlink sockets committed (a socket filter), so changes of ours cost
nothing here. Every other commit in this network namespace is looked at, by its bytes: 0.1 to 0.3 ms of CPU for a
thousand elements.

While anybody listens, the kernel makes a notification of 4 to 8 KB for each element, rule and chain of a commit, and
holds them all until it ends: up to a gigabyte for 100,000 (tried on 6.18), whether or not a filter leaves them out
then. So our own large commits go `unheard`, and where other tables are large too, nobody listens.
"""

from __future__ import annotations

import asyncio
import ctypes
import errno
import logging
import os
import socket
import struct
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from nfagent.errors import HostError, KernelError, WireError
from nfagent.kernel.set_elements import NEEDS_ROOT
from nfagent.kernel.sockets import AS_ROOT, netfilter_socket
from nfagent.netlink import codec
from nfagent.netlink.codec import NETLINK_NETFILTER
from nfagent.netlink.nft_events import (
    NFNLGRP_NFTABLES,
    NFPROTO_INET,
    CommitOrigin,
    decode_committer,
    decode_generation,
    decode_table_flags,
    decode_table_size,
    encode_generation_request,
    encode_tables_request,
    names_table,
)
from nfagent.nftables.objects import TABLE

log = logging.getLogger(__name__)
_T = TypeVar("_T")

_SOL_NETLINK = 270
_NETLINK_ADD_MEMBERSHIP = 1
_NETLINK_DROP_MEMBERSHIP = 2
_SO_ATTACH_FILTER = 26
_SO_RCVBUFFORCE = 33
_DATAGRAM = 65536  # more than the kernel puts into one
_BATCH = 64  # datagrams after which a wake-up ends: below a millisecond
_OPEN_FILES = Path("/proc/self/fd")

_INSTRUCTION = struct.Struct("=HBBI")  # struct sock_filter: code, jump if true, jump if false, operand
_PROGRAM = struct.Struct("@HP")  # struct sock_fprog: number of instructions, where they stand
_LOAD_WORD, _JUMP_IF_EQUAL, _RETURN = 0x20, 0x15, 0x06  # BPF_LD|BPF_W|BPF_ABS, BPF_JMP|BPF_JEQ|BPF_K, BPF_RET|BPF_K
_PORT_OFFSET = 12  # nlmsghdr.nlmsg_pid: the port id of the socket whose request this tells of
MOST_OTHERS = 2_000
"""Chains, sets, maps and objects of other tables, beside which it is safe to listen: with five rules to a chain, one
commit of all of it takes 100 MiB of the kernel's memory for a moment."""
_MOST_PORTS = 254  # a jump reaches 255 instructions

OnChange = Callable[[CommitOrigin], None]


class NftMonitor:
    """The notifications of the network namespace in which `open` is called, as far as they name our table.

    listening: whether anything is heard now
    problem:   why nothing can be heard, '' where that isn't so
    others:    chains, sets, maps and objects of other tables, when `look` looked
    receive_buffer: half the bytes that the kernel may hold for us; where a commit's notifications are more, we are told
                    that something was lost, and take it for a change of our table
    opening:        gives a netlink socket whose receive buffer has so many bytes
    """

    def __init__(
        self, *, receive_buffer: int = 4 * 1024 * 1024, opening: Callable[[int], socket.socket] | None = None
    ) -> None:
        """Open nothing yet."""
        self._receive_buffer = receive_buffer
        self._opening = opening or _open_socket
        self._socket: socket.socket | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._changed: OnChange = lambda _committer: None
        self._membership = threading.Lock()
        self.listening = False
        self.problem = ""
        self.others = 0
        self._fresh = False  # opened since the last look
        self._named = False  # by a transaction whose end, and with it the committer, is still to come

    def open(self, changed: OnChange) -> None:
        """Make ready to call back, on the running event loop, after every commit of others that names our table.

        Where notifications were lost, the callback is told of nobody. Nothing is heard before `look`. What is open
        stays so. Raises MachineError where this machine stands in the way, KernelError otherwise.
        """
        if self._socket is not None:
            return
        self._socket = opened = self._opening(self._receive_buffer)
        try:
            self.leave_out_own()
        except KernelError:
            self._socket = None
            opened.close()
            raise
        self._fresh = True
        self._changed = changed
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(opened, self._read, opened, changed)

    def look(self) -> bool:
        """Listen from now on where other tables are small, else no longer; tell which. Takes a fraction of a ms.

        What was missed by listening only now is told as a change by nobody knows whom. Raises KernelError.
        """
        self.others = sum(size for name, size in table_sizes() if name != TABLE)
        opened = self._socket
        if not self._fresh:
            self.problem = ""  # the socket has lasted since the look before
        self._fresh = False
        wanted = self.others <= MOST_OTHERS
        if opened is None or wanted == self.listening:
            return self.listening
        with self._membership:
            _join(opened, wanted=wanted)
            self.listening = wanted
        if wanted:
            self._changed(CommitOrigin())
        return wanted

    def close(self) -> None:
        """Hear no more. Closing twice is harmless."""
        opened, self._socket = self._socket, None
        self.listening = False
        if opened is not None and self._loop is not None:
            self._loop.remove_reader(opened)
            opened.close()

    def leave_out_own(self) -> None:
        """Have the kernel leave out what the sockets commit that this process has open now; any thread may ask.

        To be called before the first commit of a socket that is opened later. Raises KernelError.
        """
        opened = self._socket
        if opened is None:
            return
        try:
            _attach(opened, _leaving_out(own_ports()))
        except OSError as error:
            raise KernelError(f"our own commits can't be told from others': {os.strerror(error.errno or 0)}") from error

    @contextmanager
    def unheard(self) -> Iterator[None]:
        """Commit one large transaction inside, in any thread, without being listened to.

        What others commit meanwhile is noticed by the number of commits, and told as a change by nobody knows whom.
        Raises KernelError.
        """
        opened, loop = self._socket, self._loop
        if opened is None or loop is None or not self.listening:
            yield
            return
        before = generation()
        _join(opened, wanted=False)
        try:
            yield
        finally:
            with self._membership:
                _join(opened, wanted=self.listening)
            if generation() != before + 1:
                loop.call_soon_threadsafe(self._changed, CommitOrigin())

    def _read(self, opened: socket.socket, changed: OnChange) -> None:
        for _ in range(_BATCH):
            try:
                datagram = opened.recv(_DATAGRAM)
            except BlockingIOError:
                return
            except OSError as error:
                self._named = False
                if error.errno != errno.ENOBUFS:
                    self._fail(os.strerror(error.errno or 0))
                    return
                changed(CommitOrigin())
                continue
            if not datagram:
                self._fail("their socket has ended")
                return
            self._take(datagram, changed)

    def _fail(self, reason: str) -> None:
        """Close what can't be read, which would be tried again and again; whoever looks next may open it anew."""
        self.close()
        problem, self.problem = self.problem, f"nf_tables' notifications can't be read any more: {reason}"
        if problem != self.problem:
            log.warning("whether others change the table isn't heard: %s", self.problem)
        self._changed(CommitOrigin())

    def _take(self, datagram: bytes, changed: OnChange) -> None:
        self._named = self._named or names_table(datagram)
        try:
            committer = decode_committer(datagram)
        except WireError as error:
            log.debug("a notification of nf_tables can't be read: %s", error)
            committer = CommitOrigin()
        if committer is not None:
            named, self._named = self._named, False
            if named:
                changed(committer)


def _open_socket(receive_buffer: int) -> socket.socket:
    opened = netfilter_socket(blocking=False)
    try:
        opened.bind((0, 0))
        opened.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, receive_buffer)
    except OSError as error:
        opened.close()
        if error.errno == errno.EPERM:
            raise HostError(NEEDS_ROOT, hint=AS_ROOT) from error
        raise KernelError(f"no socket for nf_tables' notifications: {os.strerror(error.errno or 0)}") from error
    return opened


def generation() -> int:
    """Ask how many transactions were committed in this network namespace so far, by anybody. Raises KernelError."""
    with netfilter_socket(blocking=False) as asked:
        try:
            asked.send(encode_generation_request(1))  # the kernel has answered when this returns
            return decode_generation(asked.recv(_DATAGRAM))
        except (OSError, WireError) as error:
            raise KernelError(f"nf_tables' generation can't be asked for: {error}") from error


def table_sizes() -> list[tuple[str, int]]:
    """Give each table's name, and how many chains, sets, maps and objects it has. Raises KernelError."""
    return _tables(decode_table_size)


def table_flags() -> int:
    """Give the flags of our table, 0 where there is none. Raises KernelError."""
    return flags_of_table() or 0


def flags_of_table() -> int | None:
    """Give the flags of our table, None where there is none. Raises KernelError."""
    ours = (NFPROTO_INET, TABLE)
    return next((flags for family, name, flags in _tables(decode_table_flags) if (family, name) == ours), None)


def _tables(decode: Callable[[codec.Message], _T]) -> list[_T]:
    with netfilter_socket(blocking=False) as asked:
        try:
            asked.send(encode_tables_request(1))
            return [decode(part) for part in _dumped(asked)]
        except (OSError, WireError) as error:
            raise KernelError(f"nf_tables' tables can't be asked for: {error}") from error


def _dumped(asked: socket.socket) -> Iterator[codec.Message]:
    while True:  # each datagram has come by the time that the one before was taken
        for part in codec.messages(asked.recv(_DATAGRAM)):
            if part.type == codec.NLMSG_DONE:
                return
            if part.type == codec.NLMSG_ERROR:
                code = codec.ack_errno(part)
                raise HostError(NEEDS_ROOT, hint=AS_ROOT) if code == errno.EPERM else OSError(code, os.strerror(code))
            yield part


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


def _join(opened: socket.socket, *, wanted: bool) -> None:
    option = _NETLINK_ADD_MEMBERSHIP if wanted else _NETLINK_DROP_MEMBERSHIP
    try:
        opened.setsockopt(_SOL_NETLINK, option, NFNLGRP_NFTABLES)
    except OSError as error:
        raise KernelError(f"nf_tables' notifications can't be heard: {os.strerror(error.errno or 0)}") from error


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
