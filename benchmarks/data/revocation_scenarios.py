"""Revocation scenarios: Pods of a server and its callers, with changes of every kind that revoke their connections.

Scenario 1 has the server `shop/db-1` and its callers `east-1/near`, on the server's node, and `east-1/far`, on the
other one. `west/ally` calls every server, and no change affects it. All of a scenario is one manifest file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Literal, TypeAlias

import msgspec

from nfagent.lab.topology.plan import NodePlan, PodPlan, grid

Document: TypeAlias = dict[str, Any]

PORT, OPEN_PORT = 7000, 7001
"""The port whose connections are revoked; the port that stays allowed."""

NODES: tuple[NodePlan, ...] = grid()[0]
ALLOWED_CALLER = PodPlan("west", "ally", "n2", ("10.244.2.10", "2001:db8:244:2::a"))
_WEST: Document = {"namespaceSelector": {"matchLabels": {"team": "west"}}}
_EVERYWHERE = ("0.0.0.0/0", "::/0")


class RevocationScenario(msgspec.Struct, frozen=True):
    """A server and its callers; number: 1 to 50."""

    number: int

    @property
    def server(self) -> PodPlan:
        """The Pod that is called."""
        return self._pod("shop", f"db-{self.number}", 0, self.number % 2)

    @property
    def callers(self) -> tuple[PodPlan, PodPlan]:
        """The Pods whose connections are revoked: one on the server's node, one on the other."""
        space = f"east-{self.number}"
        return self._pod(space, "near", 1, self.number % 2), self._pod(space, "far", 2, 1 - self.number % 2)

    @property
    def pods(self) -> tuple[PodPlan, ...]:
        """All Pods of the scenario."""
        return self.server, *self.callers

    @property
    def space(self) -> Document:
        """The callers' Namespace, as a selector."""
        return {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": f"east-{self.number}"}}}

    @property
    def subject(self) -> Document:
        """The server, as a selector of Pods."""
        return {"matchLabels": {"app": f"db-{self.number}"}}

    def _pod(self, namespace: str, name: str, place: int, node: int) -> PodPlan:
        last = 20 + 3 * self.number + place
        addresses = (f"10.244.{node + 1}.{last}", f"2001:db8:244:{node + 1}::{last:x}")
        return PodPlan(namespace, name, f"n{node + 1}", addresses)

    def objects(self, *, server: str = "", callers: str | None = "caller", team: str = "east") -> list[Document]:
        """Return its Pods and Namespace, with other labels where these are given; without callers for None."""
        found = [_namespace(f"east-{self.number}", team), _pod(self.server, server or f"db-{self.number}")]
        return found + [_pod(caller, callers) for caller in self.callers if callers is not None]


class ScenarioChange(msgspec.Struct, frozen=True):
    """The content of a scenario's file before and after a change.

    at: where the connections are revoked: on the server's node, or on each caller's own
    """

    before: list[Document]
    after: list[Document]
    at: Literal["server", "callers"] = "server"


def shared_objects() -> list[Document]:
    """Return the objects that scenarios share: nodes, Namespaces, and the caller that stays allowed."""
    nodes = [
        {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": node.name},
            "spec": {"podCIDRs": list(node.pod_cidrs)},
            "status": {"addresses": [{"type": "InternalIP", "address": address} for address in node.addresses]},
        }
        for node in NODES
    ]
    return [*nodes, _namespace("shop", "shop"), _namespace("west", "west"), _pod(ALLOWED_CALLER, "ally")]


def _namespace(name: str, team: str) -> Document:
    labels = {"team": team, "kubernetes.io/metadata.name": name}
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}


def _pod(plan: PodPlan, app: str) -> Document:
    ports = [
        {"name": f"{name}-{protocol.lower()}", "containerPort": port, "protocol": protocol}
        for name, port in (("sql", PORT), ("open", OPEN_PORT))
        for protocol in ("TCP", "UDP")
    ]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"namespace": plan.namespace, "name": plan.name, "labels": {"app": app}},
        "spec": {"nodeName": plan.node, "containers": [{"name": "main", "ports": ports}]},
        "status": {"phase": "Running", "podIPs": [{"ip": address} for address in plan.addresses]},
    }


def _policy(scenario: RevocationScenario, *peers: Document, app: str = "", ports: Iterable[int | str] = ()) -> Document:
    """Return the NetworkPolicy of a scenario's server: peers on these ports, or all; and the west on any port."""
    rule: Document = {"from": [*peers]} if peers else {}
    rule["ports"] = [
        {"protocol": protocol, "port": port if isinstance(port, int) else f"{port}-{protocol.lower()}"}
        for port in ports
        for protocol in ("TCP", "UDP")
    ]
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"namespace": "shop", "name": f"db-{scenario.number}"},
        "spec": {
            "podSelector": {"matchLabels": {"app": app}} if app else scenario.subject,
            "ingress": [{"from": [_WEST]}, *([rule] if peers or ports else [])],
        },
    }


def _ruled(scenario: RevocationScenario, kind: str, action: str, priority: int | None = None) -> Document:
    """Return a policy of the v1alpha1 tiers about the scenario's connections."""
    name = "default" if priority is None else f"scenario-{scenario.number}"
    rule = {"action": action, "from": [{"namespaces": scenario.space["namespaceSelector"]}]}
    spec: Document = {
        "subject": {"pods": {"namespaceSelector": {}, "podSelector": scenario.subject}},
        "ingress": [rule],
    }
    return {
        "apiVersion": "policy.networking.k8s.io/v1alpha1",
        "kind": kind,
        "metadata": {"name": name},
        "spec": spec | ({} if priority is None else {"priority": priority}),
    }


