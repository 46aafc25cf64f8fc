"""Generates a case for a number: documents from the strategies of `tests/properties`, and their changes.

Bytes from the number decide everything, so a number gives the same case with the same version of hypothesis.
"""

from __future__ import annotations

import json
from random import Random
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from nfagent.decode.registry import DECODERS
from nfagent.model.admin_policy import TierKind
from nfagent.model.ip_masq import CONFIG_MAP
from nfagent.model.objects import Namespace, NetworkLogging, Node, Pod
from tests.fuzz.case import Case, Document, ManifestChange, StepAction, step_of
from tests.fuzz.mutations import mutated
from tests.properties.objects import (
    AUDIT_VALUES,
    LOGGING,
    NAMESPACES,
    NODE_CIDRS,
    annotated,
    namespaces,
    nodes,
    pods,
    policy_documents,
)
from tests.properties.tier_strategies import tier_documents
from tests.support.two_node_cluster import NODE_ADDRESSES, NODES

_POLICIES = {"NetworkPolicy", "AdminNetworkPolicy", "BaselineAdminNetworkPolicy", "ClusterNetworkPolicy"}
_BYTES = 1 << 16
_VERSIONS = {kind: version for version, kind in DECODERS}
_ACTIONS: list[StepAction] = [
    *("commit", "commit", "commit", "commit", "wait", "wait", "revoke", "revoke", "clear", "clear"),
    *("clear late", "restart"),
]
_STEADY_ACTIONS: list[StepAction] = ["clear", "clear", "clear", "clear", "clear", "clear", "wait", "restart"]
_EVENTS = st.sampled_from(["comes", "changes", "changes", "changes", "goes", "relabels", "relabels"])
_SUBJECTS = st.sampled_from(["Pod", "Pod", "Pod", "policy", "policy", "policy", "rest"])
_CIDRS = ("10.0.0.0/8", "10.64.0.0/16", "203.0.113.0/24", "2000::/3", "0.0.0.0/0")


def file_of(document: Document) -> str:
    """Return the file name of a document: every object has a file of its own."""
    metadata = document["metadata"]
    parts = (document["kind"].lower(), metadata.get("namespace", ""), metadata["name"])
    return "-".join(filter(None, parts)) + ".yaml"


def pod_document(pod: Pod) -> Document:
    listed = [{"name": p.name, "containerPort": p.port, "protocol": p.protocol.upper()} for p in pod.ports]
    network = {"hostNetwork": True} if pod.host_network else {}
    return {
        "kind": "Pod",
        "metadata": {"namespace": pod.namespace, "name": pod.name, "labels": dict(pod.labels)},
        "spec": {"nodeName": pod.node, **network, "containers": [{"name": "main", "ports": listed}]},
        "status": {"phase": pod.phase, "podIPs": [{"ip": address} for address in pod.addresses]},
    }


def namespace_document(item: Namespace) -> Document:
    document = {"kind": "Namespace", "metadata": {"name": item.name, "labels": dict(item.labels)}}
    return annotated(document, "true" if item.audits_policies else None)


def node_document(item: Node) -> Document:
    return {
        "kind": "Node",
        "metadata": {"name": item.name, "labels": dict(item.labels)},
        "spec": {"podCIDRs": list(map(str, item.pod_cidrs))},
        "status": {"addresses": [{"type": "InternalIP", "address": address} for address in item.addresses]},
    }


def logging_document(item: NetworkLogging) -> Document:
    cluster = {"allow": {"log": item.allow.log}, "deny": {"log": item.deny.log}}
    return {"kind": "NetworkLogging", "metadata": {"name": "default"}, "spec": {"cluster": cluster}}


def masquerade_document(cidrs: list[str]) -> Document:
    return {
        "kind": "ConfigMap",
        "metadata": {"namespace": CONFIG_MAP.namespace, "name": CONFIG_MAP.name},
        "data": {"config": json.dumps({"nonMasqueradeCIDRs": cidrs})},
    }


