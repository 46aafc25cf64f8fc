"""Templates of typical NetworkPolicies, as functions of the Namespace that they are written for.

Each Namespace takes `TEMPLATES` in order, so that ten policies in a Namespace are one of each.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from nfagent.model.netaddr import parse_cidr
from nfagent.model.networkpolicy import IpBlock, NetworkPolicy, NetworkPolicyRule, PodPeer, PolicyPort
from nfagent.model.objects import METADATA_NAME, Protocol
from nfagent.model.selectors import Requirement, Selector

_BLOCKS = 40


class AppNamespace(msgspec.Struct, frozen=True):
    """A Namespace of applications: its name, its team, a team that it communicates with, its number."""

    name: str
    team: str
    partner: str
    number: int


Template = Callable[[AppNamespace, int], NetworkPolicy]
"""Second argument: number of policies that the Namespace has already; it is part of the name."""


def labels(**wanted: str) -> Selector:
    """Return a selector of these labels."""
    return Selector(tuple(sorted(Requirement(key, "In", (value,)) for key, value in wanted.items())))


def port(number: int, protocol: Protocol = "tcp") -> PolicyPort:
    """Return a policy port of one number."""
    return PolicyPort(protocol, number, number)


def default_deny(app: AppNamespace, turn: int) -> NetworkPolicy:
    """Return a policy that isolates all Pods in both directions."""
    return NetworkPolicy(namespace=app.name, name=f"default-deny-{turn}", isolates=("ingress", "egress"))


def same_namespace(app: AppNamespace, turn: int) -> NetworkPolicy:
    """Return a policy that allows traffic between the Namespace's Pods, in both directions."""
    every_pod = (NetworkPolicyRule(peers=(PodPeer(Selector(), namespace=app.name),)),)
    return NetworkPolicy(
        namespace=app.name,
        name=f"same-namespace-{turn}",
        isolates=("ingress", "egress"),
        ingress=every_pod,
        egress=every_pod,
    )


def dns(app: AppNamespace, turn: int) -> NetworkPolicy:
    """Return a policy that allows all Pods to reach the cluster's DNS."""
    where = Selector((Requirement(METADATA_NAME, "In", ("kube-system",)),))
    who = Selector((Requirement("k8s-app", "In", ("kube-dns",)),))
    rule = NetworkPolicyRule(peers=(PodPeer(who, namespaces=where),), ports=(port(53, "udp"), port(53)))
    return NetworkPolicy(namespace=app.name, name=f"dns-{turn}", isolates=("egress",), egress=(rule,))


def web_to_api(app: AppNamespace, turn: int) -> NetworkPolicy:
    """Return a policy that allows web to reach api on a named port."""
    rule = NetworkPolicyRule(
        peers=(PodPeer(labels(app="web"), namespace=app.name),), ports=(PolicyPort("tcp", name="http"),)
    )
    return NetworkPolicy(namespace=app.name, name=f"web-to-api-{turn}", pods=labels(app="api"), ingress=(rule,))


def api_to_db(app: AppNamespace, turn: int) -> NetworkPolicy:
    """Return a policy that allows api and worker to reach the database."""
    clients = Selector((Requirement("app", "In", ("api", "worker")),))
    rule = NetworkPolicyRule(peers=(PodPeer(clients, namespace=app.name),), ports=(port(5432),))
    return NetworkPolicy(namespace=app.name, name=f"api-to-db-{turn}", pods=labels(app="db"), ingress=(rule,))


def internet_to_web(app: AppNamespace, turn: int) -> NetworkPolicy:
    """Return a policy that allows all addresses but some ranges to reach web."""
    number = app.number % _BLOCKS
    four = IpBlock(parse_cidr("0.0.0.0/0"), (parse_cidr(f"10.{number}.0.0/16"), parse_cidr("169.254.0.0/16")))
    six = IpBlock(parse_cidr("2000::/3"), (parse_cidr(f"2001:db8:{number:x}::/48"),))
    rule = NetworkPolicyRule(peers=(four, six), ports=(port(8080),))
    return NetworkPolicy(namespace=app.name, name=f"internet-to-web-{turn}", pods=labels(app="web"), ingress=(rule,))


def partner_team(app: AppNamespace, turn: int) -> NetworkPolicy:
    """Return a policy that allows another team's web Pods to reach api."""
    rule = NetworkPolicyRule(
        peers=(PodPeer(labels(app="web"), namespaces=labels(team=app.partner)),), ports=(port(8080),)
    )
    return NetworkPolicy(namespace=app.name, name=f"partner-team-{turn}", pods=labels(app="api"), ingress=(rule,))


def monitoring(app: AppNamespace, turn: int) -> NetworkPolicy:
    """Return a policy that allows Prometheus to reach all Pods with a metrics port."""
    where = Selector((Requirement(METADATA_NAME, "In", ("monitoring",)),))
    peer = PodPeer(labels(app="prometheus"), namespaces=where)
    rule = NetworkPolicyRule(peers=(peer,), ports=(PolicyPort("tcp", name="metrics"),))
    return NetworkPolicy(namespace=app.name, name=f"monitoring-{turn}", ingress=(rule,))


def worker_out(app: AppNamespace, turn: int) -> NetworkPolicy:
    """Return a policy that allows workers HTTPS to outside addresses, and a port range of a partner's network."""
    outside = IpBlock(parse_cidr("0.0.0.0/0"), (parse_cidr("10.0.0.0/8"), parse_cidr("172.16.0.0/12")))
    partner = IpBlock(parse_cidr(f"198.51.{app.number % _BLOCKS}.0/24"))
    rules = (
        NetworkPolicyRule(peers=(outside,), ports=(port(443),)),
        NetworkPolicyRule(peers=(partner,), ports=(PolicyPort("tcp", 8000, 8100),)),
    )
    return NetworkPolicy(
        namespace=app.name, name=f"worker-out-{turn}", pods=labels(app="worker"), isolates=("egress",), egress=rules
    )


def web_to_partner(app: AppNamespace, turn: int) -> NetworkPolicy:
    """Return a policy that allows web to reach another team's api on a named port."""
    peer = PodPeer(labels(app="api"), namespaces=labels(team=app.partner))
    rule = NetworkPolicyRule(peers=(peer,), ports=(PolicyPort("tcp", name="http"),))
    return NetworkPolicy(
        namespace=app.name,
        name=f"web-to-partner-{turn}",
        pods=labels(app="web"),
        isolates=("egress",),
        egress=(rule,),
    )


TEMPLATES: tuple[Template, ...] = (
    default_deny,
    same_namespace,
    dns,
    web_to_api,
    api_to_db,
    internet_to_web,
    partner_team,
    monitoring,
    worker_out,
    web_to_partner,
)
