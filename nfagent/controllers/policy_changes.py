"""What happened to policies since the last look, in words: for each the Pods of this node that it isolates.

Changes pass through `put` and `remove` on their way to the state. An added policy that is deleted before the next look
is not mentioned. No clock and no log: `controllers.change_log` decides when to look.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Generator, Iterable

import msgspec

from nfagent.controllers.event_applier import EventTarget
from nfagent.desired.state import DesiredState
from nfagent.model.admin_policy import POLICY_KINDS, Policy, TierPolicy, applies
from nfagent.model.gvk import Item
from nfagent.model.networkpolicy import NetworkPolicy
from nfagent.model.objects import DIRECTIONS, Direction, ObjectRef
from nfagent.model.plurals import counted
from nfagent.state.cluster import Identity

MOST_LINES = 5
"""Changes of so many policies have a line each; more have one line together."""

_A_STEP = 64
_MOST_PODS = 3
"""So many Pods are named; more are a number."""


class _Before(msgspec.Struct, frozen=True):
    """A policy before its first change since the last look. words: the Pods that it selected."""

    policy: Policy | None
    words: str = ""
    identities: frozenset[Identity] = frozenset()


class PolicyChanges:
    """Notes of changes; events reach the state through it. Satisfies controllers.event_applier.EventTarget."""

    def __init__(self, target: EventTarget, desired: DesiredState) -> None:
        """Pass events to `target`, which changes `desired`. Nothing is noted before `begin`."""
        self._target = target
        self._desired = desired
        self._noting = False
        self._before: dict[ObjectRef, _Before] = {}
        self._counts: Counter[tuple[str, str]] = Counter()

    def begin(self) -> None:
        """Note changes from now on."""
        self._noting = True

    def put(self, item: Item) -> bool:
        """Add or replace an object. Return whether anything changed."""
        if not self._noting:
            return self._target.put(item)
        is_new = self._desired.find(item.ref) is None
        noted = _is_policy(item.ref) and item.ref not in self._before
        before = self._state_of(item.ref) if noted else None
        changed = self._target.put(item)
        if changed:
            self._note(item.ref, before, "added" if is_new else "changed")
        return changed

    def remove(self, ref: ObjectRef) -> bool:
        """Remove an object. Return whether anything changed."""
        noted = self._noting and _is_policy(ref) and ref not in self._before
        before = self._state_of(ref) if noted else None
        changed = self._target.remove(ref)
        if changed and self._noting:
            self._note(ref, before, "deleted")
        return changed

    @property
    def pending(self) -> bool:
        """Return whether a policy changed since the last look."""
        return bool(self._before)

    def lines(self) -> Generator[None, None, list[str]]:
        """Return a line for each policy that changed since the last call; one for all where they are many. In steps."""
        before, self._before = self._before, {}
        few = dict[ObjectRef, _Before]()
        verbs, active, first = Counter[str](), 0, None
        while before:
            if len(before) % _A_STEP == 0:
                yield
            ref, was = before.popitem()  # freed one by one: ten thousand at once would take too long
            verb = _verb(was.policy, self._find(ref))
            if not verb:
                continue
            verbs[verb] += 1
            active += ref in self._desired.index.active
            first = ref if first is None else min(first, ref)
            if len(few) <= MOST_LINES:
                few[ref] = was
        if len(few) <= MOST_LINES:
            # Between two steps one may have come or gone.
            return [line for ref, was in sorted(few.items()) if (line := self._line(ref, was))]
        what = ", ".join(f"{number} {verb}" for verb, number in sorted(verbs.items()))
        said = f"{counted(verbs.total(), 'policy')} changed ({what}), {first} among them"
        # The number of policies alone: to count the Pods of thousands of them would take too long.
        return [said if set(verbs) == {"deleted"} else f"{said}: {active} of these select Pods of this node now"]

    def isolated_pods(self) -> int:
        """Return the number of Pods of this node that NetworkPolicies isolate, in a direction or both."""
        local = self._desired.index.local
        return sum(
            len(pods)
            for identity, pods in local.items()
            if any(self._is_isolated(identity, direction) for direction in DIRECTIONS)
        )

    def drain_counts(self) -> str:
        """Return what changed since the last call, by kind: `2 Pods added, 1 NetworkPolicy deleted`; '' for nothing."""
        counts, self._counts = self._counts, Counter()
        return ", ".join(f"{counted(number, kind)} {what}" for (kind, what), number in sorted(counts.items()))

    def _note(self, ref: ObjectRef, before: _Before | None, what: str) -> None:
        self._counts[ref.kind, what] += 1
        if before is not None:
            self._before[ref] = before

    def _find(self, ref: ObjectRef) -> Policy | None:
        return self._desired.index.policies.get(ref)

    def _state_of(self, ref: ObjectRef) -> _Before:
        policy = self._find(ref)
        if policy is None:
            return _Before(None)
        identities = frozenset(self._desired.index.active.get(ref, ()))
        return _Before(policy, self._pods(identities), identities)

    def _line(self, ref: ObjectRef, was: _Before) -> str:
        """Return what happened to a policy; '' for one that came and went."""
        policy = self._find(ref)
        if policy is None and was.policy is not None:
            return f"{ref} deleted: it {self._effect(was.policy, was.words, past=True)}{self._freed(was)}"
        if policy is None:
            return ""
        selected = self._pods(self._desired.index.active.get(ref, ()))
        return f"{ref} {_verb(was.policy, policy)}: {self._effect(policy, selected)}{self._freed(was)}"

    def _effect(self, policy: Policy, pods: str, *, past: bool = False) -> str:
        """Return what a policy does: `isolates 2 Pods of this node for ingress (shop/db-0, shop/db-1)`."""
        if not pods:
            return f"{'selected' if past else 'selects'} no Pod of this node"
        verb = "isolated" if past else "isolates"
        if self._desired.index.is_audited(policy):
            verb = "audited" if past else "audits"
        elif isinstance(policy, TierPolicy):
            verb = "judged" if past else "judges"
        fails = "fails closed, and " if policy.problem is not None and not past else ""
        number, _, names = pods.partition(" (")
        named = f" ({names}" if names else ""
        return f"{fails}{verb} {number} of this node for {_directions(policy)}{named}"

    def _freed(self, was: _Before) -> str:
        """Return which Pods that a NetworkPolicy isolated are isolated by none now, in a direction."""
        if not isinstance(was.policy, NetworkPolicy) or self._desired.index.is_audited(was.policy):
            return ""
        words = []
        for direction in was.policy.isolates:
            freed = [identity for identity in was.identities if not self._is_isolated(identity, direction)]
            if pods := self._pods(freed):
                words.append(f"; no policy isolates {pods} for {direction} any more")
        return "".join(words)

    def _is_isolated(self, identity: Identity, direction: Direction) -> bool:
        index = self._desired.index
        policies = (index.policies.get(ref) for ref in index.selecting.get(identity, ()))
        return any(
            isinstance(policy, NetworkPolicy) and direction in policy.isolates and not index.is_audited(policy)
            for policy in policies
        )

    def _pods(self, identities: Iterable[Identity]) -> str:
        """Return the Pods of local identities: `2 Pods (shop/a, shop/b)`, or their number where they are many."""
        local = self._desired.index.local
        groups: list[Collection[tuple[str, str]]] = [local.get(identity, ()) for identity in identities]
        number = sum(map(len, groups))
        if number > _MOST_PODS:
            return counted(number, "Pod")
        names = ", ".join(sorted("/".join(key) for group in groups for key in group))
        return f"{counted(number, 'Pod')} ({names})" if number else ""


def _is_policy(ref: ObjectRef) -> bool:
    return ref.kind in POLICY_KINDS


def _verb(before: Policy | None, after: Policy | None) -> str:
    """Return what happened to a policy; '' for one that came and went."""
    if after is None:
        return "" if before is None else "deleted"
    return "added" if before is None else "changed"


def _directions(policy: Policy) -> str:
    found = [direction for direction in reversed(DIRECTIONS) if applies(policy, direction)]
    return " and ".join(found) or "no direction"
