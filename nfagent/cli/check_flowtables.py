"""The check of other programs' flowtables, for `nfagent check`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

from nfagent.cli.check_result import Check
from nfagent.errors import HostError, KernelError, WireError
from nfagent.kernel.backend_choice import has_nf_tables
from nfagent.kernel.listing_process import ListingProcess
from nfagent.nftables.foreign_flowtables import Flowtable, parse_flowtables

_NAME = "flowtables"
_EFFECT = "packets of its connections pass no rule of nfagent: one that a policy denies later ends up to seconds late"
_FIX = "leave the interfaces of Pods out of it: nft list flowtables"


def flowtable_checks(*, root: bool) -> Iterator[Check]:
    """Check that no other program has a flowtable."""
    if not root:
        yield Check(_NAME, "warn", "not tried: needs root")
        return
    try:
        found = _read()
    except (KernelError, HostError) as error:
        yield Check(_NAME, "warn", error.reason, error.hint)
    except WireError as error:
        yield Check(_NAME, "warn", f"the flowtables of other programs can't be read: {error}")
    else:
        for each in found:
            yield Check(_NAME, "warn", f"{each}: {_EFFECT}", _FIX)
        if not found:
            yield Check(_NAME, "ok", "no program has one")


def _read() -> list[Flowtable]:
    if not has_nf_tables():
        return []
    with closing(ListingProcess()) as listing:
        return parse_flowtables(listing.listed("list flowtables") or '{"nftables": []}')
