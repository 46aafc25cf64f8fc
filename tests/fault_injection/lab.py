"""A node with Pods and one agent into whose calls faults are put; its objects are manifests in a folder."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from nfagent.kernel.backend_choice import BackendName
from nfagent.kernel.backend_switch import remove_xt_rules
from nfagent.lab.topology import netns
from nfagent.lab.topology.netns_topology import NetnsTopology
from nfagent.lab.topology.plan import NodePlan, PodPlan
from nfagent.netlink.nft_messages import NFPROTO_INET
from nfagent.nftables.objects import TABLE
from tests.fault_injection.fault import Fault
from tests.fault_injection.fault_table import FaultTable
from tests.fault_injection.streams import PlannedFlow
from tests.fault_injection.supervised_agent import SupervisedAgent
from tests.fault_injection.xt_programs import XtProgramFaults
from tests.support.packet_labs import (
    Document,
    as_text,
    logging_document,
    namespace_document,
    node_document,
    pod_document,
    policy_document,
)
from tests.support.raw_rules import UNLISTABLE, add_rule

NODE = NodePlan("n1", ("192.0.2.1",), ("10.244.1.0/24",))
SERVER = PodPlan("x", "server", "n1", ("10.244.1.10",))
CLIENT = PodPlan("x", "client", "n1", ("10.244.1.11",))
STRANGER = PodPlan("x", "stranger", "n1", ("10.244.1.12",))
LATE = PodPlan("x", "late", "n1", ("10.244.1.13",))
PODS = (SERVER, CLIENT, STRANGER, LATE)
OPEN_PORT, CLOSING_PORT, OPENING_PORT = 8001, 8003, 8004


class Scene(msgspec.Struct, frozen=True, kw_only=True):
    """The manifests before and after a change, by file name, and the flows with their verdicts."""

    before: dict[str, str]
    after: dict[str, str]
    flows: tuple[PlannedFlow, ...]


class FaultLab:
    """The running lab; `agent` isn't started yet."""

    def __init__(
        self,
        topology: NetnsTopology,
        agent: SupervisedAgent,
        table: FaultTable,
        manifests: Path,
        programs: XtProgramFaults | None,
    ) -> None:
        """Note the parts; programs: those of iptables, None for nftables."""
        self.topology, self.agent, self.table, self.manifests = topology, agent, table, manifests
        self.programs = programs

    def place(self, files: dict[str, str]) -> None:
        """Make the folder's manifests these, each by rename; what isn't among them is deleted."""
        for name, text in files.items():
            path = self.manifests / name
            if not path.exists() or path.read_text("utf-8") != text:
                hidden = self.manifests / f".{name}.new"
                hidden.write_text(text, encoding="utf-8")
                hidden.rename(path)
        for path in self.manifests.glob("*.yaml"):
            if path.name not in files:
                path.unlink()

    def settle(self, seconds: float = 60.0) -> None:
        """Wait until the agent enforces the folder. Raises KernelError."""
        self.agent.wait_until(self.enforces, "enforces the manifests", seconds)

    def enforces(self) -> bool:
        """Return whether the agent has read the manifests, and the kernel is in sync with them."""
        return self.agent.enforces(self.manifests)

    def set_proxy(self, fault: str) -> None:
        """Begin a fault between agent and API server, '' for none; there is none here."""

    def flow(self, client: PodPlan, port: int, verdict: str, *, live: bool = False) -> PlannedFlow:
        """Plan packets from a Pod to the server Pod."""
        return msgspec.convert(
            {
                "client": self.topology.pod_namespace(*client.key),
                "server": self.topology.pod_namespace(*SERVER.key),
                "address": SERVER.addresses[0],
                "port": port,
                "verdict": verdict,
                "live": live,
            },
            PlannedFlow,
        )

    @property
    def scene(self) -> Scene:
        """A policy whose ports change: one port stays open, one closes, one opens."""
        return self._changing_policy(cluster_files())

    @property
    def late_scene(self) -> Scene:
        """The same, with one more Pod after the change, which was created before."""
        return self._changing_policy(cluster_files(LATE))

    @property
    def backend(self) -> BackendName:
        """Where the agent writes rules."""
        return "nftables" if self.programs is None else "iptables"

    def arm(self, fault: Fault) -> None:
        """Put the faults of calls and of programs in force."""
        self.table.arm(*fault.rules)
        if self.programs is not None and fault.program is not None:
            self.programs.arm(fault.program)

    def disarm(self) -> None:
        """End them."""
        self.table.disarm()
        if self.programs is not None:
            self.programs.disarm()

    def hits(self, fault: Fault) -> int:
        """Return how many calls, or runs of programs, have met the fault."""
        of_programs = self.programs.hits if self.programs is not None and fault.program is not None else 0
        return self.table.hits(len(fault.rules)) + of_programs

    def nft(self, command: str) -> None:
        """Run `nft` in the node's namespace, as another program. Raises CalledProcessError."""
        self.run("nft", command)

    def run(self, *command: str) -> None:
        """Run another program in the node's namespace. Raises CalledProcessError."""
        argv = self.topology.command(self.topology.node_namespace(NODE.name), command)
        subprocess.run(argv, check=True, capture_output=True)

    def drift(self) -> None:
        """Have another program change our rules, without effect on packets."""
        if self.backend == "nftables":
            self.nft("add set inet nfagent stranger { type ipv4_addr; }")
        else:
            self.run("ipset", "-exist", "create", "nfa-stranger", "hash:ip")

    def add_unlistable_rule(self) -> None:
        """Have another program add a rule to our table at which nft crashes, without effect on packets."""
        node = self.topology.node_namespace(NODE.name)
        netns.inside(node, lambda: add_rule(NFPROTO_INET, TABLE, "forward-ingress", *UNLISTABLE))

    def remove_rules(self) -> None:
        """Remove all rules of the agent, as before its first start."""
        if self.backend == "iptables":
            netns.inside(self.topology.node_namespace(NODE.name), remove_xt_rules)
            return
        for table in ("inet nfagent", "bridge nfagent"):
            with contextlib.suppress(subprocess.CalledProcessError):
                self.nft(f"delete table {table}")

    def _changing_policy(self, after: dict[str, str]) -> Scene:
        flows = (
            self.flow(CLIENT, OPEN_PORT, "allowed"),
            self.flow(CLIENT, OPEN_PORT, "allowed", live=True),
            self.flow(STRANGER, OPEN_PORT, "forbidden"),
            self.flow(CLIENT, CLOSING_PORT, "closing"),
            self.flow(CLIENT, CLOSING_PORT, "closing", live=True),
            self.flow(CLIENT, OPENING_PORT, "opening"),
        )
        return Scene(
            before=cluster_files() | policy_file(OPEN_PORT, CLOSING_PORT),
            after=after | policy_file(OPEN_PORT, OPENING_PORT),
            flows=flows,
        )


