"""Decoders are total: any document gives an object or an ObjectError, any listing a ruleset or a WireError."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

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
from nfagent.decode.registry import DECODERS, object_ref
from nfagent.decode.services import decode_service
from nfagent.errors import ObjectError, WireError
from nfagent.model.admin_policy import LAST_PRIORITY, TierPolicy, TierRule
from nfagent.model.networkpolicy import NetworkPolicy
from nfagent.nftables.objects import Ruleset
from nfagent.nftables.parse import parse_counters, parse_listing, parse_ruleset

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

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(
        [
            "",
            "10.0.0.1",
            "10.0.0.0/8",
            "10.0.0.1/8",
            "::ffff:10.0.0.1",
            "fe80::1%eth0",
            "/",
            "::/0",
            "@",
            "tcp",
            "a" * 300,
            "\ud800",
            0,
            65536,
        ]
    ),
)
JUNK = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6) | st.integers(), inner, max_size=3),
    max_leaves=6,
)


@st.composite
def mutated(draw: st.DrawFn, document: object) -> object:
    """Draw a document like this one, with something in it replaced, left out, or put in."""
    if not isinstance(document, dict | list) or draw(st.integers(0, 9)) == 0:
        return draw(JUNK)
    copy: Any = document.copy()
    places = list(copy) if isinstance(copy, dict) else list(range(len(copy)))
    if not places:
        return draw(JUNK)
    place = draw(st.sampled_from(places))
    match draw(st.integers(0, 9)):
        case 0:
            del copy[place]
        case 1 if isinstance(copy, dict):
            copy[draw(st.sampled_from([0, "", "spec", "elem", "flags", "except", "ipBlock"]))] = draw(JUNK)
        case _:
            copy[place] = draw(mutated(copy[place]))
    return copy


def documents(valid: dict[str, Any]) -> st.SearchStrategy[Any]:
    broken = mutated(valid) | mutated(valid).flatmap(mutated)
    junk = st.dictionaries(st.sampled_from(list(valid)), JUNK)
    return broken.filter(lambda document: isinstance(document, dict)) | junk


def test_every_kind_that_is_read_has_its_document() -> None:
    assert set(VALID) == set(DECODERS.values())


@pytest.mark.parametrize("decode", VALID, ids=lambda decode: decode.__name__)
def test_the_document_that_is_mutated_is_valid(decode: Decode) -> None:
    decoded = decode(VALID[decode])
    assert decoded is not None
    assert getattr(decoded, "problems", ()) == ()


@pytest.mark.parametrize("decode", VALID, ids=lambda decode: decode.__name__)
def test_an_object_is_named_alike_whether_or_not_it_can_be_read(decode: Decode) -> None:
    document = VALID[decode]
    assert object_ref(document) == getattr(decode(document), "ref", None)


@pytest.mark.parametrize("decode", VALID, ids=lambda decode: decode.__name__)
@given(data=st.data())
def test_a_decoder_raises_nothing_but_an_object_error(decode: Decode, data: st.DataObject) -> None:
    document = data.draw(documents(VALID[decode]))
    with suppress(ObjectError):
        decoded = decode(document)
        hash(decoded)
        if isinstance(decoded, NetworkPolicy) and decoded.problem is not None:
            assert (decoded.ingress, decoded.egress) == ((), ())
            assert decoded.isolates
        if isinstance(decoded, TierPolicy):
            assert_closed_where_it_has_faults(decoded)


def assert_closed_where_it_has_faults(policy: TierPolicy) -> None:
    rules = (*policy.ingress, *policy.egress)
    closed = [rule for rule in rules if rule.problem is not None]
    assert all((rule.peers, rule.ports) == ((), ()) and rule.action in {"allow", "deny"} for rule in closed)
    assert all(rule.peers for rule in rules if rule.problem is None)
    assert all(problem.object and problem.field and problem.reason for problem in policy.problems)
    assert policy.subject is not None or policy.problem is not None
    if policy.problem is not None:
        assert all(rule == TierRule("deny", problem=policy.problem) for rule in rules)
    elif policy.kind != "BaselineAdminNetworkPolicy":
        assert 0 <= policy.priority <= LAST_PRIORITY


@given(st.text(max_size=40) | st.text("[]{}:&*!-,'\"# \n\t0123456789abx._%@", max_size=40))
@example("2001-99-99")
@example("a: 0x_")
@example("!!int x")
@example("&a [*a]")
@example("[" * 500)
@example("!!python/object:os.system {}")
def test_any_text_as_configuration_is_read_or_named(text: str) -> None:
    document = {**VALID[decode_ip_masq], "data": {"config": text}}
    with suppress(ObjectError):
        decode_ip_masq(document)


@given(st.text() | st.just("[" * 5000) | st.just('{"nftables":[' + "[" * 5000))
def test_any_text_as_a_listing_is_refused(text: str) -> None:
    with pytest.raises(WireError):
        parse_listing(text)


def test_the_listing_that_is_mutated_is_all_ours() -> None:
    ruleset = parse_ruleset(LISTING)
    assert ruleset.foreign == frozenset()
    assert "Foreign" not in repr(ruleset)


@given(mutated(LISTING) | mutated(LISTING).flatmap(mutated) | JUNK)
def test_a_listing_is_read_or_refused(listing: object) -> None:
    with suppress(WireError):
        ruleset = parse_ruleset(listing)
        assert isinstance(ruleset, Ruleset)
        # JSON has no keys but text.
        assert parse_listing(json.dumps(listing)) == parse_ruleset(json.loads(json.dumps(listing)))
    with suppress(WireError):
        parse_counters(listing)


# Kinds that fail closed, or are refused, as a whole: docs/semantics.md says why.
_WHOLE = {
    decode_network_policy,
    decode_admin_policy,
    decode_baseline_policy,
    decode_cluster_policy,
    decode_egress_policy,
    decode_gateway_group,
}
_TOGETHER = {"workload_name": "workload_kind", "cluster_addresses": "headless"}
"""Fields that are read of the same place, by one of them."""


def _leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:  # noqa: ANN401 - a document's part
    """Return the paths of all values that hold no others, but those that name the object."""
    found = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else None
    if found is None:
        if path[:1] != ("kind",) and path[:2] not in {("metadata", "name"), ("metadata", "namespace")}:
            yield path
        return
    for key, inner in found:
        yield from _leaves(inner, (*path, key))


def _with(document: Any, path: tuple[Any, ...], value: object) -> Any:  # noqa: ANN401 - a document's part
    copy = document.copy()
    key, *rest = path
    copy[key] = _with(document[key], tuple(rest), value) if rest else value
    return copy


_PARTS = [(decode, path) for decode in VALID if decode not in _WHOLE for path in _leaves(VALID[decode])]


@pytest.mark.parametrize(
    ("decode", "path"), _PARTS, ids=[f"{decode.__name__} {'.'.join(map(str, path))}" for decode, path in _PARTS]
)
@given(depth=st.integers(0, 3), junk=st.sampled_from([[], {}, [7], {"x": []}, 7.5, True, "a b", "\ud800", 1 << 5000]))
def test_what_is_wrong_in_one_place_changes_nothing_that_is_read_of_another(
    decode: Decode, path: tuple[Any, ...], depth: int, junk: object
) -> None:
    """With any other value there, at most one field differs."""
    if decode is decode_ip_masq:
        return  # its text is one place; the configuration's keys have tests of their own
    place = path[: max(3 if decode is decode_network_logging else 2, len(path) - depth)]
    good, found = decode(VALID[decode]), decode(_with(VALID[decode], place, junk))
    names = [name for name in msgspec.structs.asdict(good) if name not in {"problems", "unread"}]  # type: ignore[arg-type]
    changed = {_TOGETHER.get(name, name) for name in names if getattr(good, name) != getattr(found, name)}
    assert len(changed) <= 1, changed
