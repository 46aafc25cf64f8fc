"""A recorded suite in one shape, whichever file it came from.

cyclonus writes its probes as tables, a row for each source and a column for each destination; the suites of the tiers
write `from` and `to`. Both come out as `Probe`, for every step of every case.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, NamedTuple, TypeAlias

from nfagent.decode.registry import object_ref
from nfagent.lab.probes.listeners import ProbeProtocol
from nfagent.model.netaddr import FAMILIES, Family, family_of
from nfagent.model.objects import ObjectRef
from nfagent.policy.evaluator import Flow
from tests.conformance import load_conformance

NAMES = ("cyclonus", "tiers-v1alpha1", "tiers-v1alpha2")
"""The suites; each is a file NAME.json."""

Document: TypeAlias = dict[str, Any]
State: TypeAlias = Mapping[ObjectRef, Document]
"""All objects of one moment."""

# cyclonus gives its nodes no address; these are the ones that the tiers' suites give to nodes of the same names.
_NODE_ADDRESSES = {"a": ["192.0.2.1", "2001:db8:ffff::1"], "b": ["192.0.2.2", "2001:db8:ffff::2"]}
_PROTOCOLS: dict[str, ProbeProtocol] = {"TCP": "tcp", "UDP": "udp", "SCTP": "sctp"}
_UNKNOWN = "-"


class Probe(NamedTuple):
    """A connection from one Pod to another, each written NAMESPACE/NAME, and whether it must come about."""

    source: str
    destination: str
    protocol: ProbeProtocol
    port: int
    allowed: bool

    @property
    def expected(self) -> str:
        return "allowed" if self.allowed else "denied"

    @property
    def itself(self) -> bool:
        """Return whether a Pod asks for its own address: Kubernetes says that it can't block that."""
        return self.source == self.destination


class Step(NamedTuple):
    """A change, and what holds after it. number: from 1."""

    number: int
    apply: tuple[Document, ...]
    delete: tuple[ObjectRef, ...]
    probes: tuple[Probe, ...]


class Case(NamedTuple):
    """Steps that begin at the suite's own objects, without a policy.

    title:    the test's name in its suite; '' where it has none
    support:  core, extended or experimental; '' where the suite knows no levels
    families: those that the expected verdicts hold for
    """

    suite: str
    id: str
    title: str
    tags: tuple[str, ...]
    support: str
    families: tuple[Family, ...]
    steps: tuple[Step, ...]


class Node(NamedTuple):
    """Where Pods are."""

    name: str
    addresses: tuple[str, ...]
    cidrs: tuple[str, ...]


class Suite(NamedTuple):
    """All cases of a file, and the objects that each of them begins with.

    listens: what Pods serve beyond the ports that their containers declare, by NAMESPACE/NAME
    """

    name: str
    nodes: tuple[Node, ...]
    base: State
    listens: Mapping[str, tuple[tuple[ProbeProtocol, int], ...]]
    cases: tuple[Case, ...]


class Place(NamedTuple):
    """A Pod as probes see it. host: whether it lives in its node's network namespace."""

    namespace: str
    name: str
    node: str
    addresses: tuple[str, ...]
    host: bool
    listens: tuple[tuple[ProbeProtocol, int], ...]

    def address(self, family: Family) -> str:
        return next(address for address in self.addresses if family_of(address) == family)


def read(name: str, content: Document) -> Suite:
    """Read a suite out of its file's content."""
    nodes = tuple(
        Node(node, tuple(facts.get("addresses") or _NODE_ADDRESSES[node]), tuple(facts["cidrs"]))
        for node, facts in content["nodes"].items()
    )
    documents = [
        *(_node_document(node, content["nodes"][node.name].get("labels", {})) for node in nodes),
        *(_namespace_document(name, labels) for name, labels in content["namespaces"].items()),
        *map(_pod_document, content["pods"]),
    ]
    return Suite(
        name=name,
        nodes=nodes,
        base={_ref(document): document for document in documents},
        listens={_path(pod): tuple(map(_listener, pod["listens"])) for pod in content["pods"] if "listens" in pod},
        cases=tuple(_case(name, case, tuple(map(_path, content["pods"]))) for case in content["cases"]),
    )


@cache
def recorded(name: str) -> Suite:
    """Return one of the recorded suites: read once, for all modules of tests that ask for it."""
    return read(name, load_conformance(f"{name}.json"))


