"""A suite of two cases, to test the runner itself."""

from __future__ import annotations

from copy import deepcopy

from tests.conformance.suites import Document

_PORTS = [{"name": "web", "containerPort": 80, "protocol": "TCP"}]
_DENY = {
    "apiVersion": "networking.k8s.io/v1",
    "kind": "NetworkPolicy",
    "metadata": {"namespace": "x", "name": "deny"},
    "spec": {"podSelector": {"matchLabels": {"pod": "b"}}, "policyTypes": ["Ingress"]},
}
_FRESH = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"namespace": "x", "name": "c", "labels": {"pod": "c"}},
    "spec": {"nodeName": "b", "containers": [{"name": "c", "ports": _PORTS}]},
    "status": {"phase": "Running", "podIPs": [{"ip": "10.64.1.12"}, {"ip": "2001:db8:0:b::c"}]},
}

_CONTENT: Document = {
    "nodes": {
        "a": {"cidrs": ["10.64.0.0/24", "2001:db8:0:a::/64"]},
        "b": {"cidrs": ["10.64.1.0/24", "2001:db8:0:b::/64"]},
    },
    "namespaces": {"x": {"kubernetes.io/metadata.name": "x"}},
    "pods": [
        {
            "namespace": "x",
            "name": name,
            "labels": {"pod": name},
            "node": name,
            "ips": [f"10.64.{third}.11", f"2001:db8:0:{name}::b"],
            "ports": _PORTS,
        }
        for third, name in enumerate("ab")
    ],
    "cases": [
        {
            "id": "small-1",
            "tags": ["isolate", "create-pod"],
            "steps": [
                {"apply": [_DENY], "delete": [], "probes": [{"protocol": "TCP", "port": 80, "rows": ["10", "10"]}]},
                {
                    "apply": [_FRESH],
                    "delete": [{"kind": "NetworkPolicy", "namespace": "x", "name": "deny"}],
                    "pods": ["x/a", "x/b", "x/c"],
                    "probes": [{"protocol": "TCP", "port": 80, "rows": ["11-", "111", "111"]}],
                },
            ],
        },
        {
            "id": "small-2",
            "source": "NothingIsolates",
            "tags": ["isolate"],
            "support": "core",
            "families": ["IPv4"],
            "steps": [
                {
                    "apply": [],
                    "delete": [],
                    "probes": [{"from": "x/a", "to": "x/b", "protocol": "TCP", "port": 80, "allowed": True}],
                }
            ],
        },
    ],
}


def content() -> Document:
    """Return a copy of the suite's file content, which a test may change."""
    return deepcopy(_CONTENT)


def with_rows(*rows: str) -> Document:
    """Return it with another table of verdicts for the first step, in which x/b is isolated."""
    changed = content()
    changed["cases"][0]["steps"][0]["probes"][0]["rows"] = list(rows)
    return changed
