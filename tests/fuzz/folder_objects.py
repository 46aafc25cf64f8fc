"""Where the agents of a packet lab have their objects from: a folder of manifests."""

from __future__ import annotations

import contextlib
from collections.abc import Container
from pathlib import Path
from typing import Protocol

from nfagent.kernel.backend_choice import BackendName
from nfagent.lab.cluster.agents import LabAgents, LabCluster
from nfagent.lab.topology.netns_topology import NetnsTopology
from nfagent.lab.topology.plan import OutsideHost
from tests.fuzz.case import Step


class LabObjects(Protocol):
    """The objects that the agents of a lab follow.

    hosts:    hosts outside the cluster that the source needs
    settings: of the agents, as environment variables
    """

    @property
    def hosts(self) -> tuple[OutsideHost, ...]: ...

    @property
    def settings(self) -> dict[str, str]: ...

    def open(self, topology: NetnsTopology, scratch: Path, stack: contextlib.ExitStack) -> LabAgents:
        """Open the empty source, and return its agents, which don't run yet. Raises HostError, ClusterError."""
        ...

    def place(self, step: Step) -> Step:
        """Write a step's changes, and return what the source has of it. Raises ClusterError."""
        ...

    def discard(self, kept: Container[str]) -> None:
        """Delete the objects of all files but those that are kept. Raises ClusterError."""
        ...

    def await_enforced(self) -> None:
        """Wait until the running agents enforce what the source has. Raises KernelError."""
        ...


class FolderObjects:
    """Satisfies LabObjects: a folder, with a file for each object."""

    hosts: tuple[OutsideHost, ...] = ()

    def __init__(self, backend: BackendName = "nftables") -> None:
        """Make nothing yet; backend: where the agents write rules."""
        self._backend = backend
        self.settings: dict[str, str] = {}
        self._cluster: LabCluster

    @property
    def manifests(self) -> Path:
        """The folder that the agents follow."""
        return self._cluster.manifests

    def open(self, topology: NetnsTopology, scratch: Path, stack: contextlib.ExitStack) -> LabAgents:  # noqa: ARG002 - as the protocol has it
        """Make an empty folder."""
        manifests = scratch / "manifests"
        manifests.mkdir()
        self._cluster = LabCluster(topology, manifests, scratch / "agents", backend=self._backend)
        return self._cluster

    def place(self, step: Step) -> Step:
        """Write and delete files."""
        for change in step.changes:
            text = change.text
            if text is None:
                (self.manifests / change.file).unlink(missing_ok=True)
            else:
                self._cluster.place(change.file, text)
        return step

    def discard(self, kept: Container[str]) -> None:
        """Delete files."""
        for path in list(self.manifests.iterdir()):
            if path.name not in kept:
                path.unlink()

    def await_enforced(self) -> None:
        """Wait until the running agents have read these files, and enforce them. Raises KernelError."""
        self._cluster.wait_until_enforced()
