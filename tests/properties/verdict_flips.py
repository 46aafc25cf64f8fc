"""A small cluster in which nearly every change reverses a verdict: few labels, few rules, and each of them counts.

Everything is drawn from short lists, at once: a whole cluster costs as much as two policies of `objects`.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import msgspec
from hypothesis import strategies as st

from nfagent.model.admin_policy import NodePeer, Policy, TierAction, TierKind, TierPeer, TierPolicy, TierRule
from nfagent.model.gvk import Item
from nfagent.model.netaddr import parse_cidr
from nfagent.model.networkpolicy import IpBlock, NetworkPolicy, NetworkPolicyRule, PodPeer, PolicyPort
from nfagent.model.objects import DIRECTIONS, METADATA_NAME, ContainerPort, Labels, Namespace, Node, ObjectRef, Pod
from nfagent.model.selectors import Requirement, Selector
from tests.support.two_node_cluster import NODE_ADDRESSES

LABELS: tuple[Labels, ...] = ((("app", "web"),), (("app", "db"),), ())
PROTOCOL, PORT = "tcp", 80
"""Protocol and port of all connections here."""

_NAMED = tuple((ContainerPort("http", number, "tcp"),) for number in (PORT, 8080))
_PLACES = (("shop", "a"), ("shop", "a"), ("ops", "a"), ("shop", "b"), ("ops", "b"))
"""Namespace and node of p0, p1 and so on."""

_ALL = Selector()
_LABELLED = tuple(Selector((Requirement("app", "In", (value,)),)) for value in ("web", "db"))
_PODS: tuple[PodPeer, ...] = (
    *(PodPeer(selector, namespaces=_ALL) for selector in _LABELLED),
    *(PodPeer(_ALL, namespaces=selector) for selector in _LABELLED),
    PodPeer(_LABELLED[0], namespace="shop"),
)
_ALL_PODS = PodPeer(_ALL, namespaces=_ALL)
_BLOCKS = tuple(IpBlock(parse_cidr(cidr)) for cidr in ("203.0.113.0/24", "10.64.1.0/29", "0.0.0.0/0"))
_NODES = tuple(map(NodePeer, _LABELLED))
_NUMBER = (PolicyPort("tcp", PORT, PORT),)

_RULES = (
    *(
        NetworkPolicyRule((peer,), ports)
        for peer, ports in product(_PODS, ((), _NUMBER, (PolicyPort("tcp", name="http"),)))
    ),
    *(NetworkPolicyRule((peer,)) for peer in _BLOCKS[:2]),
    NetworkPolicyRule((), (PolicyPort("tcp", name="http"),)),
)
_ACTIONS: tuple[TierAction, ...] = ("allow", "deny", "pass")


def _tier_rules(nameless: tuple[TierPeer, ...]) -> tuple[TierRule, ...]:
    ports = ((), (), (), _NUMBER, (PolicyPort("any", name="http"),))
    found = [TierRule(action, (peer,), some) for action, peer, some in product(_ACTIONS, _PODS, ports)]
    return (*found, *(TierRule(action, (peer,)) for action in _ACTIONS for peer in nameless))


_NAMELESS: tuple[TierPeer, ...] = (*_NODES, *_BLOCKS)
_INWARDS, _OUTWARDS = _tier_rules(()), _tier_rules(_NAMELESS * 3)


_LAST: tuple[tuple[TierRule, ...], ...] = (
    *((TierRule(action, (_ALL_PODS,)),) for action in ("deny", "deny", "allow", "pass")),
    (),
)


def _some(rules: tuple[TierRule, ...]) -> st.SearchStrategy[tuple[TierRule, ...]]:
    """Draw some rules, and mostly one for all others."""
    return st.tuples(st.lists(st.sampled_from(rules), max_size=2), st.sampled_from(_LAST)).map(
        lambda both: (*both[0], *both[1])
    )


@st.composite
def network_policies(draw: st.DrawFn) -> NetworkPolicy:
    rules = st.lists(st.sampled_from(_RULES), max_size=2).map(tuple)
    ingress = draw(st.booleans())
    return NetworkPolicy(
        namespace="shop",
        name=draw(st.sampled_from(["np1", "np2"])),
        pods=draw(st.sampled_from([_ALL, *_LABELLED])),
        isolates=("ingress",) if ingress else ("egress",),
        ingress=draw(rules) if ingress else (),
        egress=() if ingress else draw(rules),
        audit=draw(_AUDITED),
    )


_KINDS: tuple[tuple[TierKind, str], ...] = (
    ("AdminNetworkPolicy", "t1"),
    ("AdminNetworkPolicy", "t2"),
    ("ClusterNetworkPolicy", "t1"),
    ("BaselineAdminNetworkPolicy", "default"),
)


@st.composite
def tier_policies(draw: st.DrawFn) -> TierPolicy:
    kind, name = draw(st.sampled_from(_KINDS))
    admin = kind == "AdminNetworkPolicy" or (kind == "ClusterNetworkPolicy" and draw(st.booleans()))
    return TierPolicy(
        kind=kind,
        name=name,
        tier="admin" if admin else "baseline",
        priority=draw(st.integers(0, 2)),
        subject=draw(st.sampled_from([_ALL_PODS, _ALL_PODS, *_PODS])),
        ingress=draw(_some(_INWARDS)),
        egress=draw(_some(_OUTWARDS)),
        audit=draw(_AUDITED),
    )


def policies() -> st.SearchStrategy[Policy]:
    return st.one_of(network_policies(), tier_policies(), tier_policies())


_BASELINES: list[tuple[TierKind, str]] = [
    ("ClusterNetworkPolicy", "b1"),
    ("ClusterNetworkPolicy", "b2"),
    ("BaselineAdminNetworkPolicy", "default"),
]
_AUDITED = st.sampled_from([False, False, False, True])
_CONDITIONS = tuple(product(LABELS, (*_NAMED, ()), ("Running", "Running", "Running", "Failed")))


@st.composite
def pods(draw: st.DrawFn) -> Pod:
    """Draw a Pod; one in five reuses the address of the next one."""
    number = draw(st.integers(0, len(_PLACES) - 1))
    labels, ports, phase = draw(st.sampled_from(_CONDITIONS))
    return _pod(number, labels, ports, phase, moved=draw(st.integers(0, 4)) == 4)


def _pod(number: int, labels: Labels, ports: tuple[ContainerPort, ...], phase: str, *, moved: bool = False) -> Pod:
    namespace, node = _PLACES[number]
    held = number + 1 if moved and number + 1 < len(_PLACES) and _PLACES[number + 1][1] == node else number
    addresses = (f"10.64.{'ab'.index(node)}.{held + 1}", f"2001:db8:0:{node}::{held + 1}")
    return Pod(namespace, f"p{number}", labels, node, addresses, phase=phase, ports=ports)


@st.composite
def namespaces(draw: st.DrawFn) -> Namespace:
    name = draw(st.sampled_from(["shop", "ops"]))
    labels = tuple(sorted([*draw(st.sampled_from(LABELS)), (METADATA_NAME, name)]))
    return Namespace(name, labels, audits_policies=draw(_AUDITED))


@st.composite
def nodes(draw: st.DrawFn) -> Node:
    name = draw(st.sampled_from(["a", "b", "b"]))
    held = NODE_ADDRESSES[name]
    return Node(name, draw(st.sampled_from(LABELS)), (), draw(st.sampled_from([held, held, held[:1], held[1:]])))


@st.composite
def clusters(draw: st.DrawFn) -> list[Item]:
    """Draw all objects of a cluster: every Pod, both Nodes, some policies."""
    found: list[Item] = [Node(name, (), (), held) for name, held in NODE_ADDRESSES.items()]
    found += [_pod(number, draw(st.sampled_from(LABELS)), _NAMED[0], "Running") for number in range(len(_PLACES))]
    return found + draw(st.lists(policies(), min_size=1, max_size=3))


@st.composite
def crowded_clusters(draw: st.DrawFn) -> list[Item]:
    """Draw all objects of a cluster with so many policies that most Pods have some of every tier."""
    tiers = [draw(tier_policies()) for _ in range(4)]
    return [*draw(clusters()), draw(namespaces()), *tiers, draw(network_policies()), draw(network_policies())]


_LARGE = tuple(NetworkPolicyRule((peer,), _NUMBER) for peer in _PODS)
"""So many rules that a NetworkPolicy has a chain of its own; they allow from nearly everywhere."""


@st.composite
def audited_clusters(draw: st.DrawFn) -> list[Item]:
    """Draw all objects of a cluster with several policies of each tier over most Pods, half of them audited."""
    found: list[Item] = [*draw(clusters()), draw(namespaces())]
    kinds: list[tuple[TierKind, str]] = [
        ("AdminNetworkPolicy", f"t{number}") for number in range(draw(st.integers(1, 4)))
    ]
    kinds += draw(st.sampled_from([[], [("BaselineAdminNetworkPolicy", "default")], _BASELINES]))
    for kind, name in kinds:
        tier = msgspec.structs.replace(draw(tier_policies()), kind=kind, name=name, subject=_ALL_PODS)
        baseline = kind != "AdminNetworkPolicy"
        found.append(msgspec.structs.replace(tier, tier="baseline" if baseline else "admin", audit=draw(st.booleans())))
    for name in ("np1", "np2", "np3")[: draw(st.integers(0, 3))]:
        policy = msgspec.structs.replace(draw(network_policies()), name=name, audit=draw(st.booleans()))
        if draw(st.booleans()):
            policy = msgspec.structs.replace(policy, **{policy.isolates[0]: _LARGE})
        found.append(policy)
    return found


def _variations(policy: Policy) -> Iterator[Policy]:
    """Return the policies that differ from one in audit mode, in a rule less, or in the order of its rules."""
    yield msgspec.structs.replace(policy, audit=not policy.audit)
    for direction in DIRECTIONS:
        rules = policy.rules(direction)
        for index in range(len(rules)):
            yield msgspec.structs.replace(policy, **{direction: (*rules[:index], *rules[index + 1 :])})
        if len(rules) > 1:
            yield msgspec.structs.replace(policy, **{direction: rules[::-1]})


@st.composite
def changes(draw: st.DrawFn, cluster: list[Item]) -> list[Item | ObjectRef]:
    """Draw events of a cluster: policies lose and reorder rules, Pods and Namespaces are relabelled."""
    history: list[Item | ObjectRef] = []
    present = {item.ref: item for item in cluster}
    for _ in range(draw(st.integers(4, 14))):
        known = [item for item in present.values() if isinstance(item, NetworkPolicy | TierPolicy)]
        happens = draw(st.sampled_from(["pod"] * 3 + ["varies"] * 4 + ["policy", "goes", "space", "space", "node"]))
        if happens in {"varies", "goes"} and known:
            policy = draw(st.sampled_from(known))
            varied = list(_variations(policy)) if happens == "varies" else []
            if not varied:
                history.append(policy.ref)
                del present[policy.ref]
                continue
            item: Item = draw(st.sampled_from(varied))
        else:
            sources: dict[str, st.SearchStrategy[Item]] = {"pod": pods(), "space": namespaces(), "node": nodes()}
            item = draw(sources.get(happens, policies()))
        history.append(item)
        present[item.ref] = item
    return history


@st.composite
def histories(draw: st.DrawFn) -> tuple[list[Item], list[Item | ObjectRef]]:
    """Draw a cluster, and its events."""
    cluster = draw(st.one_of(clusters(), crowded_clusters(), audited_clusters()))
    return cluster, draw(changes(cluster))
