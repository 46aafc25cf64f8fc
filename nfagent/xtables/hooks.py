"""Base chains: where in iptables their packets come by, and the chains of ours that call them there.

A chain of ours stands first in a built-in chain. It calls the base chains of the hook in the order of their
priorities, each after the bit of what the one before accepted was cleared. Packets in reply direction have a chain of
their own, which calls the base chains' variants for replies.

- What filters is in table mangle, before the rules of others in table filter.
- The output hook is POSTROUTING, after DNAT. A bit of the mark, set in OUTPUT, tells the node's own packets from
  forwarded ones. `output-revoked` is in OUTPUT: it matches what a server on this node sends.
- `prerouting-gateways` comes after DNAT, where PREROUTING has no place: it is called in FORWARD.
- Whether the source is routed by another interface is asked in PREROUTING, the only place where `rpfilter` works; a
  bit of the mark holds the answer.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import msgspec

from nfagent.model.netaddr import Family
from nfagent.nftables.base_chains import RECHECKING
from nfagent.nftables.gateway_chains import HELD_CHAIN
from nfagent.nftables.interface_sets import POD_LINKS
from nfagent.nftables.masquerade_chains import KEPT_CHAIN, PORTS_CHAIN
from nfagent.nftables.matches import ConntrackState, FamilyInSet, FibUnrouted, FromInterface
from nfagent.nftables.objects import Accept, Chain, Hook, Rule
from nfagent.xtables.context import ACCEPT_CHAIN, REPLY, RuleContext, Words, unmarked
from nfagent.xtables.matches import conjunctions
from nfagent.xtables.names import ChainVariant, chain_name
from nfagent.xtables.objects import ChainKey, HookChain, HookKey, TableName, XtChain, XtRule
from nfagent.xtables.options import LoweringOptions

_BEFORE_CONNTRACK = -200  # NF_IP_PRI_CONNTRACK of linux/netfilter_ipv4.h
_AFTER_DNAT = -100  # NF_IP_PRI_NAT_DST
_OUTPUT_REVOKED = "output-revoked"
_EARLY = (ConntrackState(("established",)), FamilyInSet(RECHECKING, negated=True))
EARLY_ACCEPT = Rule(_EARLY, verdict=Accept())
RETURN: Words = ("-j", "RETURN")
_UNROUTED = "prerouting-unrouted"
KEPT_CHAINS = "kept/"


class HookedChain(msgspec.Struct, frozen=True):
    """A chain of ours that no chain of nftables stands for.

    hook: the built-in chain that jumps to it
    """

    key: ChainKey
    chain: XtChain
    hook: HookKey | None = None


class Place(msgspec.Struct, frozen=True):
    """A place in iptables where base chains are called."""

    table: TableName
    hook: HookChain


RAW_PREROUTING = Place("raw", "PREROUTING")
PREROUTING = Place("mangle", "PREROUTING")
FORWARD = Place("mangle", "FORWARD")
INPUT = Place("mangle", "INPUT")
OUTPUT = Place("mangle", "OUTPUT")
POSTROUTING = Place("mangle", "POSTROUTING")
NAT_POSTROUTING = Place("nat", "POSTROUTING")
BY_DIRECTION = frozenset((FORWARD, INPUT, OUTPUT, POSTROUTING))
"""Places where base chains have variants for replies."""


def place_of(name: str, hook: Hook) -> Place:
    """Return where a base chain is called."""
    if hook.type == "nat":
        return NAT_POSTROUTING
    if hook.name == "prerouting":
        if hook.priority < _BEFORE_CONNTRACK:
            return RAW_PREROUTING
        return PREROUTING if hook.priority < _AFTER_DNAT else FORWARD
    if hook.name == "output":
        return OUTPUT if name.startswith(_OUTPUT_REVOKED) else POSTROUTING
    return {"forward": FORWARD, "input": INPUT, "postrouting": POSTROUTING}[hook.name]


def tables_of(name: str, chain: Chain) -> tuple[TableName, ...]:
    """Return the tables that a chain is lowered to."""
    if chain.hook is not None:
        return (place_of(name, chain.hook).table,)
    if name in (PORTS_CHAIN, HELD_CHAIN):
        return ("nat",)
    return ("mangle", "nat") if name == KEPT_CHAIN or name.startswith(KEPT_CHAINS) else ("mangle",)


def hook_chains(chains: Mapping[str, Chain], context: RuleContext) -> Iterator[HookedChain]:
    """Yield the chains that call base chains, and what they need.

    chains:  all base chains, and those that ask for the route to a source
    context: of which the family counts
    """
    called: dict[Place, list[str]] = {}
    for name, chain in sorted(chains.items(), key=_order):
        if chain.hook is not None:
            called.setdefault(place_of(name, chain.hook), []).append(name)
    asks = _asks_here(chains, context)
    if asks:
        called.setdefault(PREROUTING, [])
    if POSTROUTING in called:
        called.setdefault(OUTPUT, [])
    for place, names in called.items():
        here = msgspec.structs.replace(context, chain=place.hook, table=place.table, base=True, reading="either")
        found = {name: chains[name] for name in names}
        yield from _place_chains(place, found, chains, here)
        if place == PREROUTING and asks:
            yield HookedChain((here.family, "mangle", chain_name(_UNROUTED)), _unrouted_chain(here))
    bit = context.options.accepted_bit
    accept = XtRule((), ("-j", "MARK", "--set-xmark", f"{bit:#x}/{bit:#x}"))
    for table in dict.fromkeys(place.table for place in called):
        yield HookedChain((context.family, table, chain_name(ACCEPT_CHAIN)), XtChain((accept,), ACCEPT_CHAIN))


def asks_route(chains: Iterable[Chain]) -> bool:
    """Return whether any rule asks for the route to the source."""
    return any(isinstance(match, FibUnrouted) for chain in chains for rule in chain.rules for match in rule.matches)


def _asks_here(chains: Mapping[str, Chain], context: RuleContext) -> bool:
    return asks_route(chains.values()) and not context.options.lacks(context.family, "rpfilter")


def _order(item: tuple[str, Chain]) -> tuple[int, str]:
    return (item[1].hook.priority if item[1].hook is not None else 0, item[0])


def _place_chains(
    place: Place, names: Mapping[str, Chain], chains: Mapping[str, Chain], context: RuleContext
) -> Iterator[HookedChain]:
    origin = f"{place.table}-{place.hook.lower()}"
    key: tuple[Family, TableName] = (context.family, place.table)
    rules = list(_first_rules(place, names, chains, context))
    if place in BY_DIRECTION and names:
        reply = chain_name(origin, "reply")
        rules.append(XtRule((REPLY,), ("-g", reply)))
        called = (*_calls(names, "reply", context.options), *_last_rules(place, context.options))
        yield HookedChain((*key, reply), XtChain(called, origin))
    rules += (*_calls(names, "", context.options), *_last_rules(place, context.options))
    name = chain_name(origin)
    yield HookedChain((*key, name), XtChain(tuple(rules), origin), (*key, place.hook))


def _calls(names: Iterable[str], variant: ChainVariant, options: LoweringOptions) -> Iterator[XtRule]:
    """Yield the calls of base chains; each begins without the bit of what the one before accepted."""
    for name in names:
        yield _clear(options.accepted_bit)
        yield XtRule((), ("-j", chain_name(name, variant)))


def _clear(bits: int) -> XtRule:
    match, target = unmarked(bits)
    return XtRule((match,), target)


def _first_rules(
    place: Place, names: Mapping[str, Chain], chains: Mapping[str, Chain], context: RuleContext
) -> Iterator[XtRule]:
    if place == POSTROUTING:
        bit = context.options.accepted_bit
        yield XtRule((("-m", "mark", "!", "--mark", f"{bit:#x}/{bit:#x}"),), RETURN)  # not from OUTPUT
        return
    if place == PREROUTING and _asks_here(chains, context):
        yield _clear(context.options.unrouted_bit)
        yield XtRule((), ("-j", chain_name(_UNROUTED)))
    judged_later = (
        ()
        if place != OUTPUT
        else (
            chain
            for name, chain in chains.items()
            if chain.hook is not None and place_of(name, chain.hook) == POSTROUTING
        )
    )
    if place in (FORWARD, INPUT, OUTPUT) and all(map(_passes_established, (*names.values(), *judged_later))):
        yield from _early_return(context)


def _last_rules(place: Place, options: LoweringOptions) -> Iterator[XtRule]:
    """Yield the rules after the base chains: no bit leaves the traversal, except what a later hook reads."""
    if place == PREROUTING:
        yield _clear(options.accepted_bit)
        return
    yield _clear(options.accepted_bit | options.unrouted_bit)
    if place == OUTPUT:
        bit = options.accepted_bit
        others = ("-m", "addrtype", "!", "--src-type", "LOCAL")
        yield XtRule((others,), ("-j", "MARK", "--set-xmark", f"{bit:#x}/{bit:#x}"), "judged in POSTROUTING")


def _early_return(context: RuleContext) -> Iterator[XtRule]:
    for conjunction in conjunctions(EARLY_ACCEPT.matches, context):
        yield XtRule(conjunction, RETURN)


def _passes_established(chain: Chain) -> bool:
    """Return whether a base chain accepts packets of established connections while no address is under re-check."""
    return chain.rules[:1] == (EARLY_ACCEPT,) or all(map(_is_about_others, chain.rules))


def _is_about_others(rule: Rule) -> bool:
    """Return whether a rule matches no packet of an established connection, unless addresses are under re-check."""
    return FamilyInSet(RECHECKING) in rule.matches or any(
        isinstance(match, ConntrackState) and "established" not in match.states for match in rule.matches
    )


def _unrouted_chain(context: RuleContext) -> XtChain:
    """Return the chain that marks packets of Pods' interfaces to whose source another route leads."""
    bit = context.options.unrouted_bit
    target = ("-j", "MARK", "--set-xmark", f"{bit:#x}/{bit:#x}")
    marking = (
        XtRule((*conjunction, ("-m", "rpfilter", "--invert")), target)
        for conjunction in conjunctions((FromInterface(POD_LINKS),), context)
    )
    return XtChain((*_early_return(context), *marking), _UNROUTED)
