"""Finds and deletes conntrack entries by ctnetlink, on a netlink socket of our own.

These calls block, for some tenths of a second with many entries: they are meant for a worker thread.

For every dump, the kernel walks its whole hash table on our account, and locks each bucket, also empty ones: 9 to 13 ms
of CPU with 262,144 buckets (measured). So one dump serves both families where addresses of both are requested. In a
large table a kernel filter for a few addresses is cheaper, though each walks the whole table again; it is used once it
has returned what a whole dump returned (`netlink.conntrack.encode_dump` lists what filters do in some kernels).
Otherwise all entries are read, and selected here.

Other ways to find entries are dearer, or not certain (tried). To follow the kernel's events costs 16 us for every
connection of the node, as much as a dump a second from 600 new connections a second on. /proc/net/nf_conntrack, where
the kernel has it, is read without locks, in 0.2 ms when empty, but in pieces of 4 KiB: after one, the kernel goes on by
counting, so it omits an entry when another one was deleted (one in 200 with a deletion after each piece), and older
kernels count from the start each time.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import Literal, TypeAlias

import msgspec

from nfagent.errors import HostError, KernelError, WireError
from nfagent.kernel.sockets import AS_ROOT, DATAGRAM_BYTES, request_socket
from nfagent.model.netaddr import FAMILIES, Family, family_of
from nfagent.netlink import codec
from nfagent.netlink.conntrack import ConntrackEntry, decode_entries, encode_delete, encode_dump
from nfagent.netlink.extack import Acknowledgement, decode_acknowledgement
from nfagent.nftables.objects import FLOW_SET_SIZE

_BUFFER = 1024 * 1024  # the kernel doubles it: enough for a batch of deletions, and for as many refusals
_ATTEMPTS = 3
_BATCH = 500  # deletions of one send: 60 KB, and 1 KiB of the receive buffer for each refusal
_FILTERS_FROM = 15_000

_NEEDS_ROOT = "conntrack needs root (CAP_NET_ADMIN)"

_LIMIT = Path("/proc/sys/net/netfilter/nf_conntrack_max")
_MOST_TUPLES = 262_144
"""The largest size of a set of revoked reply tuples. A full set takes 26 MiB of kernel memory for IPv4, 35 for IPv6.
While the table is listed, libnftables holds another 2.5 KB per element.
"""

_Key: TypeAlias = tuple[int, int, bytes]


class _Dump(msgspec.Struct):
    """Selected entries by zone, id and tuple; counts of the others, all and IPv6; the kernel's refusal, if any."""

    entries: dict[_Key, ConntrackEntry]
    others: int = 0
    others6: int = 0
    refusal: Acknowledgement | None = None


