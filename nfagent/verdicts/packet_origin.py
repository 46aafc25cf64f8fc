"""Whether a rule of nfagent's can have logged a packet: another program's rule may write the prefix of one of ours.

Our rules judge a Pod of this node: packets to it in ingress, from it in egress. So the Pod of a packet must hold its
address, the policies of the prefix must be a verdict of its policy sets in that direction, and the hook must be one of
our chains'. A packet that is read late is compared with the objects of its time too.

What another rule writes about the very packets that ours would log, under their prefix and in their hook, is the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgspec

from nfagent.desired.state import DesiredState
from nfagent.model.objects import Direction
from nfagent.nftables.verdict_keys import VerdictKey
from nfagent.policy.compiler import PolicySetKey, policy_set_keys
from nfagent.state.cluster import ClusterState
from nfagent.state.policy_index import PolicyIndex
from nfagent.verdicts.history import ObjectHistory

_INPUT, _FORWARD, _OUTPUT, _POSTROUTING = 1, 2, 3, 4  # NF_INET_*


class LogPlaces(msgspec.Struct, frozen=True):
    """Where the rules of a backend log, and how.

    hooks: of the chains that judge each direction
    cuts:  whether prefixes that are too long are cut, and end in a digest
    """

    hooks: dict[Direction, frozenset[int]]
    cuts: bool


NFTABLES = LogPlaces(
    {"ingress": frozenset({_FORWARD, _OUTPUT}), "egress": frozenset({_INPUT, _FORWARD, _OUTPUT})}, cuts=False
)
IPTABLES = LogPlaces(
    {"ingress": frozenset({_FORWARD, _POSTROUTING}), "egress": frozenset({_INPUT, _FORWARD, _POSTROUTING})}, cuts=True
)
"""With iptables, what the node sends is judged after DNAT: in POSTROUTING."""
_CACHE_SIZE = 4_096


class PacketOrigins:
    """Compares prefixes with the policies of packets' Pods; keeps the answers until the objects change."""

    def __init__(self, desired: DesiredState, history: ObjectHistory) -> None:
        """Use this state and its history."""
        self._desired = desired
        self._history = history
        # By prefix and address: now, and in a past generation.
        self._present: dict[tuple[str, str], bool] = {}
        self._past: dict[tuple[str, str, int], bool] = {}

    def clear(self) -> None:
        """Forget the answers: an object has changed."""
        self._present.clear()
        self._past.clear()

    def is_known_present(self, prefix: str, address: str) -> bool:
        """Return whether a prefix is known to be one of the policies that a Pod of this node with an address has."""
        return self._present.get((prefix, address), False)

    def is_ours(self, key: VerdictKey, prefix: str, address: str, timestamp_ns: int | None) -> bool | None:
        """Return whether a rule of ours can have logged a packet; None where the objects of its time aren't known.

        address:      of the end that the verdict is about
        timestamp_ns: when the packet was logged; None for just now
        """
        if self._is_present(key, prefix, address):
            return True
        generations = self._history.possible_generations(timestamp_ns)
        if any(self._was_present(key, prefix, address, generation) for generation in dict.fromkeys(generations)):
            return True
        return False if self._history.is_known(min(generations)) else None

    def _is_present(self, key: VerdictKey, prefix: str, address: str) -> bool:
        known = self._present.get((prefix, address))
        if known is None:
            if len(self._present) >= _CACHE_SIZE:
                self._present.clear()
            policy_sets: Iterable[PolicySetKey] | None = self._desired.known_policy_sets_of(address)
            if policy_sets is None:
                policy_sets = _policy_sets(self._desired.cluster, self._desired.index, address)
            known = self._present[prefix, address] = any(_gives(found, key) for found in policy_sets)
        return known

    def _was_present(self, key: VerdictKey, prefix: str, address: str, generation: int) -> bool:
        if self._history.is_present(generation, address, address):
            return False  # as it is at present
        known = self._past.get((prefix, address, generation))
        if known is None:
            if len(self._past) >= _CACHE_SIZE:
                self._past.clear()
            past = self._history.ends_at(generation, (address,))
            index = PolicyIndex(past)
            for policy in self._history.policies_at(generation, {"", *(pod.namespace for pod in past.local.values())}):
                index.put(policy)
            known = any(_gives(found, key) for found in _policy_sets(past, index, address))
            self._past[prefix, address, generation] = known
        return known


def _policy_sets(cluster: ClusterState, index: PolicyIndex, address: str) -> Iterator[PolicySetKey]:
    for pod in cluster.by_address.get(address, ()):
        if pod.node == cluster.node:
            policies = index.policies_of(pod)
            yield from policy_set_keys(policies, {policy.ref for policy in policies if index.is_audited(policy)})


def _gives(policy_set: PolicySetKey, key: VerdictKey) -> bool:
    """Return whether the chains of a policy set lead to a verdict; not whether a rule of it does."""
    if policy_set.direction != key.direction:
        return False
    if key.disposition == "audit-deny":
        return policy_set.audited.issuperset(key.policies)
    if key.disposition == "deny" and key.policies[0].kind == "NetworkPolicy":
        every = (policy_set, *policy_set.enforced)
        enforced = tuple(ref for ref in policy_set.policies if ref not in policy_set.audited)
        return key.policies in {enforced, *(found.policies for found in every)}
    return set(key.policies).issubset(policy_set.refs)
