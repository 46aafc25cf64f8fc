"""Chains in terms of policies: the rules of each, where a rule that matches leads, and the chains that it refers to."""

from __future__ import annotations

from typing import Literal, TypeAlias, get_args

import msgspec

from nfagent.model.objects import Direction, ObjectRef
from nfagent.policy.compiler import CompiledRule, TierChainKey

AuditPart: TypeAlias = Literal[
    "denials",
    "unless-denied",
    "label",
    "enforced",
    "enforced-denials",
    "denied",
    "passed",
    "passed-denials",
    "denial",
    "allow",
    "policy",
    "baseline",
]
AUDIT_PARTS: tuple[AuditPart, ...] = get_args(AuditPart)
"""What a chain of audit mode evaluates (`audited_tiers`); each refers only to parts before it."""


class AuditChainKey(msgspec.Struct, frozen=True, order=True):
    """The identity of a chain of audit mode, which policy sets share.

    admin, baseline: the policies of these tiers that it is about; for the denials of the baseline tier, enforced ones
    named:           the policies whose verdict it is about
    """

    part: AuditPart
    direction: Direction
    admin: tuple[ObjectRef, ...] = ()
    named: tuple[ObjectRef, ...] = ()
    baseline: tuple[ObjectRef, ...] = ()

    @property
    def policies(self) -> tuple[ObjectRef, ...]:
        """All policies that it depends on."""
        return (*self.admin, *self.named, *self.baseline)


ChainKey: TypeAlias = TierChainKey | AuditChainKey
"""The identity of a chain that policy sets share."""


class Outcome(msgspec.Struct, frozen=True):
    """A verdict, and the policies that gave it."""

    disposition: Literal["allow", "deny", "audit-deny"]
    policies: tuple[ObjectRef, ...]


class Follow(msgspec.Struct, frozen=True):
    """Continue in another chain; only after a jump, a packet without a verdict there comes back."""

    chain: ChainKey
    jump: bool = False


Target: TypeAlias = Outcome | Follow | None
"""Where a rule leads; None returns from the chain."""

PlannedRule: TypeAlias = tuple[CompiledRule, Target]


class ChainPlan(msgspec.Struct, frozen=True):
    """A chain: jumps, rules, jumps again, and what is left of the packets then.

    enforced: the rules of policies that aren't audited
    """

    before: tuple[ChainKey, ...] = ()
    rules: tuple[PlannedRule, ...] = ()
    after: tuple[ChainKey, ...] = ()
    end: Target = None
    enforced: tuple[CompiledRule, ...] = ()

    @property
    def chains(self) -> tuple[ChainKey, ...]:
        """The chains that it refers to, each once."""
        targets = {target for _, target in self.rules} | {self.end}
        followed = (target.chain for target in targets if isinstance(target, Follow))
        return tuple(dict.fromkeys((*self.before, *followed, *self.after)))


def by_action(rule: CompiledRule) -> Target:
    """Return where a rule leads without audit mode."""
    return None if rule.action == "pass" else Outcome(rule.action, (rule.policy,))
