"""Random admin tier policies with the names, labels, ports and networks of `objects`.

They are documents, as people write them, and go through the decoder. One in ten has a flaw, and fails closed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st

from nfagent.decode.admin_policy import decode_admin_policy, decode_baseline_policy, decode_cluster_policy
from nfagent.model.admin_policy import TierKind, TierPolicy
from tests.properties.objects import (
    AUDIT_VALUES,
    NAMESPACE_SELECTORS,
    PORT_NAMES,
    SELECTORS,
    SPREAD_PORTS,
    Document,
    annotated,
)

DECODERS: dict[TierKind, Callable[[Document], TierPolicy]] = {
    "AdminNetworkPolicy": decode_admin_policy,
    "BaselineAdminNetworkPolicy": decode_baseline_policy,
    "ClusterNetworkPolicy": decode_cluster_policy,
}
KINDS: st.SearchStrategy[TierKind] = st.sampled_from(list(DECODERS))
NAMES = ("t1", "t2", "t3")
PRIORITIES = st.integers(0, 2)
ACTIONS: dict[TierKind, tuple[str, ...]] = {
    "AdminNetworkPolicy": ("Allow", "Deny", "Pass"),
    "BaselineAdminNetworkPolicy": ("Allow", "Deny"),
    "ClusterNetworkPolicy": ("Accept", "Deny", "Pass"),
}
_MOST_RULES: dict[TierKind, int] = {
    "AdminNetworkPolicy": 100,
    "BaselineAdminNetworkPolicy": 100,
    "ClusterNetworkPolicy": 25,
}

PODS: st.SearchStrategy[Document] = st.one_of(
    st.fixed_dictionaries({"namespaces": NAMESPACE_SELECTORS}),
    st.fixed_dictionaries(
        {"pods": st.fixed_dictionaries({"namespaceSelector": NAMESPACE_SELECTORS, "podSelector": SELECTORS})}
    ),
)
SUBJECTS: st.SearchStrategy[Document] = st.just({"namespaces": {}}) | PODS
NETWORKS = st.sampled_from(
    [
        *("0.0.0.0/0", "10.64.0.0/16", "10.64.0.2/31", "10.64.1.5/29", "192.168.0.0/24", "203.0.113.7/32"),
        *("::/0", "2001:db8::/32", "2001:db8:0:a::2/127", "2606:4700::/32"),
    ]
)
NAMELESS: st.SearchStrategy[Document] = st.one_of(
    st.fixed_dictionaries({"networks": st.lists(NETWORKS, min_size=1, max_size=3, unique=True)}),
    st.fixed_dictionaries({"nodes": st.just({}) | SELECTORS}),
)
"""Egress peers that have no names for their ports."""

_NUMBERS = (53, 80, 99, 8080)
_SPANS = ((1, 80), (1, 65535), (53, 99), (79, 80), (80, 8080), (100, 65535))
_PORT_NAMES = (*PORT_NAMES, "none")
_PROTOCOLS: list[Document] = [{}, *({"protocol": name} for name in ("TCP", "UDP", "SCTP"))]
_NUMBERED: dict[str, list[list[Document]]] = {
    "ports": [
        [{"portNumber": {"port": port, **said}} for port in _NUMBERS for said in _PROTOCOLS],
        [{"portRange": {"start": start, "end": end, **said}} for start, end in _SPANS for said in _PROTOCOLS],
    ],
    "protocols": [
        [{said: {"destinationPort": {"number": port}}} for port in _NUMBERS for said in ("tcp", "udp", "sctp")],
        [
            {said: {"destinationPort": {"range": {"start": start, "end": end}}}}
            for start, end in _SPANS
            for said in ("tcp", "udp", "sctp")
        ],
    ],
}
"""What a rule's field of that name lists: single ports, ranges."""
_MANY: dict[str, list[list[Document]]] = {
    "ports": [[{"portNumber": {"port": port, **said}} for port in SPREAD_PORTS] for said in _PROTOCOLS],
    "protocols": [[{said: {"destinationPort": {"number": port}}} for port in SPREAD_PORTS] for said in ("tcp", "udp")],
}
_NAMED: dict[str, list[Document]] = {
    "ports": [{"namedPort": name} for name in _PORT_NAMES],
    "protocols": [{"destinationNamedPort": name} for name in _PORT_NAMES],
}


def _ports(field: str, *, named: bool) -> st.SearchStrategy[list[Document]]:
    kinds = [*_NUMBERED[field], *([_NAMED[field]] if named else [])]
    few = st.lists(st.one_of(*map(st.sampled_from, kinds)), min_size=1, max_size=3)
    return few | few | st.sampled_from(_MANY[field])


PORTS = {(field, named): _ports(field, named=named) for field in _NAMED for named in (False, True)}
_RULE_NAMES: list[Document] = [{}, {}, {}, *({"name": name} for name in ("all", "first things first", "ünïcode"))]


