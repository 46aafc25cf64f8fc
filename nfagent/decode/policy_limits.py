"""Size limits of one NetworkPolicy: they bound the cost that its author can cause on every node with selected Pods.

The cost of a policy grows with its lists. A policy beyond any sensible size fails closed, and all other policies are
enforced at their usual speed. The document is counted as written, so that all nodes agree.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from nfagent.decode.fields import DocumentField

SINGLE_PORTS = 3
"""Maximum numbers and ranges of a protocol that are rules of their own; more are one set."""

MOST_RULES = 1_000
"""Rules of both directions, and named ports: each is an nftables rule for each family, with a set."""

MOST_PAIRS = 4_000
"""Sum over all rules: peers (all selectors count one, all ipBlocks too) times ports (`_port_rules`); each pair is up to
four nftables rules.
"""

MOST_SELECTORS = 2_000
"""Peers by label: each is checked for every added or deleted Pod."""

MOST_WIDE = 20
"""Peers of all Namespaces with only negative requirements: no index finds their Pods, so each is matched against every
Pod."""

MOST_VALUES = 20_000
"""All values: CIDRs and exceptions, ports, labels, values of selectors."""


def check_size(spec: DocumentField) -> None:
    """Check a spec against all limits. Raises ObjectError."""
    rules = [entry for key in ("ingress", "egress") for entry in _entries(spec.mapping().get(key))]
    ports = [port for rule in rules for port in _entries(_of(rule, "ports"))]
    named = sum(isinstance(_of(port, "port"), str) for port in ports)
    peers = [peer for rule in rules for key in ("from", "to") for peer in _entries(_of(rule, key))]
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
    """Return the number of pairs of a rule's peers and ports, after merging."""
    peers = [peer for key in ("from", "to") for peer in _entries(_of(rule, key))]
    kinds = len({_of(peer, "ipBlock") is None for peer in peers})
    return max(kinds, 1) * max(_port_rules(_entries(_of(rule, "ports"))), 1)


def _is_wide(peer: object) -> bool:
    """Return whether a peer of all Namespaces requires no label of Pod or Namespace."""
    namespaces, pods = _of(peer, "namespaceSelector"), _of(peer, "podSelector")
    return isinstance(namespaces, dict) and not any(map(_requires, (namespaces, pods)))


def _requires(selector: object) -> bool:
    expressions = _entries(_of(selector, "matchExpressions"))
    return bool(_of(selector, "matchLabels")) or any(_of(one, "operator") in ("In", "Exists") for one in expressions)


def _port_rules(ports: list[Any]) -> int:
    """Return the nftables rules for a rule's ports: two for a name, and up to SINGLE_PORTS for a protocol's numbers."""
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
    """Return the number of scalars, empty lists and empty mappings."""
    count, rest = 0, [document]
    while rest:
        value = rest.pop()
        inner = list(value.values()) if isinstance(value, dict) else _entries(value)
        rest += inner
        count += not inner
    return count
