"""ipsets and iptables chains as values.

A rule is kept as the words that iptables-save prints for it, so that what the kernel lists is compared as it is.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import Literal, TypeAlias, get_args

import msgspec

from nfagent.model.netaddr import Family
from nfagent.model.objects import Protocol
from nfagent.xtables.names import PREFIX

SetType: TypeAlias = Literal["hash:ip", "hash:net", "hash:ip,port", "hash:ip,port,ip", "hash:net,iface", "bitmap:port"]
SetMember: TypeAlias = (
    str | tuple[str, int] | tuple[str, Protocol, int] | tuple[str, Protocol, int, str] | tuple[str, int, str] | int
)
"""A member, by the type of its set; addresses are canonical.

hash:ip          address
hash:net         address, prefix length, which is never 0: the kernel refuses it
hash:ip,port     address, protocol, port
hash:ip,port,ip  address, protocol, port, address
hash:net,iface   address, prefix length, interface; the prefix length may be 0
bitmap:port      port
"""

TableName: TypeAlias = Literal["raw", "mangle", "nat"]
TABLES: tuple[TableName, ...] = get_args(TableName)
HookChain: TypeAlias = Literal["PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"]
ChainKey: TypeAlias = tuple[Family, TableName, str]
"""Family, table and name of a chain of ours."""
HookKey: TypeAlias = tuple[Family, TableName, HookChain]
_LEADS = (("-g",), ("-j",))


class IpSet(msgspec.Struct, frozen=True):
    """A set and its members.

    counters: members count the packets that were looked up; the counts are not part of the desired ruleset
    timeout:  seconds after which a member goes; 0: never. The members of a set with a timeout come from the packets,
              they are not part of the desired ruleset, and never compared
    size:     maximum number of members; 0: the kernel's default (65,536)
    origin:   name of the nftables object that the set comes from
    """

    type: SetType
    family: Family
    members: frozenset[SetMember] = frozenset()
    counters: bool = False
    timeout: int = 0
    size: int = 0
    origin: str = ""


class XtRule(msgspec.Struct, frozen=True):
    """A rule of iptables: matches, all of which must hold, and a target.

    matches: one inner tuple a match, in words as iptables-save prints them: ("-m", "set", "--match-set", NAME, "src")
    target:  ("-j", "DROP"), ("-g", CHAIN), ("-j", "NFLOG", "--nflog-prefix", …); () only counts
    """

    matches: tuple[tuple[str, ...], ...] = ()
    target: tuple[str, ...] = ()
    comment: str = ""

    def lookups(self) -> Iterator[tuple[str, bool]]:
        """Yield the names of the sets that the matches look up, and whether each match is negated."""
        for match in self.matches:
            if match[:2] == ("-m", "set") and len(match) > len(("-m", "set", "--match-set")):
                yield match[-2], match[2] == "!"


class XtChain(msgspec.Struct, frozen=True, dict=True):
    """Rules in order.

    origin: name of the nftables object that the chain comes from
    """

    rules: tuple[XtRule, ...] = ()
    origin: str = ""

    @cached_property
    def refers_to(self) -> frozenset[str]:
        """The names of the sets that its rules look up, or add packets to."""
        looked_up = (name for rule in self.rules for name, _ in rule.lookups())
        return frozenset((*looked_up, *(rule.target[3] for rule in self.rules if rule.target[:2] == ("-j", "SET"))))

    @cached_property
    def leads_to(self) -> frozenset[str]:
        """The names of the chains that its rules jump or go to."""
        return frozenset(
            rule.target[1] for rule in self.rules if rule.target[:1] in _LEADS and rule.target[1].startswith(PREFIX)
        )

    @cached_property
    def lookups(self) -> dict[str, tuple[tuple[XtRule, bool], ...]]:
        """By the names of the sets that its rules look up: these rules, and whether each of them negates the match."""
        found: dict[str, list[tuple[XtRule, bool]]] = {}
        for rule in self.rules:
            for name, negated in rule.lookups():
                found.setdefault(name, []).append((rule, negated))
        return {name: tuple(rules) for name, rules in found.items()}


class XtRuleset(msgspec.Struct, frozen=True):
    """All that nfagent has in iptables and ipset.

    hooks:    the chain of ours that the first rule of a built-in chain jumps to
    accounts: names of nfacct objects
    """

    sets: dict[str, IpSet] = msgspec.field(default_factory=dict)
    chains: dict[ChainKey, XtChain] = msgspec.field(default_factory=dict)
    hooks: dict[HookKey, str] = msgspec.field(default_factory=dict)
    accounts: frozenset[str] = frozenset()


EMPTY = XtRuleset()
"""The kernel without any of it."""
