"""Finds and deletes conntrack entries by ctnetlink, on a netlink socket of our own.

These calls block, for some tenths of a second where there are many entries: they are made for a worker thread.

Whatever is asked for, the kernel walks its whole table, empty places too: 11 to 13 ms where it has 262,144 (tried). So
one dump serves both families, where addresses of both are asked for. In a large table it is cheaper to have the kernel
pick the entries of a few addresses; its filter is used once it has been seen to find what a whole dump found
(`netlink.conntrack.encode_dump` says what filters do in some kernels). Else all entries come, and are picked here.
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
from nfagent.kernel.sockets import AS_ROOT, asking_socket
from nfagent.model.netaddr import FAMILIES, Family, family_of
from nfagent.netlink import codec
from nfagent.netlink.conntrack import ConntrackEntry, decode_entries, encode_delete, encode_dump
from nfagent.netlink.extack import Acknowledgement, decode_answer
from nfagent.nftables.objects import FLOW_SET_SIZE

_BUFFER = 1024 * 1024  # the kernel doubles it: enough for a batch of deletions, and for as many refusals
_DATAGRAM = 65_536  # twice the most that a dump's have
_SEQUENCE_MASK = 0xFFFF_FFFF
_ATTEMPTS = 3
_BATCH = 500  # deletions of one send: 60 KB, and 1 KiB of the receive buffer for each refusal
_FILTERS_FROM = 15_000

_NEEDS_ROOT = "conntrack needs root (CAP_NET_ADMIN)"

_LIMIT = Path("/proc/sys/net/netfilter/nf_conntrack_max")
_MOST_WAYS = 262_144
"""Ways that a set has room for at most. Full of them it takes 26 MiB of the kernel's memory for IPv4, 35 for IPv6; a
listing of the table has libnftables hold 2.5 KB for each besides, as long as it lasts.
"""

_Key: TypeAlias = tuple[int, int, bytes]


class _Dump(msgspec.Struct):
    """Entries by what tells them apart, how many others the kernel gave, of IPv6 too, and its refusal, if any."""

    entries: dict[_Key, ConntrackEntry]
    others: int = 0
    others6: int = 0
    refusal: Acknowledgement | None = None


def room_for_ways(limit: Path = _LIMIT) -> int:
    """Give how many ways of ended connections there shall be room for: as many as conntrack has for connections.

    Where conntrack isn't loaded, or its limit can't be read, the size that sets have anyway.
    """
    try:
        connections = int(limit.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return FLOW_SET_SIZE
    return min(max(connections or _MOST_WAYS, FLOW_SET_SIZE), _MOST_WAYS)


def open_socket() -> socket.socket:
    """Open a netlink socket of this thread's network namespace, set up for `ConntrackClient`.

    Raises MachineError where this machine stands in the way, KernelError otherwise.
    """
    return asking_socket(_NEEDS_ROOT, blocking=True, send_buffer=_BUFFER, receive_buffer=_BUFFER)


class ConntrackClient:
    """The conntrack entries of the network namespace in which it is made. One thread at a time may use it.

    opening:      gives a connected netlink socket: now, and after a failure that left the old one with answers to come
    filters_from: entries of a family, for each address asked for, from which on the kernel is to filter: it walks its
                  table twice for an address, which takes as long as reading some 15,000 entries (tried)
    timeout_seconds: for each answer; the kernel answers within the call, so this only ends what would never end
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
        self._filters: dict[Family, bool] = {}  # whether the kernel's filter is right, where that is known
        self._socket: socket.socket | None = self._open()

    def close(self) -> None:
        """Close the socket. Closing twice is harmless."""
        opened, self._socket = self._socket, None
        if opened is not None:
            opened.close()

    def entries(self, addresses: frozenset[str]) -> list[ConntrackEntry]:
        """Give the entries, in all zones, whose client or server is one of these canonical addresses, each once.

        From a whole dump also those of link-local addresses, which are nobody's whom a policy knows.

        Entries that come or go during the call may be among them or not. A dump that the kernel calls interrupted is
        made again, three times at most; then what was found by any of them is given.

        Raises MachineError without the right to ask, or without ctnetlink; KernelError for other failures.
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
        """Delete entries; give how many of them were still there.

        One that is refused doesn't keep the others: KernelError names the first such one after all were asked for.
        Raises MachineError without the right to delete; KernelError also where the outcome isn't known.
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
        """Have the kernel pick the entries where that is cheaper, and right; None where a whole dump must tell."""
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
        """Pick the entries from one whole dump, and see how large the table is, and whether the filter would do."""
        (family, *more), wanted = unpicked, frozenset[str]().union(*unpicked.values())
        whole = self._dump(None if more else family, wanted)
        if whole.refusal is not None:
            raise _undumped(whole.refusal)
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
        """Tell whether the kernel's filter gives a known entry by its client and by its server, and no others."""
        by_client = self._filtered(family, frozenset({known.client}), "client")
        by_server = self._filtered(family, frozenset({known.server}), "server")
        return by_client is not None and by_server is not None and key in by_client and key in by_server

    def _filtered(
        self, family: Family, wanted: frozenset[str], *ends: Literal["client", "server"]
    ) -> dict[_Key, ConntrackEntry] | None:
        """Let the kernel pick the entries whose ends are wanted; None where it refuses, or gives others too."""
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
            self._sequence = (self._sequence + 1) & _SEQUENCE_MASK
            request = encode_dump(family, self._sequence, client=client, server=server)
            found.others = found.others6 = 0  # nothing tells them apart, so what one attempt gave is what counts
            with self._asking() as opened:
                opened.send(request)
                interrupted = _take_dump(opened, found, wanted)
            if not interrupted:
                break
        return found

    def _delete_batch(self, batch: list[ConntrackEntry]) -> list[tuple[ConntrackEntry, Acknowledgement]]:
        """Ask for deletions by one send, and give those that were refused. The last one alone is acknowledged."""
        asked = {(self._sequence + n) & _SEQUENCE_MASK: entry for n, entry in enumerate(batch, 1)}
        self._sequence = last = (self._sequence + len(batch)) & _SEQUENCE_MASK
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
        """Give the socket, and put into words what fails.

        Who asks next gets a new socket then: while a dump isn't taken to its end, the kernel begins no other.
        """
        if self._socket is None:
            self._socket = self._open()
        try:
            yield self._socket
        except BaseException as error:
            self.close()
            if isinstance(error, WireError):
                raise KernelError(f"conntrack's answer can't be read: {error}") from None
            if isinstance(error, OSError):
                raise KernelError(f"conntrack doesn't answer: {self._words(error)}") from error
            raise

    def _words(self, error: OSError) -> str:
        if isinstance(error, TimeoutError):
            return f"nothing came within {self._timeout_seconds:g} s"
        return _errno_words(error.errno or 0)


