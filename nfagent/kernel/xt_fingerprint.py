"""Tells cheaply whether our rules and sets may have been changed, where nothing reports changes.

Tables of iptables-legacy are compared by what the kernel holds (`xt_tables`), those of iptables-nft by the number of
commits to nf_tables, sets by their listings. Equal fingerprints: nothing has changed. Different ones: look closer.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import get_args

import msgspec

from nfagent.kernel.table_queries import generation
from nfagent.kernel.xt_listing import XtKernel
from nfagent.kernel.xt_tables import table_digest
from nfagent.xtables.names import PREFIX
from nfagent.xtables.objects import TableName, XtRuleset

_DIGEST_BYTES = 16


class Fingerprint(msgspec.Struct, frozen=True):
    """What a change changes.

    tables:  of the rules
    headers: of the names of all sets and the numbers of their members
    members: of the members of our sets; b'' where they weren't read
    """

    tables: tuple[bytes, ...]
    headers: bytes
    members: bytes = b""


def fingerprint(kernel: XtKernel, written: XtRuleset, *, with_members: bool) -> Fingerprint:
    """Return the fingerprint. Raises KernelError, HostError.

    written: sets whose members come from packets are left out of it
    """
    if kernel.programs.variant == "nft":
        tables: tuple[bytes, ...] = (str(generation()).encode(),)
    else:
        tables = tuple(table_digest(family, table) for family in kernel.families for table in get_args(TableName))
    live = {name.encode() + b"\0" for name, item in written.sets.items() if item.timeout}
    headers = blake2b(digest_size=_DIGEST_BYTES)
    for payload in kernel.sets.raw_headers():
        if PREFIX.encode() in payload and not any(name in payload for name in live):
            headers.update(payload)
    return Fingerprint(tables, headers.digest(), _members(kernel, written) if with_members else b"")


def _members(kernel: XtKernel, written: XtRuleset) -> bytes:
    found = blake2b(digest_size=_DIGEST_BYTES)
    for name in sorted(written.sets):
        item = written.sets[name]
        if item.timeout:
            continue
        if item.counters:
            found.update("\n".join(sorted(map(str, kernel.sets.read(name).members))).encode())
            continue
        for payload in kernel.sets.raw(name):
            found.update(payload)
    return found.digest()