def revoked_set_size(limit: Path = _LIMIT) -> int:
    """Return the size of the sets `revoked4/6`: nf_conntrack_max, limited to 65,536..262,144.

    Without conntrack, or where its limit can't be read, the default size of sets (FLOW_SET_SIZE).
    """
    try:
        connections = int(limit.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return FLOW_SET_SIZE
    return min(max(connections or _MOST_TUPLES, FLOW_SET_SIZE), _MOST_TUPLES)


def open_socket() -> socket.socket:
    """Open a netlink socket for `ConntrackClient` in the network namespace of this thread.

    Raises HostError for what an administrator must change, KernelError otherwise.
    """
    return request_socket(_NEEDS_ROOT, blocking=True, send_buffer=_BUFFER, receive_buffer=_BUFFER)


class ConntrackClient:
    """The conntrack entries of one network namespace, that of its constructor. One thread at a time may use it.

    opening:      returns a connected netlink socket: at the start, and after a failure that left replies unread
    filters_from: entries of a family per requested address, from which on the kernel filters. It walks its table
                  twice per address, which takes as long as reading some 15,000 entries (measured)
    timeout_seconds: for each reply. The kernel replies within the call, so this only limits a kernel that never does
    """

    def __init__(
        self,
        opening: Callable[[], socket.socket] = open_socket,
        *,
        filters_from: int = _FILTERS_FROM,
        timeout_seconds: float = 10.0,
    ) -> None:
        """Open the socket. Raises what `opening` raises."""
        self._opening = opening
        self._timeout_seconds = timeout_seconds
        self._filters_from = filters_from
        self._sequence = 0
        self._sizes: dict[Family, int] = {}  # entries in the last whole dump
        self._filters: dict[Family, bool] = {}  # whether the kernel's filter is correct, once tested
        self._socket: socket.socket | None = self._open()

    def close(self) -> None:
        """Close the socket. Closing twice is harmless."""
        opened, self._socket = self._socket, None
        if opened is not None:
            opened.close()

    def entries(self, addresses: frozenset[str]) -> list[ConntrackEntry]:
        """Return the entries, in all zones, whose client or server is one of these canonical addresses, each once.

        A whole dump also returns entries of link-local addresses, which no policy selects.

        Entries created or deleted during the call may be missing or not. A dump that the kernel reports as interrupted
        is repeated, three dumps at most; the result is the union of all of them.

        Raises HostError without CAP_NET_ADMIN or ctnetlink; KernelError for other failures.
        """
        found: list[ConntrackEntry] = []
        unpicked: dict[Family, frozenset[str]] = {}
        for family in FAMILIES:
            wanted = frozenset(address for address in addresses if family_of(address) == family)
            picked = self._picked(family, wanted)
            if picked is None or (unpicked and not wanted):
                unpicked[family] = wanted
            else:
                found += picked
        if unpicked:
            found += self._from_whole(unpicked)
        return found

    def delete(self, entries: Iterable[ConntrackEntry]) -> int:
        """Delete entries; return how many of them still existed.

        A refused deletion doesn't stop the others: after all requests, KernelError names the first one refused.
        Raises HostError without CAP_NET_ADMIN; KernelError also where the outcome is unknown.
        """
        wanted = list(entries)
        refused = []
        for start in range(0, len(wanted), _BATCH):
            refused += self._delete_batch(wanted[start : start + _BATCH])
        failed = [(entry, answer) for entry, answer in refused if answer.errno != errno.ENOENT]
        if failed:
            raise _undeleted(*failed[0], len(failed) - 1)
        return len(wanted) - len(refused)

    def _picked(self, family: Family, wanted: frozenset[str]) -> Iterable[ConntrackEntry] | None:
        """Return the entries by the kernel's filter where it is cheaper and correct; None for a whole dump."""
        if not wanted:
            return ()
        if not (self._filters.get(family) and self._is_large(family, wanted)):
            return None
        found = self._filtered(family, wanted, "client", "server")
        if found is None:
            self._filters[family] = False
            return None
        return found.values()

    def _from_whole(self, unpicked: dict[Family, frozenset[str]]) -> Iterable[ConntrackEntry]:
        """Return the entries selected from one whole dump; measure the table's size and test the kernel's filter."""
        (family, *more), wanted = unpicked, frozenset[str]().union(*unpicked.values())
        whole = self._dump(None if more else family, wanted)
        if whole.refusal is not None:
            raise listing_error(whole.refusal)
        found6 = sum(family_of(entry.client) == 6 for entry in whole.entries.values())
        sizes: dict[Family, int] = {
            4: len(whole.entries) - found6 + whole.others - whole.others6,
            6: found6 + whole.others6,
        }
        for each, its in unpicked.items():
            self._sizes[each] = sizes[each]
            if its and each not in self._filters and self._is_large(each, its):
                known = next((item for item in whole.entries.items() if family_of(item[1].client) == each), None)
                if known is not None:
                    self._filters[each] = self._filter_finds(each, *known)
        return _drained(whole.entries)

    def _is_large(self, family: Family, wanted: frozenset[str]) -> bool:
        return self._sizes.get(family, 0) > len(wanted) * self._filters_from

    def _filter_finds(self, family: Family, key: _Key, known: ConntrackEntry) -> bool:
        """Return whether the kernel's filter finds a known entry by its client and its server, and no others."""
        by_client = self._filtered(family, frozenset({known.client}), "client")
        by_server = self._filtered(family, frozenset({known.server}), "server")
        return by_client is not None and by_server is not None and key in by_client and key in by_server

    def _filtered(
        self, family: Family, wanted: frozenset[str], *ends: Literal["client", "server"]
    ) -> dict[_Key, ConntrackEntry] | None:
        """Return the entries by the kernel's filter; None where it refuses, or returns other entries too."""
        entries: dict[_Key, ConntrackEntry] = {}
        for address, end in product(sorted(wanted), ends):
            found = self._dump(family, wanted, **{end: address})
            if found.refusal is not None or found.others:
                return None
            entries |= found.entries
        return entries

    def _dump(
        self, family: Family | None, wanted: frozenset[str], *, client: str | None = None, server: str | None = None
    ) -> _Dump:
        found = _Dump({})
        for _ in range(_ATTEMPTS):
            self._sequence = (self._sequence + 1) & codec.SEQUENCE_MASK
            request = encode_dump(family, self._sequence, client=client, server=server)
            found.others = found.others6 = 0  # they have no identity here: the last attempt counts
            with self._asking() as opened:
                opened.send(request)
                interrupted = _read_dump(opened, found, wanted)
            if not interrupted:
                break
        return found

    def _delete_batch(self, batch: list[ConntrackEntry]) -> list[tuple[ConntrackEntry, Acknowledgement]]:
        """Send deletions at once and return the refused ones. Only the last request asks for an acknowledgement."""
        asked = {(self._sequence + n) & codec.SEQUENCE_MASK: entry for n, entry in enumerate(batch, 1)}
        self._sequence = last = (self._sequence + len(batch)) & codec.SEQUENCE_MASK
        requests = [encode_delete(entry, number, acknowledge=number == last) for number, entry in asked.items()]
        with self._asking() as opened:
            opened.send(b"".join(requests))
            answers = list(_answers(opened, last))
        return [(asked[answer.sequence], answer) for answer in answers if answer.errno and answer.sequence in asked]

    def _open(self) -> socket.socket:
        opened = self._opening()
        opened.settimeout(self._timeout_seconds)
        return opened

    @contextmanager
    def _asking(self) -> Iterator[socket.socket]:
        """Return the socket, and raise KernelError for what fails.

        After a failure the next request opens a new socket: the kernel starts no dump before the last one is read.
        """
        if self._socket is None:
            self._socket = self._open()
        try:
            yield self._socket
        except BaseException as error:
            self.close()
            if isinstance(error, WireError):
                raise KernelError(f"cannot decode a conntrack reply: {error}") from None
            if isinstance(error, OSError):
                raise KernelError(f"conntrack request failed: {self._describe(error)}") from error
            raise

    def _describe(self, error: OSError) -> str:
        if isinstance(error, TimeoutError):
            return f"no reply within {self._timeout_seconds:g} s"
        return _errno_text(error.errno or 0)


def _drained(entries: dict[_Key, ConntrackEntry]) -> list[ConntrackEntry]:
    """Return the entries in their order. Keys are freed one by one: all at once would hold the event loop."""
    found = []
    while entries:
        found.append(entries.popitem()[1])
    found.reverse()
    return found


def _read_dump(opened: socket.socket, found: _Dump, wanted: frozenset[str]) -> bool:
    """Read the replies to one dump request; return whether the kernel reports the dump as interrupted."""
    interrupted = done = False
    while not done:
        part = decode_entries(opened.recv(DATAGRAM_BYTES), wanted)
        found.entries |= {(entry.zone, entry.id, entry.reply): entry for entry in part.entries}
        found.others += part.others
        found.others6 += part.others6
        found.refusal = part.refusal
        interrupted, done = interrupted or part.interrupted, part.done
    return interrupted


def _answers(opened: socket.socket, last: int) -> Iterator[Acknowledgement]:
    """Read the replies to a batch up to the last; without CAP_NET_ADMIN the kernel replies once, to the first."""
    while True:
        for reply in codec.messages(opened.recv(DATAGRAM_BYTES)):
            answer = decode_acknowledgement(reply)
            yield answer
            if answer.sequence == last or answer.errno == errno.EPERM:
                return


def listing_error(answer: Acknowledgement) -> HostError | KernelError:
    """Return the error for a dump that the kernel refused: HostError for what an administrator can change."""
    if answer.errno == errno.EPERM:
        return HostError(_NEEDS_ROOT, hint=AS_ROOT)
    if answer.errno in {errno.EINVAL, errno.EOPNOTSUPP}:  # nfnetlink's reply without the subsystem
        return HostError("this kernel has no nf_conntrack_netlink", hint="modprobe nf_conntrack_netlink")
    return KernelError(f"the kernel refused to list conntrack entries: {_reason(answer)}")


def _undeleted(entry: ConntrackEntry, answer: Acknowledgement, others: int) -> HostError | KernelError:
    if answer.errno == errno.EPERM:
        return HostError(_NEEDS_ROOT, hint=AS_ROOT)
    more = f"; {others} more were refused" if others else ""
    what = f"protocol {entry.protocol} from {entry.client} to {entry.server}"
    return KernelError(f"the kernel refused to delete the conntrack entry of {what}: {_reason(answer)}{more}")


def _reason(answer: Acknowledgement) -> str:
    detail = f"; the kernel says: {answer.text}" if answer.text else ""
    return _errno_text(answer.errno) + detail


def _errno_text(code: int) -> str:
    return f"{os.strerror(code)} ({errno.errorcode.get(code, code)})"
