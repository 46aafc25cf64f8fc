"""A policy change applied to an index of policies, without changing the index."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from difflib import get_close_matches

import msgspec

from nfagent.errors import UsageError
from nfagent.model.admin_policy import Policy, applies
from nfagent.model.objects import Direction, ObjectRef, Pod
from nfagent.state.cluster import Identity
from nfagent.state.policy_index import PolicyIndex

_SUGGESTED = 3


class PolicyPatch(msgspec.Struct, frozen=True):
    """A policy change.

    put:     policies that are added, or replace those of their name
    removed: the policies that are removed
    """

    put: tuple[Policy, ...] = ()
    removed: tuple[ObjectRef, ...] = ()

    @property
    def refs(self) -> tuple[ObjectRef, ...]:
        """The policies that are added, replaced or removed."""
        return (*(policy.ref for policy in self.put), *self.removed)


def removal_patch(index: PolicyIndex, refs: Iterable[ObjectRef]) -> PolicyPatch:
    """Return the patch that removes policies. Raises UsageError for one that doesn't exist."""
    wanted = tuple(refs)
    for ref in wanted:
        if ref not in index.policies:
            near = " or ".join(_near(index, ref))
            hint = f"did you mean {near}?" if near else "`nfagent dump policies` lists all policies"
            raise UsageError(f"there is no {ref} to remove", hint=hint)
    return PolicyPatch(removed=wanted)


class PatchedPolicies:
    """The policies of an index after a patch. It reads the index at each call, so that changes there count.

    patch: the difference to the index
    """

    def __init__(self, index: PolicyIndex, patch: PolicyPatch) -> None:
        """Apply a patch to an index; neither is changed."""
        self.patch = patch
        self._index = index
        self._refs = frozenset(patch.refs)
        self._put: dict[str, list[Policy]] = {}
        self._by_namespace: dict[str, list[ObjectRef]] = {}
        for policy in patch.put:
            self._put.setdefault(policy.ref.namespace, []).append(policy)
        for ref in sorted(self._refs):
            self._by_namespace.setdefault(ref.namespace, []).append(ref)

    def policies_for(self, *pods: Pod | None) -> list[Policy]:
        """Return every policy that may select one of these Pods, as the patched index would."""
        staying = [policy for policy in self._index.policies_for(*pods) if policy.ref not in self._refs]
        namespaces = {"", *(pod.namespace for pod in pods if pod is not None)}
        return [*staying, *(policy for namespace in namespaces for policy in self._put.get(namespace, ()))]

    def affects(self, identity: Identity, direction: Direction) -> bool:
        """Return whether a patched policy selects these Pods in a direction: no other verdict can change."""
        return any(self._selects(policy, identity, direction) for policy in self._patched(identity.namespace))

    @property
    def idle(self) -> tuple[ObjectRef, ...]:
        """The added policies that exist already, unchanged."""
        return tuple(policy.ref for policy in self.patch.put if self._index.policies.get(policy.ref) == policy)

    def _patched(self, namespace: str) -> Iterator[Policy]:
        """Yield the patched policies that may select Pods of a Namespace: before the patch, then after it."""
        for space in ("", namespace):
            for ref in self._by_namespace.get(space, ()):
                before = self._index.policies.get(ref)
                if before is not None:
                    yield before
            yield from self._put.get(space, ())

    def _selects(self, policy: Policy, identity: Identity, direction: Direction) -> bool:
        return applies(policy, direction) and self._index.selects(policy, identity)


def _near(index: PolicyIndex, ref: ObjectRef) -> list[str]:
    """Return similar names of policies of this kind."""
    known = [other for other in index.policies if other.kind == ref.kind]
    here = [other.name for other in known if other.namespace == ref.namespace]
    near = [ObjectRef(ref.kind, ref.namespace, name).path for name in get_close_matches(ref.name, here, n=_SUGGESTED)]
    near += sorted(other.path for other in known if other.name == ref.name)
    return near[:_SUGGESTED]
