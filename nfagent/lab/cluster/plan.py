"""The cluster of `nfagent lab up`: nodes, Pods and an outside host as plans, and their objects as documents. Pure."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import msgspec

from nfagent.errors import UsageError
from nfagent.lab.topology.plan import Attachment, NodePlan, OutsideHost, PodPlan, Underlay

MOST_NODES, MOST_PODS = 50, 200
"""Nodes of a lab, and Pods of a node, at most: addresses of their ranges."""

API_HOST = OutsideHost("api", ("192.0.2.250", "2001:db8:ffff::250"))
"""Where the API server runs, for labs that have one."""

OUTSIDE = OutsideHost("outside", ("198.51.100.10", "2001:db8:99::10"))
PORT = 80
"""The port on which every Pod and the outside host answer by HTTP."""

ROLES = (("shop", "web"), ("shop", "db"), ("guest", "visitor"))
"""Namespace and name of the Pods of a node, in turn."""

_FIRST_HOST = 10


LabSource: TypeAlias = Literal["manifests", "apiserver"]
"""What agents follow: a folder of manifests, or a real kube-apiserver."""


class ClusterPlan(msgspec.Struct, frozen=True):
    """A lab's nodes, Pods and hosts outside the cluster."""

    nodes: tuple[NodePlan, ...]
    pods: tuple[PodPlan, ...]
    outside: tuple[OutsideHost, ...]


def cluster_plan(
    nodes: int, pods: int, attachment: Attachment = "routed", underlay: Underlay = "flat", *, api_host: bool = False
) -> ClusterPlan:
    """Return the plan of nodes n1, n2, ... with as many Pods each, in turn web, db and visitor.

    Dual-stack: node n1 is 192.0.2.1 and 2001:db8:ffff::1, its Pods are in 10.244.1.0/24 and 2001:db8:244:1::/64.
    Raises UsageError for a number that addresses don't suffice for.
    """
    for what, value, most in (("nodes", nodes, MOST_NODES), ("pods", pods, MOST_PODS)):
        if not 1 <= value <= most:
            raise UsageError(f"--{what} {value}: write a number from 1 to {most}")
    return ClusterPlan(
        tuple(_node(number, attachment, underlay) for number in range(1, nodes + 1)),
        tuple(_pod(node, index) for node in range(1, nodes + 1) for index in range(pods)),
        (OUTSIDE, *([API_HOST] if api_host else [])),
    )


def pod_name(node: int, index: int) -> tuple[str, str]:
    """Return namespace and name of a Pod of node 1, 2, ...; those of node 1 are web-1, db-1, visitor-1, web-1-2, ..."""
    namespace, role = ROLES[index % len(ROLES)]
    turn = index // len(ROLES)
    return namespace, f"{role}-{node}" + (f"-{turn + 1}" if turn else "")


def documents(plan: ClusterPlan) -> list[dict[str, Any]]:
    """Return the Nodes, Namespaces and Pods of a plan as Kubernetes documents."""
    namespaces = sorted({pod.namespace for pod in plan.pods})
    return [
        *(_namespace_document(name) for name in namespaces),
        *(_node_document(node) for node in plan.nodes),
        *(_pod_document(pod) for pod in plan.pods),
    ]


def _node(number: int, attachment: Attachment, underlay: Underlay) -> NodePlan:
    return NodePlan(
        f"n{number}",
        (f"192.0.2.{number}", f"2001:db8:ffff::{number:x}"),
        (f"10.244.{number}.0/24", f"2001:db8:244:{number:x}::/64"),
        attachment,
        underlay,
    )


def _pod(node: int, index: int) -> PodPlan:
    host = _FIRST_HOST + index
    addresses = (f"10.244.{node}.{host}", f"2001:db8:244:{node:x}::{host:x}")
    return PodPlan(*pod_name(node, index), f"n{node}", addresses)


def _namespace_document(name: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": {"name": name}}}


def _node_document(node: NodePlan) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": node.name, "labels": {"kubernetes.io/os": "linux"}},
        "spec": {"podCIDR": node.pod_cidrs[0], "podCIDRs": list(node.pod_cidrs)},
        "status": {"addresses": [{"type": "InternalIP", "address": address} for address in node.addresses]},
    }


def _pod_document(pod: PodPlan) -> dict[str, Any]:
    role = pod.name.split("-")[0]
    container = {"name": role, "image": f"example/{role}", "ports": [{"name": "http", "containerPort": PORT}]}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"namespace": pod.namespace, "name": pod.name, "labels": {"app": role}},
        "spec": {"nodeName": pod.node, "containers": [container]},
        "status": {"phase": "Running", "podIPs": [{"ip": address} for address in pod.addresses]},
    }
