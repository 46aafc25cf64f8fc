"""Circles of Pods, each with changes of every kind that cut its callers off from its server.

Circle 1 is the server `shop/db-1` and its callers `east-1/near`, on the server's node, and `east-1/far`, on the other
one. `west/ally` calls every server, and no change is about that. All of a circle is one file of manifests.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Literal, TypeAlias

import msgspec

from nfagent.lab.topology_plan import NodePlan, PodPlan, grid

Document: TypeAlias = dict[str, Any]

PORT, OPEN_PORT = 7000, 7001
"""What callers call and are cut off from; what everybody may always call."""

NODES: tuple[NodePlan, ...] = grid()[0]
ALLY = PodPlan("west", "ally", "n2", ("10.244.2.10", "2001:db8:244:2::a"))
_WEST: Document = {"namespaceSelector": {"matchLabels": {"team": "west"}}}
_EVERYWHERE = ("0.0.0.0/0", "::/0")


class Circle(msgspec.Struct, frozen=True):
    """One server and its callers; number: 1 to 50."""

    number: int

    @property
    def server(self) -> PodPlan:
        """The Pod that is called."""
        return self._pod("shop", f"db-{self.number}", 0, self.number % 2)

    @property
    def callers(self) -> tuple[PodPlan, PodPlan]:
        """The Pods that are cut off: one on the server's node, one on the other."""
        space = f"east-{self.number}"
        return self._pod(space, "near", 1, self.number % 2), self._pod(space, "far", 2, 1 - self.number % 2)

    @property
    def pods(self) -> tuple[PodPlan, ...]:
        """All of them."""
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
        """Describe its Pods and its Namespace; labels are its own where they aren't given, None leaves callers out."""
        found = [_namespace(f"east-{self.number}", team), _pod(self.server, server or f"db-{self.number}")]
        return found + [_pod(caller, callers) for caller in self.callers if callers is not None]


class Change(msgspec.Struct, frozen=True):
    """What a circle's file holds before and after a change.

    at: whose node's agent revokes: the server's, or each caller's own
    """

    before: list[Document]
    after: list[Document]
    at: Literal["server", "callers"] = "server"


def frame() -> list[Document]:
    """Describe what no circle has for itself: nodes, shared Namespaces, and the ally."""
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
    return [*nodes, _namespace("shop", "shop"), _namespace("west", "west"), _pod(ALLY, "ally")]


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


def _policy(circle: Circle, *peers: Document, app: str = "", ports: Iterable[int | str] = ()) -> Document:
    """Write the NetworkPolicy of a circle's server: peers on these ports, or all; and the west on any."""
    rule: Document = {"from": [*peers]} if peers else {}
    rule["ports"] = [
        {"protocol": protocol, "port": port if isinstance(port, int) else f"{port}-{protocol.lower()}"}
        for port in ports
        for protocol in ("TCP", "UDP")
    ]
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"namespace": "shop", "name": f"db-{circle.number}"},
        "spec": {
            "podSelector": {"matchLabels": {"app": app}} if app else circle.subject,
            "ingress": [{"from": [_WEST]}, *([rule] if peers or ports else [])],
        },
    }


def _ruled(circle: Circle, kind: str, action: str, priority: int | None = None) -> Document:
    """Write a policy of the first version's tiers about the circle's calls."""
    name = "default" if priority is None else f"circle-{circle.number}"
    rule = {"action": action, "from": [{"namespaces": circle.space["namespaceSelector"]}]}
    spec: Document = {
        "subject": {"pods": {"namespaceSelector": {}, "podSelector": circle.subject}},
        "ingress": [rule],
    }
    return {
        "apiVersion": "policy.networking.k8s.io/v1alpha1",
        "kind": kind,
        "metadata": {"name": name},
        "spec": spec | ({} if priority is None else {"priority": priority}),
    }


