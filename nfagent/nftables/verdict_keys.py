"""Outcomes: what policies decide, and which of them an NFLOG prefix stands for.

Outcomes whose rules are gone are known for a while: packets that these logged may still be on their way to us.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from nfagent.model.objects import Direction, ObjectRef
from nfagent.nftables import names

_RETIRED, _RETIRED_POLICIES = 1024, 16_384
"""Prefixes of rules that are gone which are remembered, the latest ones; and the policies that they name."""


_REPLY = " reply"
"""No policy's name holds a space."""


def without_reply(prefix: str) -> tuple[str, bool]:
    """Give the prefix of an outcome, and whether the packet with this one is a reply."""
    return prefix.removesuffix(_REPLY), prefix.endswith(_REPLY)


class VerdictKey(msgspec.Struct, frozen=True):
    """An outcome: what policies decided, which a chain carries out, counts, and logs under a prefix.

    policies: the policy whose rule decided, or the NetworkPolicies that isolate where no rule of theirs allowed
    """

    disposition: Literal["allow", "deny"]
    direction: Direction
    policies: tuple[ObjectRef, ...]

    @property
    def name(self) -> str:
        """The name of the chain that carries it out, and of the counter there."""
        return names.outcome_name(self.disposition, self.direction, self.policies)

    @property
    def prefix(self) -> str:
        """The prefix that the rule's log statement has."""
        return names.log_prefix(self.disposition, self.direction, self.policies)

    @property
    def reply_prefix(self) -> str:
        """The prefix of packets that go from the server of a connection to its client."""
        return f"{self.prefix}{_REPLY}"


class VerdictKeys:
    """Prefix to origin."""

    def __init__(self) -> None:
        """Start without any."""
        self._current: dict[str, VerdictKey] = {}
        self._retired: dict[str, VerdictKey] = {}
        self._retired_policies = 0

    def add(self, origin: VerdictKey) -> None:
        """Know a rule."""
        self._current[origin.prefix] = origin

    def retire(self, origin: VerdictKey) -> None:
        """Take in that a rule is gone."""
        gone = self._current.pop(origin.prefix, None)
        if gone is not None:
            self._forget(origin.prefix)
            self._retired[origin.prefix] = gone
            self._retired_policies += len(gone.policies)
            # The latest one stays, whatever it names.
            while len(self._retired) > 1 and (
                len(self._retired) > _RETIRED or self._retired_policies > _RETIRED_POLICIES
            ):
                self._forget(next(iter(self._retired)))

    def _forget(self, prefix: str) -> None:
        gone = self._retired.pop(prefix, None)
        if gone is not None:
            self._retired_policies -= len(gone.policies)

    def get(self, prefix: str) -> VerdictKey | None:
        """Tell what a prefix stands for."""
        return self._current.get(prefix) or self._retired.get(prefix)


def denied_by(direction: Direction, policies: tuple[ObjectRef, ...]) -> VerdictKey:
    """Give the outcome of what a rule of a tier denies, or what NetworkPolicies don't allow."""
    return VerdictKey("deny", direction, policies)


def allowed_by(direction: Direction, policies: tuple[ObjectRef, ...]) -> VerdictKey:
    """Give the outcome of what a policy allows."""
    return VerdictKey("allow", direction, policies)
