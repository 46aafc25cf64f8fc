"""Settings of the lowering, and what it reports as a value."""

from __future__ import annotations

import msgspec

from nfagent.model.netaddr import FAMILIES, Family
from nfagent.xtables.objects import TableName

ACCEPTED_BIT = 0x1000
"""Away from kube-proxy (0x4000, 0x8000), the portmap plugin (0x2000), Cilium (0x0f00) and Calico (0xffff0000)."""
UNROUTED_BIT = 0x40


class LoweringOptions(msgspec.Struct, frozen=True):
    """Settings of the lowering.

    accepted_bit: the bit of the packet mark by which a chain that is jumped to says that it accepts the packet
    unrouted_bit: the bit that says, from PREROUTING on, that the route to the source leads elsewhere
    accounts:     whether named counters are nfacct objects; otherwise only the rules' own counters count
    families:     those that the kernel has tables for
    lacking:      matches and targets that the kernel or its programs lack, by family: rules that need one are left out,
                  or drop what the rest of them matches, so that nothing more is allowed
    absent:       tables that it lacks, of families that it has table mangle for
    logs:         whether the kernel has the target NFLOG
    """

    accepted_bit: int = ACCEPTED_BIT
    unrouted_bit: int = UNROUTED_BIT
    accounts: bool = True
    families: tuple[Family, ...] = FAMILIES
    lacking: frozenset[tuple[Family, str]] = frozenset()
    absent: frozenset[tuple[Family, TableName]] = frozenset()
    logs: bool = True

    def lacks(self, family: Family, name: str) -> bool:
        """Return whether a match or target can't be used."""
        return (family, name) in self.lacking


class Unavailable(msgspec.Struct, frozen=True, order=True):
    """Something of the ruleset that iptables can't do as nftables does.

    chain:       name of the nftables chain, or of the set
    rule:        comment of the rule, or text of what it matches
    consequence: what holds in its place
    """

    chain: str
    rule: str
    consequence: str


class UnsupportedMatchError(Exception):
    """A match that iptables doesn't have; the message is its name."""
