"""Delegation: which logged packets become records where NetworkLogging leaves that to annotated objects.

The rules log every verdict that NetworkLogging switches on. Annotations are looked up when a packet is read, so they
take effect at once, and change no rule. Those of an object that is gone by then hold as they were when it was logged.
"""

from __future__ import annotations

import msgspec

from nfagent.desired.state import DesiredState
from nfagent.model.networkpolicy import NetworkPolicy
from nfagent.model.objects import ObjectRef
from nfagent.nftables.verdict_keys import VerdictKey
from nfagent.verdicts.attribution import LoggedVerdict
from nfagent.verdicts.history import ObjectHistory
from nfagent.verdicts.records import PolicyName, Record


class Delegation:
    """Applies `delegate` of NetworkLogging, by the annotations of NetworkPolicies and Namespaces."""

    def __init__(self, desired: DesiredState, history: ObjectHistory | None = None) -> None:
        """Use this state and its history, which the caller keeps up to date.

        history: None to know the present objects alone
        """
        self._desired = desired
        self._history = history or ObjectHistory(desired, lambda: 0)

    @property
    def of_allows(self) -> bool:
        """Whether only allows by annotated NetworkPolicies are logged."""
        return self._desired.logging.allow.delegate

    @property
    def of_denies(self) -> bool:
        """Whether only denies of annotated Namespaces are logged."""
        return self._desired.logging.deny.delegate

    def annotated(self, record: Record, timestamp_ns: int | None) -> Record | None:
        """Return the record of an allow with its annotated policies only; None where it has none.

        timestamp_ns: when the packet was logged; None for now
        """
        policies = tuple(name for name in record.policies if self._logs_allows(name, timestamp_ns))
        if policies == record.policies:
            return record if policies else None
        return msgspec.structs.replace(record, policies=policies) if policies else None

    def logs_deny(self, verdict: LoggedVerdict, timestamp_ns: int | None) -> bool:
        """Return whether a deny is logged: always, or by the Namespace of the Pod at which it was denied.

        timestamp_ns: when the packet was logged; None for now
        """
        by_verdict = self.logs_denies_of(verdict.key)
        if by_verdict is not None:
            return by_verdict
        name = self._namespace(verdict, timestamp_ns)
        known = self._desired.cluster.namespaces.get(name)
        if known is None:
            known = self._history.namespace_at(self._history.generations(timestamp_ns)[0], name)
        return known is not None and known.logs_denies

    def logs_denies_of(self, key: VerdictKey) -> bool | None:
        """Return whether denies of a verdict are logged, where the verdict alone tells; None where the packet must."""
        if not self.of_denies:
            return True
        # NetworkPolicies isolate Pods of their own Namespace; a policy of a tier has none.
        known = self._desired.cluster.namespaces.get(key.policies[0].namespace)
        return None if known is None else known.logs_denies

    def _logs_allows(self, name: PolicyName, timestamp_ns: int | None) -> bool:
        ref = ObjectRef(name.kind, name.namespace, name.name)
        policy = self._desired.index.policies.get(ref)
        if policy is None:
            past = self._history.policies_at(self._history.generations(timestamp_ns)[0], (name.namespace,))
            policy = next((item for item in past if item.ref == ref), None)
        return isinstance(policy, NetworkPolicy) and policy.logs_allows

    def _namespace(self, verdict: LoggedVerdict, timestamp_ns: int | None) -> str:
        if verdict.key.policies[0].namespace:
            return verdict.key.policies[0].namespace
        pod = self._history.holder_at(self._history.generations(timestamp_ns)[0], verdict.judged_address)
        return "" if pod is None else pod.namespace
