"""Which objects count for nftables' counters: nfacct objects for named ones, a set for the elements of a set."""

from __future__ import annotations

from collections.abc import Iterable

from nfagent.model.netaddr import FAMILIES, Family
from nfagent.nftables.objects import Ruleset
from nfagent.nftables.pod_counts import COUNTED_SETS
from nfagent.xtables.names import account_name, set_name

_FAMILY_OF: dict[str, Family] = {name: 6 if name.endswith("6") else 4 for name in COUNTED_SETS}


def counter_accounts(ruleset: Ruleset, families: Iterable[Family] = FAMILIES) -> frozenset[str]:
    """Return the names of the nfacct objects of all named counters, also of those that no rule counts with."""
    return frozenset(account_name(counter, family) for family in families for counter in ruleset.counters)


def counters_by_account(counters: Iterable[str]) -> dict[str, str]:
    """Return the counters by the names of their nfacct objects."""
    return {account_name(counter, family): counter for counter in counters for family in FAMILIES}


def counting_set(name: str) -> str:
    """Return the name of the ipset that stands for one of the sets that count Pods."""
    return set_name(name, _FAMILY_OF[name])
