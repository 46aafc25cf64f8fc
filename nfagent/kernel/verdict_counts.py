"""Reads the counters of table inet nfagent: the named ones, and those of the elements of sets. Blocking.

2,000 named counters take some 10 ms, and an element 3 µs: the calls are meant for a worker thread.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import msgspec

from nfagent.errors import HostError, KernelError, WireError
from nfagent.kernel.sockets import AS_ROOT, NEEDS_ROOT, dump_replies, netfilter_socket
from nfagent.kernel.table_queries import table_handle
from nfagent.netlink import codec
from nfagent.netlink.nft_counts import (
    decode_counter,
    decode_element_counts,
    encode_counters_request,
    encode_elements_request,
)

_T = TypeVar("_T")


class CountReading(msgspec.Struct, frozen=True):
    """The packets of one moment.

    table:    the table's handle; 0 without a table: nothing is counted then
    elements: by set and canonical address
    counters: by name
    """

    table: int = 0
    elements: dict[str, dict[str, int]] = {}
    counters: dict[str, int] = {}


def read_counts(sets: Iterable[str]) -> CountReading:
    """Return the packets that the elements of these sets and the named counters have counted.

    An object that is removed meanwhile may be missing. Raises KernelError, HostError.
    """
    table = table_handle()
    if not table:
        return CountReading()
    try:
        elements = {name: dict(_elements(name)) for name in sets}
        counters = dict(_dump(encode_counters_request, decode_counter))
    except (OSError, WireError) as error:
        raise KernelError(f"cannot read the counters of table inet nfagent: {error}") from error
    return CountReading(table, elements, counters)


def _elements(name: str) -> Iterator[tuple[str, int]]:
    for part in _dump(lambda sequence: encode_elements_request(name, sequence), lambda reply: reply):
        yield from decode_element_counts(part)


def _dump(request: Callable[[int], bytes], decode: Callable[[codec.Message], _T]) -> Iterator[_T]:
    sequence = 1  # each socket has one request
    with netfilter_socket(blocking=True) as opened:
        opened.send(request(sequence))
        for reply in dump_replies(opened, sequence):
            code = codec.ack_errno(reply) if reply.type == codec.NLMSG_ERROR else 0
            if code == errno.EPERM:
                raise HostError(NEEDS_ROOT, hint=AS_ROOT)
            if code == errno.ENOENT:
                return  # the table or the set is gone
            if code:
                raise OSError(code, os.strerror(code))
            if reply.type not in {codec.NLMSG_DONE, codec.NLMSG_ERROR}:
                yield decode(reply)
