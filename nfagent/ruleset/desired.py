"""What this node's kernel must hold, kept up to date by the object.

Objects go in, one after the other; a ruleset comes out when asked for. Nothing here knows where objects
come from, or what becomes of the ruleset.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec

from nfagent.cluster.address import Range
from nfagent.cluster.model import Direction, Namespace, NetworkLogging, Node, Pod, Ref
from nfagent.cluster.state import NO_CHANGE, ClusterState
from nfagent.egress.ip_masq import IpMasqConfig
from nfagent.egress.plan import MasqueradeSettings, masquerade_plan
from nfagent.policy.compile import Structure, compile_structure
from nfagent.policy.index import PolicyIndex
from nfagent.policy.model import NetworkPolicy
from nfagent.ruleset import names
from nfagent.ruleset.lower import LogPlan, lower
from nfagent.ruleset.objects import Ruleset

Item: TypeAlias = Namespace | Node | Pod | NetworkPolicy | IpMasqConfig | NetworkLogging
"""Every kind of object that nfagent acts on."""


class Origin(msgspec.Struct, frozen=True):
    """What an NFLOG prefix stands for.

    policies: the policy whose rule allowed, or the policies that isolate where the verdict is a denial
    """

    disposition: Literal["allow", "deny"]
    direction: Direction
    policies: tuple[Ref, ...]


class Compiled(msgspec.Struct, frozen=True):
    """One generation: the ruleset, the classes it came from, and its NFLOG prefixes."""

    ruleset: Ruleset
    structure: Structure
    origins: dict[str, Origin]


class Desired:
    """The state of the cluster, and the ruleset that this node needs for it."""

    def __init__(self, node: str, masquerade: MasqueradeSettings | None = None, log_group: int = 100) -> None:
        """Start empty, for the node of that name."""
        self.cluster = ClusterState(node)
        self.index = PolicyIndex(self.cluster)
        self.ip_masq = IpMasqConfig()
        self.logging = NetworkLogging()
        self._masquerade = masquerade or MasqueradeSettings()
        self._log_group = log_group
        self._previous: dict[str, Origin] = {}
        self._compiled: Compiled | None = None

    def put(self, item: Item) -> bool:
        """Take in an object, new or changed; tell whether anything changed."""
        changed = self._put(item)
        if changed:
            self._compiled = None
        return changed

    def remove(self, ref: Ref) -> bool:
        """Drop an object; tell whether anything changed."""
        match ref.kind:
            case "NetworkPolicy":
                changed = self.index.remove(ref)
            case "ConfigMap":
                changed = self._put(IpMasqConfig())
            case "NetworkLogging":
                changed = self._put(NetworkLogging())
            case _:
                change = self.cluster.remove(ref)
                self.index.follow(change)
                changed = change != NO_CHANGE
        if changed:
            self._compiled = None
        return changed

    @property
    def masquerade_enabled(self) -> bool:
        """Tell whether Pods that leave the cluster get the node's address at all."""
        return self._masquerade.enabled

    @property
    def masquerade_exempt(self) -> tuple[Range, ...]:
        """Destinations outside the cluster that see Pod addresses."""
        return self.ip_masq.exempt(all_reserved_ranges=self._masquerade.all_reserved_ranges)

    def compiled(self) -> Compiled:
        """Give what the kernel must hold now."""
        if self._compiled is None:
            structure = compile_structure(self.cluster, self.index)
            plan = masquerade_plan(self.cluster, self.ip_masq, self._masquerade)
            log = LogPlan(allow=self.logging.allow.log, deny=self.logging.deny.log, group=self._log_group)
            ruleset = lower(self.cluster, self.index, structure, plan, log)
            current = dict(_origins(structure))
            # Packets that the rules before this change logged may still be on their way to us.
            self._compiled = Compiled(ruleset, structure, {**self._previous, **current})
            self._previous = current
        return self._compiled

    def _put(self, item: Item) -> bool:
        match item:
            case NetworkPolicy():
                return self.index.put(item)
            case IpMasqConfig():
                changed = self.ip_masq != item
                self.ip_masq = item
            case NetworkLogging():
                changed = self.logging != item
                self.logging = item
            case _:
                change = self.cluster.put(item)
                self.index.follow(change)
                changed = change != NO_CHANGE
        return changed


def _origins(structure: Structure) -> list[tuple[str, Origin]]:
    found = []
    for key, pod_class in structure.classes.items():
        denied = Origin("deny", key.direction, key.policies)
        found.append((names.log_prefix("deny", key.direction, key.policies), denied))
        for ref in {rule.policy for rule in pod_class.rules}:
            allowed = Origin("allow", key.direction, (ref,))
            found.append((names.log_prefix("allow", key.direction, (ref,)), allowed))
    return found