POD_DOCUMENTS = pods().map(pod_document)
POLICY_DOCUMENTS = st.builds(annotated, policy_documents(), AUDIT_VALUES).flatmap(mutated)
TIER_DOCUMENTS = st.builds(annotated, tier_documents(), AUDIT_VALUES).flatmap(mutated)
LOGGINGS = LOGGING.map(logging_document)
MASQUERADES = st.lists(st.sampled_from(_CIDRS), max_size=3, unique=True).map(masquerade_document)


def _tier_documents(kind: TierKind) -> st.SearchStrategy[Document]:
    return st.builds(annotated, tier_documents(kind), AUDIT_VALUES).flatmap(mutated)


@st.composite
def node_documents(draw: st.DrawFn, name: str, *, steady: bool) -> Document:
    """Draw a Node; a steady one has all its addresses and ranges, as in the lab."""
    document = node_document(draw(nodes(name)))
    if steady:
        document["spec"] = {"podCIDRs": list(NODE_CIDRS[name])}
        listed = [{"type": "InternalIP", "address": address} for address in NODE_ADDRESSES[name]]
        document["status"] = {"addresses": listed}
    return document


@st.composite
def cases(draw: st.DrawFn, *, steady: bool, most_steps: int) -> Case:
    """Draw a case; a steady one is fit for packets: of its Nodes only labels change."""
    return _CaseBuilder(draw, steady=steady).case(most_steps)


class _CaseBuilder:
    """Builds one case by drawing."""

    def __init__(self, draw: st.DrawFn, *, steady: bool) -> None:
        self._draw = draw
        self._steady = steady
        self._present: dict[str, Document] = {}

    def case(self, most_steps: int) -> Case:
        steps = [step_of(map(self._put, self._initial_documents()), self._action())]
        for _ in range(self._draw(st.integers(1, most_steps))):
            number = self._draw(st.sampled_from([1, 1, 1, 2, 3]))
            steps.append(step_of([self._change() for _ in range(number)], self._action()))
        if steps[-1].then == "wait":
            steps[-1] = step_of(steps[-1].changes, "commit")
        return Case(tuple(steps))

    def _action(self) -> StepAction:
        return self._draw(st.sampled_from(_STEADY_ACTIONS if self._steady else _ACTIONS))

    def _initial_documents(self) -> list[Document]:
        draw = self._draw
        found: list[Document] = [draw(node_documents(name, steady=self._steady)) for name in NODES]
        found += [namespace_document(draw(namespaces(name))) for name in NAMESPACES]
        found += draw(st.lists(POD_DOCUMENTS, min_size=4, max_size=9))
        found += draw(st.lists(POLICY_DOCUMENTS, min_size=1, max_size=4))
        found += draw(st.lists(TIER_DOCUMENTS, min_size=1, max_size=5))
        found += draw(st.lists(MASQUERADES | LOGGINGS, max_size=2))
        return found

    def _change(self) -> ManifestChange:
        happens = self._draw(_EVENTS)
        files = self._chosen(self._draw(_SUBJECTS))
        if happens == "relabels":
            return self._put(self._relabelled())
        if happens == "comes" or not files:
            return self._put(self._draw(POD_DOCUMENTS | POLICY_DOCUMENTS | TIER_DOCUMENTS))
        file = self._draw(st.sampled_from(files))
        if happens == "goes":
            del self._present[file]
            return ManifestChange(file, None)
        return self._put(self._changed(self._present[file]))

    def _chosen(self, concerned: str) -> list[str]:
        """Return the files with Pods, with policies, or with other objects."""
        rest = {"Namespace", "ConfigMap", "NetworkLogging"} | (set() if self._steady else {"Node"})
        wanted = {"Pod": {"Pod"}, "policy": _POLICIES, "rest": rest}[concerned]
        return [file for file, document in self._present.items() if document["kind"] in wanted]

    def _put(self, document: Document) -> ManifestChange:
        written = {"apiVersion": _VERSIONS[document["kind"]], **document}
        self._present[file_of(written)] = written
        return ManifestChange(file_of(written), written)

    def _relabelled(self) -> Document:
        if self._draw(st.booleans()):
            return namespace_document(self._draw(namespaces()))
        return self._draw(node_documents(self._draw(st.sampled_from(NODES)), steady=self._steady))

    def _changed(self, document: Document) -> Document:
        kind, name = document["kind"], document["metadata"]["name"]
        alike: dict[str, st.SearchStrategy[Document]] = {
            "Pod": POD_DOCUMENTS,
            "Namespace": namespaces(name).map(namespace_document),
            "Node": node_documents(name, steady=self._steady) if kind == "Node" else st.nothing(),
            "ConfigMap": MASQUERADES,
            "NetworkLogging": LOGGINGS,
            "NetworkPolicy": POLICY_DOCUMENTS,
        }
        other = self._draw(alike[kind] if kind in alike else _tier_documents(kind))
        if kind == "Pod":
            return _changed_pod(self._draw, document, other)
        return _changed_policy(self._draw, document, other) if kind in _POLICIES else other


