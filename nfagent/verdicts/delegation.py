"""Delegation: which logged packets become records where NetworkLogging leaves that to annotated objects.

The rules log every verdict that NetworkLogging switches on. Annotations are looked up when a packet is read, so they
take effect at once, and change no rule; those of an object that is gone by then are its last ones.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from nfagent.desired.state import DesiredState
from nfagent.model.networkpolicy import NetworkPolicy
from nfagent.model.objects import Namespace, ObjectRef
from nfagent.verdicts.attribution import LoggedVerdict
from nfagent.verdicts.history import ObjectHistory
from nfagent.verdicts.records import PolicyName, Record


class Delegation:
    """Applies `delegate` of NetworkLogging, by the current annotations of NetworkPolicies and Namespaces."""

    def __init__(self, desired: DesiredState, history: ObjectHistory | None = None) -> None:
        """Use this state and its history, which the caller keeps up to date.

        history: None where objects that are gone are not known
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

    def annotated(self, record: Record) -> Record | None:
        """Return the record of an allow with its annotated policies only; None where it has none."""
        policies = tuple(filter(self._logs_allows, record.policies))
        if policies == record.policies:
            return record if policies else None
        return msgspec.structs.replace(record, policies=policies) if policies else None

    def logs_deny(self, verdict: LoggedVerdict, attribute: Callable[[], Record]) -> bool:
        """Return whether a deny is logged: always, or by the Namespace of the Pod at which it was denied.

        attribute: returns the packet's record; called only where neither policy nor address gives the Namespace
        """
        return not self.of_denies or self._logs_denies(self._namespace(verdict, attribute))

    def _logs_allows(self, name: PolicyName) -> bool:
        policy = self._history.latest(ObjectRef(name.kind, name.namespace, name.name))
        return isinstance(policy, NetworkPolicy) and policy.logs_allows

    def _logs_denies(self, namespace: str) -> bool:
        known = self._history.latest(ObjectRef("Namespace", "", namespace))
        return isinstance(known, Namespace) and known.logs_denies

    def _namespace(self, verdict: LoggedVerdict, attribute: Callable[[], Record]) -> str:
        key, head = verdict.key, verdict.head
        # NetworkPolicies isolate Pods of their own Namespace; a policy of a tier has none.
        if key.policies and key.policies[0].namespace:
            return key.policies[0].namespace
        is_egress = key.direction == "egress"
        pod = self._desired.cluster.holder(head.source if is_egress else head.destination)
        if pod is not None:
            return pod.namespace
        record = attribute()  # the Pod may be gone since
        return (record.src if is_egress else record.dest).pod_namespace
