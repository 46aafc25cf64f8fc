"""A static table of family bridge that drops frames of Pods which the inet table can't filter.

br_netfilter passes IPv4 and IPv6 to the inet table, but no frame with a VLAN tag, PPPoE or another encapsulation. A
receiver removes any number of VLAN 0 tags by itself: such a frame would carry an unfiltered packet. A VLAN-aware bridge
adds its own tags after this hook.
"""

from __future__ import annotations

import msgspec

from nfagent.errors import WireError
from nfagent.nftables.diff import diff
from nfagent.nftables.matches import EtherType, FromVeth
from nfagent.nftables.objects import ABSENT, TABLE, Accept, Chain, Drop, Hook, Rule, Ruleset
from nfagent.nftables.parse import parse_counters, parse_listing
from nfagent.nftables.transaction import AddTable, Delete, Transaction, transaction_text

BRIDGE_FAMILY = "bridge"
BRIDGE_TABLE = f"{BRIDGE_FAMILY} {TABLE}"
UNFILTERED_COUNTER = "drop/unjudged"
_IPV4, _ARP, _RARP, _IPV6 = 0x0800, 0x0806, 0x8035, 0x86DD
"""EtherTypes. RARP announces the migration of a virtual machine; like ARP it carries no IP packet."""
_RULES = (
    Rule((EtherType((_IPV4, _ARP, _RARP, _IPV6)),), verdict=Accept()),
    Rule((FromVeth(),), counter=UNFILTERED_COUNTER, verdict=Drop(), comment="holds no packet that could be judged"),
)
FRAMES = Ruleset(
    chains={"prerouting-frames": Chain(_RULES, Hook("filter", "prerouting", -300))},
    counters=frozenset((UNFILTERED_COUNTER,)),
)
"""The table."""
REMOVAL: Transaction = (AddTable(), Delete("table"))
"""Deletes the table, and succeeds without one."""
REPLACEMENT: Transaction = (*REMOVAL, *diff(ABSENT, FRAMES))
"""Re-creates the whole table in one transaction."""
TABLE_TEXT = transaction_text(REPLACEMENT, BRIDGE_TABLE)
"""The same in nft syntax."""


class BridgeTableListing(msgspec.Struct, frozen=True):
    """A listing of the table.

    ruleset: its objects
    dropped: frames counted; None without the counter
    """

    ruleset: Ruleset
    dropped: int | None = None


def parse_bridge_table(text: str) -> BridgeTableListing:
    """Read the JSON of `list table bridge nfagent`. Raises WireError."""
    ruleset = parse_listing(text, family=BRIDGE_FAMILY)
    try:
        counters = parse_counters(msgspec.json.decode(text), family=BRIDGE_FAMILY)
    except msgspec.DecodeError as error:
        raise WireError(f"libnftables output is not a listing: {error}") from None
    counted = counters.get(UNFILTERED_COUNTER)
    return BridgeTableListing(ruleset, None if counted is None else counted.packets)
