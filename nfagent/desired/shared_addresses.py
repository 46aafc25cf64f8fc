"""Base chains and maps for addresses that several Pods of this node hold, whose classes differ.

The first class of an address stands in the maps that every ruleset has. Each further one stands in maps of a level of
its own, which base chains of that level look up: `accept` is a verdict for one base chain, so what passes was allowed
by every class. A level exists while an address needs it; at rest there is none.
"""

from __future__ import annotations

from nfagent.desired.tracker import RulesetTracker
from nfagent.model.ref_counts import RefCounts
from nfagent.nftables.base_chains import base_chains, verdict_maps
from nfagent.policy.options import PolicyOptions


class AddressLevels:
    """The levels beyond the first, counted by the addresses that need them."""

    def __init__(self, live: RulesetTracker, choices: PolicyOptions) -> None:
        """Start without any."""
        self._live = live
        self._choices = choices
        self._users: RefCounts[int] = RefCounts()

    def acquire(self, classes: int) -> None:
        """Count one more address with this many classes in a direction."""
        for level in range(1, classes):
            if self._users.acquire(level):
                for name, item in verdict_maps(level):
                    self._live.add_map(name, item.family)
                for name, chain in base_chains(self._choices, level):
                    self._live.put_chain(name, chain)

    def release(self, classes: int) -> None:
        """Count one address less."""
        for level in range(1, classes):
            if self._users.release(level):
                for name, _ in base_chains(self._choices, level):
                    self._live.drop_chain(name)
                for name, _ in verdict_maps(level):
                    self._live.drop_map(name)
