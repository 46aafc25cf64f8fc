"""A topology with an agent on every node: with `LabCluster`, all of them follow one manifests folder.

    with LabCluster(topology, folder, scratch) as cluster:
        cluster.write("policy.yaml", text)      # returns when every agent enforces it
        cluster.agent("n1").ask("/v1/dump/diff")

Each agent is a process of its own in its node's network namespace.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, TypeAlias

from nfagent.errors import KernelError, UsageError
from nfagent.introspection.agent_client import SLOW_SECONDS, get_json, get_lines
from nfagent.lab.machine.patience import patient
from nfagent.lab.topology.netns_topology import NetnsTopology
from nfagent.manifests.index import digest
from nfagent.system.gc_tuning import MALLOC_ENVIRONMENT
from nfagent.system.interrupts import deferred_interrupts

_START_SECONDS = _SYNC_SECONDS = _STOP_SECONDS = patient(60.0)
"""A start takes a second of CPU, and on a busy machine processes wait for theirs."""
_WAIT_SECONDS = patient(90.0)
"""Rounds are 19 times their CPU apart, and a round walks the kernel's one table of all namespaces' connections.
Readings of interfaces are 20 times their time apart, also without a CPU."""
_POLL_SECONDS = 0.002


BACKEND_VARIABLE = "NFAGENT_LAB_BACKEND"
"""The environment variable that names the backend of labs' agents; without it that is nftables."""
_KUBELET_CHAIN = "KUBE-KUBELET-CANARY"

AgentKind: TypeAlias = Literal["nfagent", "ebpf"]
"""nfagent, or the eBPF programs that enforce the same policies (nfagent.lab.ebpf.agent)."""

_PROGRAMS: dict[AgentKind, tuple[str, ...]] = {"nfagent": ("nfagent", "run"), "ebpf": ("nfagent.lab.ebpf.agent",)}


def lab_backend() -> str:
    """Return the backend that the environment names for labs' agents."""
    return os.environ.get(BACKEND_VARIABLE, "nftables")


def own_environment() -> dict[str, str]:
    """Return this process's environment without nfagent's settings, which aren't those of a lab's processes."""
    return {key: value for key, value in os.environ.items() if not key.startswith("NFAGENT_")}