def states(suite: Suite, case: Case) -> Iterator[tuple[Step, State]]:
    """Yield each step of a case, with all objects that there are after it."""
    state = dict(suite.base)
    for step in case.steps:
        state = state | {_ref(document): document for document in step.apply}
        for ref in step.delete:
            del state[ref]
        yield step, state


def places(suite: Suite, state: State) -> dict[str, Place]:
    """Return the Pods of a state by NAMESPACE/NAME."""
    found = {}
    for ref, document in state.items():
        if ref.kind == "Pod":
            spec, status = document["spec"], document["status"]
            ports = [port for container in spec["containers"] for port in container["ports"]]
            declared = [(_PROTOCOLS[port["protocol"]], int(port["containerPort"])) for port in ports]
            found[ref.path] = Place(
                ref.namespace,
                ref.name,
                spec["nodeName"],
                tuple(entry["ip"] for entry in status["podIPs"]),
                bool(spec.get("hostNetwork")),
                tuple(dict.fromkeys([*declared, *suite.listens.get(ref.path, ())])),
            )
    return found


def flows(case: Case, step: Step, pods: Mapping[str, Place]) -> Iterator[tuple[Probe, Flow]]:
    """Yield each probe of a step once for each family: the connection that it is."""
    for family in case.families:
        held = {path: place.address(family) for path, place in pods.items()}
        for probe in step.probes:
            yield probe, Flow(held[probe.source], held[probe.destination], probe.protocol, probe.port)


def _case(suite: str, case: Document, pods: tuple[str, ...]) -> Case:
    steps = []
    for number, step in enumerate(case["steps"], start=1):
        pods = tuple(step.get("pods", pods))
        probes = tuple(found for probe in step["probes"] for found in _probes(probe, pods))
        deleted = (gone.get("metadata", gone) | {"kind": gone["kind"]} for gone in step["delete"])
        refs = tuple(ObjectRef(gone["kind"], gone.get("namespace", ""), gone["name"]) for gone in deleted)
        steps.append(Step(number, tuple(step["apply"]), refs, probes))
    return Case(
        suite=suite,
        id=case["id"],
        title=case.get("source", ""),
        tags=tuple(case["tags"]),
        support=case.get("support", ""),
        families=tuple(family for family in FAMILIES if f"IPv{family}" in case.get("families", ("IPv4", "IPv6"))),
        steps=tuple(steps),
    )


def _probes(probe: Document, pods: tuple[str, ...]) -> Iterator[Probe]:
    protocol = _PROTOCOLS[probe["protocol"]]
    if "rows" not in probe:
        yield Probe(probe["from"], probe["to"], protocol, probe["port"], allowed=probe["allowed"])
        return
    for source, row in zip(pods, probe["rows"], strict=True):
        for destination, cell in zip(pods, row, strict=True):
            if cell != _UNKNOWN:
                # A named port may be another number at each destination.
                port = probe.get("port_of", {}).get(destination, probe.get("port"))
                yield Probe(source, destination, protocol, port, allowed=cell == "1" or source == destination)


def _node_document(node: Node, labels: dict[str, str]) -> Document:
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": node.name, "labels": labels},
        "spec": {"podCIDRs": list(node.cidrs)},
        "status": {"addresses": [{"type": "InternalIP", "address": address} for address in node.addresses]},
    }


def _namespace_document(name: str, labels: dict[str, str]) -> Document:
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}


def _pod_document(pod: Document) -> Document:
    spec = {"nodeName": pod["node"], "containers": [{"name": "c", "ports": pod["ports"]}]}
    if pod.get("hostNetwork"):
        spec["hostNetwork"] = True
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {key: pod[key] for key in ("namespace", "name", "labels")},
        "spec": spec,
        "status": {"phase": "Running", "podIPs": [{"ip": address} for address in pod["ips"]]},
    }


def _listener(written: str) -> tuple[ProbeProtocol, int]:
    protocol, _, port = written.partition("/")
    return _PROTOCOLS[protocol], int(port)


def _path(pod: Document) -> str:
    return f"{pod['namespace']}/{pod['name']}"


def _ref(document: Document) -> ObjectRef:
    found = object_ref(document)
    assert found is not None, f"an object without a name: {document}"
    return found
