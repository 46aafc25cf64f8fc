"""What the clients of both backends ask of those who read counters for the last time."""

from __future__ import annotations

from typing import Protocol

from nfagent.nftables.objects import Ruleset
from nfagent.nftables.retired_counters import CommitPlan
from nfagent.nftables.transaction import Transaction


class CounterDeletions(Protocol):
    """Has the deletions of counters wait until these were read for the last time."""

    async def before(self, transaction: Transaction) -> None:
        """Prepare for a transaction, before other commits are locked out."""
        ...

    def plan(self, transaction: Transaction) -> CommitPlan:
        """Return what of a transaction is committed at once; may be called in another thread."""
        ...

    def committed(self, plan: CommitPlan) -> None:
        """Note that a transaction is in force, but for the deletions that wait."""
        ...

    def compared(self, wanted: Ruleset) -> None:
        """Note that the rules are made equal to a ruleset; may be called in another thread."""
        ...

    def as_deleted(self, listed: Ruleset, wanted: Ruleset) -> Ruleset:
        """Return a listing without what waits for its deletion."""
        ...

    def with_waiting(self, wanted: Ruleset) -> Ruleset:
        """Return a ruleset with what waits for its deletion."""
        ...
