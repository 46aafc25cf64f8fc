"""What the eBPF path doesn't cover: named, and closed, never judged in another way. Pure.

A Pod that a policy selects which isn't covered is closed in both directions. What isn't covered of masquerade and of
logging has no such way out: an object of that kind is a refusal of the whole.
"""

from __future__ import annotations

from nfagent.model.admin_policy import Policy, TierPolicy
from nfagent.model.egress_nat import EgressNATPolicy
from nfagent.model.netaddr import family_of
from nfagent.model.networkpolicy import IpBlock, NetworkPolicy
from nfagent.model.objects import NetworkLogging, ObjectRef, Pod
from nfagent.state.cluster import ClusterState, PodKey
from nfagent.state.egress import EgressState
from nfagent.state.policy_index import PolicyIndex


class Coverage:
    """The objects that the eBPF path refuses."""

    def __init__(self, index: PolicyIndex, egress: EgressState) -> None:
        """Start without objects."""
        self._index = index
        self._egress = egress
        self._policies: dict[ObjectRef, str] = {}
        self._pods: dict[PodKey, str] = {}
        self._logging = ""

    def note_policy(self, policy: Policy) -> None:
        """Note a policy that was added or changed."""
        reason = _refusal(policy)
        if reason:
            self._policies[policy.ref] = f"{policy.ref} {reason}"
        else:
            self._policies.pop(policy.ref, None)

    def forget_policy(self, ref: ObjectRef) -> None:
        """Note a policy that was removed."""
        self._policies.pop(ref, None)

    def note_pod(self, key: PodKey, reason: str) -> None:
        """Note why a Pod is closed; '' for one that isn't."""
        if reason:
            self._pods[key] = f"Pod {'/'.join(key)} is closed: {reason}"
        else:
            self._pods.pop(key, None)

    def note_logging(self, logging: NetworkLogging | None) -> None:
        """Note the log settings."""
        delegates = logging is not None and (logging.allow.delegate or logging.deny.delegate)
        self._logging = "NetworkLogging default delegates, which the eBPF path doesn't cover" if delegates else ""

    def refusal(self, pod: Pod, cluster: ClusterState) -> str:
        """Return why a Pod of this node is closed; '' if all its policies are covered."""
        for policy in self._index.policies_of(pod):
            if policy.ref in self._policies:
                return self._policies[policy.ref]
            if self._index.is_audited(policy):
                return f"{policy.ref} is audited, which the eBPF path doesn't cover"
        families = [family_of(address) for address in pod.addresses]
        if len(families) != len(set(families)):
            return "it has two addresses of a family, which the eBPF path doesn't cover"
        if any(len(cluster.holders(address)) > 1 for address in pod.addresses):
            return "another Pod of this node has one of its addresses, which the eBPF path doesn't cover"
        return ""

    @property
    def refusals(self) -> tuple[str, ...]:
        """What isn't covered, as sentences."""
        found = [*self._policies.values(), *self._pods.values()]
        for policy in self._egress.policies.values():
            found += [f"{policy.ref} {reason}" for reason in (_nat_refusal(policy),) if reason]
        found += [f"{ref} isn't covered by the eBPF path" for ref in self._egress.gateways]
        return tuple(dict.fromkeys([*found, *([self._logging] if self._logging else [])]))


def _refusal(policy: Policy) -> str:
    if isinstance(policy, TierPolicy):
        return "is a policy of a tier, which the eBPF path doesn't cover: use NetworkPolicies alone"
    if policy.audit:
        return "is audited, which the eBPF path doesn't cover: remove the annotation"
    if _names_port_of_block(policy):
        return "names a port of an ipBlock, which the eBPF path doesn't cover: write its number"
    return ""


def _names_port_of_block(policy: NetworkPolicy) -> bool:
    return any(
        any(isinstance(peer, IpBlock) for peer in rule.peers) and any(port.name for port in rule.ports)
        for rule in policy.rules("egress")
    )


def _nat_refusal(policy: EgressNATPolicy) -> str:
    if policy.sources:
        return "has sources, which the eBPF path doesn't cover: select every Pod"
    if policy.gateway is not None:
        return "names a gateway, which the eBPF path doesn't cover"
    return ""
