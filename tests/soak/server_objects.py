"""A real kube-apiserver as the source of a packet lab's agents, which have the rights of deploy/rbac.yaml.

What a server has of an object isn't what was written: it sets defaults, drops fields and refuses objects. So a step is
returned with the objects as the server has them, and the evaluator is asked about these.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Container, Iterator
from pathlib import Path

from nfagent.errors import ClusterError, KernelError
from nfagent.lab.apiserver.control_plane import ControlPlane
from nfagent.lab.apiserver.kube_client import LabApiClient
from nfagent.lab.cluster.agents import LabAgents
from nfagent.lab.cluster.agents_apiserver import ApiCluster, all_are_watching
from nfagent.lab.machine.patience import patient
from nfagent.lab.topology.netns_topology import NetnsTopology
from nfagent.lab.topology.plan import OutsideHost
from nfagent.model.gvk import BY_KIND, RESOURCES
from tests.fuzz.case import Document, ManifestChange, Step
from tests.properties.objects import NAMESPACES
from tests.support.apiserver_labs import API_HOST, account_token, shipped_definitions, tier_definitions

_TOKEN_SECONDS = 24 * 3600
_WATCHING_SECONDS = patient(60.0)
_POLL_SECONDS = 0.05
_METADATA = ("namespace", "name", "labels", "annotations")
_SERVERS_OWN = "ServiceCIDR"


class ServerObjects:
    """Satisfies LabObjects.

    refused: how many changes the server refused
    """

    hosts: tuple[OutsideHost, ...] = (API_HOST,)

    def __init__(self) -> None:
        """Start nothing yet."""
        self.refused = 0
        # The leader would create an object that no step has.
        self.settings = {"NFAGENT_MASQUERADE_CREATE_DEFAULT_POLICY": "false"}
        self._cluster: ApiCluster
        self._client: LabApiClient
        self._plane: ControlPlane
        self._stored: dict[str, Document] = {}

    def open(self, topology: NetnsTopology, scratch: Path, stack: contextlib.ExitStack) -> LabAgents:
        """Start etcd and kube-apiserver on a host outside, with every kind's definition."""
        namespace = topology.outside_namespace(API_HOST.name)
        plane = ControlPlane(scratch / "plane", address=API_HOST.addresses[0], netns=namespace)
        self._plane = stack.enter_context(plane)
        self._client = stack.enter_context(plane.client())
        self._client.put_all([*shipped_definitions(), *tier_definitions(), *map(_namespace, NAMESPACES)])
        token = account_token(plane, self._client, _TOKEN_SECONDS)
        self._cluster = ApiCluster(topology, plane.kubeconfig("nfagent", token=token), self._client, scratch / "agents")
        return self._cluster

    def place(self, step: Step) -> Step:
        """Write and delete objects, one after the other; a Namespace stays, as its deletion would take others along."""
        changes = [*self._own(), *(done for change in step.changes if (done := self._write(change)) is not None)]
        return Step(tuple(changes), step.then)

    def discard(self, kept: Container[str]) -> None:
        """Delete objects."""
        for file in [file for file in self._stored if file not in kept]:
            self._write(ManifestChange(file, None))

    def await_enforced(self) -> None:
        """Wait until the running agents have read every kind as the server has it. Raises KernelError."""
        self._cluster.wait_until_enforced(
            {"apiVersion": resource.api_version, "kind": resource.kind} for resource in RESOURCES
        )

    @contextlib.contextmanager
    def away(self) -> Iterator[None]:
        """Kill the API server, and start it again at the end; return when the agents watch it. Raises KernelError."""
        self._plane.kill()
        try:
            yield
        finally:
            self._plane.start()
        end = time.monotonic() + _WATCHING_SECONDS
        running = [agent for agent in self._cluster.agents.values() if agent.is_running]
        while not all_are_watching(running):
            if time.monotonic() > end:
                raise KernelError(f"the agents don't watch the API server {_WATCHING_SECONDS:.0f} s after its start")
            time.sleep(_POLL_SECONDS)

    def _own(self) -> Iterator[ManifestChange]:
        """Yield what the server has made by itself, and concerns source addresses."""
        for document in self._client.list(BY_KIND[_SERVERS_OWN].api_version, _SERVERS_OWN):
            known = {"apiVersion": BY_KIND[_SERVERS_OWN].api_version, "kind": _SERVERS_OWN, **document}
            yield ManifestChange(f"server-{document['metadata']['name']}.yaml", _as_manifest(known))

    def _write(self, change: ManifestChange) -> ManifestChange | None:
        """Write a change; return what the server has then, None where it stays as it was."""
        stored = self._stored.get(change.file)
        if change.document is None:
            if stored is None or stored["kind"] == "Namespace":
                return None
            self._client.delete(stored)
            del self._stored[change.file]
            return change
        wanted = {"apiVersion": BY_KIND[change.document["kind"]].api_version, **change.document}
        try:
            self._client.put(wanted)
        except ClusterError:
            # An invalid object, as histories have some. Where the server is gone, the next request fails too.
            self.refused += 1
        found = self._client.get(wanted)
        if found is None:
            self._stored.pop(change.file, None)
            return ManifestChange(change.file, None)
        self._stored[change.file] = wanted
        return ManifestChange(change.file, _as_manifest(found))


def _namespace(name: str) -> Document:
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}


def _as_manifest(found: Document) -> Document:
    """Return an object as a manifest would have it: of its metadata what has a meaning."""
    metadata = {key: value for key, value in found["metadata"].items() if key in _METADATA}
    return {**found, "metadata": metadata}
