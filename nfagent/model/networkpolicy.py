"""NetworkPolicy v1 as nfagent reads it: peers, ports, rules (networking.k8s.io/v1)."""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec

from nfagent.errors import ValidationIssue
from nfagent.model.netaddr import Range
from nfagent.model.objects import Direction, ObjectRef, Protocol
from nfagent.model.selectors import Selector

PortProtocol: TypeAlias = Protocol | Literal["any"]


class PodPeer(msgspec.Struct, frozen=True, order=True, cache_hash=True):
    """Pods by label, in the Namespaces that match `namespaces`, or in `namespace` if `namespaces` is None."""

    pods: Selector
    namespaces: Selector | None = None
    namespace: str = ""

    def __str__(self) -> str:
        """Return it as text: `pods app=web in namespace shop`."""
        where = f"namespace {self.namespace}" if self.namespaces is None else f"namespaces {self.namespaces}"
        if self.namespaces is not None and not self.namespaces.requirements:
            where = "all namespaces"
        return f"pods {self.pods} in {where}" if self.pods.requirements else f"all pods in {where}"


class IpBlock(msgspec.Struct, frozen=True, order=True):
    """Addresses of a CIDR without those of `excepts`."""

    cidr: Range
    excepts: tuple[Range, ...] = ()

    def __str__(self) -> str:
        """Return it as text: `10.0.0.0/8 except 10.1.0.0/16`."""
        return f"{self.cidr} except {', '.join(map(str, self.excepts))}" if self.excepts else str(self.cidr)


Peer: TypeAlias = PodPeer | IpBlock


class PolicyPort(msgspec.Struct, frozen=True, order=True):
    """A port of a rule: every port of the protocol, a number or range, or a name.

    protocol:    'any' only with a name in the tiers' policies: the named port's own
    first, last: inclusive range; both 0 without a number
    name:        the container port's name, '' without a name
    """

    protocol: PortProtocol
    first: int = 0
    last: int = 0
    name: str = ""

    def __str__(self) -> str:
        """Return it as `80/tcp`, `8000-8080/udp`, `http/tcp`, `http` or `any/sctp`."""
        if self.name and self.protocol == "any":
            return self.name
        if self.name:
            return f"{self.name}/{self.protocol}"
        if not self.first:
            return f"any/{self.protocol}"
        span = str(self.first) if self.first == self.last else f"{self.first}-{self.last}"
        return f"{span}/{self.protocol}"


class NetworkPolicyRule(msgspec.Struct, frozen=True):
    """One rule: no peers means every peer, no ports means every port (docs/semantics.md, edge case 7)."""

    peers: tuple[Peer, ...] = ()
    ports: tuple[PolicyPort, ...] = ()

    def __str__(self) -> str:
        """Return it as text: `pods app=web in namespace shop on 80/tcp, 443/tcp`."""
        who = " or ".join(map(str, self.peers)) or "anywhere"
        return f"{who} on {', '.join(map(str, self.ports))}" if self.ports else who


class NetworkPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """A NetworkPolicy with its defaults filled in.

    isolates: the directions of policyTypes, as the API server would default it (docs/semantics.md, edge case 9)
    problem:  why the policy can't be enforced as written; it fails closed: it has no rules, and isolates all Pods
              that it may select
    logs_allows: annotated ALLOW_LOGGING: where NetworkLogging delegates, connections that it allows are logged
    audit:    it is annotated `nfagent.io/audit: "true"` (docs/audit-mode.md); its Namespace may be as well
    audit_problem: why that annotation can't be read
    """

    namespace: str
    name: str
    pods: Selector = Selector()
    isolates: tuple[Direction, ...] = ("ingress",)
    ingress: tuple[NetworkPolicyRule, ...] = ()
    egress: tuple[NetworkPolicyRule, ...] = ()
    problem: ValidationIssue | None = None
    logs_allows: bool = False
    audit: bool = False
    audit_problem: ValidationIssue | None = None

    @property
    def ref(self) -> ObjectRef:
        """The reference of this object."""
        return ObjectRef("NetworkPolicy", self.namespace, self.name)

    @property
    def problems(self) -> tuple[ValidationIssue, ...]:
        """The problems of the policy and of its annotation, if any."""
        return tuple(problem for problem in (self.problem, self.audit_problem) if problem is not None)

    def with_last_good(self, before: object) -> NetworkPolicy:
        """Return the policy with the audit mode of the version before, if its own can't be read."""
        if self.audit_problem is None or not isinstance(before, NetworkPolicy):
            return self
        return msgspec.structs.replace(self, audit=before.audit)

    def rules(self, direction: Direction) -> tuple[NetworkPolicyRule, ...]:
        """Return the rules of one direction; empty if the policy doesn't isolate in this direction."""
        if direction not in self.isolates:
            return ()
        return self.ingress if direction == "ingress" else self.egress
