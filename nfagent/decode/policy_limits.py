"""How much one NetworkPolicy may list: what anybody who may write one can make every node of their Pods spend.

What a policy costs grows with what it lists. One that lists more than anybody means fails closed, by its own name, and
every other policy is enforced at its usual pace. Counted is the document as it was written, so that all nodes agree.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from nfagent.decode.fields import DocumentField

SINGLE_PORTS = 3
"""Numbers and ranges of a rule's protocol that stay rules of their own; more are one look-up in a set."""

MOST_RULES = 1_000
"""Rules of both directions, and ports that rules name: each is a rule of nftables for each family, with a set."""

MOST_PAIRS = 4_000
"""Of each rule, its peers (those by selector are one, its ipBlocks too) times its ports (`_port_rules`): the rules of
nftables, up to four for each of them.
"""

MOST_SELECTORS = 2_000
"""Peers by label: each is followed for every Pod that comes or goes."""

MOST_WIDE = 20
"""Peers of all Namespaces by what labels must not be: no index finds whom they mean, each is held against every Pod."""

MOST_VALUES = 20_000
"""Everything that is listed: CIDRs and exceptions, ports, labels, values of selectors."""


def check_size(spec: DocumentField) -> None:
    """Refuse a spec that lists more than one policy may. Raises ObjectError."""
    rules = [entry for way in ("ingress", "egress") for entry in _entries(spec.mapping().get(way))]
    ports = [port for rule in rules for port in _entries(_of(rule, "ports"))]
    named = sum(isinstance(_of(port, "port"), str) for port in ports)
    peers = [peer for rule in rules for way in ("from", "to") for peer in _entries(_of(rule, way))]
    selectors = sum(_of(peer, "ipBlock") is None for peer in peers)
    counted = (
        (len(rules) + named, MOST_RULES, "rules and ports by name"),
        (sum(map(_pairs, rules)), MOST_PAIRS, "pairs of peers and ports"),
        (selectors, MOST_SELECTORS, "peers by selector"),
        (sum(map(_is_wide, peers)), MOST_WIDE, "peers of all Namespaces by NotIn or DoesNotExist alone"),
        (_values(spec.value), MOST_VALUES, "values in all"),
    )
    for count, most, what in counted:
        if count > most:
            raise spec.error(f"has {count:,} {what}, and one policy may have {most:,}; write several policies")


def _pairs(rule: object) -> int:
    """Count what is left of a rule's peers and ports when they are joined, each with each."""
    peers = [peer for way in ("from", "to") for peer in _entries(_of(rule, way))]
    kinds = len({_of(peer, "ipBlock") is None for peer in peers})
    return max(kinds, 1) * max(_port_rules(_entries(_of(rule, "ports"))), 1)


def _is_wide(peer: object) -> bool:
    """Return whether no label and no Namespace is named that whom it means must have."""
    namespaces, pods = _of(peer, "namespaceSelector"), _of(peer, "podSelector")
    return isinstance(namespaces, dict) and not any(map(_requires, (namespaces, pods)))


def _requires(selector: object) -> bool:
    expressions = _entries(_of(selector, "matchExpressions"))
    return bool(_of(selector, "matchLabels")) or any(_of(one, "operator") in {"In", "Exists"} for one in expressions)


def _port_rules(ports: list[Any]) -> int:
    """Count the rules for a rule's ports: a name is two, of a protocol's numbers some are a rule each, or all a set."""
    numbers: Counter[str] = Counter()
    names = 0
    for port in ports:
        if isinstance(_of(port, "port"), str):
            names += 1
        else:
            numbers[str(_of(port, "protocol") or "TCP")] += 1
    return 2 * names + sum(min(count, SINGLE_PORTS) for count in numbers.values())


def _entries(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _of(value: object, key: str) -> object:
    return value.get(key) if isinstance(value, dict) else None


def _values(document: object) -> int:
    """Count what stands in a document: scalars, and what is empty."""
    count, rest = 0, [document]
    while rest:
        value = rest.pop()
        inner = list(value.values()) if isinstance(value, dict) else _entries(value)
        rest += inner
        count += not inner
    return count
