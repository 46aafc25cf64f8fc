"""The same lab with a real API server as source, behind a proxy that has the faults."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from nfagent.errors import HostError, UsageError
from nfagent.kernel.backend_choice import BackendName
from nfagent.lab.apiserver.control_plane import ControlPlane
from nfagent.lab.cluster.agents_apiserver import served_state
from nfagent.lab.topology.netns_topology import NetnsTopology
from tests.fault_injection.api_proxy import ApiProxy
from tests.fault_injection.fault import Fault
from tests.fault_injection.fault_table import FaultTable
from tests.fault_injection.lab import NODE, PODS, FaultLab, environment, program_faults
from tests.fault_injection.supervised_agent import SupervisedAgent
from tests.fault_injection.xt_programs import XtProgramFaults
from tests.support.apiserver_labs import API_HOST, account_token

_POLICIES = ("networking.k8s.io/v1", "NetworkPolicy")


class ApiFaultLab(FaultLab):
    """A lab whose manifests are objects of an API server."""

    def __init__(
        self,
        topology: NetnsTopology,
        agent: SupervisedAgent,
        table: FaultTable,
        plane: ControlPlane,
        proxy: ApiProxy,
        *,
        programs: XtProgramFaults | None,
    ) -> None:
        """Note the parts."""
        super().__init__(topology, agent, table, Path(), programs)
        self._client = plane.client()
        self._proxy = proxy
        self._placed: dict[tuple[str, str], dict[str, Any]] = {}

    def close(self) -> None:
        """Close the client's connections."""
        self._client.close()

    def place(self, files: dict[str, str]) -> None:
        """Make the server's objects those of the files; what isn't among them is deleted."""
        wanted = {}
        for text in files.values():
            for document in yaml.safe_load_all(text):
                # Definitions of nfagent's own kinds would take seconds, and no fault here is about them.
                if document["kind"] != "NetworkLogging":
                    wanted[document["kind"], document["metadata"]["name"]] = document
        changed = [document for key, document in wanted.items() if self._placed.get(key) != document]
        self._client.put_all(changed)
        for key, document in self._placed.items():
            if key not in wanted:
                self._client.delete(document)
        self._placed = wanted

    def enforces(self) -> bool:
        """Return whether the agent has read the server's policies, and the kernel is in sync with them."""
        objects, version = served_state(self._client, *_POLICIES)
        with contextlib.suppress(UsageError, HostError, OSError):
            found = self.agent.state()["agent"]
            there = found["apiserver"]["resources"][_POLICIES[1]]
            seen = there["synced"] and there["objects"] == objects and int(there["version"] or 0) >= version
            return bool(seen and found["reconcile"]["in_sync"] and not found["revoke"]["suspects"])
        return False

    def set_proxy(self, fault: str) -> None:
        """Begin a fault of the proxy, '' for none."""
        self._proxy.set_fault(fault)  # type: ignore[arg-type]

    @property
    def proxy_requests(self) -> int:
        """How many requests have reached the proxy."""
        return self._proxy.requests


@contextlib.contextmanager
def api_fault_lab(folder: Path, backend: BackendName = "nftables") -> Iterator[ApiFaultLab]:
    """Build a lab with an API server, and start its agent. Raises HostError without etcd and kube-apiserver."""
    with contextlib.ExitStack() as stack:
        topology = stack.enter_context(NetnsTopology((NODE,), PODS, (API_HOST,), tag="faults"))
        table = stack.enter_context(FaultTable(folder))
        namespace, address = topology.outside_namespace(API_HOST.name), API_HOST.addresses[0]
        plane = stack.enter_context(ControlPlane(folder / "plane", address=address, netns=namespace))
        proxy = stack.enter_context(ApiProxy(namespace, address, plane.port, plane.ca_file.parent))
        with plane.client() as client:
            kubeconfig = plane.kubeconfig("nfagent", token=account_token(plane, client))
        kubeconfig.write_text(kubeconfig.read_text("utf-8").replace(f":{plane.port}", f":{proxy.port}"), "utf-8")
        source = ("--kubeconfig", str(kubeconfig))
        programs = program_faults(topology, folder, backend)
        made = environment(table, programs)
        agent = stack.enter_context(SupervisedAgent(topology, NODE.name, source, folder / "agent", made))
        lab = ApiFaultLab(topology, agent, table, plane, proxy, programs=programs)
        stack.callback(lab.close)
        lab.place(lab.scene.before)
        agent.start()
        lab.settle()
        yield lab


def api_faults() -> tuple[Fault, ...]:
    """Return the faults between an agent and its API server."""

    def fault(what: str, proxy: str, reported: str = "API server") -> Fault:
        return Fault(name=f"API server: {what}", boundary="API server", proxy=proxy, reported=reported)

    return (
        fault("connections are refused", "refused"),
        fault("connections are reset", "reset"),
        fault("429 Too Many Requests", "429"),
        fault("500 Internal Server Error", "500"),
        fault("410 Gone for every watch", "410"),
        fault("no answer", "hung", ""),
        fault("half-open connections", "half-open", ""),
        fault("20 bytes a second", "slow bytes", ""),
        fault("answers are cut off", "truncated"),
        fault("watch lines that are no JSON", "no JSON", ""),
    )
