"""Which rules the kernel enforces before an agent has written its own."""

from __future__ import annotations

from typing import Literal, TypeAlias, get_args

import msgspec

RulesOrigin: TypeAlias = Literal["current", "previous", "saved", "hold", "none", "unknown"]
"""current: the agent's own; previous: those of the run before; saved: the ruleset that was saved before a boot; hold:
only those that drop packets of unknown Pods; none: Pods are open; unknown: the kernel doesn't say."""

ORIGINS: tuple[str, ...] = get_args(RulesOrigin)


class EnforcedRules(msgspec.Struct, frozen=True):
    """Where the rules in force come from, and that in words: '' for the agent's own."""

    origin: RulesOrigin
    words: str = ""

    def __str__(self) -> str:
        """Return the words."""
        return self.words


CURRENT = EnforcedRules("current")
NOTHING = EnforcedRules("none", "nothing: Pods are open")
PREVIOUS = EnforcedRules("previous", "the rules of the previous run")
