"""Valid documents of the tier kinds but for the tested field, and the decoded form of an invalid rule."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nfagent.decode.admin_policy import decode_admin_policy, decode_baseline_policy, decode_cluster_policy
from nfagent.model.admin_policy import TierPolicy, TierRule
from nfagent.model.networkpolicy import PodPeer
from nfagent.model.selectors import Requirement, Selector

Document = dict[str, Any]

ALL = Selector()
WEB = Selector((Requirement("app", "In", ("web",)),))
SHOP = Selector((Requirement("kubernetes.io/metadata.name", "In", ("shop",)),))
EVERY_POD = PodPeer(ALL, namespaces=ALL)
WEB_LABELS: Document = {"matchLabels": {"app": "web"}}
SHOP_LABELS: Document = {"matchLabels": {"kubernetes.io/metadata.name": "shop"}}
BAD_SELECTOR: Document = {"matchExpressions": [{"key": "app", "operator": "Like", "values": ["web"]}]}
ALL_NAMESPACES: Document = {"namespaces": {}}


def written(kind: str, name: str, spec: Document) -> Document:
    return {"kind": kind, "metadata": {"name": name}, "spec": spec}


def anp(**spec: Any) -> TierPolicy:  # noqa: ANN401 - a document's own fields
    """Read an AdminNetworkPolicy; what isn't given is good."""
    good = {"priority": 5, "subject": ALL_NAMESPACES}
    return decode_admin_policy(written("AdminNetworkPolicy", "p", good | spec))


def banp(**spec: Any) -> TierPolicy:  # noqa: ANN401 - a document's own fields
    return decode_baseline_policy(written("BaselineAdminNetworkPolicy", "default", {"subject": ALL_NAMESPACES} | spec))


def cnp(**spec: Any) -> TierPolicy:  # noqa: ANN401 - a document's own fields
    good = {"tier": "Admin", "priority": 5, "subject": ALL_NAMESPACES}
    return decode_cluster_policy(written("ClusterNetworkPolicy", "p", good | spec))


Read = Callable[..., TierPolicy]
READERS: dict[str, Read] = {"AdminNetworkPolicy": anp, "BaselineAdminNetworkPolicy": banp, "ClusterNetworkPolicy": cnp}


class TierKind:
    """How one kind writes a rule; everything but what a test is about is good."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.read = READERS[kind]
        self.allow = "Accept" if kind == "ClusterNetworkPolicy" else "Allow"
        self.ports = "protocols" if kind == "ClusterNetworkPolicy" else "ports"
        self.most = 25 if kind == "ClusterNetworkPolicy" else 100

    def rule(self, action: str, fields: Document | None = None, direction: str = "egress") -> TierRule:
        """Read a rule between two good ones, which have to stay as they are."""
        peers = {"ingress": "from", "egress": "to"}[direction]
        around = {"action": "Deny", peers: [{"namespaces": SHOP_LABELS}]}
        told = {"action": action, peers: [ALL_NAMESPACES]} | (fields or {})
        found = self.read(**{direction: [around, told, around]})
        first, rule, last = found.ingress if direction == "ingress" else found.egress
        assert first == last == TierRule("deny", (PodPeer(ALL, namespaces=SHOP),))
        assert found.problem is None
        assert found.problems == ((rule.problem,) if rule.problem else ())
        return rule

    def fault(self, fields: Document, direction: str = "egress") -> str:
        """Return what is said about a rule with a fault; an allow rule matches nothing, a deny rule everything."""
        allow = self.rule(self.allow, fields, direction)
        deny = self.rule("Deny", fields, direction)
        assert allow.problem is not None
        assert allow == TierRule("allow", problem=allow.problem)
        assert deny == TierRule("deny", problem=allow.problem)
        if self.kind != "BaselineAdminNetworkPolicy":
            assert self.rule("Pass", fields, direction) == deny
        said = str(allow.problem)
        name = "default" if self.kind == "BaselineAdminNetworkPolicy" else "p"
        start = f"{self.kind} {name}: spec.{direction}[1]"
        assert said.startswith(start)
        return said.removeprefix(start)


VERSIONS = {kind: TierKind(kind) for kind in READERS}
ANP, BANP, CNP = VERSIONS.values()
