"""Reads which rules of other programs use bits of the packet mark: of nftables, of iptables, and of routing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from itertools import chain

from nfagent.errors import KernelError, WireError
from nfagent.kernel.backend_choice import has_nf_tables
from nfagent.kernel.gateway_links import PROTOCOL
from nfagent.kernel.iptables_save import saved_rules
from nfagent.kernel.listing_process import ListingProcess
from nfagent.kernel.route_requests import RouteRequests
from nfagent.kernel.table_queries import list_tables
from nfagent.model.netaddr import FAMILIES
from nfagent.netlink.nft_events import TABLE_OWNER, TABLE_PERSIST
from nfagent.nftables.foreign_marks import MarkUse, marks_in_listing, marks_in_save, overlapping

_NOTHING = '{"nftables": []}'
# nft lists the rules of iptables-nft without their marks.
_SAVES = ("iptables-legacy", "ip6tables-legacy", "iptables-nft", "ip6tables-nft")


def read_mark_uses(mask: int) -> list[MarkUse]:
    """Return the rules of other programs that use any bit of a mask. Raises KernelError, HostError, WireError.

    The rules of iptables are read by its own programs, where those are installed.
    """
    nf_tables = has_nf_tables()
    listed = _listed() if nf_tables else _NOTHING
    saved = chain.from_iterable(
        marks_in_save(saved_rules(name), name) for name in _SAVES if nf_tables or name.endswith("-legacy")
    )
    return overlapping(chain(marks_in_listing(listed), saved, _routing_rules()), mask)


def _listed() -> str:
    owned = [table.name for table in list_tables() if table.flags & (TABLE_OWNER | TABLE_PERSIST)]
    if owned:  # nft 1.0.6 damages its memory where it lists such a table as JSON
        raise KernelError(f"rules can't be listed beside tables with flags: {', '.join(owned)}")
    with closing(ListingProcess()) as listing:
        return listing.listed("list ruleset") or _NOTHING


def _routing_rules() -> Iterator[MarkUse]:
    try:
        with RouteRequests() as kernel:
            found = [rule for family in FAMILIES for rule in kernel.rules(family) if rule.protocol != PROTOCOL]
    except (OSError, WireError) as error:
        raise KernelError(f"routing rules can't be read: {error}") from None
    for rule in found:
        if rule.mask:
            command = "ip rule" if rule.family == 4 else "ip -6 rule"
            text = f"{rule.priority}: fwmark {rule.mark:#x}/{rule.mask:#x} lookup {rule.table}"
            yield MarkUse(f"`{command}`", text, rule.mask, sets=False)
