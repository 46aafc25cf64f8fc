"""Reads the tables of iptables-legacy from the kernel without a program, to tell whether they were changed.

A table is one block of entries; the kernel gives it as it is, counters included, which are left out here. It takes
some microseconds for each hundred rules, where iptables-save takes milliseconds. A table that doesn't exist isn't
asked for: that would make it.
"""

from __future__ import annotations

import ctypes
import os
import socket
import struct
from hashlib import blake2b

import msgspec

from nfagent.errors import KernelError
from nfagent.kernel.iptables_save import legacy_tables, unknown_tables
from nfagent.model.netaddr import Family
from nfagent.xtables.objects import TableName

_GET_INFO, _GET_ENTRIES = 64, 65  # IPT_SO_GET_*, IP6T_SO_GET_*
_INFO = struct.Struct("=32sI5I5III")  # struct ipt_getinfo: name, hooks, their entries and ends, entries, size
_ENTRIES_HEAD = 40  # struct ipt_get_entries: name, size, and four bytes up to the entries
_PROGRAMS: dict[Family, str] = {4: "iptables-legacy", 6: "ip6tables-legacy"}
_DIGEST_BYTES = 16
_TRIES = 3
_libc = ctypes.CDLL(None, use_errno=True)


class _Layout(msgspec.Struct, frozen=True):
    """Where a family's socket options and the parts of its entries are.

    next:     offset of an entry's length, two bytes
    counters: offset of an entry's counters, 16 bytes: struct ipt_entry, struct ip6t_entry
    """

    domain: int
    level: int
    next: int
    counters: int


_LAYOUTS: dict[Family, _Layout] = {
    4: _Layout(socket.AF_INET, socket.IPPROTO_IP, 90, 96),
    6: _Layout(socket.AF_INET6, socket.IPPROTO_IPV6, 142, 152),
}
_COUNTER_BYTES = 16


class TableShape(msgspec.Struct, frozen=True):
    """What a change of a table's structure changes: its number of entries, its size, where chains begin and end."""

    entries: int
    size: int
    places: tuple[int, ...]


def table_shape(family: Family, table: TableName) -> TableShape | None:
    """Return the shape of a table, None where the kernel has none of this name. Raises KernelError."""
    known = legacy_tables(_PROGRAMS[family])
    if known is None:
        raise unknown_tables(_PROGRAMS[family])
    if table not in known:
        return None
    found = _INFO.unpack(_asked(family, table, _GET_INFO, _INFO.size))
    return TableShape(entries=found[-2], size=found[-1], places=tuple(found[1:-2]))


def table_digest(family: Family, table: TableName) -> bytes:
    """Return a digest of all rules of a table, without their counters; b'' without the table. Raises KernelError."""
    entries = _entries(family, table)
    if entries is None:
        return os.urandom(_DIGEST_BYTES)  # equal to none: it changes all the time
    return _digest(entries, _LAYOUTS[family]) if entries else b""


def may_have_chains(family: Family, table: TableName, prefix: str) -> bool:
    """Return whether a table may have chains whose names begin with a prefix. Raises KernelError.

    Needs no right but CAP_NET_ADMIN, where iptables-save needs another one.
    """
    entries = _entries(family, table)
    return entries is None or prefix.encode() in entries


def _entries(family: Family, table: TableName) -> bytes | None:
    """Return a table's entries, none without the table; None where it changes all the time. Raises KernelError."""
    for _ in range(_TRIES):
        shape = table_shape(family, table)
        if shape is None:
            return b""
        try:
            return _asked(family, table, _GET_ENTRIES, _ENTRIES_HEAD + shape.size, shape.size)[_ENTRIES_HEAD:]
        except BlockingIOError:
            continue  # the table was changed meanwhile
    return None


def _asked(family: Family, table: TableName, option: int, size: int, asked: int = 0) -> bytes:
    layout = _LAYOUTS[family]
    content = ctypes.create_string_buffer(struct.pack("=32sI", table.encode(), asked), size)
    length = ctypes.c_uint(size)
    # Any socket of the family will do; one of the raw protocol needs a right that others don't.
    try:
        opened = socket.socket(layout.domain, socket.SOCK_DGRAM)
    except OSError as refused:
        raise KernelError(f"table {table} of {_PROGRAMS[family]} can't be read: {refused.strerror}") from refused
    with opened:
        if _libc.getsockopt(opened.fileno(), layout.level, option, content, ctypes.byref(length)):
            number = ctypes.get_errno()
            error = OSError(number, os.strerror(number))
            if isinstance(error, BlockingIOError):
                raise error
            raise KernelError(f"table {table} of {_PROGRAMS[family]} can't be read: {error.strerror}")
    return content.raw


def _digest(entries: bytes, layout: _Layout) -> bytes:
    found = blake2b(digest_size=_DIGEST_BYTES)
    view = memoryview(entries)
    start, size = 0, len(entries)
    while start < size:
        length = int.from_bytes(view[start + layout.next : start + layout.next + 2], "little")
        if not layout.counters + _COUNTER_BYTES <= length <= size - start:
            found.update(view[start:])
            break
        found.update(view[start : start + layout.counters])
        found.update(view[start + layout.counters + _COUNTER_BYTES : start + length])
        start += length
    return found.digest()
