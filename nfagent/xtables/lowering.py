"""A whole ruleset of nftables, lowered to ipsets and chains of iptables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

import msgspec

from nfagent.nftables.objects import NamedSet, Ruleset, VerdictMap
from nfagent.xtables.chains import lower_chain
from nfagent.xtables.context import RuleContext
from nfagent.xtables.counters import counter_accounts
from nfagent.xtables.dispatch import all_set, dispatch_chains, group_of, map_set, map_tables, sets_of_element
from nfagent.xtables.hooks import asks_route, hook_chains
from nfagent.xtables.objects import ChainKey, HookKey, IpSet, SetMember, XtChain, XtRuleset
from nfagent.xtables.options import LoweringOptions, Unavailable
from nfagent.xtables.pairs import pair_chains
from nfagent.xtables.set_parts import members_of, parts_of

_Key = TypeVar("_Key")
_Value = TypeVar("_Value")


class NameCollisionError(Exception):
    """Two objects would have one name: their digests are equal."""


def lower(ruleset: Ruleset, options: LoweringOptions) -> tuple[XtRuleset, tuple[Unavailable, ...]]:
    """Return a ruleset as ipsets and chains of iptables, and what of it can't be had there.

    Raises NameCollisionError.
    """
    if not ruleset.exists:
        return XtRuleset(), ()
    sets: dict[str, IpSet] = {}
    chains: dict[ChainKey, XtChain] = {}
    hooks: dict[HookKey, str] = {}
    unavailable: set[Unavailable] = set()
    for name, item in ruleset.sets.items():
        _put_all(sets, lower_set(name, item, options))
        if item.kind == "pair" and item.family in options.families:
            _put_all(chains, pair_set_chains(name, item))
    for name, verdict_map in ruleset.maps.items():
        if verdict_map.family in options.families:
            _put_all(sets, map_sets(name, verdict_map))
            _put_all(chains, map_chains(name, verdict_map))
    for name, chain in ruleset.chains.items():
        lowered = lower_chain(name, chain, ruleset.sets, options)
        _put_all(chains, lowered.chains)
        unavailable |= lowered.unavailable
    fixed = {name: chain for name, chain in ruleset.chains.items() if chain.hook is not None or asks_route((chain,))}
    for family in options.families:
        context = RuleContext("", family, "mangle", base=True, reading="either", sets=ruleset.sets, options=options)
        for hooked in hook_chains(fixed, context):
            _put_all(chains, {hooked.key: hooked.chain})
            if hooked.hook is not None:
                hooks[hooked.hook] = hooked.key[2]
    accounts = counter_accounts(ruleset, options.families) if options.accounts else frozenset()
    return XtRuleset(sets, chains, hooks, accounts), tuple(sorted(unavailable))


def lower_set(name: str, item: NamedSet, options: LoweringOptions) -> dict[str, IpSet]:
    """Return the ipsets that stand for a set."""
    lowered: dict[str, IpSet] = {}
    for part in parts_of(name, item, options.families):
        members: frozenset[SetMember] = frozenset(
            member
            for element in item.elements
            for found, member in members_of(item.kind, element, part.shape.family)
            if found == part.part
        )
        lowered[part.name] = msgspec.structs.replace(part.shape, members=members)
    return lowered


def map_sets(name: str, item: VerdictMap) -> dict[str, IpSet]:
    """Return the ipsets that stand for a verdict map."""
    members: dict[str, set[SetMember]] = {all_set(name, item.family): set()}
    for address, target in item.elements.items():
        for found in sets_of_element(name, item.family, target):
            members.setdefault(found, set()).add(address)
    targets = set(item.elements.values())
    if len(members) != 1 + len(targets) + len({group_of(target) for target in targets}):
        raise NameCollisionError(f"two of the sets of map {name} would have one name")
    shape = map_set(item.family, name)
    return {found: msgspec.structs.replace(shape, members=frozenset(those)) for found, those in members.items()}


def map_chains(name: str, item: VerdictMap) -> dict[ChainKey, XtChain]:
    """Return the chains that look up a verdict map."""
    found = dispatch_chains(name, item.family, item.elements.values())
    return {(item.family, table, chain): value for chain, value in found for table in map_tables(name)}


def pair_set_chains(name: str, item: NamedSet) -> dict[ChainKey, XtChain]:
    """Return the chains that stand for a set of pairs."""
    addresses = (element[0] for element in item.elements if isinstance(element, tuple) and element[0] == element[1])
    return {(item.family, "mangle", chain): value for chain, value in pair_chains(name, item.family, addresses)}


def _put_all(into: dict[_Key, _Value], found: Mapping[_Key, _Value]) -> None:
    for key, value in found.items():
        if key in into:
            raise NameCollisionError(f"two objects would be {key}")
        into[key] = value
