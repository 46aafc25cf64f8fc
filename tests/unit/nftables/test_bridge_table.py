"""Listings of the bridge table, in any order of objects."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest

from nfagent.errors import WireError
from nfagent.nftables.bridge_table import FRAMES, TABLE_TEXT, parse_bridge_table
from nfagent.nftables.objects import ABSENT

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
    assert (found.ruleset, found.dropped) == (FRAMES, 7)


def test_the_commands_that_check_has_nft_read_work_with_and_without_the_table() -> None:
    assert TABLE_TEXT.splitlines() == [
        "add table bridge nfagent",
        "delete table bridge nfagent",
        "add table bridge nfagent",
        "add counter bridge nfagent drop/unjudged",
        "add chain bridge nfagent prerouting-frames { type filter hook prerouting priority -300; policy accept; }",
        "add rule bridge nfagent prerouting-frames ether type { ip, arp, 0x8035, ip6 } accept",
        (
            'add rule bridge nfagent prerouting-frames meta iifkind "veth" counter name "drop/unjudged" drop '
            'comment "holds no packet that could be judged"'
        ),
    ]


def test_the_table_of_family_inet_is_none_of_it() -> None:
    table = [{kind: {**item, "family": "inet"} for kind, item in entry.items()} for entry in entries()]
    assert parse_bridge_table(listing([*entries(), *table])).ruleset == FRAMES
    assert parse_bridge_table(listing(table)).ruleset == ABSENT


def test_the_order_of_objects_other_than_rules_is_ignored() -> None:
    table = entries()
    table[2], table[3] = table[3], table[2]
    assert parse_bridge_table(listing(table)).ruleset == FRAMES


def shown(table: Entries) -> list[object]:
    """Return the EtherTypes that pass."""
    table[4]["rule"]["expr"] = copy.deepcopy(table[4]["rule"]["expr"])
    found: list[object] = table[4]["rule"]["expr"][0]["match"]["right"]["set"]
    return found


CHANGES: dict[str, Callable[[Entries], object]] = {
    "rules in another order": lambda table: table.insert(4, table.pop()),
    "a rule less": lambda table: table.pop(),
    "a rule more": lambda table: table.append({"rule": {**OURS, "chain": CHAIN["name"], "expr": [{"accept": None}]}}),
    "a set more": lambda table: table.append({"set": {**OURS, "name": "mine", "type": "ether_addr"}}),
    "flags of the table": lambda table: table[1]["table"].update(flags=["dormant"]),
    "another priority": lambda table: table[3]["chain"].update(prio=300),
    "another policy": lambda table: table[3]["chain"].update(policy="drop"),
    "no EtherType": lambda table: table[4]["rule"].update(expr=[{"accept": None}]),
    "an EtherType more": lambda table: shown(table).append("vlan"),
    "an EtherType less": lambda table: shown(table).pop(),
    "another kind of link": lambda table: table[5]["rule"]["expr"][0]["match"].update(right="bridge"),
    "a counter more": lambda table: table.append({"counter": {**OURS, "name": "mine", "packets": 0, "bytes": 0}}),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_any_change_of_the_table_is_seen(change: Callable[[Entries], object]) -> None:
    table = entries()
    change(table)
    assert parse_bridge_table(listing(table)).ruleset != FRAMES


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"nftables": 1}', '{"nftables": [1]}', '{"nftables": [{}]}'])
def test_text_that_is_not_a_listing_is_refused(text: str) -> None:
    with pytest.raises(WireError, match="libnftables"):
        parse_bridge_table(text)
