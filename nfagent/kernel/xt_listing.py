"""Reads our chains, sets and counters of iptables from the kernel. Blocking: two to six programs are run."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from typing import cast

import msgspec

from nfagent.kernel.ipset_refusals import SetRefusedError
from nfagent.kernel.ipset_socket import IpSetSocket, ListedSet
from nfagent.kernel.nfacct_socket import NfacctSocket
from nfagent.kernel.xt_programs import XtPrograms
from nfagent.model.netaddr import Family
from nfagent.netlink.ipset import WITH_COUNTERS
from nfagent.xtables.listing import XtListing, listed
from nfagent.xtables.objects import EMPTY, TABLES, IpSet, SetType, TableName, XtRuleset
from nfagent.xtables.saved import SavedTable, is_ours, parse_saved

_KNOWN_FLAGS = WITH_COUNTERS
_EVERY_PORT = (0, 65535)


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


def read_listing(kernel: XtKernel, known: XtRuleset = EMPTY) -> XtListing:
    """Return our objects. Raises KernelError, HostError."""
    tables = list(read_tables(kernel))
    accounts = () if kernel.accounts is None else (found.name for found in kernel.accounts.read())
    return listed(tables, read_sets(kernel.sets), filter(is_ours, accounts), known)


def read_tables(kernel: XtKernel) -> Iterator[tuple[Family, TableName, SavedTable]]:
    """Yield our chains, and jumps to them, of each family and table. Raises KernelError, HostError."""
    for family in kernel.families:
        for table in TABLES:
            saved = parse_saved(kernel.programs.save(family, table), family)
            if table in saved:
                yield family, table, saved[table]


def read_sets(sets: IpSetSocket) -> dict[str, IpSet]:
    """Return our sets with their members; one that goes meanwhile is left out. Raises KernelError, HostError."""
    found: dict[str, IpSet] = {}
    for name in filter(is_ours, sets.names()):
        try:
            found[name] = _value(sets.read(name))
        except SetRefusedError as error:
            if error.code != errno.ENOENT:
                raise
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
