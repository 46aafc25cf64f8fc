"""A fabric with an agent on every node: `LabCluster` feeds all of them from one folder of manifests.

    with LabCluster(fabric, folder, scratch) as cluster:
        cluster.write("policy.yaml", text)      # returns when every agent enforces it
        cluster.agent("n1").ask("/v1/dump/diff")

An agent is a process of its own in its node's network namespace, as it would be on a machine of its own.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from nfagent.cli.agent_client import ask
from nfagent.errors import KernelError, UsageError
from nfagent.lab.interrupts import held_back
from nfagent.lab.topology import NetnsTopology
from nfagent.manifests.index import digest

_START_SECONDS = 20.0
_SYNC_SECONDS = 10.0
_STOP_SECONDS = 10.0
_POLL_SECONDS = 0.002


class LabAgent:
    """One node's agent: its process, its folders, what it says."""

    def __init__(self, fabric: NetnsTopology, node: str, source: Sequence[str], scratch: Path) -> None:
        """Plan it; `start` starts it. source: options of `nfagent run` that say what is followed."""
        self.node = node
        self._fabric = fabric
        self._source = source
        self._folder = scratch / node
        self._process: subprocess.Popen[bytes] | None = None
        self.environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith("NFAGENT_")},
            "NFAGENT_RUNTIME_DIR": str(self._folder / "run"),
            "NFAGENT_LOG_DIR": str(self._folder / "log"),
            "NFAGENT_STATE_DIR": str(self._folder / "state"),
        }

    @property
    def verdict_log(self) -> Path:
        """The file of its verdict records."""
        return self._folder / "log" / "policy_action.log"

    @property
    def said(self) -> str:
        """What it wrote to its standard error so far."""
        path = self._folder / "stderr"
        return path.read_text("utf-8", "replace") if path.exists() else ""

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """Its process. Raises UsageError before `start`."""
        if self._process is None:
            raise UsageError(f"the agent of node {self.node} isn't running")
        return self._process

    @property
    def runs(self) -> bool:
        """Tell whether it was started, and not stopped."""
        return self._process is not None

    def start(self, settings: Mapping[str, str] | None = None, seconds: float = _START_SECONDS) -> None:
        """Start it, and return when it enforces. Raises KernelError with its own words where it doesn't in time."""
        self._folder.mkdir(parents=True, exist_ok=True)
        ready = self._folder / "ready"
        ready.unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
            listener.bind(str(ready))
            listener.settimeout(_POLL_SECONDS * 10)
            # setpriv: an agent doesn't outlive whoever started the lab, however that ends.
            command = ["setpriv", "--pdeathsig", "TERM", sys.executable, "-m", "nfagent", "run"]
            command += [*self._source, "--node", self.node]
            environment = {**self.environment, **(settings or {}), "NOTIFY_SOCKET": str(ready)}
            with (self._folder / "stderr").open("ab") as stderr, held_back():
                self._process = subprocess.Popen(
                    self._fabric.command(self._fabric.node_namespace(self.node), command),
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=stderr,
                    stderr=stderr,
                    start_new_session=True,
                )
            self._await_ready(listener, seconds)

    def _await_ready(self, listener: socket.socket, seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end and self.process.poll() is None:
            with contextlib.suppress(TimeoutError):
                if b"READY=1" in listener.recv(4096):
                    return
        self.stop()
        raise KernelError(f"the agent of node {self.node} didn't start: {self.said or 'it said nothing'}")

    def reload(self) -> None:
        """Have it read folder and kernel again, as `systemctl reload` does."""
        self.process.send_signal(signal.SIGHUP)

    def stop(self, *, kill: bool = False) -> None:
        """End it by SIGTERM, or SIGKILL; the rules stay. One that isn't running is left alone."""
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
        """Ask its unix socket. Raises UsageError."""
        answer = ask(self._folder / "run" / "agent.sock", path, query)
        if answer is None:
            raise UsageError(f"the agent of node {self.node} isn't running")
        return answer

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run an `nfagent` command as root of this node would."""
        command = [sys.executable, "-m", "nfagent", *arguments]
        return subprocess.run(
            self._fabric.command(self._fabric.node_namespace(self.node), command),
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=_START_SECONDS,
        )

    def nft(self, *arguments: str) -> str:
        """Run `nft` in the node's namespace. Raises KernelError."""
        done = subprocess.run(
            self._fabric.command(self._fabric.node_namespace(self.node), ["nft", *arguments]),
            capture_output=True,
            text=True,
            check=False,
            timeout=_START_SECONDS,
        )
        if done.returncode:
            raise KernelError(done.stderr.strip())
        return done.stdout

    def has_read(self, files: Mapping[str, str]) -> bool:
        """Tell whether it has read just these files (name -> digest), and enforces what they say."""
        status = self.ask("/v1/dump/state")["agent"]
        in_sync: bool = status["reconcile"]["in_sync"]
        return in_sync and status["files"] == dict(files)

    def is_calm(self) -> bool:
        """Tell whether the kernel holds what it must, and no address is under re-check."""
        status = self.ask("/v1/dump/state")["agent"]
        return bool(status["reconcile"]["in_sync"]) and not status["revoke"]["suspects"]


class LabAgents:
    """Agents on the nodes of a fabric; a context manager that runs them inside and has ended them after."""

    def __init__(self, fabric: NetnsTopology, source: Sequence[str], scratch: Path) -> None:
        """Plan them: source says what all of them follow, scratch holds their runtime and log folders."""
        self.agents = {node: LabAgent(fabric, node, source, scratch) for node in fabric.nodes}

    def __enter__(self) -> Self:
        """Start the agents, and return when all enforce."""
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
        """End every agent that runs."""
        for agent in self.agents.values():
            agent.stop()

    def agent(self, node: str) -> LabAgent:
        """Give a node's agent."""
        return self.agents[node]

    def calm(self) -> None:
        """Return when no address is under re-check: then no agent has anything left to do. Raises KernelError."""
        end = time.monotonic() + _SYNC_SECONDS
        for agent in (agent for agent in self.agents.values() if agent.runs):
            while not agent.is_calm():
                if time.monotonic() > end:
                    raise KernelError(f"the agent of node {agent.node} doesn't end its re-check: {agent.said[-2000:]}")
                time.sleep(_POLL_SECONDS)


class LabCluster(LabAgents):
    """Agents that follow one folder of manifests."""

    def __init__(self, fabric: NetnsTopology, manifests: Path, scratch: Path) -> None:
        """Plan them: manifests is the folder."""
        super().__init__(fabric, ("--manifests", str(manifests)), scratch)
        self.manifests = manifests

    def write(self, name: str, text: str) -> None:
        """Put a manifest into the folder by rename, and return when every running agent enforces it."""
        self.place(name, text)
        self.settle()

    def place(self, name: str, text: str) -> None:
        """Put a manifest into the folder by rename, and return at once."""
        hidden = self.manifests / f".{name}.new"
        hidden.write_text(text, encoding="utf-8")
        hidden.rename(self.manifests / name)

    def delete(self, *names: str) -> None:
        """Delete manifests, and return when every running agent enforces what is left."""
        for name in names:
            (self.manifests / name).unlink()
        self.settle()

    def settle(self, agents: Sequence[LabAgent] | None = None) -> None:
        """Return when the running agents enforce what the folder holds. Raises KernelError after ten seconds."""
        files = {
            str(path.relative_to(self.manifests)): digest(path.read_text(encoding="utf-8"))
            for path in sorted(self.manifests.rglob("*"))
            if path.suffix in {".yaml", ".yml", ".json"} and not path.name.startswith(".")
        }
        end = time.monotonic() + _SYNC_SECONDS
        running = [agent for agent in self.agents.values() if agent.runs]
        for agent in running if agents is None else agents:
            while not agent.has_read(files):
                if time.monotonic() > end:
                    raise KernelError(f"the agent of node {agent.node} doesn't follow: {agent.said[-2000:]}")
                time.sleep(_POLL_SECONDS)
