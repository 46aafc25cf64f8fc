"""Processes of a lab in a network namespace, each with a log file, and free ports for them to listen on."""

from __future__ import annotations

import contextlib
import os
import random
import socket
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from nfagent.errors import KernelError, UsageError
from nfagent.lab.topology import netns as network_namespaces
from nfagent.system.interrupts import deferred_interrupts

# Below the ephemeral ports: while a server is down, no connection takes its port or connects to itself there.
_PORTS = range(20_000, 30_000)
_ATTEMPTS = 100


class Processes:
    """Named processes of one namespace, this process's own where it is empty.

    Each ends with the thread that started it (prctl(2), PR_SET_PDEATHSIG), unless they outlive it.
    """

    def __init__(
        self, folder: Path, netns: str = "", environment: Mapping[str, str] | None = None, *, outlive: bool = False
    ) -> None:
        """Set their working folder, which also has their logs; it must exist when a process starts.

        environment: variables beside PATH
        outlive:     whether they go on when this process has ended
        """
        self._folder, self._netns = folder, netns
        self._environment = {"PATH": os.environ.get("PATH", os.defpath), **(environment or {})}
        self._ending = [] if outlive else ["setpriv", "--pdeathsig", "KILL"]
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def __contains__(self, name: str) -> bool:
        """Return whether a process was started and not killed."""
        return name in self._running

    def __getitem__(self, name: str) -> subprocess.Popen[bytes]:
        """Return a process. Raises UsageError where it isn't running."""
        if name not in self._running:
            raise UsageError(f"{name} isn't running")
        return self._running[name]

    def start(self, name: str, argv: Sequence[str]) -> None:
        """Start a process. Raises UsageError where it runs already."""
        if name in self._running:
            raise UsageError(f"{name} runs already")
        entering = ["ip", "netns", "exec", self._netns] if self._netns else []
        with self._log(name).open("ab") as log, deferred_interrupts():
            self._running[name] = subprocess.Popen(
                [*entering, *self._ending, *argv],
                cwd=self._folder,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def kill(self, name: str) -> None:
        """End a process by SIGKILL, and return when it is gone. Does nothing where it isn't running."""
        process = self._running.pop(name, None)
        if process is not None:
            process.kill()
            process.wait()

    def log_text(self, name: str) -> str:
        """Return a process's log so far."""
        path = self._log(name)
        return path.read_text("utf-8", "replace") if path.exists() else ""

    def exited_name(self) -> str:
        """Return the name of a process that exited; empty where all are running."""
        return next((name for name, process in self._running.items() if process.poll() is not None), "")

    def _log(self, name: str) -> Path:
        return self._folder / f"{name}.log"


def free_ports(address: str, count: int, netns: str = "") -> list[int]:
    """Return free TCP ports of an address.

    Raises KernelError where the namespace doesn't have the address.
    """

    def find() -> list[int]:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with contextlib.ExitStack() as held:
            ports: list[int] = []
            for port in random.sample(_PORTS, _ATTEMPTS):
                listener = held.enter_context(socket.socket(family))
                # As servers do: connections in TIME_WAIT don't block the port.
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                with contextlib.suppress(OSError):
                    listener.bind((address, port))
                    ports.append(port)
                if len(ports) == count:
                    return ports
        raise KernelError(f"can't listen on {address}: is it an address of {netns or 'this machine'}?")

    return network_namespaces.inside(netns, find) if netns else find()
