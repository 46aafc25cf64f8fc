"""Listings of the bridge table, in any order of objects."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from nfagent.errors import WireError
from nfagent.nftables.bridge_table import EXPECTED, parse_bridge_table

OURS = {"family": "bridge", "table": "nfagent"}
CHAIN = {"name": "prerouting-frames", "type": "filter", "hook": "prerouting", "prio": -300, "policy": "accept"}
ETHER_TYPE = {"payload": {"protocol": "ether", "field": "type"}}
SHOWN = {"match": {"op": "==", "left": ETHER_TYPE, "right": {"set": ["ip", "arp", 32821, "ip6"]}}}
OF_POD = {"match": {"op": "==", "left": {"meta": {"key": "iifkind"}}, "right": "veth"}}
COMMENT = "holds no packet that could be judged"
Entries = list[dict[str, Any]]


def entries() -> Entries:
    """Return what nft 1.0.6 lists; nft 1.1.3 puts the chain before the counter."""
    rule = {**OURS, "chain": CHAIN["name"]}
    return [
        {"metainfo": {"version": "1.0.6", "json_schema_version": 1}},
        {"table": {"family": "bridge", "name": "nfagent", "handle": 2}},
        {"counter": {**OURS, "name": "drop/unjudged", "handle": 1, "packets": 7, "bytes": 420}},
        {"chain": {**OURS, **CHAIN, "handle": 2}},
        {"rule": {**rule, "handle": 4, "expr": [SHOWN, {"accept": None}]}},
        {
            "rule": {
                **rule,
                "handle": 5,
                "comment": COMMENT,
                "expr": [OF_POD, {"counter": "drop/unjudged"}, {"drop": None}],
            }
        },
    ]


def listing(changed: Entries) -> str:
    return json.dumps({"nftables": changed})


def test_the_listing_of_an_unchanged_table_is_the_expected_one_with_its_number_of_dropped_frames() -> None:
    found = parse_bridge_table(listing(entries()))
    assert (found.objects, found.dropped) == (EXPECTED, 7)


def test_the_order_of_objects_other_than_rules_is_ignored() -> None:
    table = entries()
    table[2], table[3] = table[3], table[2]
    assert parse_bridge_table(listing(table)).objects == EXPECTED


CHANGES: dict[str, Callable[[Entries], object]] = {
    "rules in another order": lambda table: table.insert(4, table.pop()),
    "a rule less": lambda table: table.pop(),
    "a rule more": lambda table: table.append({"rule": {**OURS, "chain": CHAIN["name"], "expr": [{"accept": None}]}}),
    "a set more": lambda table: table.append({"set": {**OURS, "name": "mine", "type": "ether_addr"}}),
    "flags of the table": lambda table: table[1]["table"].update(flags=["dormant"]),
    "another priority": lambda table: table[3]["chain"].update(prio=300),
    "another policy": lambda table: table[3]["chain"].update(policy="drop"),
    "another EtherType": lambda table: table[4]["rule"].update(expr=[{"accept": None}]),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_any_change_of_the_table_is_seen(change: Callable[[Entries], object]) -> None:
    table = entries()
    change(table)
    assert parse_bridge_table(listing(table)).objects != EXPECTED


@pytest.mark.parametrize(
    "text", ["", "{}", "[]", '{"nftables": 1}', '{"nftables": [1]}', '{"nftables": [{"table": 1}]}']
)
def test_text_that_is_not_a_listing_is_refused(text: str) -> None:
    with pytest.raises(WireError, match="not a listing of table bridge nfagent"):
        parse_bridge_table(text)
