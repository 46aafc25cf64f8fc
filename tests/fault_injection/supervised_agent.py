"""An agent that is started again whenever it ends, as systemd does, and what it tells systemd meanwhile."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from nfagent.errors import HostError, KernelError, UsageError
from nfagent.introspection.agent_client import get_json
from nfagent.lab.cluster.agents import own_environment
from nfagent.lab.topology.netns_topology import NetnsTopology
from nfagent.manifests.index import digest

START_SECONDS = 60.0
_POLL_SECONDS = 0.01
_METRICS_SECONDS = 10.0
_TICKS = os.sysconf("SC_CLK_TCK")


class SupervisedAgent:
    """The agent of one node, in the node's network namespace; a context manager that ends it.

    status: the last STATUS that it told systemd
    kills:  how often it has ended without being asked to
    """

    def __init__(
        self,
        topology: NetnsTopology,
        node: str,
        source: Sequence[str],
        folder: Path,
        environment: Mapping[str, str],
    ) -> None:
        """Set the folders; source: the options of `nfagent run` for the object source."""
        self.folder = folder
        self.socket = folder / "run" / "agent.sock"
        self.state_dir, self.log_dir = folder / "state", folder / "log"
        self.notify_path = folder / "notify"
        self.status = ""
        self.kills = 0
        self._readied = 0
        folder.mkdir(parents=True)
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._listener.bind(str(self.notify_path))
        self._listener.settimeout(0.1)
        self._environment = {
            **own_environment(),
            "NFAGENT_BACKEND": "nftables",
            **environment,
            "NFAGENT_RUNTIME_DIR": str(folder / "run"),
            "NFAGENT_LOG_DIR": str(self.log_dir),
            "NFAGENT_STATE_DIR": str(self.state_dir),
            "XTABLES_LOCKFILE": str(folder / "xtables.lock"),
            "NOTIFY_SOCKET": str(self.notify_path),
        }
        command = ["setpriv", "--pdeathsig", "KILL", sys.executable, "-m", "nfagent", "run", *source, "--node", node]
        self._command = topology.command(topology.node_namespace(node), command)
        self._process: subprocess.Popen[bytes] | None = None
        self._wanted = False
        self._ending = threading.Event()
        self._supervisor = threading.Thread(target=self._supervise, name="supervisor", daemon=True)

    def __enter__(self) -> Self:
        """Start to supervise; `start` starts the agent."""
        self._supervisor.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the agent."""
        self.stop()
        self._ending.set()
        self._supervisor.join()
        self._listener.close()

    @property
    def pid(self) -> int:
        """Its process id. Raises UsageError where it isn't running."""
        if self._process is None:
            raise UsageError("the agent isn't running")
        return self._process.pid

    @property
    def is_running(self) -> bool:
        """Whether it was started, and not stopped."""
        return self._wanted

    @property
    def stderr_text(self) -> str:
        """Its log so far."""
        path = self.folder / "stderr"
        return path.read_text("utf-8", "replace") if path.exists() else ""

    def start(self, *, wait: bool = True) -> None:
        """Start it, and wait for READY=1. Raises KernelError, with its log."""
        before = self._readied
        self._launch()
        self._wanted = True
        if wait:
            self.wait_until(lambda: self._readied > before, "READY=1", START_SECONDS)

    def stop(self) -> None:
        """End it by SIGTERM; its rules stay. Does nothing where it isn't running."""
        self._wanted = False
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        try:
            process.wait(START_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(START_SECONDS)

    def reload(self) -> None:
        """Send SIGHUP: the agent reads its source and the kernel again."""
        os.kill(self.pid, signal.SIGHUP)

    def state(self) -> dict[str, Any]:
        """Return `dump state` of the agent's parts. Raises UsageError, HostError where it doesn't answer."""
        found: dict[str, Any] = self.ask("/v1/dump/state")
        return found

    def ask(self, path: str, **query: str) -> dict[str, Any]:
        """Return the reply to a GET on its unix socket. Raises UsageError, HostError."""
        return get_json(self.socket, path, query)

    def metrics(self) -> str:
        """Return its metrics. Raises OSError."""
        with self.begun_request("/metrics") as opened:
            parts = []
            while part := opened.recv(65_536):
                parts.append(part)
        return b"".join(parts).decode("utf-8", "replace")

    def begun_request(self, route: str) -> socket.socket:
        """Return a connection on which a route was asked for. Raises OSError."""
        opened = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            opened.settimeout(_METRICS_SECONDS)
            opened.connect(str(self.socket))
            opened.sendall(f"GET {route} HTTP/1.0\r\nHost: agent\r\n\r\n".encode())
        except OSError:
            opened.close()
            raise
        return opened

    def cpu_seconds(self) -> float:
        """Return the CPU seconds of the process so far."""
        fields = Path("/proc", str(self.pid), "stat").read_text("ascii").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS

    def enforces(self, manifests: Path) -> bool:
        """Return whether it has read all manifests of a folder as they are, and the kernel is in sync with them."""
        files = {path.name: digest(path.read_text("utf-8")) for path in manifests.glob("*.yaml")}
        with contextlib.suppress(UsageError, HostError, OSError):
            found = self.state()["agent"]
            return (
                bool(found["reconcile"]["in_sync"]) and found.get("files") == files and not found["revoke"]["suspects"]
            )
        return False

    def wait_until(self, condition: Callable[[], bool], what: str, seconds: float) -> None:
        """Wait until a condition holds. Raises KernelError, with the end of the agent's log."""
        end = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > end:
                raise KernelError(f"not within {seconds:g} s: {what}\n{self.stderr_text[-3000:]}")
            time.sleep(_POLL_SECONDS)

    def _launch(self) -> None:
        with (self.folder / "stderr").open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def _supervise(self) -> None:
        while not self._ending.is_set():
            with contextlib.suppress(TimeoutError):
                self._hear(self._listener.recv(4096).decode("utf-8", "replace"))
            process = self._process
            if self._wanted and process is not None and process.poll() is not None:
                self.kills += 1
                self._launch()

    def _hear(self, text: str) -> None:
        for line in text.splitlines():
            name, _, value = line.partition("=")
            if name == "STATUS":
                self.status = value
            elif line == "READY=1":
                self._readied += 1
