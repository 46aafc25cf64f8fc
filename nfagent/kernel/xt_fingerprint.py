"""Tells cheaply whether our rules and sets may have been changed, where nothing reports changes.

Tables of iptables-legacy are compared by what the kernel holds (`xt_tables`), those of iptables-nft by the number of
commits to nf_tables, sets by their listings. Equal fingerprints: nothing has changed. Different ones: look closer.
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import blake2b

import msgspec

from nfagent.kernel.ipset_refusals import SetRefusedError
from nfagent.kernel.table_queries import generation
from nfagent.kernel.xt_listing import XtKernel
from nfagent.kernel.xt_tables import TableShape, table_digest, table_shape
from nfagent.model.netaddr import Family
from nfagent.xtables.names import PREFIX
from nfagent.xtables.objects import TABLES, TableName, XtRuleset

_DIGEST_BYTES = 16
_ENDS = 2


class Fingerprint(msgspec.Struct, frozen=True):
    """What a change changes.

    shapes:  of the tables: numbers of rules and their sizes, or of commits
    headers: of the names of all sets and the numbers of their members
    content: of the rules themselves, and the members of our sets; () where they weren't read
    """

    shapes: tuple[object, ...]
    headers: bytes
    content: tuple[bytes, ...] = ()

    def is_same(self, other: Fingerprint | None) -> bool:
        """Return whether nothing differs of what both have."""
        if other is None or (self.shapes, self.headers) != (other.shapes, other.headers):
            return False
        return not self.content or self.content == other.content


def fingerprint(kernel: XtKernel, written: XtRuleset, *, with_content: bool) -> Fingerprint:
    """Return the fingerprint. Raises KernelError, HostError.

    written: sets whose members come from packets are left out of it
    """
    tables = _tables(kernel)
    is_legacy = kernel.programs.variant == "legacy"
    shapes = tuple(table_shape(*table) for table in tables) if is_legacy else (generation(),)
    live = {name.encode() + b"\0" for name, item in written.sets.items() if item.timeout}
    headers = blake2b(digest_size=_DIGEST_BYTES)
    for payload in kernel.sets.raw_headers():
        if PREFIX.encode() in payload and not any(name in payload for name in live):
            headers.update(payload)
    if not with_content:
        return Fingerprint(shapes, headers.digest())
    rules = tuple(table_digest(*table) for table in tables) if is_legacy else ()
    return Fingerprint(shapes, headers.digest(), (*rules, _members(kernel, written)))


def entries_of(written: XtRuleset) -> dict[tuple[Family, TableName], int]:
    """Return how many entries a ruleset has in each table of iptables-legacy: a chain has a first and a last one."""
    found: dict[tuple[Family, TableName], int] = {}
    for (family, table, _), chain in written.chains.items():
        found[family, table] = found.get((family, table), 0) + len(chain.rules) + _ENDS
    return found


def lacks_entries(found: Fingerprint, kernel: XtKernel, entries: Mapping[tuple[Family, TableName], int]) -> bool:
    """Return whether a table has fewer entries than were written: it was flushed, whichever other rules are there."""
    if kernel.programs.variant != "legacy":
        return False
    shapes = zip(_tables(kernel), found.shapes, strict=True)
    return any(
        (shape.entries if isinstance(shape, TableShape) else 0) < entries.get(table, 0) for table, shape in shapes
    )


def _tables(kernel: XtKernel) -> list[tuple[Family, TableName]]:
    return [(family, table) for family in kernel.families for table in TABLES]


def _members(kernel: XtKernel, written: XtRuleset) -> bytes:
    found = blake2b(digest_size=_DIGEST_BYTES)
    for name in sorted(written.sets):
        item = written.sets[name]
        if item.timeout:
            continue
        try:
            if item.counters:
                found.update("\n".join(sorted(map(str, kernel.sets.read(name).members))).encode())
                continue
            for payload in kernel.sets.raw(name):
                found.update(payload)
        except SetRefusedError:
            found.update(name.encode())  # it is gone
    return found.digest()
