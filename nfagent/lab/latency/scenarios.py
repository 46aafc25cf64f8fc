"""The changes whose latency is measured, as objects that are written and deleted. Pure.

A scenario is a cycle of two steps, after which everything is as before. Steps that have a name are recorded; the others
lead back. Whether packets pass is changed by each step, or the source address with which the server's packets arrive.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec

from nfagent.lab.latency.cluster import CLIENTS, SERVERS, LatencyCluster
from nfagent.lab.latency.samples import ScenarioName
from nfagent.lab.objects.documents import Document, document
from nfagent.model.objects import Pod

Verdict: TypeAlias = Literal["blocked", "passed", "source is the Pod", "source is the node"]
"""What packets meet after a step: from client to server, or from server to the host outside."""

BLOCKS = 10_000
"""Elements of the ipBlock list."""

_FRIEND, _TRUSTED = "friend", "trusted"


class Write(msgspec.Struct, frozen=True):
    """One object that is written to the source, or deleted from it. name: of the file in a folder."""

    name: str
    document: Document
    deleted: bool = False


class Step(msgspec.Struct, frozen=True):
    """A change. scenario: under which it is recorded, None for one that leads back; before: written unmeasured."""

    write: Write
    verdict: Verdict
    scenario: ScenarioName | None = None


class Cycle(msgspec.Struct, frozen=True):
    """The steps of a scenario, and the objects that stand meanwhile; all else of the scenarios is deleted before."""

    standing: tuple[Write, ...]
    steps: tuple[Step, Step]
    weight: float = 1.0
    """How much longer a turn takes than one of most others, for the estimate of the time left."""

    @property
    def scenarios(self) -> tuple[ScenarioName, ...]:
        """The scenarios that it records."""
        return tuple(step.scenario for step in self.steps if step.scenario is not None)


def cycles(cluster: LatencyCluster) -> tuple[Cycle, ...]:
    """Return the cycles of all scenarios."""
    friend, stranger = (_client(cluster, friend=word) for word in ("yes", "no"))
    trusted, untrusted = (_clients(word) for word in ("yes", "no"))
    deny, peers, by_namespace = _policy("deny", None), _policy("peers", _PEERS), _policy("peers", _BY_NAMESPACE)
    blocks = _policy("blocks", _blocks())
    return (
        Cycle(
            (trusted, friend),
            (
                Step(deny, "blocked", "policy-created"),
                Step(deleted(deny), "passed", "policy-deleted"),
            ),
        ),
        Cycle(
            (trusted, peers),
            (
                Step(friend, "passed", "pod-added-to-peer-set"),
                Step(deleted(friend), "blocked"),
            ),
        ),
        Cycle(
            admitting(cluster),
            (
                Step(stranger, "blocked", "pod-relabelled"),
                Step(friend, "passed"),
            ),
        ),
        Cycle(
            (trusted, friend, by_namespace),
            (
                Step(untrusted, "blocked", "namespace-relabelled"),
                Step(trusted, "passed"),
            ),
        ),
        Cycle(
            (trusted, friend, _masquerade(())),
            (
                Step(_masquerade(("203.0.113.0/24",)), "source is the Pod", "masquerade-list-changed"),
                Step(_masquerade(()), "source is the node"),
            ),
        ),
        Cycle(
            (trusted, friend),
            (
                Step(blocks, "blocked", "ip-block-10000"),
                Step(deleted(blocks), "passed"),
            ),
            weight=8.0,
        ),
    )


def admitting(cluster: LatencyCluster) -> tuple[Write, ...]:
    """Return the objects that stand while a policy admits the client."""
    return _clients("yes"), _client(cluster, friend="yes"), _policy("peers", _PEERS)


def deleted(write: Write) -> Write:
    """Return the deletion of an object."""
    return Write(write.name, write.document, deleted=True)


_PEERS: list[Document] = [{"namespaceSelector": {}, "podSelector": {"matchLabels": {_FRIEND: "yes"}}}]
_BY_NAMESPACE: list[Document] = [{"namespaceSelector": {"matchLabels": {_TRUSTED: "yes"}}}]


def _policy(name: str, peers: list[Document] | None) -> Write:
    """Return a policy for the server's Namespace that admits these peers; None admits none."""
    ingress = {} if peers is None else {"ingress": [{"from": peers}]}
    policy = {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"namespace": SERVERS, "name": name},
        "spec": {"podSelector": {}, "policyTypes": ["Ingress"], **ingress},
    }
    return Write(f"policy-{name}.json", policy)


def _blocks() -> list[Document]:
    """Return single addresses of 198.18.0.0/15, every second one: no two are one range. The client isn't in it."""
    return [
        {"ipBlock": {"cidr": f"198.{18 + number // 32768}.{number // 128 % 256}.{number % 128 * 2}/32"}}
        for number in range(BLOCKS)
    ]


def _client(cluster: LatencyCluster, *, friend: str) -> Write:
    plan = cluster.client
    labels = (("app", "client"), (_FRIEND, friend))
    return Write("client.json", document(Pod(*plan.key, labels, plan.node, plan.addresses)))


def _clients(trusted: str) -> Write:
    labels = {"kubernetes.io/metadata.name": CLIENTS, _TRUSTED: trusted}
    return Write(
        "clients.json", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": CLIENTS, "labels": labels}}
    )


def _masquerade(more: tuple[str, ...]) -> Write:
    cidrs = "".join(f"- {cidr}\n" for cidr in ("10.0.0.0/8", *more))
    config = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"namespace": "kube-system", "name": "ip-masq-agent"},
        "data": {"config": f"nonMasqueradeCIDRs:\n{cidrs}"},
    }
    return Write("masquerade.json", config)