@st.composite
def _rules(draw: st.DrawFn, kind: TierKind, peers: str) -> Document:
    """Draw a good rule; `peers` is `from` or `to`."""
    known = PODS if peers == "from" else PODS | NAMELESS
    found = draw(st.lists(known, min_size=1, max_size=3))
    rule: Document = {
        "action": draw(st.sampled_from(ACTIONS[kind])),
        peers: found,
        **draw(st.sampled_from(_RULE_NAMES)),
    }
    if draw(st.booleans()):
        named = not any("networks" in peer or "nodes" in peer for peer in found)
        field = "protocols" if kind == "ClusterNetworkPolicy" else "ports"
        rule[field] = draw(PORTS[field, named])
    return rule


@st.composite
def good_documents(draw: st.DrawFn, kind: TierKind | None = None) -> Document:
    """Draw a policy without a flaw, of that kind or of any."""
    drawn = draw(KINDS) if kind is None else kind
    baseline = drawn == "BaselineAdminNetworkPolicy"
    spec: Document = {"subject": draw(SUBJECTS)} | ({} if baseline else {"priority": draw(PRIORITIES)})
    if drawn == "ClusterNetworkPolicy":
        spec["tier"] = draw(st.sampled_from(["Admin", "Baseline"]))
    for direction, peers in (("ingress", "from"), ("egress", "to")):
        rules: list[Document] = draw(st.lists(_rules(drawn, peers), max_size=3))
        if draw(st.booleans()) or rules:
            spec[direction] = rules
    name = "default" if baseline else draw(st.sampled_from(NAMES))
    return {"kind": drawn, "metadata": {"name": name}, "spec": spec}


_BAD_SELECTOR: Document = {"matchExpressions": [{"key": "app", "operator": "Like"}]}


@st.composite
def _flawed_rules(draw: st.DrawFn, kind: TierKind, peers: str) -> Document:
    """Draw a rule with one flaw, which closes this rule alone."""
    rule = draw(_rules(kind, peers))
    good: Document = {"namespaces": {}}
    listed = "protocols" if kind == "ClusterNetworkPolicy" else "ports"
    flaws: list[Document] = [
        {"action": "Log"},
        {peers: []},
        {peers: [good, {}]},
        {peers: [{"services": {}}, good]},
        {peers: [{"namespaces": _BAD_SELECTOR}]},
        {peers: [{"domainNames": ["k.io"]}]},
        {listed: []},
        {listed: [{"namedPort": "http", "portNumber": {"port": 80}}]},
        {"name": "x" * 101},
    ]
    if peers == "to":
        name = "destinationNamedPort" if kind == "ClusterNetworkPolicy" else "namedPort"
        flaws.append({peers: [{"networks": ["0.0.0.0/0"]}], listed: [{name: "http"}]})
    return rule | draw(st.sampled_from(flaws))


@st.composite
def flawed_documents(draw: st.DrawFn, kind: TierKind | None = None) -> Document:
    """Draw a policy with a flaw: in one of its rules, or in itself."""
    document = draw(good_documents(kind))
    drawn: TierKind = document["kind"]
    spec: Document = document["spec"]
    direction, peers = draw(st.sampled_from([("ingress", "from"), ("egress", "to")]))
    rules: list[Any] = list(spec.get(direction, []))
    if draw(st.booleans()):
        rules.insert(draw(st.integers(0, len(rules))), draw(_flawed_rules(drawn, peers)))
        return document | {"spec": spec | {direction: rules}}
    flaws: list[Document] = [
        {"subject": {}},
        {"subject": {"namespaces": _BAD_SELECTOR}},
        {direction: {"action": "Deny"}},
        {direction: [draw(_rules(drawn, peers))] * (_MOST_RULES[drawn] + 1)},
        {direction.removesuffix("s"): rules},
    ]
    if drawn == "BaselineAdminNetworkPolicy":
        if draw(st.booleans()):
            return document | {"metadata": {"name": draw(st.sampled_from(NAMES))}}
    else:
        flaws += [{"priority": 1001}, {"priority": None}]
    if drawn == "ClusterNetworkPolicy":
        flaws.append({"tier": "Application"})
    return document | {"spec": spec | draw(st.sampled_from(flaws))}


@st.composite
def tier_documents(draw: st.DrawFn, kind: TierKind | None = None) -> Document:
    """Draw a policy of that kind, or of any; one in ten has a flaw."""
    return draw(flawed_documents(kind) if draw(st.integers(0, 9)) == 9 else good_documents(kind))


def decode(document: Document) -> TierPolicy:
    """Read a document by its kind."""
    kind: TierKind = document["kind"]
    return DECODERS[kind](document)


def tier_policies(kind: TierKind | None = None) -> st.SearchStrategy[TierPolicy]:
    """Draw a policy of that kind, or of any, as it is read."""
    return st.builds(annotated, tier_documents(kind), AUDIT_VALUES).map(decode)
