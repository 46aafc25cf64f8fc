"""The cluster of `nfagent lab latency`: a synthetic one as the background, and two Pods that are built. Pure.

The server Pod runs on the node whose agent is measured; the client Pod, on another node without an agent, sends to it.
The server sends to a host outside, where masquerading is measured. All three are built in each lab; of the background,
the agents have the objects only.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import msgspec

from nfagent.decode.core import named_labels
from nfagent.errors import UsageError
from nfagent.lab.objects.documents import Document, document
from nfagent.lab.objects.policy_templates import TEMPLATES
from nfagent.lab.objects.synthetic import Size, Synthetic, synthetic
from nfagent.lab.topology.plan import Attachment, NodePlan, OutsideHost, PodPlan
from nfagent.model.gvk import Item
from nfagent.model.netaddr import parse_cidr
from nfagent.model.networkpolicy import NetworkPolicy
from nfagent.model.objects import Namespace, Node, Pod

LEAST_PODS, MOST_PODS, MOST_POLICIES = 50, 15_000, 10_000
SERVERS, CLIENTS = "probed", "callers"
"""The Namespaces of the two Pods."""

OUTSIDE = OutsideHost("outside", ("203.0.113.10",))
_LOCAL, _FARM = 100, 40


class LatencyCluster(msgspec.Struct, frozen=True):
    """The plans of what is built, and the objects of the background.

    policies: of the background, the Namespaces with Pods on the measured node first: the first 1,000 of 10,000 are as
              many as any other 1,000, and active
    """

    nodes: tuple[NodePlan, NodePlan]
    server: PodPlan
    client: PodPlan
    items: tuple[Item, ...]
    policies: tuple[NetworkPolicy, ...]

    def documents(self, policies: int) -> list[Document]:
        """Return the background with so many policies, and the server Pod; the client Pod is the scenarios'."""
        server = Pod(*self.server.key, (("app", "server"),), self.server.node, self.server.addresses)
        return [document(item) for item in (*self.items, server, *self.policies[:policies])]


def latency_cluster(pods: int, policies: int, seed: int, attachment: Attachment = "routed") -> LatencyCluster:
    """Return the cluster for up to so many background policies.

    Raises UsageError for a number that can't be had.
    """
    if not LEAST_PODS <= pods <= MOST_PODS:
        raise UsageError(f"--pods {pods}: write a number from {LEAST_PODS} to {MOST_PODS}")
    if not 0 <= policies <= MOST_POLICIES:
        raise UsageError(f"--policies {policies}: write numbers from 0 to {MOST_POLICIES}")
    local = min(_LOCAL, pods // 5)
    size = Size(pods, max(policies, min(pods, MOST_POLICIES)), local, min(_FARM, local // 2))
    background = synthetic(size, seed)
    first, second = (
        NodePlan(
            node.name,
            (f"192.0.2.{number}", f"2001:db8:ffff::{number:x}"),
            tuple(str(cidr) for cidr in node.pod_cidrs),
            attachment,
        )
        for number, node in enumerate(background.nodes[:2], start=1)
    )
    server, client = (
        PodPlan(namespace, name, node.name, (f"10.0.{number}.250", f"fd00:10:{number:x}::fa"))
        for number, (namespace, name, node) in enumerate(((SERVERS, "server", first), (CLIENTS, "client", second)), 1)
    )
    servers = Namespace(SERVERS, named_labels(SERVERS, ()))
    items: tuple[Item, ...] = (
        *background.namespaces,
        servers,
        _node(first),
        _node(second),
        *background.nodes[2:],
        *background.pods,
    )
    return LatencyCluster((first, second), server, client, items, tuple(_policies(background, policies)))


def _policies(background: Synthetic, count: int) -> Iterator[NetworkPolicy]:
    """Yield policies, all templates for a Namespace after another, those with Pods on the local node first."""
    here = set(background.local_namespaces())
    ordered = sorted(background.app_namespaces, key=lambda app: app.name not in here)
    every = (template(app, turn) for app in ordered for turn, template in enumerate(TEMPLATES))
    return itertools.islice(every, count)


def _node(plan: NodePlan) -> Node:
    return Node(plan.name, (), tuple(map(parse_cidr, plan.pod_cidrs)), plan.addresses)
