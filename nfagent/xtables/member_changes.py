"""What a lowered set or verdict map becomes by the elements that come and go, without lowering the others again."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from nfagent.nftables.objects import NamedSet, VerdictMap
from nfagent.xtables.dispatch import (
    all_set,
    dispatch_chains,
    group_chains,
    groups_of,
    map_set,
    map_tables,
    sets_of_element,
)
from nfagent.xtables.lowering import LoweredObject, NameCollisionError, pair_set_chains, without_absent
from nfagent.xtables.objects import ChainKey, IpSet, SetMember, XtChain
from nfagent.xtables.options import LoweringOptions
from nfagent.xtables.set_parts import part_members, parts_of


def changed_set(
    name: str, before: NamedSet, after: NamedSet, lowered: LoweredObject, options: LoweringOptions
) -> LoweredObject | None:
    """Return what a set becomes, from what it was lowered to before; None where it must be lowered as a whole."""
    # An interface more may be one too many.
    if after.kind == "link" or msgspec.structs.replace(after, elements=before.elements) != before:
        return None
    added, deleted = after.elements - before.elements, before.elements - after.elements
    sets = {
        part.name: _with_members(
            lowered.sets[part.name],
            # No two elements share a member.
            part_members(after.kind, part, added),
            part_members(after.kind, part, deleted),
        )
        for part in parts_of(name, after, options.families)
    }
    return LoweredObject(sets, pair_set_chains(name, after, options))


def changed_map(
    name: str, before: VerdictMap, after: VerdictMap, lowered: LoweredObject, options: LoweringOptions
) -> LoweredObject | None:
    """Return what a verdict map becomes, from what it was before; None where it must be lowered as a whole.

    Raises NameCollisionError.
    """
    if after.family != before.family or after.family not in options.families:
        return None
    sets = _changed_map_sets(name, before, after, lowered.sets)
    was, groups = groups_of(before.elements), groups_of(after.elements)
    changed = {group for group in was.keys() | groups.keys() if was.get(group) != groups.get(group)}
    if not changed:
        return LoweredObject(sets, lowered.chains)
    if len(sets) != 1 + len(set(after.elements.values())) + len(groups):
        raise NameCollisionError(f"two of the sets of map {name} would have one name")
    chains = _changed_map_chains(name, after, groups, changed, lowered.chains)
    return without_absent(LoweredObject(sets, chains), options)


def _changed_map_sets(name: str, before: VerdictMap, after: VerdictMap, lowered: dict[str, IpSet]) -> dict[str, IpSet]:
    deleted = _members_by_set(name, before, before.elements.items() - after.elements.items())
    added = _members_by_set(name, after, after.elements.items() - before.elements.items())
    sets = dict(lowered)
    shape = map_set(after.family, name)
    for found in deleted.keys() | added.keys():
        sets[found] = _with_members(sets.get(found, shape), added.get(found, ()), deleted.get(found, ()))
        if not sets[found].members and found != all_set(name, after.family):
            del sets[found]
    return sets


def _changed_map_chains(
    name: str,
    after: VerdictMap,
    groups: dict[int, set[str]],
    changed: set[int],
    lowered: dict[ChainKey, XtChain],
) -> dict[ChainKey, XtChain]:
    """Return the chains of a map, of which those of some groups change."""
    old = group_chains(name, changed)
    chains = {key: chain for key, chain in lowered.items() if key[2] not in old}
    for chain, value in dispatch_chains(name, after.family, groups, changed):
        for table in map_tables(name):
            chains[after.family, table, chain] = value
    return chains


def _members_by_set(name: str, item: VerdictMap, elements: Iterable[tuple[str, str]]) -> dict[str, set[SetMember]]:
    found: dict[str, set[SetMember]] = {}
    for address, target in elements:
        for lowered in sets_of_element(name, item.family, address, target):
            found.setdefault(lowered, set()).add(address)
    return found


def _with_members(item: IpSet, added: Iterable[SetMember], deleted: Iterable[SetMember]) -> IpSet:
    return msgspec.structs.replace(item, members=item.members.difference(deleted).union(added))