def cluster_files(*late: PodPlan) -> dict[str, str]:
    """Return the manifests of everything but policies; late: Pods besides the first three."""
    documents: list[Document] = [
        node_document(NODE),
        namespace_document("x"),
        logging_document(allow=False, deny=True),
        *(pod_document(pod) for pod in (SERVER, CLIENT, STRANGER, *late)),
    ]
    return {"cluster.yaml": as_text(documents)}


def policy_file(*ports: int, clients: tuple[PodPlan, ...] = (CLIENT,)) -> dict[str, str]:
    """Return the manifest of a policy that allows some Pods to reach UDP ports of the server."""
    return {"policy.yaml": as_text([ingress_policy(*ports, clients=clients)])}


def ingress_policy(*ports: int, clients: tuple[PodPlan, ...] = (CLIENT,)) -> Document:
    """Return a policy that allows some Pods to reach UDP ports of the server."""
    rule = {
        "from": [{"podSelector": {"matchLabels": {"pod": pod.name}}} for pod in clients],
        "ports": [{"protocol": "UDP", "port": port} for port in ports],
    }
    return policy_document(
        "x", "server", podSelector={"matchLabels": {"pod": SERVER.name}}, policyTypes=["Ingress"], ingress=[rule]
    )


def program_faults(topology: NetnsTopology, folder: Path, backend: BackendName) -> XtProgramFaults | None:
    """Return the programs for an agent that writes to iptables, on a node that uses iptables-legacy."""
    if backend == "nftables":
        return None
    for command in ("iptables-legacy", "ip6tables-legacy"):
        made = [command, "-w", "-t", "mangle", "-N", "KUBE-KUBELET-CANARY"]
        subprocess.run(topology.command(topology.node_namespace(NODE.name), made), check=True, capture_output=True)
    return XtProgramFaults(folder / "programs")


def environment(table: FaultTable, programs: XtProgramFaults | None) -> dict[str, str]:
    """Return the environment of an agent into whose calls faults are put."""
    if programs is None:
        return table.environment
    return {**table.environment, **programs.environment, "NFAGENT_BACKEND": "iptables"}


@contextmanager
def fault_lab(folder: Path, backend: BackendName = "nftables") -> Iterator[FaultLab]:
    """Build a lab whose folder holds the manifests before the change, and start its agent."""
    manifests = folder / "manifests"
    manifests.mkdir()
    with NetnsTopology((NODE,), PODS, tag="faults") as topology, FaultTable(folder) as table:
        source = ("--manifests", str(manifests))
        programs = program_faults(topology, folder, backend)
        made = environment(table, programs)
        with SupervisedAgent(topology, NODE.name, source, folder / "agent", made) as agent:
            lab = FaultLab(topology, agent, table, manifests, programs)
            lab.place(lab.scene.before)
            agent.start()
            lab.settle()
            yield lab
