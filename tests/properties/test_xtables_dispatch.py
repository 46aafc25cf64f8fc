"""An address that leads to no chain is accepted by its map: no other rule judges it behind the look-up.

The order of a change relies on it: an address is in a map's sets before a restore leads it to its chain.
"""

from __future__ import annotations

from hypothesis import given

from nfagent.model.gvk import Item
from nfagent.xtables.lowering import lower
from nfagent.xtables.objects import ChainKey, XtChain
from nfagent.xtables.options import LoweringOptions
from nfagent.xtables.references import is_policy_map
from tests.properties.strategies import desired, worlds


def look_ups(key: ChainKey, chain: XtChain, chains: dict[ChainKey, XtChain]) -> list[tuple[str, str]]:
    """Return the map and the side of the address that each rule of a chain looks up; '' for other rules."""
    found = []
    for rule in chain.rules:
        led = chains.get((*key[:2], rule.target[1])) if len(rule.target) > 1 else None
        is_look_up = led is not None and is_policy_map(led.origin)
        found.append((led.origin, rule.matches[-1][-1]) if led is not None and is_look_up else ("", ""))
    return found


@given(worlds())
def test_behind_a_look_up_of_policies_only_the_same_look_up_follows(world: list[Item]) -> None:
    chains = lower(desired("a", world).ruleset(), LoweringOptions())[0].chains
    seen = 0
    for key, chain in chains.items():
        if is_policy_map(chain.origin):
            continue
        found = look_ups(key, chain, chains)
        first = next((place for place, one in enumerate(found) if one[0]), len(found))
        assert len(set(found[first:])) <= 1, chain
        seen += len(found) - first
    assert seen