class LabAgent:
    """The agent process of one node, with its runtime, log and state folders."""

    def __init__(
        self,
        topology: NetnsTopology,
        node: str,
        source: Sequence[str],
        scratch: Path,
        *,
        kind: AgentKind = "nfagent",
        outlives: bool = False,
        backend: str | None = None,
    ) -> None:
        """Set the folders; `start` starts the process.

        source:   the options of `nfagent run` for the object source
        kind:     which program it is
        outlives: whether it goes on when this process has ended
        backend:  where it writes rules; None: where the environment says
        """
        self.node = node
        self.backend = backend or lab_backend()
        self._program = _PROGRAMS[kind]
        self._outlives = outlives
        self._topology = topology
        self._source = source
        self._folder = scratch / node
        self._process: subprocess.Popen[bytes] | None = None
        self.environment = {
            # As the unit has it; what the environment of the lab says wins.
            **MALLOC_ENVIRONMENT,
            **own_environment(),
            "NFAGENT_RUNTIME_DIR": str(self._folder / "run"),
            "NFAGENT_LOG_DIR": str(self._folder / "log"),
            "NFAGENT_STATE_DIR": str(self._folder / "state"),
            "NFAGENT_BACKEND": self.backend,
            # Each node has a lock of its own, as machines have.
            "XTABLES_LOCKFILE": str(self._folder / "xtables.lock"),
            # Every packet is a record, at once.
            "NFAGENT_LOGGING_AGGREGATION_SECONDS": "0",
            "NFAGENT_LOGGING_RECORDS_PER_SECOND": "1000000",
            "NFAGENT_LOGGING_BURST": "1000000",
        }

    @property
    def verdict_log(self) -> Path:
        """The path of its verdict log."""
        return self._folder / "log" / "policy_action.log"

    @property
    def state_dir(self) -> Path:
        """The folder of what it keeps over restarts."""
        return self._folder / "state"

    @property
    def stderr_text(self) -> str:
        """Its standard error so far."""
        path = self._folder / "stderr"
        return path.read_text("utf-8", "replace") if path.exists() else ""

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """Its process. Raises UsageError before `start`."""
        if self._process is None:
            raise UsageError(f"the agent of node {self.node} isn't running")
        return self._process

    @property
    def is_running(self) -> bool:
        """Whether it was started, and not stopped."""
        return self._process is not None

    def start(self, settings: Mapping[str, str] | None = None, seconds: float = _START_SECONDS) -> None:
        """Start the agent and wait for READY=1. Raises KernelError, with its standard error, after `seconds`."""
        self._folder.mkdir(parents=True, exist_ok=True)
        if self.backend == "iptables":
            self._make_kubelet_chain()
        ready = self._folder / "ready"
        ready.unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
            listener.bind(str(ready))
            listener.settimeout(_POLL_SECONDS * 10)
            # setpriv: it ends with the process that started the lab, also when that one is killed.
            ending = [] if self._outlives else ["setpriv", "--pdeathsig", "TERM"]
            command = [*ending, sys.executable, "-m", *self._program, *self._source, "--node", self.node]
            environment = {**self.environment, **(settings or {}), "NOTIFY_SOCKET": str(ready)}
            with (self._folder / "stderr").open("ab") as stderr, deferred_interrupts():
                self._process = subprocess.Popen(
                    self._topology.command(self._topology.node_namespace(self.node), command),
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=stderr,
                    stderr=stderr,
                    start_new_session=True,
                )
            self._await_ready(listener, seconds)

    def _make_kubelet_chain(self) -> None:
        """Make the chain by which kubelet shows which iptables a node uses: the one of kernels without nf_tables."""
        for program in ("iptables-legacy", "ip6tables-legacy"):
            command = [program, "-w", "-t", "mangle", "-N", _KUBELET_CHAIN]
            # It is there where the agent starts again.
            subprocess.run(
                self._topology.command(self._topology.node_namespace(self.node), command),
                env=self.environment,
                capture_output=True,
                check=False,
                timeout=_START_SECONDS,
            )

    def _await_ready(self, listener: socket.socket, seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end and self.process.poll() is None:
            with contextlib.suppress(TimeoutError):
                if b"READY=1" in listener.recv(4096):
                    return
        self.stop()
        raise KernelError(f"the agent of node {self.node} didn't start: {self.stderr_text or 'no output'}")

    def reload(self) -> None:
        """Send SIGHUP, as `systemctl reload` does: the agent reads its source and the kernel again."""
        self.process.send_signal(signal.SIGHUP)

    def stop(self, *, kill: bool = False) -> None:
        """End the agent by SIGTERM, or by SIGKILL; its rules stay. Does nothing where it isn't running."""
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(signal.SIGKILL if kill else signal.SIGTERM)
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(_STOP_SECONDS)

    def ask(self, path: str, **query: str) -> dict[str, Any]:
        """Return the reply to a GET on its Unix socket. Raises UsageError, HostError."""
        return get_json(self._folder / "run" / "agent.sock", path, query, seconds=SLOW_SECONDS)

    def metric(self, name: str) -> float:
        """Return the value of a metric without labels. Raises KeyError, UsageError, HostError."""
        for line in get_lines(self._folder / "run" / "agent.sock", "/metrics"):
            found, _, value = line.decode().partition(" ")
            if found == name:
                return float(value)
        raise KeyError(name)

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run an `nfagent` command in the node's namespace, with the agent's environment."""
        command = [sys.executable, "-m", "nfagent", *arguments]
        return subprocess.run(
            self._topology.command(self._topology.node_namespace(self.node), command),
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=_START_SECONDS,
        )

    def nft(self, *arguments: str) -> str:
        """Run `nft` in the node's namespace. Raises KernelError."""
        done = subprocess.run(
            self._topology.command(self._topology.node_namespace(self.node), ["nft", *arguments]),
            capture_output=True,
            text=True,
            check=False,
            timeout=_START_SECONDS,
        )
        if done.returncode:
            raise KernelError(done.stderr.strip())
        return done.stdout

    def has_read(self, files: Mapping[str, str]) -> bool:
        """Return whether it has read exactly these files (name -> digest), and the kernel is in sync with them."""
        status = self.ask("/v1/dump/state")["agent"]
        in_sync: bool = status["reconcile"]["in_sync"]
        return in_sync and status["files"] == dict(files)

    def recheck_is_done(self) -> bool:
        """Return whether the kernel is in sync, and no address is under re-check."""
        status = self.ask("/v1/dump/state")["agent"]
        return bool(status["reconcile"]["in_sync"]) and not status["revoke"]["suspects"]

    def links_are_read(self) -> bool:
        """Return whether the kernel is in sync with the interfaces of the Pods that the agent knows."""
        status = self.ask("/v1/dump/state")["agent"]
        return bool(status["reconcile"]["in_sync"]) and not status["links"]["outdated"]


class LabAgents:
    """The agents of all nodes of a topology; a context manager that starts and ends them."""

    def __init__(
        self,
        topology: NetnsTopology,
        source: Sequence[str],
        scratch: Path,
        *,
        kind: AgentKind = "nfagent",
        backend: str | None = None,
    ) -> None:
        """Plan the agents; source: their options of `nfagent run`, scratch: the folder for their own folders."""
        self.agents = {
            node: LabAgent(topology, node, source, scratch, kind=kind, backend=backend) for node in topology.nodes
        }

    def __enter__(self) -> Self:
        """Start the agents, and return when all are ready."""
        try:
            for agent in self.agents.values():
                agent.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the agents."""
        self.stop()

    def stop(self) -> None:
        """End all agents."""
        for agent in self.agents.values():
            agent.stop()

    def agent(self, node: str) -> LabAgent:
        """Return a node's agent."""
        return self.agents[node]

    def wait_for_recheck(self) -> None:
        """Wait until no agent has an address under re-check. Raises KernelError after a minute and a half."""
        self._wait(LabAgent.recheck_is_done, "still re-checks addresses")

    def wait_for_links(self) -> None:
        """Wait until each agent knows the interfaces of its Pods: they are read a moment after the Pods.

        Raises KernelError after a minute and a half.
        """
        self._wait(LabAgent.links_are_read, "still has not read the interfaces of its Pods")

    def _wait(self, done: Callable[[LabAgent], bool], otherwise: str) -> None:
        end = time.monotonic() + _WAIT_SECONDS
        for agent in (agent for agent in self.agents.values() if agent.is_running):
            while not done(agent):
                if time.monotonic() > end:
                    why = f"{otherwise} after {_WAIT_SECONDS:.0f} s: {agent.stderr_text[-2000:]}"
                    raise KernelError(f"the agent of node {agent.node} {why}")
                time.sleep(_POLL_SECONDS)


class LabCluster(LabAgents):
    """Agents that follow one folder of manifests."""

    def __init__(
        self,
        topology: NetnsTopology,
        manifests: Path,
        scratch: Path,
        *,
        kind: AgentKind = "nfagent",
        backend: str | None = None,
    ) -> None:
        """Plan the agents; manifests: the folder that they follow."""
        super().__init__(topology, ("--manifests", str(manifests)), scratch, kind=kind, backend=backend)
        self.manifests = manifests

    def write(self, name: str, text: str) -> None:
        """Write a manifest by rename, and return when every running agent enforces it."""
        self.place(name, text)
        self.wait_until_enforced()

    def place(self, name: str, text: str) -> None:
        """Write a manifest by rename, and return at once."""
        hidden = self.manifests / f".{name}.new"
        hidden.write_text(text, encoding="utf-8")
        hidden.rename(self.manifests / name)

    def delete(self, *names: str) -> None:
        """Delete manifests, and return when every running agent enforces the rest."""
        for name in names:
            (self.manifests / name).unlink()
        self.wait_until_enforced()

    def wait_until_enforced(self, agents: Sequence[LabAgent] | None = None) -> None:
        """Wait until the running agents enforce the folder's manifests. Raises KernelError after a minute."""
        files = {
            str(path.relative_to(self.manifests)): digest(path.read_text(encoding="utf-8"))
            for path in sorted(self.manifests.rglob("*"))
            if path.suffix in {".yaml", ".yml", ".json"} and not path.name.startswith(".")
        }
        end = time.monotonic() + _SYNC_SECONDS
        running = [agent for agent in self.agents.values() if agent.is_running]
        for agent in running if agents is None else agents:
            while not agent.has_read(files):
                if time.monotonic() > end:
                    raise KernelError(
                        f"the agent of node {agent.node} doesn't enforce the manifests after {_SYNC_SECONDS:.0f} s: "
                        f"{agent.stderr_text[-2000:]}"
                    )
                time.sleep(_POLL_SECONDS)
