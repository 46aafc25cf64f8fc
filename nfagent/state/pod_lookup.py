"""Finds a Pod by the name that a person wrote, and suggests similar names for one that does not exist."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from heapq import nsmallest
from itertools import islice

from nfagent.errors import UsageError
from nfagent.model.objects import ObjectRef, Pod
from nfagent.state.cluster import ClusterState

_SUGGESTED = 3
_SCANNED_NAMES, _COMPARED_NAMES = 5000, 200
"""How many names are scanned for one similar to a mistyped name, and how many of them difflib compares with it."""


def find_pod(cluster: ClusterState, path: str) -> Pod:
    """Return the Pod that `NAMESPACE/POD` names. Raises UsageError, with similar names, if there is none."""
    namespace, _, name = path.partition("/")
    pod = cluster.pods.get((namespace, name))
    if not (namespace and name) or "/" in name:
        raise UsageError(f"{path!r} is not a Pod's name; write NAMESPACE/POD, a port behind a colon: shop/db:5432/tcp")
    if pod is None:
        raise UsageError(f"there is no Pod {path}{_hint(cluster, namespace, name)}")
    return pod


def _hint(cluster: ClusterState, namespace: str, name: str) -> str:
    identities = cluster.by_namespace.get(namespace, ())
    here = (pod for identity in identities for _, pod in cluster.members[identity])
    near = similar_names(
        here, namespace, name, (space for space in cluster.by_namespace if (space, name) in cluster.pods)
    )
    if near:
        return f"; did you mean {near}?"
    if ObjectRef("Service", namespace, name) in cluster.services:
        return f", but a Service of that name: write svc/{namespace}/{name}"
    if not identities:
        return f", nor any other in namespace {namespace}; `nfagent dump state` lists all Pods"
    return f"; `nfagent dump state -n {namespace}` lists Pods"


def similar_names(here: Iterable[str], namespace: str, name: str, elsewhere: Iterable[str]) -> str:
    """Return up to three similar names as text: `shop/web or shop/web-2`; '' if there are none.

    here:      the names in that namespace; only the first 5,000 are scanned
    elsewhere: other namespaces that have this name
    """
    scanned = list(islice(here, _SCANNED_NAMES))
    near = [f"{namespace}/{other}" for other in sorted(other for other in scanned if name and other.startswith(name))]
    near += [f"{namespace}/{other}" for other in close_names(name, scanned)]
    near += [f"{space}/{name}" for space in sorted(elsewhere)]
    return " or ".join(list(dict.fromkeys(near))[:_SUGGESTED])


def close_names(name: str, known: Iterable[str]) -> list[str]:
    """Return the most similar names; of many, only the 200 closest in length are compared."""
    length = len(name)
    compared = nsmallest(
        _COMPARED_NAMES, islice(known, _SCANNED_NAMES), key=lambda other: (abs(len(other) - length), other)
    )
    return get_close_matches(name, sorted(compared), n=_SUGGESTED)
