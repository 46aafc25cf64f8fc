"""A whole ruleset of nftables, lowered to ipsets and chains of iptables."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeVar

import msgspec

from nfagent.nftables.objects import Chain, NamedSet, Ruleset, VerdictMap
from nfagent.xtables.chains import lower_chain
from nfagent.xtables.context import RuleContext
from nfagent.xtables.counters import counter_accounts
from nfagent.xtables.dispatch import all_set, dispatch_chains, groups_of, map_set, map_tables, sets_of_element
from nfagent.xtables.hooks import asks_route, hook_chains
from nfagent.xtables.objects import ChainKey, HookKey, IpSet, SetMember, XtChain, XtRuleset
from nfagent.xtables.options import LoweringOptions, Unavailable
from nfagent.xtables.pairs import pair_chains
from nfagent.xtables.reached import reached
from nfagent.xtables.set_parts import LINKS_EACH, part_members, parts_of

_TOO_MANY_LINKS = "more interfaces than its sets can hold: packets of some pass without the checks of their interface"
_Key = TypeVar("_Key")
_Value = TypeVar("_Value")


class NameCollisionError(Exception):
    """Two objects would have one name: their digests are equal."""


class LoweredObject(msgspec.Struct, frozen=True):
    """What one object of nftables became."""

    sets: dict[str, IpSet] = msgspec.field(default_factory=dict)
    chains: dict[ChainKey, XtChain] = msgspec.field(default_factory=dict)
    hooks: dict[HookKey, str] = msgspec.field(default_factory=dict)
    unavailable: frozenset[Unavailable] = frozenset()


def lower(ruleset: Ruleset, options: LoweringOptions) -> tuple[XtRuleset, tuple[Unavailable, ...]]:
    """Return a ruleset as ipsets and chains of iptables, and what of it can't be had there.

    Raises NameCollisionError.
    """
    if not ruleset.exists:
        return XtRuleset(), ()
    return merged(
        (
            *(lower_set(name, item, options) for name, item in ruleset.sets.items()),
            *(lower_map(name, item, options) for name, item in ruleset.maps.items()),
            *(lower_chain_object(name, chain, ruleset.sets, options) for name, chain in ruleset.chains.items()),
            lower_hooks(ruleset.chains, ruleset.sets, options),
        ),
        accounts_of(ruleset, options),
    )


def accounts_of(ruleset: Ruleset, options: LoweringOptions) -> frozenset[str]:
    """Return the names of the nfacct objects of a ruleset's counters, also of those that no rule counts with.

    A counter stays after the last rule that counts with it: it is deleted after a reading.
    """
    return counter_accounts(ruleset, options.families) if options.accounts else frozenset()


def merged(objects: Iterable[LoweredObject], accounts: frozenset[str]) -> tuple[XtRuleset, tuple[Unavailable, ...]]:
    """Return all objects as one ruleset, with these nfacct objects. Raises NameCollisionError."""
    sets: dict[str, IpSet] = {}
    chains: dict[ChainKey, XtChain] = {}
    hooks: dict[HookKey, str] = {}
    unavailable: set[Unavailable] = set()
    for item in objects:
        put_all(sets, item.sets)
        put_all(chains, item.chains)
        hooks |= item.hooks
        unavailable |= item.unavailable
    return XtRuleset(sets, reached(chains, hooks), hooks, accounts), tuple(sorted(unavailable))


def lower_set(name: str, item: NamedSet, options: LoweringOptions) -> LoweredObject:
    """Return what a set becomes: ipsets, and of pairs their chains."""
    lowered: dict[str, IpSet] = {}
    unavailable: set[Unavailable] = set()
    for part in parts_of(name, item, options.families):
        members = part_members(item.kind, part, item.elements)
        if item.kind == "link" and len(members) > LINKS_EACH:
            members = frozenset(sorted(members, key=str)[:LINKS_EACH])
            unavailable.add(Unavailable(name, "", _TOO_MANY_LINKS))
        lowered[part.name] = msgspec.structs.replace(part.shape, members=members)
    return LoweredObject(lowered, pair_set_chains(name, item, options), unavailable=frozenset(unavailable))


def lower_map(name: str, item: VerdictMap, options: LoweringOptions) -> LoweredObject:
    """Return what a verdict map becomes."""
    if item.family not in options.families:
        return LoweredObject()
    return without_absent(LoweredObject(map_sets(name, item), map_chains(name, item)), options)


def lower_chain_object(
    name: str, chain: Chain, sets: Mapping[str, NamedSet], options: LoweringOptions
) -> LoweredObject:
    """Return what a chain becomes."""
    lowered = lower_chain(name, chain, sets, options)
    return without_absent(LoweredObject({}, lowered.chains, unavailable=lowered.unavailable), options)


def calls_or_asks(chain: Chain) -> bool:
    """Return whether the chains of hooks depend on a chain: it is a base chain, or asks for the route to a source."""
    return chain.hook is not None or asks_route((chain,))


def lower_hooks(chains: Mapping[str, Chain], sets: Mapping[str, NamedSet], options: LoweringOptions) -> LoweredObject:
    """Return the chains that call base chains. chains: at least those that they depend on (`calls_or_asks`)."""
    fixed = {name: chain for name, chain in chains.items() if calls_or_asks(chain)}
    found = [
        hooked
        for family in options.families
        for hooked in hook_chains(
            fixed, RuleContext("", family, "mangle", base=True, reading="either", sets=sets, options=options)
        )
    ]
    hooks = {hooked.hook: hooked.key[2] for hooked in found if hooked.hook is not None}
    return without_absent(LoweredObject({}, {hooked.key: hooked.chain for hooked in found}, hooks), options)


def without_absent(item: LoweredObject, options: LoweringOptions) -> LoweredObject:
    """Return a lowered object without what the kernel lacks: chains of absent tables, and rules that log."""
    if options.logs and not options.absent:
        return item
    chains = {key: chain for key, chain in item.chains.items() if key[:2] not in options.absent}
    if not options.logs:
        chains = {key: _without_logs(chain) for key, chain in chains.items()}
    hooks = {key: name for key, name in item.hooks.items() if key[:2] not in options.absent}
    return msgspec.structs.replace(item, chains=chains, hooks=hooks)


def _without_logs(chain: XtChain) -> XtChain:
    rules = tuple(rule for rule in chain.rules if rule.target[1:2] != ("NFLOG",))
    return chain if len(rules) == len(chain.rules) else msgspec.structs.replace(chain, rules=rules)


def map_sets(name: str, item: VerdictMap) -> dict[str, IpSet]:
    """Return the ipsets that stand for a verdict map."""
    members: dict[str, set[SetMember]] = {all_set(name, item.family): set()}
    for address, target in item.elements.items():
        for found in sets_of_element(name, item.family, address, target):
            members.setdefault(found, set()).add(address)
    targets = set(item.elements.values())
    if len(members) != 1 + len(targets) + len(groups_of(item.elements)):
        raise NameCollisionError(f"two of the sets of map {name} would have one name")
    shape = map_set(item.family, name)
    return {found: msgspec.structs.replace(shape, members=frozenset(those)) for found, those in members.items()}


def map_chains(name: str, item: VerdictMap) -> dict[ChainKey, XtChain]:
    """Return the chains that look up a verdict map."""
    found = dispatch_chains(name, item.family, groups_of(item.elements))
    return {(item.family, table, chain): value for chain, value in found for table in map_tables(name)}


def pair_set_chains(name: str, item: NamedSet, options: LoweringOptions) -> dict[ChainKey, XtChain]:
    """Return the chains that stand for a set of pairs; none for any other set."""
    if item.kind != "pair" or item.family not in options.families:
        return {}
    addresses = (element[0] for element in item.elements if isinstance(element, tuple) and element[0] == element[1])
    return {(item.family, "mangle", chain): value for chain, value in pair_chains(name, item.family, addresses)}


def put_all(into: dict[_Key, _Value], found: Mapping[_Key, _Value]) -> None:
    """Put objects beside others. Raises NameCollisionError."""
    for key, value in found.items():
        if key in into:
            raise NameCollisionError(f"two objects would be {key}")
        into[key] = value
