"""A valid document of every kind that is read, and a listing of nft of objects that are all nfagent's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nfagent.decode.admin_policy import decode_admin_policy, decode_baseline_policy, decode_cluster_policy
from nfagent.decode.core import (
    decode_namespace,
    decode_network_logging,
    decode_node,
    decode_pod,
    decode_service_cidr,
)
from nfagent.decode.egress_nat import decode_egress_policy, decode_gateway_group
from nfagent.decode.ip_masq import decode_ip_masq
from nfagent.decode.networkpolicy import decode_network_policy
from nfagent.decode.services import decode_service

Decode = Callable[[dict[str, Any]], object]

V1ALPHA1_RULES: dict[str, Any] = {
    "subject": {"pods": {"namespaceSelector": {}, "podSelector": {"matchLabels": {"app": "db"}}}},
    "ingress": [{"name": "x", "action": "Allow", "from": [{"namespaces": {}}], "ports": [{"namedPort": "http"}]}],
    "egress": [
        {
            "action": "Deny",
            "to": [{"nodes": {"matchExpressions": [{"key": "app", "operator": "Exists"}]}}, {"networks": ["::/0"]}],
            "ports": [{"portNumber": {"protocol": "UDP", "port": 53}}, {"portRange": {"start": 1, "end": 9}}],
        }
    ],
}

VALID: dict[Decode, dict[str, Any]] = {
    decode_namespace: {"kind": "Namespace", "metadata": {"name": "shop", "labels": {"team": "red"}}},
    decode_node: {
        "kind": "Node",
        "metadata": {"name": "a", "labels": {"zone": "one"}},
        "spec": {"podCIDR": "10.64.0.0/24", "podCIDRs": ["10.64.0.0/24"]},
        "status": {"addresses": [{"type": "InternalIP", "address": "192.168.0.1"}]},
    },
    decode_pod: {
        "kind": "Pod",
        "metadata": {
            "namespace": "shop",
            "name": "web",
            "labels": {"app": "web"},
            "ownerReferences": [{"kind": "ReplicaSet", "name": "web-1", "controller": True}],
        },
        "spec": {
            "nodeName": "a",
            "hostNetwork": False,
            "containers": [{"ports": [{"name": "http", "containerPort": 80, "protocol": "TCP"}]}],
            "initContainers": [{"restartPolicy": "Always", "ports": [{"name": "dns", "containerPort": 53}]}],
        },
        "status": {"phase": "Running", "podIP": "10.64.0.1", "podIPs": [{"ip": "10.64.0.1"}]},
    },
    decode_service: {
        "kind": "Service",
        "metadata": {"namespace": "shop", "name": "web"},
        "spec": {
            "type": "LoadBalancer",
            "clusterIP": "10.96.0.10",
            "clusterIPs": ["10.96.0.10", "2001:db8::10"],
            "externalIPs": ["203.0.113.1"],
            "selector": {"app": "web"},
            "ports": [
                {"name": "http", "port": 80, "targetPort": "http", "nodePort": 30080},
                {"name": "dns", "port": 53, "protocol": "UDP", "targetPort": 5353},
            ],
            "externalTrafficPolicy": "Local",
            "internalTrafficPolicy": "Cluster",
        },
        "status": {"loadBalancer": {"ingress": [{"ip": "203.0.113.2", "ipMode": "VIP"}]}},
    },
    decode_network_policy: {
        "kind": "NetworkPolicy",
        "metadata": {"namespace": "shop", "name": "web"},
        "spec": {
            "podSelector": {"matchExpressions": [{"key": "app", "operator": "In", "values": ["web"]}]},
            "policyTypes": ["Ingress", "Egress"],
            "ingress": [
                {
                    "from": [
                        {"podSelector": {"matchLabels": {"app": "db"}}, "namespaceSelector": {}},
                        {"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}},
                    ],
                    "ports": [{"protocol": "TCP", "port": 80, "endPort": 90}, {"port": "http"}],
                }
            ],
            "egress": [
                {
                    "to": [
                        {"podSelector": {}},
                        {"namespaceSelector": {"matchExpressions": [{"key": "team", "operator": "Exists"}]}},
                    ]
                }
            ],
        },
    },
    decode_admin_policy: {
        "kind": "AdminNetworkPolicy",
        "metadata": {"name": "guard"},
        "spec": {"priority": 5, **V1ALPHA1_RULES},
    },
    decode_baseline_policy: {
        "kind": "BaselineAdminNetworkPolicy",
        "metadata": {"name": "default"},
        "spec": V1ALPHA1_RULES,
    },
    decode_cluster_policy: {
        "kind": "ClusterNetworkPolicy",
        "metadata": {"name": "guard"},
        "spec": {
            "tier": "Baseline",
            "priority": 5,
            "subject": {"namespaces": {"matchLabels": {"team": "red"}}},
            "ingress": [
                {
                    "action": "Accept",
                    "from": [{"pods": {"podSelector": {}}}],
                    "protocols": [{"destinationNamedPort": "http"}, {"sctp": {"destinationPort": {"number": 9}}}],
                }
            ],
            "egress": [
                {
                    "name": "x",
                    "action": "Pass",
                    "to": [{"networks": ["10.0.0.0/8"]}, {"nodes": {}}],
                    "protocols": [{"tcp": {"destinationPort": {"range": {"start": 1, "end": 9}}}}],
                }
            ],
        },
    },
    decode_ip_masq: {
        "kind": "ConfigMap",
        "metadata": {"namespace": "kube-system", "name": "ip-masq-agent"},
        "data": {"config": "nonMasqueradeCIDRs: [10.0.0.0/8]\nmasqLinkLocal: true\nresyncInterval: 60s\n"},
    },
    decode_service_cidr: {
        "kind": "ServiceCIDR",
        "metadata": {"name": "kubernetes"},
        "spec": {"cidrs": ["10.96.0.0/12", "2001:db8:5::/108"]},
    },
    decode_egress_policy: {
        "kind": "EgressNATPolicy",
        "metadata": {"name": "payments"},
        "spec": {
            "action": "SNAT",
            "sources": [{"namespaceSelector": {"matchLabels": {"team": "payments"}}, "podSelector": {}}],
            "destinations": [{"cidr": "203.0.113.0/24"}, {}],
            "gatewayRef": {"name": "gw", "namespace": "kube-system"},
        },
    },
    decode_gateway_group: {
        "kind": "NetworkGatewayGroup",
        "metadata": {"namespace": "kube-system", "name": "gw"},
        "spec": {"floatingIPs": ["192.0.2.10", "2001:db8::10"]},
    },
    decode_network_logging: {
        "kind": "NetworkLogging",
        "metadata": {"name": "default"},
        "spec": {"cluster": {"allow": {"log": True, "delegate": False}, "deny": {"log": True}}},
    },
}

LISTING: dict[str, Any] = {
    "nftables": [
        {"metainfo": {"version": "1.0.6", "json_schema_version": 1}},
        {"table": {"family": "inet", "name": "nfagent", "handle": 1}},
        {"counter": {"family": "inet", "name": "deny/x", "table": "nfagent", "packets": 1, "bytes": 40}},
        {
            "set": {
                "family": "inet",
                "name": "blocks4/1",
                "table": "nfagent",
                "type": "ipv4_addr",
                "flags": ["interval"],
                "comment": "10.0.0.0/8",
                "elem": [{"prefix": {"addr": "10.0.0.0", "len": 8}}, {"range": ["1.0.0.1", "1.0.0.3"]}, "8.8.8.8"],
            }
        },
        {
            "set": {
                "family": "inet",
                "name": "ports4/1",
                "table": "nfagent",
                "type": ["ipv4_addr", "inet_proto", "inet_service"],
                "elem": [{"concat": ["10.0.0.1", "tcp", 80]}],
            }
        },
        {
            "map": {
                "family": "inet",
                "name": "ingress4",
                "table": "nfagent",
                "type": "ipv4_addr",
                "map": "verdict",
                "elem": [["10.0.0.1", {"goto": {"target": "ingress/x"}}]],
            }
        },
        {
            "chain": {
                "family": "inet",
                "table": "nfagent",
                "name": "forward-ingress",
                "type": "filter",
                "hook": "forward",
                "prio": -1,
                "policy": "accept",
            }
        },
        {"chain": {"family": "inet", "table": "nfagent", "name": "ingress/x"}},
        {
            "rule": {
                "family": "inet",
                "table": "nfagent",
                "chain": "ingress/x",
                "comment": "x",
                "expr": [
                    {
                        "match": {
                            "op": "==",
                            "left": {"ct": {"key": "ip saddr", "dir": "original"}},
                            "right": "@blocks4/1",
                        }
                    },
                    {"match": {"op": "==", "left": {"meta": {"key": "l4proto"}}, "right": {"set": ["tcp", "udp"]}}},
                    {
                        "match": {
                            "op": "==",
                            "left": {"ct": {"key": "proto-src", "dir": "reply"}},
                            "right": {"range": [80, 90]},
                        }
                    },
                    {"match": {"op": "in", "left": {"ct": {"key": "state"}}, "right": ["invalid", "untracked"]}},
                    {
                        "match": {
                            "op": "==",
                            "left": {
                                "concat": [
                                    {"ct": {"key": "ip saddr", "dir": "reply"}},
                                    {"meta": {"key": "l4proto"}},
                                    {"payload": {"protocol": "th", "field": "dport"}},
                                ]
                            },
                            "right": "@ports4/1",
                        }
                    },
                    {"match": {"op": "!", "left": {"ct": {"key": "status"}}, "right": "confirmed"}},
                    {"counter": "deny/x"},
                    {"log": {"prefix": "deny", "group": 100}},
                    {"drop": None},
                ],
            }
        },
        {
            "rule": {
                "family": "inet",
                "table": "nfagent",
                "chain": "forward-ingress",
                "expr": [{"vmap": {"key": {"ct": {"key": "ip saddr", "dir": "reply"}}, "data": "@ingress4"}}],
            }
        },
        {"rule": {"family": "inet", "table": "nfagent", "chain": "ingress/x", "expr": [{"masquerade": None}]}},
        {"rule": {"family": "inet", "table": "nfagent", "chain": "ingress/x", "expr": [{"goto": {"target": "x"}}]}},
    ]
}
