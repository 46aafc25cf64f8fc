"""Reports commits of other processes that change our table, or only others, from nf_tables' notifications.

Own commits are recognised by the port id of the socket that committed (`own_ports.py`) and skipped. Measured on 6.18:
the kernel builds the notifications of 1,000 elements in 0.3 ms, with or without a socket filter; reading and skipping
them here takes 0.05 ms, and the receive buffer holds 62 unread commits of 1,000 elements, the largest that aren't
`muted`, or 130 of 128 rules. So there is no socket filter. Commits of other processes are searched for our table's
name, not decoded: 0.1 to 0.3 ms of CPU for a thousand elements.

While any socket has joined the group, the kernel builds a notification of 4 to 8 KB for each element, rule and chain
of a commit, and holds all of them until the commit ends: up to a gigabyte for 100,000 (measured on 6.18). So our own
large commits are `muted`, and the monitor leaves the group while the tables of other programs are large.

A program that commits again and again must not keep this one busy reading: after `MOST_COMMITS` commits of others
within a quarter of a second the monitor leaves the group for as long, and then reports a change of unknown origin.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial

import msgspec

from nfagent.errors import HostError, KernelError, WireError
from nfagent.kernel.own_ports import OwnPorts
from nfagent.kernel.sockets import DATAGRAM_BYTES, NEEDS_ROOT, SOL_NETLINK, event_socket, watch
from nfagent.kernel.table_queries import generation, list_tables
from nfagent.netlink import codec
from nfagent.netlink.nft_events import NFNLGRP_NFTABLES, CommitOrigin, decode_commit_origin, named_families
from nfagent.nftables.objects import TABLE

log = logging.getLogger(__name__)

_NETLINK_ADD_MEMBERSHIP = 1
_NETLINK_DROP_MEMBERSHIP = 2
_BATCH = 64  # datagrams after which a wake-up ends: below a millisecond
MOST_OTHERS = 2_000
"""Chains, sets, maps and objects of other tables up to which the monitor listens: with five rules to a chain, one
commit of all of them takes 100 MiB of the kernel's memory for a moment."""

MOST_COMMITS = 100
"""Commits of other processes within `_PAUSE_SECONDS` up to which the monitor listens."""
_PAUSE_SECONDS = 0.25

OnChange = Callable[[CommitOrigin], None]


