"""The capacity of dynamic sets (kind 'flow').

Sizes are not compared: re-creating a set because of its size would lose the reply tuples in it. To raise the capacity,
`add set` is sent again with the larger size: Linux 6.5 and later resize the set in place, older kernels ignore it.
"""

from __future__ import annotations

import msgspec

from nfagent.nftables.objects import NamedSet, Ruleset
from nfagent.nftables.transaction import AddSet, Transaction


def resize_commands(listed: Ruleset, wanted: Ruleset) -> Transaction:
    """Return the commands that raise the capacity of dynamic sets that have less than the desired one."""
    return tuple(
        AddSet(name, wanted.sets[name])
        for name, item in _resized(listed, wanted).items()
        if item.size > listed.sets[name].size
    )


def with_desired_sizes(listed: Ruleset, wanted: Ruleset) -> Ruleset:
    """Return the listed ruleset with the desired capacity of dynamic sets."""
    found = _resized(listed, wanted)
    return msgspec.structs.replace(listed, sets={**listed.sets, **found}) if found else listed


def _resized(listed: Ruleset, wanted: Ruleset) -> dict[str, NamedSet]:
    found: dict[str, NamedSet] = {}
    for name, item in wanted.sets.items():
        there = listed.sets.get(name) if item.kind == "flow" else None
        if there is not None and there != item == msgspec.structs.replace(there, size=item.size):
            found[name] = item
    return found
