"""Parameters of a run, the small cluster that every cycle begins and ends with, and the history of a cycle. Pure."""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Literal, TypeAlias

import msgspec

from nfagent.lab.topology.plan import Attachment
from tests.fuzz.case import Case, Document, ManifestChange, Step, StepAction, step_of
from tests.fuzz.generator import draw_case, file_of
from tests.fuzz.topology import PLACES
from tests.properties.objects import NAMESPACES, NODE_CIDRS
from tests.support.two_node_cluster import NODE_ADDRESSES, NODES

Source: TypeAlias = Literal["folder", "apiserver"]

SPARED = NODES[0]
"""The node whose agent is never restarted: its memory shows what one process gains."""

_EGRESS_NAMES = ("default", "partner")
_EGRESS_CIDRS = ("10.0.0.0/8", "203.0.113.0/24", "2000::/3", "0.0.0.0/0")
_EGRESS_CHANGES = 0.4


class SoakPlan(msgspec.Struct, frozen=True):
    """Parameters of a run.

    seed:       determines histories, faults and questions of every cycle
    minutes:    no cycle is begun after these
    build:      folder of the report, the samples and failing cycles
    attachment: how the lab's nodes attach their Pods
    cycle:      the only cycle to run; None for all
    source:     what the agents follow: a folder of manifests, or a kube-apiserver
    """

    seed: int
    minutes: float
    build: Path
    attachment: Attachment = "routed"
    cycle: int | None = None
    source: Source = "folder"


def history_of(cycle: int, drawn: int) -> int:
    """Return the number of a cycle's history: a new one, or from the begin again once so many were drawn (0: not yet).

    Memory is measured over histories that the process has been through: a new one may need more at once than all before
    it, and what it needed then is resident from there on.
    """
    return cycle % drawn if drawn else cycle


def small_cluster() -> tuple[Document, ...]:
    """Return the documents at rest: a policy of each kind, Pods on both nodes."""
    pods = [place for place in PLACES if place.slot and place.name[1:] in {"1", "2"}]
    rules = [{"from": [{"podSelector": {"matchLabels": {"app": "web"}}}], "ports": [{"port": 80}]}]
    return (
        *map(_node, NODES),
        *(
            {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": {"app": name}}}
            for name in NAMESPACES
        ),
        *(
            {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {
                    "namespace": "shop",
                    "name": f"rest-{place.name}",
                    "labels": {"app": "web" if place.name.endswith("1") else "db"},
                },
                "spec": {"nodeName": place.node, "containers": [{"name": "main", "ports": []}]},
                "status": {"phase": "Running", "podIPs": [{"ip": address} for address in place.addresses]},
            }
            for place in pods
        ),
        {
            "apiVersion": "networking.k8s.io/v1",
            "kind": "NetworkPolicy",
            "metadata": {"namespace": "shop", "name": "rest"},
            "spec": {"podSelector": {"matchLabels": {"app": "db"}}, "ingress": rules, "policyTypes": ["Ingress"]},
        },
        {
            "apiVersion": "policy.networking.k8s.io/v1alpha1",
            "kind": "AdminNetworkPolicy",
            "metadata": {"name": "rest"},
            "spec": {
                "priority": 5,
                "subject": {"namespaces": {"matchLabels": {"app": "shop"}}},
                "ingress": [
                    {"name": "ops", "action": "Deny", "from": [{"namespaces": {"matchLabels": {"app": "ops"}}}]}
                ],
            },
        },
        egress_document("partner", "NoSNAT", ["203.0.113.0/24"], {"app": "db"}),
        {
            "apiVersion": "networking.gke.io/v1alpha1",
            "kind": "NetworkLogging",
            "metadata": {"name": "default"},
            "spec": {"cluster": {"allow": {"log": True}, "deny": {"log": True}}},
        },
    )


def _node(name: str) -> Document:
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": {}},
        "spec": {"podCIDRs": list(NODE_CIDRS[name])},
        "status": {"addresses": [{"type": "InternalIP", "address": address} for address in NODE_ADDRESSES[name]]},
    }


def egress_document(name: str, action: str, cidrs: list[str], labels: dict[str, str] | None) -> Document:
    """Return an EgressNATPolicy of the Pods with these labels; of all Pods for None."""
    sources = {} if labels is None else {"sources": [{"podSelector": {"matchLabels": labels}}]}
    return {
        "apiVersion": "networking.gke.io/v1",
        "kind": "EgressNATPolicy",
        "metadata": {"name": name},
        "spec": {"action": action, "destinations": [{"cidr": cidr} for cidr in cidrs], **sources},
    }


def rest_step() -> Step:
    """Return the step that writes the small cluster."""
    return step_of([ManifestChange(file_of(document), document) for document in small_cluster()], "clear")


def draw_cycle(random: Random) -> Case:
    """Draw a cycle: the small cluster, a history of the fuzzer with EgressNATPolicies in place of it, and back."""
    rest = rest_step()
    steps, present = [rest], {change.file for change in rest.changes}
    for step in draw_case(random, steady=True).steps:
        changes = [*(_absent(present, step) if len(steps) == 1 else []), *step.changes, *_egress(random)]
        changes = [change for change in changes if change.document is not None or change.file in present]
        steps.append(step_of(changes, _settled(step.then)))
        present = _present(present, steps[-1])
    steps.append(step_of([*_absent(present, rest), *rest.changes], "clear"))
    return Case(tuple(steps))


def _settled(action: StepAction) -> StepAction:
    """Return the action of agents that restart by faults only."""
    return "wait" if action == "wait" else "clear"


def _absent(present: set[str], step: Step) -> list[ManifestChange]:
    """Return the deletions of the files that a step doesn't write."""
    written = {change.file for change in step.changes if change.document is not None}
    return [ManifestChange(file, None) for file in sorted(present - written)]


def _present(before: set[str], step: Step) -> set[str]:
    after = set(before)
    for change in step.changes:
        (after.discard if change.document is None else after.add)(change.file)
    return after


def _egress(random: Random) -> list[ManifestChange]:
    """Draw a change of an EgressNATPolicy, or none."""
    if random.random() > _EGRESS_CHANGES:
        return []
    name = random.choice(_EGRESS_NAMES)
    labels = None if name == "default" else {random.choice(["app", "tier"]): random.choice(["db", "web"])}
    cidrs = random.sample(_EGRESS_CIDRS, random.randint(1, 3))
    document = egress_document(name, random.choice(["SNAT", "NoSNAT"]), cidrs, labels)
    return [ManifestChange(file_of(document), document if random.random() < 0.7 else None)]
