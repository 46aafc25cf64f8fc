"""Random clusters, events and flows.

The objects that they are made of: `objects`, and `tier_strategies` for the policies of the tiers.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgspec
from hypothesis import strategies as st

from nfagent.desired.state import DesiredState
from nfagent.model.admin_policy import Policy, TierPolicy
from nfagent.model.gvk import Item
from nfagent.model.netaddr import Family, family_of
from nfagent.model.networkpolicy import NetworkPolicy
from nfagent.model.objects import Namespace, Node, ObjectRef, Pod
from nfagent.nftables.diff import diff
from nfagent.policy.evaluator import Flow
from tests.properties.objects import LOGGING, MASQUERADE, namespaces, nodes, pods, policies
from tests.properties.tier_strategies import tier_policies
from tests.support.fake_nftables import FakeNftables
from tests.support.two_node_cluster import NODE_ADDRESSES, OUTSIDE


def judging() -> st.SearchStrategy[Policy]:
    """Draw a policy of any kind."""
    return st.one_of(policies(), tier_policies())


def items() -> st.SearchStrategy[Item]:
    """Draw one object of any kind."""
    return st.one_of(
        pods(), pods(), pods(), policies(), policies(), tier_policies(), namespaces(), nodes(), LOGGING, MASQUERADE
    )


@st.composite
def worlds(draw: st.DrawFn) -> list[Item]:
    """Draw all objects of a cluster, in the order that they come in."""
    found: list[Item] = [*draw(st.lists(namespaces(), max_size=3)), *draw(st.lists(nodes(), max_size=2))]
    found += draw(st.lists(pods(), min_size=3, max_size=8))
    found += draw(st.lists(policies(), min_size=1, max_size=3))
    found += draw(st.lists(tier_policies(), max_size=3))
    found += draw(st.lists(LOGGING | MASQUERADE, max_size=2))
    return found


def desired(node: str, world: Iterable[Item]) -> DesiredState:
    """Return the state of a cluster, seen from a node."""
    made = DesiredState(node)
    for item in world:
        made.put(item)
    return made


IN_NO_RANGE = Pod("far", "stays", node="c", addresses=("100.99.0.1", "2001:db8:99::1"))
"""A Pod outside all Node ranges: the set of such Pods exists, so another one is one more element."""

RANDOM = st.randoms(use_true_random=True)
"""Randomness that needs no shrinking: only the seed is drawn, so that a value costs nothing."""

RECHECK_SETS = ("recheck4", "recheck6", "rechecking")
"""Addresses whose connections are re-checked."""


def catch_up(view: DesiredState, kernel: FakeNftables) -> None:
    """Compare the whole table with the desired ruleset and repair it, as the reconciler does at a start."""
    difference = diff(kernel.ruleset, view.ruleset())
    view.mark_synced()
    kernel.apply((*difference, *(view.recheck_all() if difference else ())))


@st.composite
def changed_pods(draw: st.DrawFn, pod: Pod) -> Pod:
    """Draw a Pod that differs from another in one thing, as most updates do; on another node it has other addresses."""
    other = draw(pods())
    field = draw(st.sampled_from(["labels", "node", "addresses", "host_network", "phase", "ports", "deleting"]))
    fields = ("node", "host_network", "addresses") if field in {"node", "host_network", "addresses"} else (field,)
    return msgspec.structs.replace(pod, **{name: getattr(other, name) for name in fields})


@st.composite
def changed_tiers(draw: st.DrawFn, policy: TierPolicy) -> TierPolicy:
    """Draw a policy of a tier that differs from another in one thing, or in the order of its rules."""
    other = draw(tier_policies(policy.kind))
    field = draw(st.sampled_from(["order", "priority", "tier", "subject", "ingress", "egress", "audit"]))
    if field == "order":
        return msgspec.structs.replace(policy, ingress=policy.ingress[::-1], egress=policy.egress[::-1])
    return msgspec.structs.replace(policy, **{field: getattr(other, field)})


@st.composite
def histories(draw: st.DrawFn) -> list[Item | ObjectRef]:
    """Draw events of a cluster: objects that are added, changed and removed (as ObjectRef)."""
    history: list[Item | ObjectRef] = list(draw(worlds()))
    present: dict[ObjectRef, Item] = {item.ref: item for item in history if not isinstance(item, ObjectRef)}
    for _ in range(draw(st.integers(1, 12))):
        found = draw(st.sampled_from(list(present.values()))) if present else None
        happened = draw(st.sampled_from(["comes", "changes", "changes", "goes", "goes", "relabels", "relabels"]))
        if happened == "relabels":
            item: Item = draw(namespaces())
        elif found is None or happened == "comes":
            item = draw(items())
        elif happened == "goes":
            history.append(found.ref)
            del present[found.ref]
            continue
        else:
            item = draw(_changed(found))
        history.append(item)
        present[item.ref] = item
    return history


def _changed(item: Item) -> st.SearchStrategy[Item]:
    match item:
        case Pod():
            return changed_pods(item)
        case Namespace(name):
            return namespaces(name)
        case Node(name):
            return nodes(name)
        case NetworkPolicy(namespace=namespace, name=name):
            return policies().map(lambda other: msgspec.structs.replace(other, namespace=namespace, name=name))
        case TierPolicy():
            return changed_tiers(item)
        case _:
            return items()


PROTOCOLS = st.sampled_from(
    [
        ("tcp", 80),
        ("tcp", 8080),
        ("tcp", 53),
        ("tcp", 1),
        ("udp", 53),
        ("udp", 80),
        ("sctp", 99),
        ("icmp", None),
        ("47", None),
    ]
)


def flows(addresses: Iterable[str], protocol: str, port: int | None) -> Iterator[Flow]:
    """Return every flow of a protocol between two of the addresses; icmp is icmpv6 between IPv6 ones."""
    known = sorted({*addresses, *OUTSIDE, *(address for both in NODE_ADDRESSES.values() for address in both)})
    families: tuple[Family, Family] = (4, 6)
    for family in families:
        ends = [address for address in known if family_of(address) == family]
        spelt = "icmpv6" if (family, protocol) == (6, "icmp") else protocol
        yield from (Flow(source, to, spelt, port) for source in ends for to in ends if source != to)
