"""Reads chains of other programs' tables from nft's JSON listings.

Total: a condition that isn't known narrows its rule, and a statement that isn't known does nothing. Rules that iptables
has written have expressions of xtables, which nft lists by name only: what they match is read apart
(`foreign_xtables`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, cast

import msgspec

from nfagent.errors import WireError
from nfagent.model.netaddr import (
    AddressError,
    Family,
    Range,
    canonical,
    disjoint,
    family_of,
    number,
    parse_cidr,
    single,
)
from nfagent.nftables.foreign_rules import Action, ForeignRule, Ranges, common, of_family, other_than
from nfagent.nftables.foreign_xtables import XtMatch, with_xt_match
from nfagent.nftables.objects import TABLE, TABLE_FAMILY

_FAMILIES: dict[str, Family | None] = {"ip": 4, "ip6": 6, "inet": None}
_PROTOCOLS: dict[str, Family] = {"ip": 4, "ip6": 6, "ipv4": 4, "ipv6": 6}
_SILENT = frozenset({"counter", "comment", "log", "quota", "notrack"})
_HANDLE = re.compile(r"(?P<text>.*) # handle (?P<handle>\d{1,20})", re.ASCII | re.DOTALL)
_COUNTED = re.compile(r"counter packets \d+ bytes \d+", re.ASCII)
_ACTIONS = ("masquerade", "snat", "accept", "return", "jump", "goto")
_XT_MARK_TARGETS = frozenset({"MARK", "CONNMARK"})
_NO_MATCHES: Mapping[int, tuple[XtMatch, ...]] = {}
_XT_TARGETS: dict[str, Action] = {"MASQUERADE": "masquerade", "SNAT": "snat", "NETMAP": "snat"}


class BaseChain(msgspec.Struct, frozen=True):
    """A nat chain at hook postrouting; family: None for a table of both."""

    table_family: str
    family: Family | None
    table: str
    name: str
    priority: int


def parse_base_chains(listing: str) -> list[BaseChain]:
    """Return the nat chains at hook postrouting in `nft -j list chains`, without nfagent's. Raises WireError."""
    try:
        return [
            BaseChain(item["family"], _FAMILIES[item["family"]], item["table"], item["name"], int(item.get("prio", 0)))
            for item in objects(listing, "chain")
            if (item.get("type"), item.get("hook")) == ("nat", "postrouting")
            and _word(item.get("family")) in _FAMILIES
            and (item["family"], item["table"]) != (TABLE_FAMILY, TABLE)
        ]
    except (KeyError, TypeError, ValueError) as error:
        raise WireError(f"not a listing of chains: {error!r}") from None


def objects(listing: str, kind: str) -> list[dict[str, Any]]:
    """Return the objects of a kind in a listing. Raises WireError for what isn't one."""
    try:
        found = msgspec.json.decode(listing)
        return [item[kind] for item in found["nftables"] if isinstance(item.get(kind), dict)]
    except (msgspec.DecodeError, LookupError, TypeError, AttributeError) as error:
        raise WireError(f"not a listing of nft: {error}") from None


def referred_sets(listing: str) -> set[str]:
    """Return the names of sets and maps that the rules of a chain look up. Raises WireError."""
    found: set[str] = set()
    for rule in objects(listing, "rule"):
        _collect(rule.get("expr"), found)
    return found


def parse_elements(listing: str) -> Ranges | None:
    """Return the addresses in `nft -j list set`; None where it holds others. Raises WireError."""
    sets = objects(listing, "set")
    return _addresses({"set": sets[0].get("elem", [])}, {}) if sets else None


def parse_targets(listing: str) -> list[ForeignRule]:
    """Return the jumps of the verdict map in `nft -j list map`, as rules. Raises WireError."""
    return [rule for item in objects(listing, "map") for rule in _targets(item.get("elem", []), "")]


