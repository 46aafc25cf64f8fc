"""Reads an NFLOG group on the event loop: netlink datagrams in, batches of logged packets out.

The kernel's receive buffer is the queue between a burst and its attribution: 8 MiB hold a second and more at
10,000 packets a second. What overflows is counted by gaps in the sequence numbers of the records.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import Callable
from functools import partial
from pathlib import Path

import msgspec

from nfagent.errors import HostError, KernelError, WireError
from nfagent.kernel.sockets import AS_ROOT, event_socket, watch
from nfagent.netlink import codec, nflog
from nfagent.netlink.nflog_layouts import RecordLayouts

_NEEDS_ROOT = "NFLOG needs root (CAP_NET_ADMIN)"
_OWNERS = Path("/proc/thread-self/net/netfilter/nfnetlink_log")
_BIND_SEQUENCE = 1
_DATAGRAM = 131_072  # the most that nfnetlink_log puts into one
_BATCH = 160  # records after which a wake-up ends: with one more datagram of them, 10 ms at 40 µs each
_ENDED = "end of file on the socket"

OnPackets = Callable[[list[nflog.LoggedPacket]], None]
OnFailure = Callable[[str], None]


class NflogCounters(msgspec.Struct):
    """Records since the group was bound.

    received:    passed to the callback
    undecodable: received, but not decodable
    lost:        numbered by the kernel, but not received
    overruns:    times that the kernel reported a full receive buffer (ENOBUFS)
    """

    received: int = 0
    undecodable: int = 0
    lost: int = 0
    overruns: int = 0


class NflogSource:
    """One NFLOG group of the network namespace in which `open` is called.

    group:           number in `log group N`, 0..65535; a group has one reader
    receive_buffer:  bytes that the kernel may queue for the socket
    queue_threshold: records that the kernel collects before it sends
    timeout_cs:      hundredths of a second after which it sends incomplete batches
    buffer_size:     bytes of one datagram, 131072 at most
    copy_range:      bytes of each packet: enough for IPv6 with extension headers and the ports
    opening:         returns a netlink socket with a receive buffer of so many bytes
    """

    def __init__(
        self,
        group: int,
        *,
        receive_buffer: int = 8 * 1024 * 1024,
        queue_threshold: int = 64,
        timeout_cs: int = 10,
        buffer_size: int = 32_768,
        copy_range: int = 128,
        opening: Callable[[int], socket.socket] | None = None,
    ) -> None:
        """Store the settings; `open` opens the socket."""
        self._opening = opening or partial(
            event_socket, needs_root=_NEEDS_ROOT, failure="cannot set up the NFLOG socket"
        )
        self.counters = NflogCounters()
        self._group = group
        self._receive_buffer = receive_buffer
        self._request = nflog.bind_request(
            group,
            _BIND_SEQUENCE,
            copy_range=copy_range,
            queue_threshold=queue_threshold,
            timeout_cs=timeout_cs,
            buffer_size=buffer_size,
        )
        self._socket: socket.socket | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._last = codec.SEQUENCE_MASK  # the number before the first, which is 0
        self._numbered = 0  # numbers assigned by the kernel, by the last one received
        self._accounted = 0  # of these, the received ones, decodable or not
        self._layouts = RecordLayouts()
        self._early: list[nflog.LoggedPacket] = []

    def open(self, on_packets: OnPackets, on_failure: OnFailure = lambda _problem: None) -> None:
        """Bind the group and pass batches of packets to a callback, in order, on the running event loop.

        A socket that fails later is closed, and `on_failure` called once with the reason; `open` may be called again.

        Raises HostError for what an administrator must change (another reader, a missing right or module), KernelError
        for other refusals; the socket is closed then.
        """
        self._loop = asyncio.get_running_loop()
        opened = self._opening(self._receive_buffer)
        self._socket = opened
        self._last = codec.SEQUENCE_MASK  # the kernel numbers a newly bound group from 0
        try:
            opened.send(self._request)
            self._await_ack(opened)
            watch(self._loop, opened, self._read, opened, on_packets, on_failure)
        except OSError as error:
            self.close()
            raise KernelError(f"NFLOG group {self._group}: {os.strerror(error.errno or 0)}") from error
        except (HostError, KernelError):
            self.close()
            raise

    def close(self) -> None:
        """Unbind the group; unread records are dropped. Closing twice is harmless."""
        opened, self._socket = self._socket, None
        if opened is not None and self._loop is not None:
            self._loop.remove_reader(opened)
            opened.close()

    def _await_ack(self, opened: socket.socket) -> None:
        # The kernel answers within send(); records of a busy group may be queued before the answer.
        while True:
            datagram = opened.recv(_DATAGRAM)
            if not datagram:
                raise KernelError(f"NFLOG group {self._group}: {_ENDED}")
            code = _acknowledged(datagram)
            if code is None:
                self._early += self._decode(datagram)
            elif code == 0:
                return
            else:
                raise self._refusal(code)

    def _refusal(self, code: int) -> HostError | KernelError:
        # nfnetlink_log returns EPERM both without CAP_NET_ADMIN and for a group of another socket
        owner = _owner(self._group)
        if code == errno.EBUSY or (code == errno.EPERM and owner is not None):
            return HostError(
                f"NFLOG group {self._group} is already read by another process (netlink port {owner or 'unknown'}, "
                "usually its process id)",
                hint="see `cat /proc/net/netfilter/nfnetlink_log`, end it, or set another group",
            )
        if code == errno.EPERM:
            return HostError(_NEEDS_ROOT, hint=AS_ROOT)
        if code in {errno.EINVAL, errno.EOPNOTSUPP}:
            return HostError("this kernel has no nfnetlink_log", hint="modprobe nfnetlink_log")
        return KernelError(f"the kernel refused NFLOG group {self._group}: {os.strerror(code)}")

    def _read(self, opened: socket.socket, on_packets: OnPackets, on_failure: OnFailure) -> None:
        batch, self._early = self._early, []
        problem = ""
        for _ in range(_BATCH):
            if len(batch) >= _BATCH:
                break
            try:
                datagram = opened.recv(_DATAGRAM)
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    problem = os.strerror(error.errno or 0)
                    break
                self.counters.overruns += 1
                continue
            if not datagram:
                problem = _ENDED
                break
            batch += self._decode(datagram)
        if problem:
            self.close()  # it would stay readable, and wake the event loop for ever
        if batch:
            self.counters.received += len(batch)
            on_packets(batch)
        if problem:
            on_failure(f"NFLOG group {self._group} failed: {problem}")

    def _decode(self, datagram: bytes) -> list[nflog.LoggedPacket]:
        found = self._layouts.decode(datagram)
        packets = found.packets
        self.counters.undecodable += found.undecodable
        self._accounted += found.undecodable
        last = next((packet.sequence for packet in reversed(packets) if packet.sequence is not None), None)
        if last is not None:
            self._numbered += (last - self._last) & codec.SEQUENCE_MASK
            self._last = last
            self._accounted += sum(packet.sequence is not None for packet in packets)
        # An undecodable record has a number too, and may be counted before the next number is known: never decrease.
        self.counters.lost = max(self.counters.lost, self._numbered - self._accounted)
        return packets


def _acknowledged(datagram: bytes) -> int | None:
    # the errno of the answer to the bind, None when the datagram is something else
    try:
        for message in codec.messages(datagram):
            if message.type == codec.NLMSG_ERROR and message.sequence == _BIND_SEQUENCE:
                return codec.ack_errno(message)
    except WireError:
        return None
    return None


def _owner(group: int) -> int | None:
    # lines are: group, port id of its socket, queued records, copy mode, copy range, timeout, references
    try:
        lines = _OWNERS.read_text("ascii").splitlines()
    except OSError:
        return None
    rows = (line.split() for line in lines)
    return next((int(row[1]) for row in rows if len(row) > 1 and row[0] == str(group)), None)