def _cluster_policy(circle: Circle, tier: str, action: str, priority: int, direction: str = "ingress") -> Document:
    """Write a policy of the second version's tiers about the circle's calls."""
    server: Document = {"pods": {"namespaceSelector": {}, "podSelector": circle.subject}}
    callers: Document = {"namespaces": circle.space["namespaceSelector"]}
    subject, peer, word = (server, callers, "from") if direction == "ingress" else (callers, server, "to")
    return {
        "apiVersion": "policy.networking.k8s.io/v1alpha2",
        "kind": "ClusterNetworkPolicy",
        "metadata": {"name": f"circle-{circle.number}-{tier.lower()}-{priority}"},
        "spec": {
            "tier": tier,
            "priority": priority,
            "subject": subject,
            direction: [{"action": action, word: [peer]}],
        },
    }


def _about_policies(before: Iterable[Document], after: Iterable[Document], circle: Circle) -> Change:
    return Change([*circle.objects(), *before], [*circle.objects(), *after])


def _created(circle: Circle) -> Change:
    return _about_policies([], [_policy(circle)], circle)


def _narrowed(circle: Circle) -> Change:
    return _about_policies([_policy(circle, circle.space)], [_policy(circle)], circle)


def _deleted(circle: Circle) -> Change:
    floor = _cluster_policy(circle, "Baseline", "Deny", 5)
    return _about_policies([floor, _policy(circle, circle.space)], [floor], circle)


def _excepted(circle: Circle) -> Change:
    excepts = [
        [f"{caller.addresses[place]}/{bits}" for caller in circle.callers] for place, bits in enumerate((32, 128))
    ]
    wide: list[Document] = [{"ipBlock": {"cidr": cidr}} for cidr in _EVERYWHERE]
    tight: list[Document] = [
        {"ipBlock": {"cidr": cidr, "except": excepted}} for cidr, excepted in zip(_EVERYWHERE, excepts, strict=True)
    ]
    return _about_policies([_policy(circle, *wide)], [_policy(circle, *tight)], circle)


def _other_port(circle: Circle) -> Change:
    return _about_policies([_policy(circle, ports=[PORT])], [_policy(circle, ports=[OPEN_PORT])], circle)


def _other_name(circle: Circle) -> Change:
    return _about_policies([_policy(circle, ports=["sql"])], [_policy(circle, ports=["open"])], circle)


def _admin_denies(circle: Circle) -> Change:
    denying = _ruled(circle, "AdminNetworkPolicy", "Deny", circle.number)
    return _about_policies([], [denying], circle)


def _admin_goes(circle: Circle) -> Change:
    allowing = _ruled(circle, "AdminNetworkPolicy", "Allow", circle.number)
    return _about_policies([allowing, _policy(circle)], [_policy(circle)], circle)


def _egress_denied(circle: Circle) -> Change:
    denying = _cluster_policy(circle, "Admin", "Deny", circle.number, "egress")
    return Change(circle.objects(), [*circle.objects(), denying], "callers")


def _accept_goes(circle: Circle) -> Change:
    rules = [_cluster_policy(circle, "Admin", action, 100 + place) for place, action in enumerate(("Accept", "Deny"))]
    return _about_policies(rules, rules[1:], circle)


def _callers_relabelled(circle: Circle) -> Change:
    policy = _policy(circle, {**circle.space, "podSelector": {"matchLabels": {"app": "caller"}}})
    return Change([*circle.objects(), policy], [*circle.objects(callers="stranger"), policy])


def _callers_deleted(circle: Circle) -> Change:
    policy = _policy(circle, circle.space)
    return Change([*circle.objects(), policy], [*circle.objects(callers=None), policy])


def _server_relabelled(circle: Circle) -> Change:
    policy = _policy(circle, app=f"vault-{circle.number}")
    return Change([*circle.objects(), policy], [*circle.objects(server=f"vault-{circle.number}"), policy])


def _namespace_relabelled(circle: Circle) -> Change:
    policy = _policy(circle, {"namespaceSelector": {"matchLabels": {"team": "east"}}})
    return Change([*circle.objects(), policy], [*circle.objects(team="red"), policy])


CHANGES: dict[str, Callable[[Circle], Change]] = {
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
"""Every kind of change that revokes."""