def parse_rules(
    listing: str,
    texts: Mapping[int, str],
    sets: Mapping[str, Ranges | None],
    maps: Mapping[str, list[ForeignRule]],
    matches: Mapping[int, tuple[XtMatch, ...]] = _NO_MATCHES,
) -> tuple[ForeignRule, ...]:
    """Return the rules of a chain in `nft -j list chain`. Raises WireError.

    texts:   each rule's text by its handle
    sets:    addresses of the named sets; None for one of other elements
    maps:    jumps of the named verdict maps
    matches: each rule's matches of xtables by its handle
    """
    found: list[ForeignRule] = []
    for item in objects(listing, "rule"):
        handle = item.get("handle", 0) if isinstance(item.get("handle"), int) else 0
        found += _rules(item, texts.get(handle, ""), sets, maps, iter(matches.get(handle, ())))
    return tuple(found)


def parse_texts(listing: str) -> dict[int, str]:
    """Return the text of each rule by its handle in `nft -a list chain`, without the values of its counter."""
    found = (_HANDLE.fullmatch(line.strip()) for line in listing.split("\n"))
    rules = ((each["text"], int(each["handle"])) for each in found if each and not each["text"].endswith("{"))
    return {handle: _COUNTED.sub("counter", " ".join(text.split())) for text, handle in rules}


def _rules(
    item: dict[str, Any],
    text: str,
    sets: Mapping[str, Ranges | None],
    maps: Mapping[str, list[ForeignRule]],
    matches: Iterator[XtMatch],
) -> list[ForeignRule]:
    rule = ForeignRule(text=text or f"handle {item.get('handle')}")
    jumps: list[ForeignRule] = []
    listed = item.get("expr", [])
    for expression in listed if isinstance(listed, list) else []:
        kind, value = next(iter(expression.items()), ("", None)) if isinstance(expression, dict) else ("", None)
        if kind == "vmap" and isinstance(value, dict):
            jumps += _lookup(value, rule.text, maps)
        else:
            rule = _with_expression(rule, kind, value, sets, matches)
    if jumps:
        return [_changed(rule, narrowed=True, action=jump.action, target=jump.target) for jump in jumps]
    return [rule]


def _with_expression(
    rule: ForeignRule, kind: str, value: object, sets: Mapping[str, Ranges | None], matches: Iterator[XtMatch]
) -> ForeignRule:
    if kind == "match" and isinstance(value, dict):
        return _with_match(rule, value, sets)
    if kind == "xt" and isinstance(value, dict):
        return _with_xtables(rule, value, matches)
    if kind in _ACTIONS:
        return _with_action(rule, kind, value)
    if kind in {"drop", "reject"}:
        return _changed(rule, action="accept")
    if kind == "mangle":
        return _changed(rule, marks=True)
    return rule if kind in _SILENT else _changed(rule, narrowed=True)


def _with_match(rule: ForeignRule, match: dict[str, Any], sets: Mapping[str, Ranges | None]) -> ForeignRule:
    left, right, negated = match.get("left"), match.get("right"), match.get("op") == "!="
    if _word(match.get("op")) not in {"==", "!=", "in"} or not isinstance(left, dict):
        return _changed(rule, narrowed=True)
    payload, meta = (left[key] if isinstance(left.get(key), dict) else {} for key in ("payload", "meta"))
    if _word(payload.get("field")) in {"saddr", "daddr"} and _word(payload.get("protocol")) in _PROTOCOLS:
        return _with_addresses(rule, payload, right, sets, negated=negated)
    if _word(meta.get("key")) in {"nfproto", "protocol"} and _word(right) in _PROTOCOLS and not negated:
        return _changed(rule, sources=common(rule.sources, of_family(_PROTOCOLS[str(right)])))
    if _is_local(left, right):
        return rule if negated else _changed(rule, never=True)
    if (wants := _unmarked(left, right)) is not None:
        return _changed(rule, mark="unset" if wants != negated else "set")
    return _changed(rule, narrowed=True)


def _word(value: object) -> str:
    """Return a value that is a string; '' for any other, which a listing of nft doesn't have there."""
    return value if isinstance(value, str) else ""


def _is_local(left: dict[str, Any], right: object) -> bool:
    """Return whether a match is of the node's own traffic: Pods' traffic that is forwarded has no address of it."""
    if isinstance(fib := left.get("fib"), dict):
        return fib.get("result") == "type" and right == "local"
    meta = left.get("meta")
    return isinstance(meta, dict) and _word(meta.get("key")) in {"oif", "oifname"} and right == "lo"


