"""Frames that Pods on a bridge send, and that netfilter can't judge: a static table of the bridge family drops them.

br_netfilter shows IPv4 and IPv6 to the rules, and no frame with a VLAN tag, PPPoE or another wrapping. A receiver takes
the tag of VLAN 0, any number of them, away by itself: such a frame would be an unjudged packet. Where a VLAN-aware
bridge tags by itself, it does so after this hook.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import msgspec

from nfagent.errors import WireError
from nfagent.nftables.objects import TABLE

BRIDGE_FAMILY = "bridge"
BRIDGE_TABLE = f"{BRIDGE_FAMILY} {TABLE}"
UNJUDGED_COUNTER = "drop/unjudged"
_CHAIN = "prerouting-frames"
_PRIORITY = -300
_RARP = 0x8035
"""What a virtual machine tells of its move by; it carries no packet, as ARP doesn't."""
_COMMENT = "holds no packet that could be judged"
_VARYING = frozenset(("handle", "packets", "bytes"))

REMOVAL = f"add table {BRIDGE_TABLE}\ndelete table {BRIDGE_TABLE}\n"
"""Commands that succeed whether the table is there or not."""
TABLE_TEXT = f"""{REMOVAL}add table {BRIDGE_TABLE}
add counter {BRIDGE_TABLE} {UNJUDGED_COUNTER}
add chain {BRIDGE_TABLE} {_CHAIN} {{ type filter hook prerouting priority {_PRIORITY}; policy accept; }}
add rule {BRIDGE_TABLE} {_CHAIN} ether type {{ ip, ip6, arp, {_RARP:#x} }} accept
add rule {BRIDGE_TABLE} {_CHAIN} meta iifkind "veth" counter name "{UNJUDGED_COUNTER}" drop comment "{_COMMENT}"
"""
"""The whole table, made anew in one transaction."""

_Json: TypeAlias = dict[str, Any]


class BridgeTableListing(msgspec.Struct, frozen=True):
    """What a listing of the table says, without what is another each time.

    objects: table, chains, counters, in one order whatever nft's is; rules in theirs
    dropped: frames counted; None where the counter is gone
    """

    objects: tuple[bytes, ...]
    dropped: int | None = None


def parse_frames(text: str) -> BridgeTableListing:
    """Read the answer to `list table bridge nfagent`. Raises WireError."""
    try:
        entries = msgspec.json.decode(text)["nftables"]
        found = [(kind, item) for entry in entries for kind, item in entry.items() if kind != "metainfo"]
        counted = (item["packets"] for kind, item in found if (kind, item.get("name")) == ("counter", UNJUDGED_COUNTER))
        others = sorted(_written(kind, item) for kind, item in found if kind != "rule")
        rules = [_written(kind, item) for kind, item in found if kind == "rule"]
        return BridgeTableListing((*others, *rules), next(counted, None))
    except (msgspec.DecodeError, KeyError, TypeError, AttributeError) as error:
        raise WireError(f"libnftables answered something that is no listing of table {BRIDGE_TABLE}: {error}") from None


def _written(kind: str, item: _Json) -> bytes:
    kept = {key: _in_order(value) for key, value in item.items() if key not in _VARYING}
    return msgspec.json.encode({kind: kept}, order="sorted")


def _in_order(value: Any) -> Any:  # noqa: ANN401 - JSON
    """Put the elements of anonymous sets in one order: nft lists them by their bytes."""
    if isinstance(value, list):
        return [_in_order(item) for item in value]
    if isinstance(value, dict):
        return {key: sorted(item, key=str) if key == "set" else _in_order(item) for key, item in value.items()}
    return value


def _expected() -> BridgeTableListing:
    ours = {"family": BRIDGE_FAMILY, "table": TABLE}
    rule = {**ours, "chain": _CHAIN}
    ether_type = {"payload": {"protocol": "ether", "field": "type"}}
    shown = {"match": {"op": "==", "left": ether_type, "right": {"set": ["ip", "ip6", "arp", _RARP]}}}
    of_pod = {"match": {"op": "==", "left": {"meta": {"key": "iifkind"}}, "right": "veth"}}
    hook = {"type": "filter", "hook": "prerouting", "prio": _PRIORITY, "policy": "accept"}
    listing = [
        {"table": {"family": BRIDGE_FAMILY, "name": TABLE}},
        {"counter": {**ours, "name": UNJUDGED_COUNTER, "packets": 0, "bytes": 0}},
        {"chain": {**ours, "name": _CHAIN, **hook}},
        {"rule": {**rule, "expr": [shown, {"accept": None}]}},
        {"rule": {**rule, "comment": _COMMENT, "expr": [of_pod, {"counter": UNJUDGED_COUNTER}, {"drop": None}]}},
    ]
    return parse_frames(msgspec.json.encode({"nftables": listing}).decode())


EXPECTED = _expected().objects
"""What nft lists of the table where nobody has changed it (1.0.6 and 1.1.3)."""
