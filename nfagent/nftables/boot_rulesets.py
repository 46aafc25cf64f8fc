"""What of a ruleset holds over a boot, and the rules that hold every Pod of a node while there is nothing else.

After a boot no connection exists, so nothing is to be re-checked. No Pod exists either: new ones may get the addresses
of others. So no address is known, and where unknown Pods are held, all are, until the agent has read the cluster.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from nfagent.model.netaddr import FAMILIES, Range
from nfagent.nftables import names
from nfagent.nftables.base_chains import EGRESS_PRIORITY, RECHECK, RECHECKING
from nfagent.nftables.matches import ConntrackState
from nfagent.nftables.objects import Accept, Chain, Hook, NamedSet, Rule, Ruleset
from nfagent.nftables.unknown_pods import (
    UNKNOWN_POD_COUNTER,
    UNKNOWN_PODS_CHAIN,
    known_pods_set,
    known_pods_sets,
    unknown_pods_chain,
    unknown_pods_drop,
    unknown_pods_rule,
)

_EMPTIED = frozenset(
    (RECHECKING, *(names.set_name(RECHECK, family) for family in FAMILIES), *map(known_pods_set, FAMILIES))
)
_HOLD_CHAIN = "forward-hold"
"""The base chain of `hold_ruleset`. An agent's ruleset doesn't have it: its first commit removes it."""


def after_boot(ruleset: Ruleset) -> Ruleset:
    """Return the part of a ruleset that holds over a boot."""
    sets = {name: _emptied(item) if name in _EMPTIED else item for name, item in ruleset.sets.items()}
    return msgspec.structs.replace(ruleset, sets=sets)


def hold_ruleset(ranges: Iterable[Range]) -> Ruleset:
    """Return rules that drop every forwarded packet to and from these ranges, but for established connections.

    They may be added to a table that has other rules.
    """
    established = Rule((ConntrackState(("established",)),), verdict=Accept())
    chains = dict(
        (
            (UNKNOWN_PODS_CHAIN, unknown_pods_chain(ranges)),
            unknown_pods_drop(),
            (_HOLD_CHAIN, Chain((established, unknown_pods_rule()), Hook("filter", "forward", EGRESS_PRIORITY - 1))),
        )
    )
    return Ruleset(dict(known_pods_sets()), chains=chains, counters=frozenset((UNKNOWN_POD_COUNTER,)))


def _emptied(item: NamedSet) -> NamedSet:
    return msgspec.structs.replace(item, elements=frozenset())
