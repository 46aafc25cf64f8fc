"""The shapes of NetworkPolicy that people write, as functions of the Namespace that they are written for.

Each Namespace goes through `SHAPES` in order, so that ten policies a Namespace are one of each.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from nfagent.model.netaddr import parse_cidr
from nfagent.model.networkpolicy import IpBlock, NetworkPolicy, PodPeer, PolicyPort, Rule
from nfagent.model.objects import METADATA_NAME, Protocol
from nfagent.model.selectors import Requirement, Selector

_BLOCKS = 40


class Place(msgspec.Struct, frozen=True):
    """A Namespace of applications: its name, its team, a team that it works with, its number."""

    name: str
    team: str
    partner: str
    number: int


Shape = Callable[[Place, int], NetworkPolicy]
"""turn: how many policies the Namespace has already; it is part of the name."""


def labels(**wanted: str) -> Selector:
    """Select by labels."""
    return Selector(tuple(sorted(Requirement(key, "In", (value,)) for key, value in wanted.items())))


def port(number: int, protocol: Protocol = "tcp") -> PolicyPort:
    """Name one port by its number."""
    return PolicyPort(protocol, number, number)


def default_deny(place: Place, turn: int) -> NetworkPolicy:
    """Isolate everybody, both ways."""
    return NetworkPolicy(namespace=place.name, name=f"default-deny-{turn}", isolates=("ingress", "egress"))


def same_namespace(place: Place, turn: int) -> NetworkPolicy:
    """Let the Namespace's Pods speak to each other, both ways."""
    everybody = (Rule(peers=(PodPeer(Selector(), namespace=place.name),)),)
    return NetworkPolicy(
        namespace=place.name,
        name=f"same-namespace-{turn}",
        isolates=("ingress", "egress"),
        ingress=everybody,
        egress=everybody,
    )


def dns(place: Place, turn: int) -> NetworkPolicy:
    """Let everybody ask the cluster's DNS."""
    where = Selector((Requirement(METADATA_NAME, "In", ("kube-system",)),))
    who = Selector((Requirement("k8s-app", "In", ("kube-dns",)),))
    rule = Rule(peers=(PodPeer(who, namespaces=where),), ports=(port(53, "udp"), port(53)))
    return NetworkPolicy(namespace=place.name, name=f"dns-{turn}", isolates=("egress",), egress=(rule,))


def web_to_api(place: Place, turn: int) -> NetworkPolicy:
    """Let web reach api on a named port."""
    rule = Rule(peers=(PodPeer(labels(app="web"), namespace=place.name),), ports=(PolicyPort("tcp", name="http"),))
    return NetworkPolicy(namespace=place.name, name=f"web-to-api-{turn}", pods=labels(app="api"), ingress=(rule,))


def api_to_db(place: Place, turn: int) -> NetworkPolicy:
    """Let api and worker reach the database."""
    clients = Selector((Requirement("app", "In", ("api", "worker")),))
    rule = Rule(peers=(PodPeer(clients, namespace=place.name),), ports=(port(5432),))
    return NetworkPolicy(namespace=place.name, name=f"api-to-db-{turn}", pods=labels(app="db"), ingress=(rule,))


def internet_to_web(place: Place, turn: int) -> NetworkPolicy:
    """Let the world without some of its parts reach web."""
    number = place.number % _BLOCKS
    four = IpBlock(parse_cidr("0.0.0.0/0"), (parse_cidr(f"10.{number}.0.0/16"), parse_cidr("169.254.0.0/16")))
    six = IpBlock(parse_cidr("2000::/3"), (parse_cidr(f"2001:db8:{number:x}::/48"),))
    rule = Rule(peers=(four, six), ports=(port(8080),))
    return NetworkPolicy(namespace=place.name, name=f"internet-to-web-{turn}", pods=labels(app="web"), ingress=(rule,))


def partner_team(place: Place, turn: int) -> NetworkPolicy:
    """Let another team's web Pods reach api."""
    rule = Rule(peers=(PodPeer(labels(app="web"), namespaces=labels(team=place.partner)),), ports=(port(8080),))
    return NetworkPolicy(namespace=place.name, name=f"partner-team-{turn}", pods=labels(app="api"), ingress=(rule,))


def monitoring(place: Place, turn: int) -> NetworkPolicy:
    """Let Prometheus reach whoever has metrics."""
    where = Selector((Requirement(METADATA_NAME, "In", ("monitoring",)),))
    peer = PodPeer(labels(app="prometheus"), namespaces=where)
    rule = Rule(peers=(peer,), ports=(PolicyPort("tcp", name="metrics"),))
    return NetworkPolicy(namespace=place.name, name=f"monitoring-{turn}", ingress=(rule,))


def worker_out(place: Place, turn: int) -> NetworkPolicy:
    """Let workers reach services outside by HTTPS, and a range of ports of a partner's network."""
    outside = IpBlock(parse_cidr("0.0.0.0/0"), (parse_cidr("10.0.0.0/8"), parse_cidr("172.16.0.0/12")))
    partner = IpBlock(parse_cidr(f"198.51.{place.number % _BLOCKS}.0/24"))
    rules = (
        Rule(peers=(outside,), ports=(port(443),)),
        Rule(peers=(partner,), ports=(PolicyPort("tcp", 8000, 8100),)),
    )
    return NetworkPolicy(
        namespace=place.name, name=f"worker-out-{turn}", pods=labels(app="worker"), isolates=("egress",), egress=rules
    )


def web_to_partner(place: Place, turn: int) -> NetworkPolicy:
    """Let web reach another team's api on a named port."""
    peer = PodPeer(labels(app="api"), namespaces=labels(team=place.partner))
    rule = Rule(peers=(peer,), ports=(PolicyPort("tcp", name="http"),))
    return NetworkPolicy(
        namespace=place.name,
        name=f"web-to-partner-{turn}",
        pods=labels(app="web"),
        isolates=("egress",),
        egress=(rule,),
    )


SHAPES: tuple[Shape, ...] = (
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
