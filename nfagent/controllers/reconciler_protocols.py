"""What the reconciler needs of others: the kernel's ruleset, the desired one, who may hold it, who observes commits."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from nfagent.nftables.objects import Ruleset
from nfagent.nftables.transaction import Transaction


class RulesetKernel(Protocol):
    """Access to the kernel's ruleset."""

    async def read(self) -> Ruleset:
        """Return the current ruleset. Raises KernelError, HostError."""
        ...

    async def difference(self, wanted: Ruleset, *, anew: bool = False) -> Transaction:
        """Return the transaction that makes the current ruleset equal to `wanted`. Raises KernelError, HostError.

        anew: return one that succeeds for any current ruleset, which isn't read: the table is deleted and written
        """
        ...

    async def apply(self, transaction: Transaction) -> None:
        """Commit a transaction. Raises KernelError, HostError; then the contents are unknown."""
        ...

    async def accept_variants(self, wanted: Ruleset, repair: Transaction) -> tuple[str, ...]:
        """Return the objects that the kernel lists differently than a committed repair wrote them.

        Objects that another program may have changed are left out. From then on such a listing counts as equal to
        `wanted`, until either changes. Raises KernelError, HostError.
        """
        ...


class DesiredRuleset(Protocol):
    """The ruleset that the kernel must have."""

    def prepare(self) -> Iterator[None]:
        """Compute pending changes in steps, which `drain_changes` and `ruleset` would otherwise compute in one."""
        ...

    def drain_changes(self) -> Transaction:
        """Return the changes since the last `drain_changes` or `mark_synced`."""
        ...

    def mark_synced(self) -> None:
        """Discard pending changes: the caller uses `ruleset`, which includes them."""
        ...

    def ruleset(self) -> Ruleset:
        """Return the whole desired ruleset."""
        ...

    def recheck_all(self) -> Transaction:
        """Return the transaction that re-checks all live connections: the previous contents are unknown."""
        ...

    @property
    def dirty(self) -> bool:
        """Return whether changes are pending."""
        ...


class ChangeGuard(Protocol):
    """Decides whether the kernel's table may be changed at all."""

    @property
    def must_check(self) -> bool:
        """Return whether `hold_reason` must be called, with the current ruleset."""
        ...

    def hold_reason(self, held: Ruleset, wanted: Ruleset) -> str:
        """Return why the table must stay unchanged; '' where it may be changed."""
        ...


class CommitObserver(Protocol):
    """Learns which changes of the desired ruleset are in force."""

    def cover(self) -> None:
        """Note that the next commit contains every change so far."""
        ...

    def committed(self) -> None:
        """Note that the covered changes are in force; nothing may have had to be committed for them."""
        ...
