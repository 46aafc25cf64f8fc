"""Policy and tier chains, with references to the sets and verdict chains that they name.

The references of a chain's new version are acquired before those of the old one are released, so a set that both
name is not rebuilt.
"""

from __future__ import annotations

from nfagent.desired.set_members import SetMembership
from nfagent.desired.tracker import RulesetTracker
from nfagent.desired.verdict_chains import VerdictChains
from nfagent.nftables.policy_chains import RenderedChain


class ChainStore:
    """The chains of policy sets and tiers in the desired ruleset."""

    def __init__(self, live: RulesetTracker, members: SetMembership, verdict_chains: VerdictChains) -> None:
        """Start without chains."""
        self._live = live
        self._members = members
        self._verdict_chains = verdict_chains
        self._chains: dict[str, RenderedChain] = {}

    def put(self, name: str, rendered: RenderedChain) -> None:
        """Add or replace a chain."""
        before = self._chains.get(name)
        self._acquire(rendered)
        self._live.put_chain(name, rendered.chain)
        self._chains[name] = rendered
        if before is not None:
            self._release(before)

    def drop(self, name: str) -> None:
        """Remove a chain, if it exists."""
        before = self._chains.pop(name, None)
        if before is not None:
            self._live.drop_chain(name)
            self._release(before)

    def _acquire(self, rendered: RenderedChain) -> None:
        for name, content in rendered.contents.items():
            self._members.acquire(name, content, closing=name in rendered.deny_sets)
        for key in rendered.verdicts:
            self._verdict_chains.acquire(key)

    def _release(self, rendered: RenderedChain) -> None:
        for name in rendered.contents:
            self._members.release(name, closing=name in rendered.deny_sets)
        for key in rendered.verdicts:
            self._verdict_chains.release(key)
