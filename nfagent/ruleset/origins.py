"""What the NFLOG prefixes stand for: those of the rules of now, and for a while those of rules that are gone.

Packets that a rule logged before it went may still be on their way to us.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from nfagent.cluster.model import Direction, Ref
from nfagent.policy.compile import ClassKey
from nfagent.ruleset import names

_RETIRED = 1024
"""Prefixes of rules that are gone which are remembered, the latest ones."""


class Origin(msgspec.Struct, frozen=True):
    """What an NFLOG prefix stands for.

    policies: the policy whose rule allowed, or the policies that isolate where the verdict is a denial
    """

    disposition: Literal["allow", "deny"]
    direction: Direction
    policies: tuple[Ref, ...]

    @property
    def prefix(self) -> str:
        """The prefix that the rule's log statement has."""
        return names.log_prefix(self.disposition, self.direction, self.policies)


class Origins:
    """Prefix to origin."""

    def __init__(self) -> None:
        """Start without any."""
        self._current: dict[str, Origin] = {}
        self._retired: dict[str, Origin] = {}

    def add(self, origin: Origin) -> None:
        """Know a rule."""
        self._current[origin.prefix] = origin

    def retire(self, origin: Origin) -> None:
        """Take in that a rule is gone."""
        gone = self._current.pop(origin.prefix, None)
        if gone is not None:
            self._retired.pop(origin.prefix, None)
            self._retired[origin.prefix] = gone
            if len(self._retired) > _RETIRED:
                del self._retired[next(iter(self._retired))]

    def get(self, prefix: str) -> Origin | None:
        """Tell what a prefix stands for."""
        return self._current.get(prefix) or self._retired.get(prefix)


def denied_by(key: ClassKey) -> Origin:
    """Give the origin of what a class denies."""
    return Origin("deny", key.direction, key.policies)


def allowed_by(direction: Direction, policy: Ref) -> Origin:
    """Give the origin of what a policy allows."""
    return Origin("allow", direction, (policy,))
