"""Reads the packet counters of table inet nfagent: named ones, and those of elements of sets.

A dump that meets a commit may lack counters: it is repeated, a few times, and says so if that didn't help.
Not by libnftables, which reads the rules of all tables to list counters: it is ended by some (`nft_program.py`).
A call opens a socket in the network namespace of its thread, and takes 4 ms for 1,000 counters.
"""

from __future__ import annotations

import errno
import os
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from ipaddress import ip_address

import msgspec

from nfagent.errors import HostError, KernelError, WireError
from nfagent.kernel.sockets import AS_ROOT, DATAGRAM_BYTES, NEEDS_ROOT, dump_replies, netfilter_socket
from nfagent.kernel.table_queries import own_table
from nfagent.netlink import codec
from nfagent.netlink.nft_counters import (
    decode_element_counters,
    decode_named_counter,
    decode_named_value,
    encode_element_counter_request,
    encode_element_counters_request,
    encode_named_counters_request,
)
from nfagent.nftables.parse import CounterValue
from nfagent.nftables.pod_counts import COUNTED_SETS

_TRIES = 3
_WHOLE_SECONDS = 10.0
"""For how long a reading is repeated that must be whole, beside a program that commits without a pause."""
_SEQUENCE = 1  # each socket has one request
_ADDRESS_BYTES = (4, 16)
_REPLY_SECONDS = 10.0
"""How long a reply is waited for, that the kernel gives within the call: for ever, where one was lost."""


class CounterReading(msgspec.Struct, frozen=True):
    """Packets of counters, by name or by canonical address.

    is_whole: no counter can be missing
    table:    the table's handle where it was read; a table that is made anew has another
    handles:  of named counters; one that is made anew has another
    """

    packets: dict[str, int]
    is_whole: bool = True
    table: int = 0
    handles: dict[str, int] = {}


class CounterSource(msgspec.Struct, frozen=True):
    """Where a backend's counters are read from. Blocking; both raise KernelError, HostError.

    read:     returns all counters: named ones by name, those of Pods by set and address, with a space between
    elements: returns the packets of some elements, by set and address
    prepare:  to be called on the event loop before `read`, which may be called in a thread
    """

    read: Callable[[], CounterReading]
    elements: Callable[[Iterable[tuple[str, str]]], dict[tuple[str, str], int]]
    prepare: Callable[[], None] = lambda: None


def read_named_counters() -> CounterReading:
    """Return the packets of each named counter; none without the table. Raises KernelError, HostError."""
    handles: dict[str, int] = {}

    def decode(reply: codec.Message) -> Iterator[tuple[str, int]]:
        name, packets, handles[name] = decode_named_counter(reply)
        yield name, packets

    found = _read(encode_named_counters_request(_SEQUENCE), decode)
    return msgspec.structs.replace(found, handles=handles)


def read_named_values(seconds: float = _WHOLE_SECONDS) -> dict[str, CounterValue]:
    """Return packets and bytes of all named counters; none without the table.

    seconds: for which other programs' commits may break it off
    Raises KernelError where they do it longer, and where the kernel refuses it; HostError.
    """
    values: dict[str, CounterValue] = {}

    def decode(reply: codec.Message) -> Iterator[tuple[str, int]]:
        name, packets, count = decode_named_value(reply)
        values[name] = CounterValue(packets, count)
        yield name, packets

    deadline = time.monotonic() + seconds
    while True:
        values.clear()
        if _read_once(encode_named_counters_request(_SEQUENCE), decode).is_whole:
            return values
        if time.monotonic() >= deadline:
            raise KernelError("another program keeps changing nf_tables while the packet counters are read")


def read_address_counters(name: str) -> CounterReading:
    """Return the packets of the elements of a set of addresses; none without the set. Raises KernelError, HostError."""
    return _read(encode_element_counters_request(name, _SEQUENCE), _by_address)


