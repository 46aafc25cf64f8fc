"""Encodes model objects as the JSON documents of an API server: the inverse of the decoders.

A Pod's document has about the size of a real one: most of it are fields that nfagent doesn't read.
"""

from __future__ import annotations

from typing import Any

from nfagent.model.gvk import Item
from nfagent.model.ip_masq import IpMasqConfig
from nfagent.model.netaddr import Range
from nfagent.model.networkpolicy import IpBlock, NetworkPolicy, NetworkPolicyRule, Peer, PolicyPort
from nfagent.model.objects import ContainerPort, Namespace, Node, Pod
from nfagent.model.selectors import Selector

Document = dict[str, Any]

_CREATED = "2024-05-06T07:08:09Z"
_CONDITIONS = ("PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled")


def document(item: Item) -> Document:
    """Return the document of an object. Raises ValueError for a kind that no synthetic cluster has."""
    match item:
        case Namespace():
            return _document("v1", "Namespace", {"name": item.name, "labels": dict(item.labels)}, {}, {})
        case Node():
            return _node(item)
        case Pod():
            return _pod(item)
        case NetworkPolicy():
            return _policy(item)
        case _:
            kind = "ConfigMap" if isinstance(item, IpMasqConfig) else "NetworkLogging"
            raise ValueError(f"no synthetic cluster has a {kind}")


def _document(version: str, kind: str, metadata: Document, spec: Document, status: Document) -> Document:
    found = {"apiVersion": version, "kind": kind, "metadata": {**metadata, "creationTimestamp": _CREATED}}
    return {**found, **({"spec": spec} if spec else {}), **({"status": status} if status else {})}


def _node(node: Node) -> Document:
    spec = {"podCIDR": str(node.pod_cidrs[0]), "podCIDRs": [str(cidr) for cidr in node.pod_cidrs]}
    addresses = [{"type": "InternalIP", "address": address} for address in node.addresses]
    status = {"addresses": [*addresses, {"type": "Hostname", "address": node.name}]}
    return _document("v1", "Node", {"name": node.name, "labels": dict(node.labels)}, spec, status)


def _pod(pod: Pod) -> Document:
    owner = {"apiVersion": "apps/v1", "kind": pod.workload_kind, "name": pod.workload_name, "controller": True}
    metadata = {
        "namespace": pod.namespace,
        "name": pod.name,
        "labels": dict(pod.labels),
        "annotations": {"prometheus.io/scrape": "true"},
        "ownerReferences": [owner],
        "resourceVersion": "1234567",
    }
    spec = {"nodeName": pod.node, "serviceAccountName": "default", "restartPolicy": "Always", **_containers(pod)}
    status = {
        "phase": pod.phase,
        "podIP": pod.addresses[0],
        "podIPs": [{"ip": address} for address in pod.addresses],
        "conditions": [{"type": name, "status": "True", "lastTransitionTime": _CREATED} for name in _CONDITIONS],
        "startTime": _CREATED,
    }
    return _document("v1", "Pod", metadata, spec, status)


def _containers(pod: Pod) -> Document:
    container = {
        "name": "main",
        "image": f"registry.example/{pod.namespace}/{pod.workload_name}:v1",
        "ports": [_container_port(port) for port in pod.ports],
        "env": [{"name": f"SETTING_{number}", "value": "some value or other"} for number in range(8)],
        "resources": {"limits": {"cpu": "500m", "memory": "256Mi"}, "requests": {"cpu": "100m", "memory": "128Mi"}},
        "volumeMounts": [{"mountPath": "/var/run/secrets/kubernetes.io/serviceaccount", "name": "token"}],
        "terminationMessagePath": "/dev/termination-log",
        "imagePullPolicy": "IfNotPresent",
    }
    volume = {
        "name": "token",
        "projected": {"defaultMode": 420, "sources": [{"serviceAccountToken": {"path": "token"}}]},
    }
    return {"containers": [container], "volumes": [volume]}


def _container_port(port: ContainerPort) -> Document:
    return {"name": port.name, "containerPort": port.port, "protocol": port.protocol.upper()}


def _policy(policy: NetworkPolicy) -> Document:
    spec = {
        "podSelector": _selector(policy.pods),
        "policyTypes": [direction.capitalize() for direction in policy.isolates],
        "ingress": [_rule(rule, "from") for rule in policy.ingress],
        "egress": [_rule(rule, "to") for rule in policy.egress],
    }
    metadata = {"namespace": policy.namespace, "name": policy.name}
    return _document("networking.k8s.io/v1", "NetworkPolicy", metadata, spec, {})


def _rule(rule: NetworkPolicyRule, peers: str) -> Document:
    return {peers: [_peer(peer) for peer in rule.peers], "ports": [_policy_port(port) for port in rule.ports]}


def _peer(peer: Peer) -> Document:
    if isinstance(peer, IpBlock):
        return {"ipBlock": {"cidr": _cidr(peer.cidr), "except": [_cidr(hole) for hole in peer.excepts]}}
    namespaces = {} if peer.namespaces is None else {"namespaceSelector": _selector(peer.namespaces)}
    return {**namespaces, "podSelector": _selector(peer.pods)}


def _cidr(block: Range) -> str:
    return str(block) if "/" in str(block) else f"{block}/{32 if block.family == 4 else 128}"


def _policy_port(port: PolicyPort) -> Document:
    ranged = {"endPort": port.last} if port.last != port.first else {}
    return {"protocol": port.protocol.upper(), "port": port.name or port.first, **ranged}


def _selector(selector: Selector) -> Document:
    single = {one.key: one.values[0] for one in selector.requirements if one.operator == "In" and len(one.values) == 1}
    rest = [one for one in selector.requirements if not (one.operator == "In" and len(one.values) == 1)]
    expressions = [{"key": one.key, "operator": one.operator, "values": list(one.values)} for one in rest]
    return {**({"matchLabels": single} if single else {}), **({"matchExpressions": expressions} if expressions else {})}
