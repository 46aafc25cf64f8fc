"""A chain of nftables as chains of iptables: one for each family, table and direction."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product

import msgspec

from nfagent.nftables import names as nft_names
from nfagent.nftables.gateway_chains import GATEWAYS_CHAIN, HELD_CHAIN, NO_GATEWAY_COUNTER
from nfagent.nftables.objects import Chain, Drop, NamedSet, Rule
from nfagent.xtables.context import Reading, RuleContext, is_by_direction, variant_of
from nfagent.xtables.hooks import BY_DIRECTION, place_of, tables_of
from nfagent.xtables.names import chain_name
from nfagent.xtables.objects import ChainKey, XtChain
from nfagent.xtables.options import LoweringOptions, Unavailable
from nfagent.xtables.rules import lower_rule

_FLOATING_CHAINS = nft_names.floating_chain("").removesuffix("none")
_WITHOUT_ROUTE = "floating addresses need a mark between DNAT and routing; packets of their Pods to outside are dropped"


class LoweredChain(msgspec.Struct, frozen=True):
    """What a chain became."""

    chains: dict[ChainKey, XtChain]
    unavailable: frozenset[Unavailable]


def lower_chain(name: str, chain: Chain, sets: Mapping[str, NamedSet], options: LoweringOptions) -> LoweredChain:
    """Return the chains of iptables that stand for a chain.

    sets: at least the sets of port numbers that it refers to
    """
    chains: dict[ChainKey, XtChain] = {}
    unavailable: set[Unavailable] = set()
    rules = chain.rules
    if name.startswith(_FLOATING_CHAINS):
        rules = (Rule(counter=NO_GATEWAY_COUNTER, verdict=Drop(), comment="no floating addresses with iptables"),)
        unavailable.add(Unavailable(GATEWAYS_CHAIN, "", _WITHOUT_ROUTE))
    elif name == HELD_CHAIN:
        rules = ()  # no packet is marked for it, and table nat refuses DROP
    for family, table, reading in product(options.families, tables_of(name, chain), _readings(name, chain)):
        context = RuleContext(name, family, table, chain.hook is not None, reading, sets, options)
        lowered = [lower_rule(rule, context) for rule in rules]
        key = (family, table, chain_name(name, variant_of(reading)))
        chains[key] = XtChain(tuple(item for rule in lowered for item in rule.rules), name)
        unavailable.update(item for rule in lowered for item in rule.unavailable)
    return LoweredChain(chains, frozenset(unavailable))


def _readings(name: str, chain: Chain) -> tuple[Reading, ...]:
    by_direction = is_by_direction(name) if chain.hook is None else place_of(name, chain.hook) in BY_DIRECTION
    return ("original", "reply") if by_direction else ("either",)
