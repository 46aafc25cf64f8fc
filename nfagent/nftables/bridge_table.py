"""A static table of family bridge that drops frames of Pods which the inet table can't filter.

br_netfilter passes IPv4 and IPv6 to the inet table, but no frame with a VLAN tag, PPPoE or another encapsulation. A
receiver removes any number of VLAN 0 tags by itself: such a frame would carry an unfiltered packet. A VLAN-aware bridge
adds its own tags after this hook.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import msgspec

from nfagent.errors import WireError
from nfagent.nftables.objects import TABLE

BRIDGE_FAMILY = "bridge"
BRIDGE_TABLE = f"{BRIDGE_FAMILY} {TABLE}"
UNFILTERED_COUNTER = "drop/unjudged"
_CHAIN = "prerouting-frames"
_PRIORITY = -300
_RARP = 0x8035
"""EtherType of RARP, which announces the migration of a virtual machine; like ARP it carries no IP packet."""
_COMMENT = "holds no packet that could be judged"
_VARYING = frozenset(("handle", "packets", "bytes"))

REMOVAL = f"add table {BRIDGE_TABLE}\ndelete table {BRIDGE_TABLE}\n"
"""Commands that delete the table, and succeed without one."""
TABLE_TEXT = f"""{REMOVAL}add table {BRIDGE_TABLE}
add counter {BRIDGE_TABLE} {UNFILTERED_COUNTER}
add chain {BRIDGE_TABLE} {_CHAIN} {{ type filter hook prerouting priority {_PRIORITY}; policy accept; }}
add rule {BRIDGE_TABLE} {_CHAIN} ether type {{ ip, ip6, arp, {_RARP:#x} }} accept
add rule {BRIDGE_TABLE} {_CHAIN} meta iifkind "veth" counter name "{UNFILTERED_COUNTER}" drop comment "{_COMMENT}"
"""
"""Commands that re-create the whole table in one transaction."""

_Json: TypeAlias = dict[str, Any]


class BridgeTableListing(msgspec.Struct, frozen=True):
    """A listing of the table, without handles and counter values.

    objects: table, chains and counters, sorted; rules in their own order
    dropped: frames counted; None without the counter
    """

    objects: tuple[bytes, ...]
    dropped: int | None = None


def parse_bridge_table(text: str) -> BridgeTableListing:
    """Read the JSON of `list table bridge nfagent`. Raises WireError."""
    try:
        entries = msgspec.json.decode(text)["nftables"]
        found = [(kind, item) for entry in entries for kind, item in entry.items() if kind != "metainfo"]
        counted = (
            item["packets"] for kind, item in found if (kind, item.get("name")) == ("counter", UNFILTERED_COUNTER)
        )
        others = sorted(_written(kind, item) for kind, item in found if kind != "rule")
        rules = [_written(kind, item) for kind, item in found if kind == "rule"]
        return BridgeTableListing((*others, *rules), next(counted, None))
    except (msgspec.DecodeError, KeyError, TypeError, AttributeError) as error:
        raise WireError(f"libnftables output is not a listing of table {BRIDGE_TABLE}: {error}") from None


def _written(kind: str, item: _Json) -> bytes:
    kept = {key: _in_order(value) for key, value in item.items() if key not in _VARYING}
    return msgspec.json.encode({kind: kept}, order="sorted")


def _in_order(value: Any) -> Any:  # noqa: ANN401 - JSON
    """Sort the elements of anonymous sets: nft lists them in the order of their bytes."""
    if isinstance(value, list):
        return [_in_order(item) for item in value]
    if isinstance(value, dict):
        return {key: sorted(item, key=str) if key == "set" else _in_order(item) for key, item in value.items()}
    return value


def _expected() -> BridgeTableListing:
    ours = {"family": BRIDGE_FAMILY, "table": TABLE}
    rule = {**ours, "chain": _CHAIN}
    ether_type = {"payload": {"protocol": "ether", "field": "type"}}
    filterable = {"match": {"op": "==", "left": ether_type, "right": {"set": ["ip", "ip6", "arp", _RARP]}}}
    from_veth = {"match": {"op": "==", "left": {"meta": {"key": "iifkind"}}, "right": "veth"}}
    hook = {"type": "filter", "hook": "prerouting", "prio": _PRIORITY, "policy": "accept"}
    listing = [
        {"table": {"family": BRIDGE_FAMILY, "name": TABLE}},
        {"counter": {**ours, "name": UNFILTERED_COUNTER, "packets": 0, "bytes": 0}},
        {"chain": {**ours, "name": _CHAIN, **hook}},
        {"rule": {**rule, "expr": [filterable, {"accept": None}]}},
        {"rule": {**rule, "comment": _COMMENT, "expr": [from_veth, {"counter": UNFILTERED_COUNTER}, {"drop": None}]}},
    ]
    return parse_bridge_table(msgspec.json.encode({"nftables": listing}).decode())


EXPECTED = _expected().objects
"""What nft 1.0.6 and 1.1.3 list of the unchanged table."""
