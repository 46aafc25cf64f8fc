"""Reads our chains, sets and counters of iptables from the kernel. Blocking: up to six programs are run.

`XtReader` remembers what it has read: a table or set that the kernel holds as it did isn't listed and decoded again.
"""

from __future__ import annotations

import errno
import threading
from collections.abc import Iterator
from hashlib import blake2b
from typing import cast

import msgspec

from nfagent.errors import KernelError
from nfagent.kernel.ipset_refusals import SetRefusedError
from nfagent.kernel.ipset_socket import IpSetSocket, ListedSet, listed_set
from nfagent.kernel.nfacct_socket import NfacctSocket
from nfagent.kernel.table_queries import generation
from nfagent.kernel.xt_programs import XtPrograms
from nfagent.kernel.xt_tables import table_digest
from nfagent.model.netaddr import Family
from nfagent.netlink.ipset import WITH_COUNTERS
from nfagent.xtables.listing import XtListing, listed
from nfagent.xtables.objects import EMPTY, TABLES, IpSet, SetType, TableName, XtRuleset
from nfagent.xtables.saved import SavedTable, is_ours, parse_saved

_KNOWN_FLAGS = WITH_COUNTERS
_EVERY_PORT = (0, 65535)
_DIGEST_BYTES = 16


class XtKernel(msgspec.Struct, frozen=True):
    """What our objects are read and written by.

    families: those that the kernel has tables for
    accounts: None where the kernel has no named counters
    absent:   tables that the kernel lacks, of families that it has table mangle for
    """

    programs: XtPrograms
    families: tuple[Family, ...]
    sets: IpSetSocket
    accounts: NfacctSocket | None
    absent: frozenset[tuple[Family, TableName]] = frozenset()

    def close(self) -> None:
        """Close the sockets."""
        self.sets.close()
        if self.accounts is not None:
            self.accounts.close()


class _ReadTable(msgspec.Struct, frozen=True):
    """A table as it was read; mark: equal while it is unchanged."""

    mark: object
    saved: SavedTable


class _ReadSet(msgspec.Struct, frozen=True):
    """A set as it was read; digest: of the kernel's messages."""

    digest: bytes
    item: IpSet


class XtReader:
    """Reads our objects of one kernel. Any thread may; one waits for another."""

    def __init__(self, kernel: XtKernel) -> None:
        """Store the kernel."""
        self._kernel = kernel
        self._in_use = threading.Lock()
        self._tables: dict[tuple[Family, TableName], _ReadTable] = {}
        self._sets: dict[str, _ReadSet] = {}

    def read(self, known: XtRuleset = EMPTY) -> XtListing:
        """Return our objects; those equal to one of `known` are that one. Raises KernelError, HostError."""
        with self._in_use:
            return self._read(known)

    def _read(self, known: XtRuleset) -> XtListing:
        kernel = self._kernel
        tables, sets = list(self._read_tables()), self._read_sets()
        accounts = () if kernel.accounts is None else (found.name for found in kernel.accounts.read())
        saved = ((family, table, read.saved) for family, table, read in tables)
        listing = listed(saved, sets, filter(is_ours, accounts), known)
        # What is kept are the objects of the known ruleset, so that there is one of each.
        chains = listing.ruleset.chains
        for family, table, read in tables:
            kept = msgspec.structs.replace(read.saved, chains={key: chains[key] for key in read.saved.chains})
            self._tables[family, table] = _ReadTable(read.mark, kept)
        for name, item in listing.ruleset.sets.items():
            known_set = self._sets[name]
            if known_set.item.members is not item.members and known_set.item.members == item.members:
                replaced = msgspec.structs.replace(known_set.item, members=item.members)
                self._sets[name] = _ReadSet(known_set.digest, replaced)
        return listing

    def read_tables(self) -> XtListing:
        """Return our chains, and jumps to them, without sets and counters. Raises KernelError, HostError."""
        with self._in_use:
            return listed([(family, table, read.saved) for family, table, read in self._read_tables()], {}, ())

    def read_sets(self) -> dict[str, IpSet]:
        """Return our sets with their members; one that goes meanwhile is left out. Raises KernelError, HostError."""
        with self._in_use:
            return self._read_sets()

    def _read_tables(self) -> Iterator[tuple[Family, TableName, _ReadTable]]:
        for family in self._kernel.families:
            for table in TABLES:
                before, read = self._mark(family, table), self._tables.get((family, table))
                if read is not None and before is not None and read.mark == before:
                    yield family, table, read
                    continue
                saved = parse_saved(self._kernel.programs.save(family, table), family)
                if table in saved:
                    # A change meanwhile: it isn't known which of both was printed.
                    mark = before if self._mark(family, table) == before else None
                    yield family, table, _ReadTable(mark, saved[table])

    def _mark(self, family: Family, table: TableName) -> object:
        """Return what is equal while the table is unchanged; None where the kernel doesn't tell.

        Rules hold the indices of sets. Equal rules stand for others where a new set has the index of one that is gone.
        """
        try:
            if self._kernel.programs.variant == "legacy":
                return self._kernel.sets.created, table_digest(family, table)
            return generation()
        except KernelError:
            return None

    def _read_sets(self) -> dict[str, IpSet]:
        sets = self._kernel.sets
        names = [name for name in sets.names() if is_ours(name)]
        for name in self._sets.keys() - set(names):
            del self._sets[name]
        found: dict[str, IpSet] = {}
        for name in names:
            try:
                messages = sets.messages(name)
            except SetRefusedError as error:
                if error.code != errno.ENOENT:
                    raise
                continue  # it has gone meanwhile
            read = self._sets.get(name)
            digest = blake2b(b"".join(each.payload for each in messages), digest_size=_DIGEST_BYTES).digest()
            if read is None or read.digest != digest:
                read = self._sets[name] = _ReadSet(digest, _value(listed_set(name, messages)))
            found[name] = read.item
        return found


def _value(found: ListedSet) -> IpSet:
    """Return a set; one that nfagent never makes has a type that none of its sets has."""
    header = found.header
    kind = header.type
    is_bitmap = kind == "bitmap:port"
    if found.unknown or header.others or header.flags & ~_KNOWN_FLAGS:
        kind = f"{kind} with more"
    if is_bitmap and (header.first, header.last) != _EVERY_PORT:
        kind = f"{kind} of some ports"
    return IpSet(
        cast("SetType", kind),
        header.family,
        members=found.members,
        counters=bool(header.flags & WITH_COUNTERS),
        timeout=header.timeout,
        size=header.size,
    )