class NftMonitor:
    """The notifications that name our table, in the network namespace in which `open` is called.

    listening: whether the monitor has joined the notification group
    problem:   why notifications cannot be received, '' without a problem
    others:    number of chains, sets, maps and objects of other tables at the last `refresh`
    own_ports: the port ids whose commits are skipped
    receive_buffer: half the bytes that the kernel may queue. Where a commit's notifications are more, the kernel
                    reports the loss, and the monitor reports a change of unknown origin
    opening:        returns a netlink socket with a receive buffer of so many bytes
    others_changed: called for each commit of another process, also of one that doesn't name our table
    """

    def __init__(
        self,
        *,
        receive_buffer: int = 4 * 1024 * 1024,
        opening: Callable[[int], socket.socket] | None = None,
        others_changed: Callable[[], None] | None = None,
    ) -> None:
        """Store the settings; `open` opens the socket."""
        self._receive_buffer = receive_buffer
        self._others_changed = others_changed
        self._opening = opening or partial(
            event_socket, needs_root=NEEDS_ROOT, failure="cannot open a socket for nf_tables notifications"
        )
        self._socket: socket.socket | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._changed: OnChange = lambda _origin: None
        self._membership = threading.Lock()
        self.own_ports = OwnPorts()
        self.failed = asyncio.Event()
        """Set when a socket that listened has failed: another one should be opened soon."""
        self.listening = False
        self.problem = ""
        self.others = 0
        self._muted = False  # a large commit of our own is being made
        self._paused = False  # left the group for a moment: too many commits of others
        self._counting_since, self._commits = 0.0, 0  # commits of others are counted for `_PAUSE_SECONDS`
        self._fresh = False  # opened since the last refresh
        self._named: frozenset[int] | None = frozenset()
        """Families of our tables that were named by a transaction whose last datagram is still to come; None: any."""

    def listen(self, changed: OnChange) -> bool:
        """Call `open` and `refresh`; return whether the monitor listens. A failure is stored in `problem`, logged once.

        To be called now and then: a socket that failed is opened again.
        """
        try:
            self.open(changed)
            return self.refresh()
        except (KernelError, HostError) as error:
            if self.problem != str(error):
                log.warning("cannot subscribe to nf_tables notifications: %s; retrying", error)
            self.problem = str(error)
            return False

    def open(self, changed: OnChange) -> None:
        """Register a callback on the running event loop, for each commit of another process that names our table.

        After lost notifications the callback gets an empty CommitOrigin. No notification arrives before `refresh`.
        An open monitor stays as it is. Raises HostError without the right to listen, KernelError otherwise.
        """
        if self._socket is not None:
            return
        self._socket = opened = self._opening(self._receive_buffer)
        self._fresh = True
        self._changed = changed
        self._loop = asyncio.get_running_loop()
        try:
            watch(self._loop, opened, self._read, opened, changed)
        except KernelError:
            self.close()
            raise

    def refresh(self) -> bool:
        """Join the group where other tables are small, else leave it; return whether the monitor listens.

        Joining reports a change of unknown origin, for the commits before. Takes a fraction of a millisecond.
        Raises KernelError, HostError.
        """
        self.others = sum(table.size for table in list_tables() if table.name != TABLE)
        opened = self._socket
        if not self._fresh:
            self.problem = ""  # the socket has worked since the refresh before
        self._fresh = False
        wanted = self.others <= MOST_OTHERS
        if opened is None or wanted == self.listening:
            return self.listening
        with self._membership:
            _join(opened, wanted=wanted and not self._apart)
            self.listening = wanted
        if wanted:
            self._changed(CommitOrigin())
        return wanted

    def close(self) -> None:
        """Close the socket. Closing twice is harmless."""
        opened, self._socket = self._socket, None
        self.listening = self._paused = False
        if opened is not None and self._loop is not None:
            self._loop.remove_reader(opened)
            opened.close()

    @contextmanager
    def muted(self) -> Iterator[None]:
        """Leave the group for one large commit of our own, made inside, in any thread.

        Where the generation shows another number of commits than one, other processes have committed meanwhile (or
        ours failed), and where it can't be read, they may have: that is reported as a change of unknown origin. Where
        the group can't be left, the kernel builds notifications as for others' commits.
        """
        loop = self._loop
        if self._socket is None or loop is None or not self.listening:
            yield
            return
        before = _readable_generation()
        with self._membership, suppress(KernelError):
            self._muted = True
            self._join()
        try:
            yield
        finally:
            with self._membership:
                self._muted = False
                opened = self._socket  # another one, where the one of before has failed meanwhile
                try:
                    self._join()
                except KernelError as error:
                    loop.call_soon_threadsafe(self._fail_where_open, opened, str(error))
            if before is None or _readable_generation() != before + 1:
                loop.call_soon_threadsafe(self._changed, CommitOrigin())

    @property
    def _apart(self) -> bool:
        """Whether the monitor has left the group for a moment, and is to join it again."""
        return self._muted or self._paused

    def _join(self) -> None:
        """Join the group, or leave it where the monitor is apart. Raises KernelError."""
        opened = self._socket
        if opened is not None:
            _join(opened, wanted=self.listening and not self._apart)

    def _read(self, opened: socket.socket, changed: OnChange) -> None:
        for _ in range(_BATCH):
            try:
                datagram = opened.recv(DATAGRAM_BYTES)
            except BlockingIOError:
                return
            except OSError as error:
                self._named = frozenset()
                if error.errno != errno.ENOBUFS:
                    self._fail(os.strerror(error.errno or 0))
                    return
                changed(CommitOrigin())
                continue
            if not datagram:
                self._fail("end of file on the socket")
                return
            self._receive(datagram, changed)
            if self._socket is not opened:
                return

    def _count_commit(self) -> None:
        """Count a commit of another process; leave the group for a while where they are too many."""
        loop, opened = self._loop, self._socket
        if loop is None or opened is None or self._paused:
            return
        now = loop.time()
        if now >= self._counting_since + _PAUSE_SECONDS:
            self._counting_since, self._commits = now, 0
        self._commits += 1
        if self._commits > MOST_COMMITS:
            self._paused = True
            try:
                with self._membership:
                    self._join()
            except KernelError as error:
                self._fail(str(error))
                return
            loop.call_later(_PAUSE_SECONDS, self._resume, opened)

    def _resume(self, paused: socket.socket) -> None:
        """Join the group again, or, where a commit of our own is muted, after it."""
        if self._socket is not paused:
            return
        try:
            with self._membership:
                self._paused = False
                self._join()
        except KernelError as error:
            self._fail(str(error))
            return
        self._changed(CommitOrigin())

    def _fail_where_open(self, opened: socket.socket | None, reason: str) -> None:
        if opened is not None and self._socket is opened:
            self._fail(reason)

    def _fail(self, reason: str) -> None:
        """Close a socket that fails, which would stay readable and wake the event loop for ever."""
        self.close()
        self.failed.set()
        problem, self.problem = self.problem, f"cannot read nf_tables notifications: {reason}"
        if problem != self.problem:
            log.warning("%s; opening a new socket", self.problem)
        self._changed(CommitOrigin())

    def _receive(self, datagram: bytes, changed: OnChange) -> None:
        port = 0  # the kernel's, which is never ours
        try:
            named = named_families(datagram)
            self._named = None if self._named is None else self._named | named
            origin = decode_commit_origin(datagram)
            if origin is not None:
                port = next(codec.messages(datagram)).port
        except WireError as error:
            log.debug("cannot decode an nf_tables notification: %s", error)
            origin, self._named = CommitOrigin(), None  # it may be about our table
        if origin is not None:
            families, self._named = self._named, frozenset()
            if self.own_ports.owns(port):
                return
            self._count_commit()
            if families is None or families:
                changed(msgspec.structs.replace(origin, families=families))
            if self._others_changed is not None:
                self._others_changed()


def _readable_generation() -> int | None:
    """Return the generation, None where it can't be read, as without a free descriptor: a commit doesn't need it."""
    try:
        return generation()
    except KernelError:
        return None


def _join(opened: socket.socket, *, wanted: bool) -> None:
    option = _NETLINK_ADD_MEMBERSHIP if wanted else _NETLINK_DROP_MEMBERSHIP
    try:
        opened.setsockopt(SOL_NETLINK, option, NFNLGRP_NFTABLES)
    except OSError as error:
        raise KernelError(f"cannot join the nf_tables notification group: {os.strerror(error.errno or 0)}") from error