def _drained(entries: dict[_Key, ConntrackEntry]) -> list[ConntrackEntry]:
    """Give the entries in their order. Each key goes by itself: all at once would hold the event loop."""
    found = []
    while entries:
        found.append(entries.popitem()[1])
    found.reverse()
    return found


def _take_dump(opened: socket.socket, found: _Dump, wanted: frozenset[str]) -> bool:
    """Take the answer to one request for a dump, and tell whether the kernel called it interrupted."""
    interrupted = done = False
    while not done:
        part = decode_entries(opened.recv(_DATAGRAM), wanted)
        found.entries |= {(entry.zone, entry.id, entry.reply): entry for entry in part.entries}
        found.others += part.others
        found.others6 += part.others6
        found.refusal = part.refusal
        interrupted, done = interrupted or part.interrupted, part.done
    return interrupted


def _answers(opened: socket.socket, last: int) -> Iterator[Acknowledgement]:
    """Give the answers to a batch up to the last; who lacks the right gets one answer, to the first."""
    while True:
        for reply in codec.messages(opened.recv(_DATAGRAM)):
            answer = decode_answer(reply)
            yield answer
            if answer.sequence == last or answer.errno == errno.EPERM:
                return


def _undumped(answer: Acknowledgement) -> HostError | KernelError:
    if answer.errno == errno.EPERM:
        return HostError(_NEEDS_ROOT, hint=AS_ROOT)
    if answer.errno in {errno.EINVAL, errno.EOPNOTSUPP}:  # nfnetlink's answer for a subsystem that isn't there
        return HostError("this kernel has no nf_conntrack_netlink", hint="modprobe nf_conntrack_netlink")
    return KernelError(f"the kernel refused to list conntrack entries: {_reason(answer)}")


def _undeleted(entry: ConntrackEntry, answer: Acknowledgement, others: int) -> HostError | KernelError:
    if answer.errno == errno.EPERM:
        return HostError(_NEEDS_ROOT, hint=AS_ROOT)
    more = f"; {others} more were refused" if others else ""
    what = f"protocol {entry.protocol} from {entry.client} to {entry.server}"
    return KernelError(f"the kernel refused to delete the conntrack entry of {what}: {_reason(answer)}{more}")


def _reason(answer: Acknowledgement) -> str:
    said = f"; the kernel says: {answer.text}" if answer.text else ""
    return _errno_words(answer.errno) + said


def _errno_words(code: int) -> str:
    return f"{os.strerror(code)} ({errno.errorcode.get(code, code)})"
