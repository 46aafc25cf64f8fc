"""How many ways the sets of flows have room for.

A size is no part of what is compared: a set that has another one remembers ways, and to make it anew would forget them.
Where more room is wanted, the kernel is asked to give it in place: Linux does from 6.5 on, and ignores it before.
"""

from __future__ import annotations

import msgspec

from nfagent.nftables.objects import NamedSet, Ruleset
from nfagent.nftables.transaction import AddSet, Transaction


def growing(listed: Ruleset, wanted: Ruleset) -> Transaction:
    """Give the commands that give sets of flows the room that they shall have, where they have less."""
    return tuple(
        AddSet(name, wanted.sets[name])
        for name, item in _resized(listed, wanted).items()
        if item.size > listed.sets[name].size
    )


def sized(listed: Ruleset, wanted: Ruleset) -> Ruleset:
    """Give a listing with the sets of flows as large as they shall be."""
    found = _resized(listed, wanted)
    return msgspec.structs.replace(listed, sets={**listed.sets, **found}) if found else listed


def _resized(listed: Ruleset, wanted: Ruleset) -> dict[str, NamedSet]:
    found: dict[str, NamedSet] = {}
    for name, item in wanted.sets.items():
        there = listed.sets.get(name) if item.kind == "flow" else None
        if there is not None and there != item == msgspec.structs.replace(there, size=item.size):
            found[name] = item
    return found
