"""Base chains and maps for addresses that several Pods of this node share while their policy sets differ.

The first policy set of an address is in the maps that every ruleset has. Each further one is in the maps of its own
level, which the base chains of that level look up: `accept` ends one base chain only, so every policy set must allow
a packet. A level exists while an address needs it; normally there is none.
"""

from __future__ import annotations

from nfagent.desired.tracker import RulesetTracker
from nfagent.model.ref_counts import RefCounts
from nfagent.nftables.base_chains import base_chains, verdict_maps
from nfagent.policy.options import PolicyOptions


class AddressLevels:
    """The levels beyond the first, each with the number of addresses that need it."""

    def __init__(self, live: RulesetTracker, policy_options: PolicyOptions) -> None:
        """Start without levels."""
        self._live = live
        self._policy_options = policy_options
        self._users: RefCounts[int] = RefCounts()

    def acquire(self, policy_sets: int) -> None:
        """Add an address that has this many policy sets in one direction."""
        for level in range(1, policy_sets):
            if self._users.acquire(level):
                for name, item in verdict_maps(level):
                    self._live.add_map(name, item.family)
                for name, chain in base_chains(self._policy_options, level):
                    self._live.put_chain(name, chain)

    def release(self, policy_sets: int) -> None:
        """Remove an address that had this many policy sets in one direction."""
        for level in range(1, policy_sets):
            if self._users.release(level):
                for name, _ in base_chains(self._policy_options, level):
                    self._live.drop_chain(name)
                for name, _ in verdict_maps(level):
                    self._live.drop_map(name)
