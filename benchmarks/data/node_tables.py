"""Clusters whose local node has a table of a given size, with about as many sets as chains, and a policy to add.

    cluster = node_table(chains=700)
    for item in cluster.items:
        desired.put(item)

Each Namespace has a local Pod and a policy of its own: four chains and four sets. Nothing else of the cluster differs
between sizes, and the policy that is added is always the same: its cost shows what the size of the table costs.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from benchmarks.data.events import Event, gone, put
from nfagent.decode.core import named_labels
from nfagent.lab.objects.synthetic import NODE, node_name
from nfagent.model.gvk import Item
from nfagent.model.networkpolicy import NetworkPolicy, NetworkPolicyRule, PodPeer, PolicyPort
from nfagent.model.objects import Namespace, Pod
from nfagent.model.selectors import Requirement, Selector

_PROBED = "probed"
_BASE_CHAINS, _CHAINS_A_NAMESPACE = 26, 4
_CALLERS = ("web", "api")


class NodeTable(msgspec.Struct, frozen=True):
    """The objects of a cluster, and the policy that is added to it."""

    items: tuple[Item, ...]
    policy: NetworkPolicy

    def changes(self, count: int) -> Iterator[Event]:
        """Yield events that create the policy and delete it, in turns; an odd count is rounded up."""
        for _pair in range((count + 1) // 2):
            yield put(self.policy)
            yield gone(self.policy)


def node_table(chains: int) -> NodeTable:
    """Return a cluster whose local node has about so many chains, at least 24."""
    spaces = max(1, round((chains - _BASE_CHAINS) / _CHAINS_A_NAMESPACE))
    items: list[Item] = [*_namespace(_PROBED, 0)]
    for number in range(1, spaces + 1):
        space = f"space-{number:04d}"
        items += [*_namespace(space, number), _policy(space, "callers", _CALLERS)]
    return NodeTable(tuple(items), _policy(_PROBED, "only-friends", ("friend",)))


def _namespace(name: str, number: int) -> Iterator[Item]:
    """Yield a Namespace, its local Pod, and a Pod on another node for each kind of caller."""
    yield Namespace(name, named_labels(name, ()))
    yield _pod(name, "server", number, 1)
    for node, caller in enumerate(("friend", *_CALLERS), start=2):
        yield _pod(name, caller, number, node)


def _pod(namespace: str, app: str, number: int, node: int) -> Pod:
    high, low = divmod(number + 2, 250)
    addresses = (f"10.{node}.{high}.{low}", f"fd00:10:{node}::{number + 2:x}")
    return Pod(namespace, app, (("app", app),), NODE if node == 1 else node_name(node), addresses)


def _policy(namespace: str, name: str, callers: tuple[str, ...]) -> NetworkPolicy:
    """Return a policy on the local Pod, with a port of its own for each kind of caller."""
    rules = tuple(
        NetworkPolicyRule((PodPeer(_labelled(app), namespace=namespace),), (PolicyPort("tcp", port, port),))
        for port, app in enumerate(callers, start=8080)
    )
    return NetworkPolicy(namespace=namespace, name=name, pods=_labelled("server"), ingress=rules)


def _labelled(app: str) -> Selector:
    return Selector((Requirement("app", "In", (app,)),))
