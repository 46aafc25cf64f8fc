"""Synthetic clusters of any size, from a seed: Namespaces, Nodes, Pods of Deployments, typical NetworkPolicies.

    cluster = synthetic(SIZES[15_000], seed=7)
    for item in cluster.items():
        desired.put(item)

The same size and seed give the same cluster. Pods are spread over the nodes at random, about 60 a node; `cluster.node`
is the local node, with more. Namespaces have four Deployments each (web, api, db, worker), whose Pods share labels, so
that 150,000 Pods have a few thousand identities; every Namespace takes the policy templates from the first on. One
Namespace, `farm`, has all its Pods on the local node, so that one policy isolates them.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator

import msgspec

from nfagent.decode.core import named_labels
from nfagent.lab.objects.policy_templates import TEMPLATES, AppNamespace
from nfagent.model.gvk import Item
from nfagent.model.netaddr import parse_cidr
from nfagent.model.networkpolicy import NetworkPolicy
from nfagent.model.objects import ContainerPort, Labels, Namespace, Node, Pod

FARM = "farm"
DNS = "kube-system"
MONITORING = "monitoring"
NODE = "node-1"
POLICIES_A_NAMESPACE = 10
_PODS_A_NODE = 60
_NAMESPACES_A_TEAM = 5
_ENVIRONMENTS = ("dev", "prod", "prod", "staging")
_METRICS = ContainerPort("metrics", 9090, "tcp")
_ROLES: dict[str, tuple[str, int, tuple[ContainerPort, ...]]] = {
    "web": ("frontend", 4, (ContainerPort("http", 8080, "tcp"), _METRICS)),
    "api": ("backend", 3, (ContainerPort("http", 8080, "tcp"), _METRICS)),
    "db": ("backend", 1, (ContainerPort("sql", 5432, "tcp"),)),
    "worker": ("backend", 2, (_METRICS,)),
}
"""Role -> tier, share of the Namespace's Pods, named ports."""