def read_elements(elements: Iterable[tuple[str, str]]) -> dict[tuple[str, str], int]:
    """Return the packets of elements, by set and canonical address; of those that exist.

    Some 15 us for each, so that a few may be read on the event loop. Raises KernelError, HostError.
    """
    found: dict[tuple[str, str], int] = {}
    with netfilter_socket(blocking=False) as opened:
        for name, address in elements:
            reply = _element(opened, encode_element_counter_request(name, ip_address(address).packed, _SEQUENCE))
            if reply is not None:
                found[name, address] = sum(packets for _, packets in decode_element_counters(reply))
    return found


def _element(opened: socket.socket, request: bytes) -> codec.Message | None:
    """Return the reply to a request for one element, which is there when `send` returns; None without the element."""
    try:
        opened.send(request)
        reply = next(codec.messages(opened.recv(DATAGRAM_BYTES)))
        if reply.type != codec.NLMSG_ERROR:
            return reply
        code = codec.ack_errno(reply)
    except (OSError, WireError) as error:
        raise KernelError(f"cannot read a packet counter of table inet nfagent: {error}") from error
    if code == errno.ENOENT:
        return None
    if code == errno.EPERM:
        raise HostError(NEEDS_ROOT, hint=AS_ROOT)
    raise KernelError(f"cannot read a packet counter of table inet nfagent: {os.strerror(code)}")


def _by_address(reply: codec.Message) -> Iterator[tuple[str, int]]:
    for key, packets in decode_element_counters(reply):
        if len(key) in _ADDRESS_BYTES:
            yield str(ip_address(key)), packets


def _read(request: bytes, decode: Callable[[codec.Message], Iterable[tuple[str, int]]]) -> CounterReading:
    found = CounterReading({})
    for _ in range(_TRIES):
        found = _read_once(request, decode)
        if found.is_whole:
            break
    return found


def _read_once(request: bytes, decode: Callable[[codec.Message], Iterable[tuple[str, int]]]) -> CounterReading:
    packets: dict[str, int] = {}
    is_whole = True
    with netfilter_socket(blocking=True) as opened:
        opened.settimeout(_REPLY_SECONDS)
        try:
            opened.send(request)
            for reply in _replies(opened):
                is_whole &= not reply.flags & codec.NLM_F_DUMP_INTR
                if reply.type != codec.NLMSG_DONE:
                    packets.update(decode(reply))
        except FileNotFoundError:
            return CounterReading({})
        except PermissionError as error:
            raise HostError(NEEDS_ROOT, hint=AS_ROOT) from error
        except (OSError, WireError) as error:
            raise KernelError(f"cannot read the packet counters of table inet nfagent: {error}") from error
    return CounterReading(packets, is_whole)


def _replies(opened: socket.socket) -> Iterator[codec.Message]:
    """Yield a dump's messages. Raises OSError for a refusal."""
    for reply in dump_replies(opened, _SEQUENCE):
        if reply.type == codec.NLMSG_ERROR:
            code = codec.ack_errno(reply)
            raise OSError(code, os.strerror(code))
        yield reply


def read_counters() -> CounterReading:
    """Return the packets of all counters: named ones by name, those of Pods by set and address, with a space between.

    Blocking: 3,000 counters take 10 ms. Raises KernelError, HostError.
    """
    for _ in range(_TRIES):
        reading = _read_table(_handle())
        # Of a table that was made anew meanwhile, packets would count here, and again under its own handle.
        if _handle() == reading.table:
            return reading
    raise KernelError("table inet nfagent was made anew while its packet counters were read")


def _handle() -> int:
    """Return the handle of the table, 0 without it."""
    table = own_table()
    return table.handle if table is not None else 0


def _read_table(table: int) -> CounterReading:
    named = read_named_counters()
    packets, is_whole = dict(named.packets), named.is_whole
    for name in sorted(COUNTED_SETS):
        reading = read_address_counters(name)
        packets |= {f"{name} {address}": count for address, count in reading.packets.items()}
        is_whole &= reading.is_whole
    return CounterReading(packets, is_whole, table, named.handles)


NFTABLES_COUNTERS = CounterSource(read_counters, read_elements)
"""Where they are read on nftables."""
