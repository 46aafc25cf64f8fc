"""A new control plane as the source of a lab's agents: the CRDs, the agents' rights, the cluster's objects."""

from __future__ import annotations

import http.client
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import yaml

from nfagent.errors import ClusterError, HostError
from nfagent.lab.apiserver.control_plane import ControlPlane
from nfagent.lab.apiserver.kube_client import Document, LabApiClient
from nfagent.lab.machine.binaries import CHECKOUT

_DEFINITION = "CustomResourceDefinition"
_THE_SERVERS_OWN = frozenset({"resourceVersion", "creationTimestamp", "ownerReferences"})
_RIGHTS_SECONDS = 10.0
_POLL_SECONDS = 0.02


def fill(plane: ControlPlane, client: LabApiClient, documents: Iterable[Document]) -> Path:
    """Write the CRDs and a cluster's objects; return the kubeconfig of the service account of deploy/rbac.yaml.

    Raises HostError outside a checkout, ClusterError.
    """
    deploy = CHECKOUT / "deploy"
    if not deploy.is_dir():
        raise HostError(f"{deploy} is missing: run this in a checkout of nfagent")
    shipped = (each for path in sorted((deploy / "crds").glob("*.yaml")) for each in _read(path))
    client.put_all(each for each in shipped if each["kind"] == _DEFINITION)
    client.put_all(map(storable, documents))
    return plane.kubeconfig("nfagent", token=_account(plane, client, deploy / "rbac.yaml"))


def storable(found: Document) -> Document:
    """Return a document without the fields that a server sets."""
    metadata = {key: value for key, value in found["metadata"].items() if key not in _THE_SERVERS_OWN}
    return {**found, "metadata": metadata}


def _account(plane: ControlPlane, client: LabApiClient, rights: Path) -> str:
    """Apply deploy/rbac.yaml; return a token of its service account when the server grants its rights."""
    client.put_all(_read(rights))
    token = client.service_account_token("nfagent", "nfagent")
    end = time.monotonic() + _RIGHTS_SECONDS
    with plane.client(token=token) as account:
        while account.ask("GET", "/api/v1/pods", query={"limit": "1"}).status != http.client.OK:
            if time.monotonic() > end:
                raise ClusterError("deploy/rbac.yaml is applied, but its service account may not list Pods")
            time.sleep(_POLL_SECONDS)
    return token


def _read(path: Path) -> Iterator[dict[str, Any]]:
    yield from (found for found in yaml.safe_load_all(path.read_text("utf-8")) if found)
