"""Chains of rules with what they stand on: the sets that they name, the outcomes that they go to.

What is needed now is taken before what was needed is given back: what both versions of a chain name stays as it is.
"""

from __future__ import annotations

from nfagent.desired.set_members import SetMembership
from nfagent.desired.tracker import RulesetTracker
from nfagent.desired.verdict_chains import VerdictChains
from nfagent.nftables.policy_chains import RenderedChain


class ChainStore:
    """Class and section chains, as they stand in the live ruleset."""

    def __init__(self, live: RulesetTracker, members: SetMembership, outcomes: VerdictChains) -> None:
        """Start without chains."""
        self._live = live
        self._members = members
        self._outcomes = outcomes
        self._written: dict[str, RenderedChain] = {}

    def put(self, name: str, written: RenderedChain) -> None:
        """Write a chain, new or changed."""
        before = self._written.get(name)
        self._take(written)
        self._live.put_chain(name, written.chain)
        self._written[name] = written
        if before is not None:
            self._release(before)

    def drop(self, name: str) -> None:
        """Drop a chain; one that was never written is no matter."""
        before = self._written.pop(name, None)
        if before is not None:
            self._live.drop_chain(name)
            self._release(before)

    def _take(self, written: RenderedChain) -> None:
        for name, content in written.contents.items():
            self._members.acquire(name, content, closing=name in written.closing)
        for outcome in written.outcomes:
            self._outcomes.acquire(outcome)

    def _release(self, written: RenderedChain) -> None:
        for name in written.contents:
            self._members.release(name, closing=name in written.closing)
        for outcome in written.outcomes:
            self._outcomes.release(outcome)
