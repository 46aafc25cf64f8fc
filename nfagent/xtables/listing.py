"""What the kernel has of us, as a value that is compared with the lowered ruleset.

What we wrote is equal to what is listed: values that the kernel fills in (the size of a set), cuts (a comment) or that
change by themselves (the members of a set with a timeout) are taken from the lowered ruleset.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from nfagent.model.netaddr import Family
from nfagent.xtables.objects import EMPTY, ChainKey, HookKey, IpSet, TableName, XtChain, XtRule, XtRuleset
from nfagent.xtables.saved import SavedTable
from nfagent.xtables.text import LONGEST_COMMENT

DEFAULT_SIZE = 65_536
"""IPSET_DEFAULT_MAXELEM of linux/netfilter/ipset/ip_set.h: of a set that is created without a size."""

StrayJump = tuple[Family, TableName, str, XtRule]
"""Family, table, chain and rule."""


class XtListing(msgspec.Struct, frozen=True):
    """Our objects in the kernel.

    stray: rules of others' chains that lead to a chain of ours from a place where none should
    """

    ruleset: XtRuleset = EMPTY
    stray: tuple[StrayJump, ...] = ()


def listed(
    tables: Iterable[tuple[Family, TableName, SavedTable]],
    sets: dict[str, IpSet],
    accounts: Iterable[str],
    known: XtRuleset = EMPTY,
) -> XtListing:
    """Return the listing; objects equal to one of `known` are returned as that one."""
    chains: dict[ChainKey, XtChain] = {}
    hooks: dict[HookKey, str] = {}
    stray: list[StrayJump] = []
    for family, table, saved in tables:
        for key, chain in saved.chains.items():
            chains[key] = _known_chain(chain, known.chains.get(key))
        hooks |= saved.hooks
        stray += [(family, table, chain, rule) for chain, rule in saved.elsewhere]
    named = {name: _known_set(item, known.sets.get(name)) for name, item in sets.items()}
    return XtListing(XtRuleset(named, chains, hooks, frozenset(accounts)), tuple(stray))


def does_the_same(found: XtChain, known: XtChain) -> bool:
    """Return whether each rule has the target of the known one, however its matches are printed.

    A rule more is another program's, which may have put it back as fast as it was removed.
    """
    return [rule.target[:2] for rule in found.rules] == [rule.target[:2] for rule in known.rules]


def _known_chain(found: XtChain, known: XtChain | None) -> XtChain:
    if known is None:
        return msgspec.structs.replace(found, origin="") if found.origin else found
    if len(found.rules) == len(known.rules) and all(map(_is_same, found.rules, known.rules)):
        return known
    return msgspec.structs.replace(found, origin=known.origin)


def _is_same(found: XtRule, known: XtRule) -> bool:
    if found == known:
        return True
    cut = known.comment.encode()[:LONGEST_COMMENT].decode("utf-8", "ignore")
    return found.comment == cut and _words(found) == _words(known)


def _words(rule: XtRule) -> tuple[str, ...]:
    words = (*(word for match in rule.matches for word in match), *rule.target)
    if "-p" not in words:
        return words
    return tuple(_PROTOCOLS.get(word, word) if words[place - 1] == "-p" else word for place, word in enumerate(words))


_PROTOCOLS = {
    "icmp": "1",
    "igmp": "2",
    "ipencap": "4",
    "ipv4": "4",
    "tcp": "6",
    "udp": "17",
    "ipv6": "41",
    "gre": "47",
    "esp": "50",
    "ipsec-esp": "50",
    "ah": "51",
    "ipsec-ah": "51",
    "ipv6-icmp": "58",
    "icmpv6": "58",
    "ipip": "94",
    "sctp": "132",
}
"""iptables-save prints a protocol by the name that it has in /etc/protocols, where there is one."""


def _known_set(found: IpSet, known: IpSet | None) -> IpSet:
    if known is None:
        return found
    is_sized = found.size == (known.size or DEFAULT_SIZE) or found.type == "bitmap:port"
    same = msgspec.structs.replace(
        found,
        members=known.members if known.timeout and found.timeout == known.timeout else found.members,
        size=known.size if is_sized else found.size,
        origin=known.origin,
    )
    return known if same == known else same