class Size(msgspec.Struct, frozen=True):
    """The size of a cluster.

    local: Pods of the local node, at most 250
    farm:  those of them in the Namespace `farm`
    """

    pods: int
    policies: int
    local: int
    farm: int

    @property
    def namespaces(self) -> int:
        """Number of application Namespaces; `farm`, `kube-system` and `monitoring` are added."""
        return max(1, self.policies // POLICIES_A_NAMESPACE)


SIZES = {
    1_000: Size(1_000, 1_000, 50, 20),
    15_000: Size(15_000, 3_000, 100, 40),
    150_000: Size(150_000, 10_000, 250, 100),
}
"""By the number of Pods."""


class Deployment(msgspec.Struct, frozen=True):
    """Common properties of a Deployment's Pods."""

    namespace: str
    name: str
    labels: Labels
    ports: tuple[ContainerPort, ...]

    def pod(self, serial: int, node: int, host: int) -> Pod:
        """Return a Pod; serial: part of its name, node: the node's number, host: number of its address on the node."""
        return Pod(
            namespace=self.namespace,
            name=f"{self.name}-{serial:06d}",
            labels=self.labels,
            node=node_name(node),
            addresses=(f"10.{node >> 8}.{node & 255}.{host}", f"fd00:10:{node:x}::{host:x}"),
            ports=self.ports,
            workload_kind="ReplicaSet",
            workload_name=self.name,
        )


class Synthetic:
    """A synthetic cluster; hosts: node number -> next free address number."""

    def __init__(self, size: Size, seed: int) -> None:
        """Generate the cluster."""
        self.size = size
        self.node = NODE
        self.rng = random.Random(seed)  # noqa: S311 - clusters, not secrets
        # One node more than the Pods need: all nodes have free addresses for Pods of events.
        self.node_count = 2 + (size.pods - size.local) // _PODS_A_NODE
        self.namespaces = self._namespaces()
        self.nodes = [_node(number) for number in range(1, self.node_count + 1)]
        self.deployments = {
            app.name: tuple(_deployment(self.rng, app.name, role) for role in _ROLES) for app in self.app_namespaces
        }
        self.hosts = dict.fromkeys(range(1, self.node_count + 1), 2)
        self.serials = itertools.count(1)
        self.pods = self._pods()
        self.policies = self._policies()

    def items(self) -> Iterator[Item]:
        """Yield every object, in the order in which an API server's lists are read."""
        yield from self.namespaces
        yield from self.nodes
        yield from self.pods
        yield from self.policies

    def new_pod(self, deployment: Deployment, node: int) -> Pod:
        """Return a new Pod with unused addresses."""
        host = self.hosts[node]
        self.hosts[node] = host + 1
        return deployment.pod(next(self.serials), node, host)

    def local_namespaces(self) -> list[str]:
        """Return the application Namespaces with Pods on the local node, sorted."""
        here = {pod.namespace for pod in self.pods if pod.node == self.node}
        return sorted(here & {app.name for app in self.app_namespaces})

    def remote_node(self) -> int:
        """Return a random node other than the local one."""
        return self.rng.randint(2, self.node_count)

    def _namespaces(self) -> list[Namespace]:
        teams = max(2, self.size.namespaces // _NAMESPACES_A_TEAM)
        self.app_namespaces = [
            AppNamespace(f"app-{number:04d}", f"team-{number % teams:02d}", f"team-{(number + 1) % teams:02d}", number)
            for number in range(self.size.namespaces)
        ]
        fixed = [Namespace(name, named_labels(name, ())) for name in (DNS, FARM, MONITORING)]
        drawn = [
            Namespace(app.name, named_labels(app.name, (("env", env), ("team", app.team))))
            for app in self.app_namespaces
            for env in (self.rng.choice(_ENVIRONMENTS),)
        ]
        return fixed + drawn

    def _pods(self) -> list[Pod]:
        size = self.size
        runner = Deployment(FARM, "runner", (("app", "runner"),), (_METRICS,))
        dns = Deployment(
            DNS,
            "kube-dns",
            (("k8s-app", "kube-dns"),),
            (ContainerPort("dns", 53, "udp"), ContainerPort("dns-tcp", 53, "tcp")),
        )
        prometheus = Deployment(MONITORING, "prometheus", (("app", "prometheus"),), ())
        servers = [dns] * max(2, size.pods // 5_000) + [prometheus] * 2
        all_deployments = [deployment for group in self.deployments.values() for deployment in group]
        shares = [share for _ in self.app_namespaces for _tier, share, _ports in _ROLES.values()]
        drawn = self.rng.choices(all_deployments, shares, k=size.pods - size.farm - len(servers))
        here, elsewhere = drawn[: size.local - size.farm], drawn[size.local - size.farm :]
        pods = [self.new_pod(deployment, 1) for deployment in [*[runner] * size.farm, *here]]
        # In turn, from a shuffled list: as even as by a scheduler.
        nodes = list(range(2, self.node_count + 1))
        self.rng.shuffle(nodes)
        turns = itertools.cycle(nodes)
        return pods + [self.new_pod(deployment, next(turns)) for deployment in [*servers, *elsewhere]]

    def _policies(self) -> list[NetworkPolicy]:
        found: list[NetworkPolicy] = []
        for turn in itertools.count():
            found += [TEMPLATES[turn % len(TEMPLATES)](app, turn) for app in self.app_namespaces]
            if len(found) >= self.size.policies:
                break
        return found[: self.size.policies]


def synthetic(size: Size, seed: int) -> Synthetic:
    """Generate a cluster."""
    return Synthetic(size, seed)


def node_name(number: int) -> str:
    """Return a node's name; number 1 is the local node."""
    return f"node-{number}"


def _node(number: int) -> Node:
    return Node(
        node_name(number),
        (("kubernetes.io/hostname", node_name(number)), ("kubernetes.io/os", "linux")),
        (parse_cidr(f"10.{number >> 8}.{number & 255}.0/24"), parse_cidr(f"fd00:10:{number:x}::/64")),
        (f"172.16.{number >> 8}.{number & 255}", f"fd00:ffff::{number:x}"),
    )


def _deployment(rng: random.Random, namespace: str, role: str) -> Deployment:
    tier, _share, ports = _ROLES[role]
    digest = f"{rng.getrandbits(36):09x}"
    return Deployment(
        namespace, f"{role}-{digest}", (("app", role), ("pod-template-hash", digest), ("tier", tier)), ports
    )
