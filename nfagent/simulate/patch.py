"""The policies as they would be: those of an index, with some put in and some taken away. The index stays as it is."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from difflib import get_close_matches

import msgspec

from nfagent.errors import UsageError
from nfagent.model.admin_policy import Policy
from nfagent.model.networkpolicy import NetworkPolicy
from nfagent.model.objects import Direction, ObjectRef, Pod
from nfagent.state.cluster import Identity
from nfagent.state.policy_index import PolicyIndex

_SUGGESTED = 3


class PolicyPatch(msgspec.Struct, frozen=True):
    """A change of policies.

    put:   policies that come, or take the place of those of their name
    taken: the names of policies that go
    """

    put: tuple[Policy, ...] = ()
    taken: tuple[ObjectRef, ...] = ()

    @property
    def refs(self) -> tuple[ObjectRef, ...]:
        """Name every policy that it is about."""
        return (*(policy.ref for policy in self.put), *self.taken)


def taking_away(index: PolicyIndex, refs: Iterable[ObjectRef]) -> PolicyPatch:
    """Make the amendment that takes policies away. Raises UsageError for one that isn't there."""
    wanted = tuple(refs)
    for ref in wanted:
        if ref not in index.policies:
            near = " or ".join(_near(index, ref))
            hint = f"did you mean {near}?" if near else "`nfagent dump policies` lists those that are"
            raise UsageError(f"there is no {ref} to take away; {hint}")
    return PolicyPatch(taken=wanted)


class PatchedPolicies:
    """The policies of an index, amended. It looks at the index whenever it is asked: what changes there counts.

    amendment: what is different here
    """

    def __init__(self, index: PolicyIndex, amendment: PolicyPatch) -> None:
        """Join the two; neither is changed."""
        self.amendment = amendment
        self._index = index
        self._refs = frozenset(amendment.refs)
        self._put: dict[str, list[Policy]] = {}
        self._about: dict[str, list[ObjectRef]] = {}
        for policy in amendment.put:
            self._put.setdefault(policy.ref.namespace, []).append(policy)
        for ref in sorted(self._refs):
            self._about.setdefault(ref.namespace, []).append(ref)

    def judging(self, *pods: Pod | None) -> list[Policy]:
        """Give every policy that could judge one of these Pods, as the index would after the change."""
        staying = [policy for policy in self._index.judging(*pods) if policy.ref not in self._refs]
        namespaces = {"", *(pod.namespace for pod in pods if pod is not None)}
        return [*staying, *(policy for namespace in namespaces for policy in self._put.get(namespace, ()))]

    def concerns(self, identity: Identity, direction: Direction) -> bool:
        """Tell whether a policy that comes, goes or changes judges these Pods this way: no other verdict can change."""
        return any(self._speaks(policy, identity, direction) for policy in self._different(identity.namespace))

    def newly_judged(self, identity: Identity, direction: Direction) -> bool:
        """Tell whether only policies that come judge these Pods this way."""
        put = (*self._put.get("", ()), *self._put.get(identity.namespace, ()))
        if not any(self._speaks(policy, identity, direction) for policy in put):
            return False
        return not any(self._speaks(policy, identity, direction) for policy in self._now(identity))

    def speaking(self, identity: Identity, direction: Direction) -> Iterator[Policy]:
        """Give every policy that judges these Pods this way, now or after the change."""
        everything = (*self._now(identity), *self._put.get("", ()), *self._put.get(identity.namespace, ()))
        return (policy for policy in everything if self._speaks(policy, identity, direction))

    @property
    def idle(self) -> tuple[ObjectRef, ...]:
        """Name the policies that are put in and are there already, just so."""
        return tuple(policy.ref for policy in self.amendment.put if self._index.policies.get(policy.ref) == policy)

    def _now(self, identity: Identity) -> tuple[Policy, ...]:
        return (*self._index.in_namespace(""), *self._index.in_namespace(identity.namespace))

    def _different(self, namespace: str) -> Iterator[Policy]:
        """Give the policies of the amendment that could judge a Namespace's Pods: before the change, then after it."""
        for space in ("", namespace):
            for ref in self._about.get(space, ()):
                before = self._index.policies.get(ref)
                if before is not None:
                    yield before
            yield from self._put.get(space, ())

    def _speaks(self, policy: Policy, identity: Identity, direction: Direction) -> bool:
        has_a_say = direction in policy.isolates if isinstance(policy, NetworkPolicy) else bool(policy.rules(direction))
        return has_a_say and self._index.selects(policy, identity)


def _near(index: PolicyIndex, ref: ObjectRef) -> list[str]:
    """Give a few names of that kind that were perhaps meant."""
    known = [other for other in index.policies if other.kind == ref.kind]
    here = [other.name for other in known if other.namespace == ref.namespace]
    near = [ObjectRef(ref.kind, ref.namespace, name).path for name in get_close_matches(ref.name, here, n=_SUGGESTED)]
    near += sorted(other.path for other in known if other.name == ref.name)
    return near[:_SUGGESTED]
