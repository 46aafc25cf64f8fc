"""Where a rule stands: its chain, its family, and the direction of the packets that reach it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, TypeAlias

import msgspec

from nfagent.model.netaddr import Family
from nfagent.nftables import names as nft_names
from nfagent.nftables.matches import CtDirection
from nfagent.nftables.objects import NamedSet
from nfagent.xtables.names import ChainVariant, chain_name
from nfagent.xtables.objects import TableName
from nfagent.xtables.options import LoweringOptions

Words: TypeAlias = tuple[str, ...]
Conjunction: TypeAlias = tuple[Words, ...]
"""Matches of one rule, all of which must hold."""
Alternatives: TypeAlias = tuple[Conjunction, ...]
"""Of one or no alternative at most one holds for a packet. None at all: no packet matches."""
ALWAYS: Alternatives = ((),)
NEVER: Alternatives = ()

REPLY: Words = ("-m", "conntrack", "--ctdir", "REPLY")
ORIGINAL: Words = ("-m", "conntrack", "--ctdir", "ORIGINAL")
ACCEPT_CHAIN = "accept"
"""Origin of the chain that marks a packet as accepted, and returns to the caller."""

_BY_DIRECTION = ("egress/", "ingress/", "admin/", "baseline/", "policy/", nft_names.AUDIT)
Reading: TypeAlias = Literal["original", "reply", "either"]


class RuleContext(msgspec.Struct, frozen=True):
    """Where a rule stands.

    chain:    name of the nftables chain
    base:     whether it is a base chain: what it accepts returns to the hook's chain
    reading:  the direction of the packets that reach it; `either`: the rule tells them apart where it matters
    """

    chain: str
    family: Family
    table: TableName
    base: bool
    reading: Reading
    sets: Mapping[str, NamedSet]
    options: LoweringOptions

    def target_chains(self, name: str) -> tuple[tuple[Conjunction, str], ...]:
        """Return the chains that a jump or goto leads to, each with the matches of the packets that go there."""
        if not is_by_direction(name):
            return (((), chain_name(name)),)
        if self.reading != "either":
            return (((), chain_name(name, variant_of(self.reading))),)
        if self.chain.startswith("stray"):  # it reads the header, and so do the chains that it leads to
            return (((), chain_name(name)),)
        without_connection = ("-m", "conntrack", "--ctstate", "INVALID,UNTRACKED")
        return (
            ((REPLY,), chain_name(name, "reply")),
            ((ORIGINAL,), chain_name(name)),
            ((without_connection,), chain_name(name)),
        )


def is_by_direction(name: str) -> bool:
    """Return whether a chain other than a base chain exists once for each direction.

    The rules of policies do; others say in each rule what they match in which direction.
    """
    return name.startswith(_BY_DIRECTION)


def variant_of(reading: Reading) -> ChainVariant:
    """Return the variant of a chain for packets of a direction."""
    return "reply" if reading == "reply" else ""


def side_of_end(end: Literal["client", "server"], direction: CtDirection) -> Literal["src", "dst"]:
    """Return which address of a packet is this end of its connection, by the packet's direction."""
    return "src" if (end == "client") == (direction == "original") else "dst"


def unmarked(bits: int) -> tuple[Words, Words]:
    """Return match and target of a rule that clears bits of the mark where any is set."""
    return ("-m", "mark", "!", "--mark", f"0x0/{bits:#x}"), ("-j", "MARK", "--set-xmark", f"0x0/{bits:#x}")


def is_marked(bit: int) -> Words:
    """Return the match of packets with this bit of the mark."""
    return ("-m", "mark", "--mark", f"{bit:#x}/{bit:#x}")
