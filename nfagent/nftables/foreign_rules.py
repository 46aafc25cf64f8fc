"""Rules of other programs that translate source addresses: what decides whether they match Pods' traffic.

A rule is reduced to the addresses that it matches and to whether it has further conditions. Both readers, of nft's JSON
and of iptables-save's text, return these structures.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec

from nfagent.model.netaddr import FAMILIES, Family, Range, disjoint, subtract

Action: TypeAlias = Literal["masquerade", "snat", "accept", "return", "jump", "goto", ""]
Ranges: TypeAlias = tuple[Range, ...]
"""Disjoint, in order, of both families."""

EVERY: Ranges = (Range(4, 0, 2**32 - 1), Range(6, 0, 2**128 - 1))
"""Every address of both families."""


class ForeignRule(msgspec.Struct, frozen=True, kw_only=True):
    """One rule of another program.

    text:         the rule as its own tool shows it
    sources:      source addresses that it matches
    destinations: destination addresses that it matches
    narrowed:     it has further conditions, which part of the traffic may meet
    never:        it matches no traffic of Pods, such as a rule for local sources
    mark:         'set': it matches only packets with a mark; 'unset': only those without it
    marks:        it sets the packet's mark
    action:       what it does with a packet; '' where the packet goes on to the next rule
    target:       the chain of a jump or goto, the address of snat; '' where that is unknown
    """

    text: str
    sources: Ranges = EVERY
    destinations: Ranges = EVERY
    narrowed: bool = False
    never: bool = False
    mark: Literal["", "set", "unset"] = ""
    marks: bool = False
    action: Action = ""
    target: str = ""


class ForeignTable(msgspec.Struct, frozen=True):
    """The chains of a table that lead from its nat chains at hook postrouting.

    name:   as its users call it: `table ip nat`, `iptables-legacy, table nat`
    family: 4 or 6, None for a table of both
    bases:  names of the base chains, and their priorities: lower ones translate first
    shown:  the command that shows the rules, for advice
    """

    name: str
    family: Family | None
    bases: tuple[tuple[str, int], ...]
    chains: dict[str, tuple[ForeignRule, ...]]
    shown: str = ""


def common(left: Ranges, right: Ranges) -> Ranges:
    """Return the addresses in both."""
    found: list[Range] = []
    first = second = 0
    while first < len(left) and second < len(right):
        a, b = left[first], right[second]
        if a.family == b.family and max(a.first, b.first) <= min(a.last, b.last):
            found.append(Range(a.family, max(a.first, b.first), min(a.last, b.last)))
        if (a.family, a.last) <= (b.family, b.last):
            first += 1
        else:
            second += 1
    return tuple(found)


def without(ranges: Ranges, holes: Ranges) -> Ranges:
    """Return the addresses of `ranges` that are in none of the holes."""
    return tuple(piece for item in ranges for piece in subtract(item, holes)) if holes else ranges


def other_than(ranges: Ranges, family: Family) -> Ranges:
    """Return every address of the family outside the ranges: what a negated match matches."""
    return without(of_family(family), ranges)


def of_family(family: Family) -> Ranges:
    """Return every address of a family."""
    return (EVERY[FAMILIES.index(family)],)


def joined(*parts: Ranges) -> Ranges:
    """Return the addresses in any of them."""
    return disjoint(item for part in parts for item in part)