def _unmarked(left: dict[str, Any], right: object) -> bool | None:
    """Return whether a match is of packets without a mark; None where it doesn't look at the mark."""
    masked = left.get("&")
    operand = masked[0] if isinstance(masked, list) and masked else left
    if not isinstance(operand, dict) or not any(
        isinstance(operand.get(kind), dict) and operand[kind].get("key") == "mark" for kind in ("meta", "ct")
    ):
        return None
    if isinstance(right, dict) and isinstance(right.get("prefix"), dict):
        right = right["prefix"].get("addr")
    return right == 0


def _with_addresses(
    rule: ForeignRule, payload: dict[str, Any], right: object, sets: Mapping[str, Ranges | None], *, negated: bool
) -> ForeignRule:
    family = _PROTOCOLS[payload["protocol"]]
    found = _addresses(right, sets)
    if found is None:
        return _changed(rule, narrowed=True)
    ranges = other_than(found, family) if negated else common(found, of_family(family))
    if payload["field"] == "saddr":
        return _changed(rule, sources=common(rule.sources, ranges))
    return _changed(rule, destinations=common(rule.destinations, ranges))


def _addresses(value: object, sets: Mapping[str, Ranges | None]) -> Ranges | None:
    """Return the addresses of the right side of a match; None where it has others than these."""
    if isinstance(value, str) and value.startswith("@"):
        return sets.get(value[1:])
    members = value.get("set") if isinstance(value, dict) else None
    found = [_range(item) for item in (members if isinstance(members, list) else [value])]
    return None if None in found else disjoint(item for item in found if item is not None)


def _range(value: object) -> Range | None:
    try:
        if isinstance(value, str):
            return single(canonical(value))
        if not isinstance(value, dict):
            return None
        if "elem" in value:
            return _range(value["elem"].get("val"))
        if "prefix" in value:
            return parse_cidr(f"{value['prefix']['addr']}/{value['prefix']['len']}")
        first, last = value["range"]
        return Range(family_of(first), number(first), number(last))
    except (AddressError, LookupError, TypeError, ValueError, AttributeError):
        return None


def _with_action(rule: ForeignRule, kind: str, value: object) -> ForeignRule:
    fields = value if isinstance(value, dict) else {}
    target = fields.get("target" if kind in {"jump", "goto"} else "addr", "")
    return _changed(rule, action=cast("Action", kind), target=target if isinstance(target, str) else "")


def _with_xtables(rule: ForeignRule, value: dict[str, Any], matches: Iterator[XtMatch]) -> ForeignRule:
    name = str(value.get("name"))
    if value.get("type") == "target":
        if name in _XT_TARGETS:
            return _changed(rule, action=_XT_TARGETS[name])
        return _changed(rule, marks=rule.marks or name in _XT_MARK_TARGETS)
    return with_xt_match(rule, name, next(matches, None))


def _lookup(value: dict[str, Any], text: str, maps: Mapping[str, list[ForeignRule]]) -> list[ForeignRule]:
    data = value.get("data")
    if isinstance(data, str):
        return maps.get(data.removeprefix("@"), [])
    return _targets(data.get("set", []), text) if isinstance(data, dict) else []


def _targets(pairs: object, text: str) -> list[ForeignRule]:
    found: list[ForeignRule] = []
    for pair in pairs if isinstance(pairs, list) else []:
        verdict = pair[1] if isinstance(pair, list) and len(pair) == 2 else None
        kind, value = next(iter(verdict.items()), ("", None)) if isinstance(verdict, dict) else ("", None)
        if kind in {"jump", "goto"} and isinstance(value, dict):
            found.append(_with_action(ForeignRule(text=text), kind, value))
    return list({(item.action, item.target): item for item in found}.values())


def _collect(value: object, found: set[str]) -> None:
    """Add the names in references such as '@cluster4'."""
    if isinstance(value, str) and value.startswith("@"):
        found.add(value[1:])
    elif isinstance(value, dict):
        for item in value.values():
            _collect(item, found)
    elif isinstance(value, list):
        for item in value:
            _collect(item, found)


def _changed(rule: ForeignRule, **fields: object) -> ForeignRule:
    changed: ForeignRule = msgspec.structs.replace(rule, **fields)
    return changed