def _changed_pod(draw: st.DrawFn, document: Document, other: Document) -> Document:
    """Change one property of a Pod: its labels, its place, its phase, its ports."""
    what = draw(st.sampled_from(["labels", "labels", "place", "place", "phase", "ports"]))
    metadata, spec, status = ({**document[part]} for part in ("metadata", "spec", "status"))
    if what == "labels":
        metadata["labels"] = other["metadata"]["labels"]
    elif what == "place":
        spec = {**other["spec"], "containers": spec["containers"]}
        status["podIPs"] = other["status"]["podIPs"]
    elif what == "phase":
        status["phase"] = other["status"]["phase"]
    else:
        spec["containers"] = other["spec"]["containers"]
    return {**document, "metadata": metadata, "spec": spec, "status": status}


def _changed_policy(draw: st.DrawFn, document: Document, other: Document) -> Document:
    """Change one field of a policy's spec, the order of its rules, its annotations, or all of its spec."""
    spec: dict[str, Any] = document["spec"]
    what = draw(st.sampled_from(["all", "order", "audit", *sorted({*spec, *other["spec"]})]))
    if what == "all":
        return {**document, "spec": other["spec"]}
    if what == "audit":
        metadata = {key: value for key, value in document["metadata"].items() if key != "annotations"}
        return annotated({**document, "metadata": metadata}, draw(AUDIT_VALUES))
    if what == "order":
        turned = {key: value[::-1] for key, value in spec.items() if isinstance(value, list)}
        return {**document, "spec": {**spec, **turned}}
    kept = {key: value for key, value in spec.items() if key != what}
    taken = {what: other["spec"][what]} if what in other["spec"] else {}
    return {**document, "spec": {**kept, **taken}}


_drawn: list[Case] = []


@settings(database=None)
@given(cases(steady=False, most_steps=14))
def _any_case(case: Case) -> None:
    _drawn.append(case)


@settings(database=None)
@given(cases(steady=True, most_steps=8))
def _steady_case(case: Case) -> None:
    _drawn.append(case)


def generator(seed: int, number: int) -> Random:
    """Return the generator of a case of a run: it draws the case, and then the questions about it."""
    return Random(f"{seed}/{number}")  # noqa: S311 - it makes cases, not keys


def draw_case(random: Random, *, steady: bool) -> Case:
    """Draw a case by a generator's bytes."""
    draws: Any = (_steady_case if steady else _any_case).hypothesis  # type: ignore[attr-defined]
    while True:
        _drawn.clear()
        # Too few bytes, or an example that a strategy rejects, give no case: the next bytes will.
        if draws.fuzz_one_input(random.randbytes(_BYTES)) is not None and _drawn:
            return _drawn[0]
