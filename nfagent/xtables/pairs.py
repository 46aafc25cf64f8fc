"""Whether the source of an ICMP error is an end of the connection that the error is about.

ipset can't look up the addresses of a connection, and iptables can't compare two addresses of a packet. So a chain has
a rule for each Pod of this node: its address as the source, and as an end of the connection. Only errors that a Pod of
this node sends come here, which a set of these addresses finds.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from nfagent.model.netaddr import ADDRESS_BITS, Family
from nfagent.nftables.matches import CtEnd
from nfagent.xtables.context import ACCEPT_CHAIN, Words
from nfagent.xtables.matches import in_set
from nfagent.xtables.names import chain_name, set_name
from nfagent.xtables.objects import XtChain, XtRule

_OPTIONS: dict[CtEnd, str] = {"client": "--ctorigsrc", "server": "--ctreplsrc"}


def pair_match(name: str, family: Family) -> Words:
    """Return the match of packets whose source has a pair."""
    return in_set(set_name(name, family), "src")


def pair_target(name: str, family: Family, end: CtEnd) -> Words:
    """Return the jump to the chain that accepts a packet whose source is this end of its connection."""
    return ("-j", _chain(name, family, end))


def pair_chains(name: str, family: Family, addresses: Iterable[str]) -> Iterator[tuple[str, XtChain]]:
    """Yield name and chain for both ends of a connection."""
    ordered = sorted(addresses)
    for end, option in _OPTIONS.items():
        rules = tuple(
            XtRule(
                (("-s", f"{address}/{ADDRESS_BITS[family]}"), ("-m", "conntrack", option, address)),
                ("-g", chain_name(ACCEPT_CHAIN)),
            )
            for address in ordered
        )
        yield _chain(name, family, end), XtChain(rules, name)


def _chain(name: str, family: Family, end: CtEnd) -> str:
    return chain_name(name, part=f"{end}{family}")
