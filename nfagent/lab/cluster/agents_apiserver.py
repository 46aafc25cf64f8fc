"""A topology with an agent on every node, all with one API server.

with ApiCluster(topology, kubeconfig, client, scratch) as cluster:
    cluster.put(policy)          # returns when every agent enforces it
    cluster.delete(policy)
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from nfagent.errors import KernelError
from nfagent.lab.apiserver.kube_client import Document, LabApiClient
from nfagent.lab.cluster.agents import LabAgent, LabAgents
from nfagent.lab.machine.patience import patient
from nfagent.lab.topology.netns_topology import NetnsTopology
from nfagent.model.gvk import RESOURCES, SERVICES

_SYNC_SECONDS = patient(60.0)
_POLL_SECONDS = 0.002


class ApiCluster(LabAgents):
    """Agents that follow one API server, with the credentials of a kubeconfig."""

    def __init__(self, topology: NetnsTopology, kubeconfig: Path, client: LabApiClient, scratch: Path) -> None:
        """Plan the agents; client: writes the objects."""
        super().__init__(topology, ("--kubeconfig", str(kubeconfig)), scratch)
        self.client = client

    def put(self, *documents: Document) -> None:
        """Create or change objects with their status, and return when every running agent enforces them."""
        self.client.put_all(documents)
        self.wait_until_enforced(documents)

    def delete(self, *documents: Document) -> None:
        """Delete objects, and return when every running agent enforces the rest."""
        for document in documents:
            self.client.delete(document)
        self.wait_until_enforced(documents)

    def wait_until_enforced(self, documents: Iterable[Document]) -> None:
        """Wait until the running agents enforce the server's objects of these documents' kinds.

        The objects are read at every look: an agent may create one of them. Raises KernelError after a minute.
        """
        kinds = sorted({(document["apiVersion"], document["kind"]) for document in documents})
        end = time.monotonic() + _SYNC_SECONDS
        for agent in (agent for agent in self.agents.values() if agent.is_running):
            while not _has_seen(agent, {kind: served_state(self.client, version, kind) for version, kind in kinds}):
                if time.monotonic() > end:
                    raise KernelError(
                        f"the agent of node {agent.node} doesn't enforce the server's objects after "
                        f"{_SYNC_SECONDS:.0f} s: {agent.stderr_text[-2000:]}"
                    )
                time.sleep(_POLL_SECONDS)


def served_state(client: LabApiClient, api_version: str, kind: str) -> tuple[int, int]:
    """Return the number of a kind's objects that agents list from the server, and their highest resourceVersion."""
    resource = next(
        (each for each in (*RESOURCES, SERVICES) if (each.api_version, each.kind) == (api_version, kind)), None
    )
    if resource is None:
        found = client.list(api_version, kind)
    else:
        query = {"fieldSelector": resource.field_selector} if resource.field_selector else {}
        found = client.ask("GET", resource.path, query=query).document(f"list {kind}")["items"]
    return len(found), max((int(item["metadata"]["resourceVersion"]) for item in found), default=0)


def kind_status(agent: LabAgent, kind: str) -> dict[str, Any]:
    """Return an agent's status of one kind: phase, synced, version, objects, trouble."""
    found: dict[str, Any] = agent.ask("/v1/dump/state")["agent"]["apiserver"]["resources"][kind]
    return found


def _has_seen(agent: LabAgent, wanted: dict[str, tuple[int, int]]) -> bool:
    status = agent.ask("/v1/dump/state")["agent"]
    for kind, (objects, version) in wanted.items():
        there = status["apiserver"]["resources"].get(kind)
        if there is not None and not (
            there["synced"] and there["objects"] == objects and int(there["version"] or 0) >= version
        ):
            return False
    in_sync: bool = status["reconcile"]["in_sync"]
    return in_sync


def all_are_watching(agents: Sequence[LabAgent]) -> bool:
    """Return whether every agent watches every served kind without an error."""
    return all(
        there["phase"] in {"watching", "missing"} and not there["trouble"]
        for agent in agents
        for there in agent.ask("/v1/dump/state")["agent"]["apiserver"]["resources"].values()
    )