def _cluster_policy(
    scenario: RevocationScenario, tier: str, action: str, priority: int, direction: str = "ingress"
) -> Document:
    """Return a policy of the v1alpha2 tiers about the scenario's connections."""
    server: Document = {"pods": {"namespaceSelector": {}, "podSelector": scenario.subject}}
    callers: Document = {"namespaces": scenario.space["namespaceSelector"]}
    subject, peer, word = (server, callers, "from") if direction == "ingress" else (callers, server, "to")
    return {
        "apiVersion": "policy.networking.k8s.io/v1alpha2",
        "kind": "ClusterNetworkPolicy",
        "metadata": {"name": f"scenario-{scenario.number}-{tier.lower()}-{priority}"},
        "spec": {
            "tier": tier,
            "priority": priority,
            "subject": subject,
            direction: [{"action": action, word: [peer]}],
        },
    }


def _about_policies(
    before: Iterable[Document], after: Iterable[Document], scenario: RevocationScenario
) -> ScenarioChange:
    return ScenarioChange([*scenario.objects(), *before], [*scenario.objects(), *after])


def _created(scenario: RevocationScenario) -> ScenarioChange:
    return _about_policies([], [_policy(scenario)], scenario)


def _narrowed(scenario: RevocationScenario) -> ScenarioChange:
    return _about_policies([_policy(scenario, scenario.space)], [_policy(scenario)], scenario)


def _deleted(scenario: RevocationScenario) -> ScenarioChange:
    floor = _cluster_policy(scenario, "Baseline", "Deny", 5)
    return _about_policies([floor, _policy(scenario, scenario.space)], [floor], scenario)


def _excepted(scenario: RevocationScenario) -> ScenarioChange:
    excepts = [
        [f"{caller.addresses[place]}/{bits}" for caller in scenario.callers] for place, bits in enumerate((32, 128))
    ]
    wide: list[Document] = [{"ipBlock": {"cidr": cidr}} for cidr in _EVERYWHERE]
    tight: list[Document] = [
        {"ipBlock": {"cidr": cidr, "except": excepted}} for cidr, excepted in zip(_EVERYWHERE, excepts, strict=True)
    ]
    return _about_policies([_policy(scenario, *wide)], [_policy(scenario, *tight)], scenario)


def _other_port(scenario: RevocationScenario) -> ScenarioChange:
    return _about_policies([_policy(scenario, ports=[PORT])], [_policy(scenario, ports=[OPEN_PORT])], scenario)


def _other_name(scenario: RevocationScenario) -> ScenarioChange:
    return _about_policies([_policy(scenario, ports=["sql"])], [_policy(scenario, ports=["open"])], scenario)


def _admin_denies(scenario: RevocationScenario) -> ScenarioChange:
    denying = _ruled(scenario, "AdminNetworkPolicy", "Deny", scenario.number)
    return _about_policies([], [denying], scenario)


def _admin_goes(scenario: RevocationScenario) -> ScenarioChange:
    allowing = _ruled(scenario, "AdminNetworkPolicy", "Allow", scenario.number)
    return _about_policies([allowing, _policy(scenario)], [_policy(scenario)], scenario)


def _egress_denied(scenario: RevocationScenario) -> ScenarioChange:
    denying = _cluster_policy(scenario, "Admin", "Deny", scenario.number, "egress")
    return ScenarioChange(scenario.objects(), [*scenario.objects(), denying], "callers")


def _accept_goes(scenario: RevocationScenario) -> ScenarioChange:
    rules = [_cluster_policy(scenario, "Admin", action, 100 + place) for place, action in enumerate(("Accept", "Deny"))]
    return _about_policies(rules, rules[1:], scenario)


def _callers_relabelled(scenario: RevocationScenario) -> ScenarioChange:
    policy = _policy(scenario, {**scenario.space, "podSelector": {"matchLabels": {"app": "caller"}}})
    return ScenarioChange([*scenario.objects(), policy], [*scenario.objects(callers="stranger"), policy])


def _callers_deleted(scenario: RevocationScenario) -> ScenarioChange:
    policy = _policy(scenario, scenario.space)
    return ScenarioChange([*scenario.objects(), policy], [*scenario.objects(callers=None), policy])


def _server_relabelled(scenario: RevocationScenario) -> ScenarioChange:
    policy = _policy(scenario, app=f"vault-{scenario.number}")
    return ScenarioChange([*scenario.objects(), policy], [*scenario.objects(server=f"vault-{scenario.number}"), policy])


def _namespace_relabelled(scenario: RevocationScenario) -> ScenarioChange:
    policy = _policy(scenario, {"namespaceSelector": {"matchLabels": {"team": "east"}}})
    return ScenarioChange([*scenario.objects(), policy], [*scenario.objects(team="red"), policy])


CHANGES: dict[str, Callable[[RevocationScenario], ScenarioChange]] = {
    "NetworkPolicy created": _created,
    "NetworkPolicy loses a peer": _narrowed,
    "NetworkPolicy gets an exception": _excepted,
    "NetworkPolicy gets another port": _other_port,
    "NetworkPolicy names another port": _other_name,
    "NetworkPolicy deleted over a baseline": _deleted,
    "AdminNetworkPolicy created": _admin_denies,
    "AdminNetworkPolicy deleted": _admin_goes,
    "ClusterNetworkPolicy created, egress": _egress_denied,
    "ClusterNetworkPolicy deleted": _accept_goes,
    "callers relabelled": _callers_relabelled,
    "callers deleted": _callers_deleted,
    "server relabelled": _server_relabelled,
    "Namespace relabelled": _namespace_relabelled,
}
"""Every kind of change that revokes connections."""
