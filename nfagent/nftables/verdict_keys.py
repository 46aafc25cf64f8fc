"""Verdict keys: a verdict with the policies that gave it, and the lookup of a key by its NFLOG prefix.

A key is kept for a while after its rules are deleted: packets that they logged may still be in the socket's queue.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, TypeAlias

import msgspec

from nfagent.model.objects import DIRECTIONS, Direction, ObjectRef
from nfagent.nftables import names

Disposition: TypeAlias = Literal["allow", "deny", "audit-deny"]
DISPOSITIONS: tuple[Disposition, ...] = ("allow", "deny", "audit-deny")

_PARTS = 3
_DISPOSITIONS: dict[str, Disposition] = {disposition: disposition for disposition in DISPOSITIONS}
_DIRECTIONS: dict[str, Direction] = {direction: direction for direction in DIRECTIONS}

_RETIRED, _RETIRED_POLICIES = 1024, 16_384
"""The latest prefixes of deleted rules that are kept at most, and how many policies they may name in all."""

_REPLY = " reply"
"""The end of the prefix of a packet in reply direction. The name of a policy has no space."""


def split_reply_prefix(prefix: str) -> tuple[str, bool]:
    """Return the prefix of a verdict key, and whether the packet is in reply direction."""
    return prefix.removesuffix(_REPLY), prefix.endswith(_REPLY)


class VerdictKey(msgspec.Struct, frozen=True):
    """A verdict and the policies that gave it; a chain of its own counts, logs and applies it.

    disposition: audit-deny: audited policies would deny, and without them it is allowed: the packet passes
    policies:    the policy whose rule decided, or the NetworkPolicies that isolate where no rule of theirs allowed
    """

    disposition: Disposition
    direction: Direction
    policies: tuple[ObjectRef, ...]

    @property
    def name(self) -> str:
        """The name of the chain that applies the verdict, and of the counter in it."""
        return names.verdict_chain_name(self.disposition, self.direction, self.policies)

    @property
    def prefix(self) -> str:
        """The prefix of the rule's log statement."""
        return names.log_prefix(self.disposition, self.direction, self.policies)

    @property
    def reply_prefix(self) -> str:
        """The prefix of packets in reply direction, from server to client."""
        return f"{self.prefix}{_REPLY}"


class VerdictKeys:
    """Verdict keys by NFLOG prefix.

    retirements: how often a key was retired so far
    """

    def __init__(self, cut: Callable[[str], str] = str) -> None:
        """Start without any.

        cut: returns a prefix as iptables has it, which is another one for a prefix that is too long there
        """
        self._current: dict[str, VerdictKey] = {}
        # In the order of their retirements, each with its number.
        self._retired: dict[str, tuple[int, VerdictKey]] = {}
        self._retired_policies = 0
        self.retirements = 0
        self._cut = cut
        self._whole: dict[str, str] = {}

    def add(self, key: VerdictKey) -> None:
        """Add the key of a rule."""
        self._current[key.prefix] = key
        for prefix in (key.prefix, key.reply_prefix):
            written = self._cut(prefix)
            if written != prefix:
                self._whole[written] = prefix

    def whole(self, written: str) -> str | None:
        """Return the prefix that was cut to this one; None where none was."""
        return self._whole.get(written)

    def retire(self, key: VerdictKey) -> None:
        """Mark the key of a deleted rule as retired."""
        if key.prefix in self._current:
            self._forget(key.prefix)
            gone = self._current.pop(key.prefix)
            self.retirements += 1
            self._retired[key.prefix] = self.retirements, gone
            self._retired_policies += len(gone.policies)
            # The latest one stays, however many policies it names.
            while len(self._retired) > 1 and (
                len(self._retired) > _RETIRED or self._retired_policies > _RETIRED_POLICIES
            ):
                self._forget(next(iter(self._retired)))

    def forget_retired(self, until: int) -> None:
        """Forget the keys of the first `until` retirements."""
        while self._retired:
            prefix, (number, _) = next(iter(self._retired.items()))
            if number > until:
                break
            self._forget(prefix)

    def _forget(self, prefix: str) -> None:
        _, gone = self._retired.pop(prefix, (0, None))
        if gone is not None:
            self._retired_policies -= len(gone.policies)
            if prefix not in self._current:
                for each in (gone.prefix, gone.reply_prefix):
                    self._whole.pop(self._cut(each), None)

    def get(self, prefix: str) -> VerdictKey | None:
        """Return the key of a prefix; None for an unknown one."""
        found = self._current.get(prefix)
        return found if found is not None else self._retired.get(prefix, (0, None))[1]


def key_of_counter(name: str) -> VerdictKey | None:
    """Return the key whose counter has this name; None where the name was too long to tell it, or is another's."""
    parts = name.split("/", 2)
    if len(parts) != _PARTS or parts[0] not in _DISPOSITIONS or parts[1] not in _DIRECTIONS:
        return None
    policies = names.policies_of_name(parts[2])
    return VerdictKey(_DISPOSITIONS[parts[0]], _DIRECTIONS[parts[1]], policies) if policies else None


def denied_by(direction: Direction, policies: tuple[ObjectRef, ...]) -> VerdictKey:
    """Return the key of a deny: by a rule of a tier, or by isolation."""
    return VerdictKey("deny", direction, policies)


def audit_denied_by(direction: Direction, policies: tuple[ObjectRef, ...]) -> VerdictKey:
    """Return the key of a packet that passes, and that these audited policies would deny."""
    return VerdictKey("audit-deny", direction, policies)


def allowed_by(direction: Direction, policies: tuple[ObjectRef, ...]) -> VerdictKey:
    """Return the key of an allow by a policy."""
    return VerdictKey("allow", direction, policies)
