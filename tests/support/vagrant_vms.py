"""The VMs of a Vagrant lab, for tests: commands as root, packets between Pods, and objects at the API server."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from nfagent.errors import HostError
from nfagent.lab.machine.binaries import CHECKOUT

_POLL_SECONDS = 0.5
# Emulated machines that share two cores with other work.
PATIENCE = 1200.0

WORKER = "worker-1"
"""The VM whose service and kernel are under test."""

# Sends numbered UDP packets with the sender's name, one each `pause` seconds, until its standard input ends; then
# prints how many.
_SENDER = """
import select, socket, sys, time
address, port, pause, name = sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), sys.argv[4]
with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM) as sender:
    sent = 0
    due = time.monotonic()
    while not select.select([sys.stdin], [], [], max(0.0, due - time.monotonic()))[0]:
        due += pause
        try:
            sender.sendto(f"{name} {sent}".encode(), (address, port))
            sent += 1
        except OSError:
            pass  # no route while the other machine boots, or an ICMP error
print(sent)
"""


# Sends back what it gets, until its standard input ends.
_ECHO = """
import select, socket, sys
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
    server.bind(("0.0.0.0", int(sys.argv[1])))
    print("ready", flush=True)
    while sys.stdin not in (ready := select.select([sys.stdin, server], [], [])[0]):
        server.sendto(*server.recvfrom(2048))
"""

# Takes such packets, until its standard input ends; then prints each sender's numbers.
_RECEIVER = """
import json, select, socket, sys
found = {}
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
    server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
    server.bind(("0.0.0.0", int(sys.argv[1])))
    print("ready", flush=True)
    while True:
        ready = select.select([sys.stdin, server], [], [])[0]
        if server in ready:
            name, number = server.recv(2048).split()
            found.setdefault(name.decode(), []).append(int(number))
        elif sys.stdin in ready:
            break
print(json.dumps(found))
"""


class VagrantVms:
    """The VMs of a lab that is up; a context manager that closes its connections to them."""

    def __init__(self, name: str) -> None:
        """Set the lab's name."""
        self._config = CHECKOUT / "build" / "vagrant" / name / "ssh"
        self._sockets = tempfile.TemporaryDirectory(prefix="nfagent-ssh-")
        self._running: list[subprocess.Popen[str]] = []

    def __enter__(self) -> Self:
        """Return the VMs."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the connections."""
        self.stop_all()
        for path in Path(self._sockets.name).iterdir():
            command = ["ssh", "-o", f"ControlPath={path}", "-O", "exit", "any"]
            subprocess.run(command, capture_output=True, check=False)
        self._sockets.cleanup()

    def command(self, vm: str, line: str) -> list[str]:
        """Return the command that runs a shell line in a VM as root."""
        shared = ["ControlMaster=auto", f"ControlPath={self._sockets.name}/{vm}", "ControlPersist=60", "LogLevel=ERROR"]
        options = [
            word for option in (*shared, "ServerAliveInterval=5", "ConnectTimeout=10") for word in ("-o", option)
        ]
        return ["ssh", "-F", str(self._config), *options, vm, f"sudo bash -c {shlex.quote(line)}"]

    def run(self, vm: str, line: str, *, codes: Sequence[int] = (0,), stdin: str = "") -> str:
        """Run a shell line in a VM as root; return its output. Raises HostError for an exit code not in `codes`."""
        done = subprocess.run(
            self.command(vm, line), input=stdin, capture_output=True, text=True, check=False, timeout=3 * PATIENCE
        )
        if done.returncode not in codes:
            raise HostError(
                f"{vm}: {line}: exit code {done.returncode}: {done.stderr.strip()[-3000:]} {done.stdout[-1000:]}"
            )
        return done.stdout

    def json(self, vm: str, line: str, *, codes: Sequence[int] = (0,)) -> Any:  # noqa: ANN401 - as json.loads
        """Run a shell line that prints JSON."""
        return json.loads(self.run(vm, line, codes=codes))

    def wait_until(self, vm: str, line: str, seconds: float = PATIENCE) -> None:
        """Wait until a shell line succeeds, also while a VM boots. Raises HostError with what it said last."""
        end = time.monotonic() + seconds
        while True:
            try:
                self.run(vm, line)
            except (HostError, subprocess.TimeoutExpired) as error:
                if time.monotonic() > end:
                    raise HostError(f"not after {seconds:.0f} s: {error}") from error
                time.sleep(_POLL_SECONDS)
            else:
                return

    def property(self, vm: str, unit: str, name: str) -> str:
        """Return a property of a unit, as systemd has it."""
        return self.run(vm, f"systemctl show --value --property {name} {unit}").strip()

    def apply(self, *documents: dict[str, Any]) -> None:
        """Create or change objects at the API server, and return when the agent enforces its policies."""
        self._write(_PUT, documents)

    def delete(self, *documents: dict[str, Any]) -> None:
        """Delete objects, and return when the agent enforces the rest."""
        self._write(_DELETE, documents)

    def wait_until_enforced(self) -> None:
        """Wait until the agent has the server's policies in the kernel. Raises HostError."""
        self._write("", ())

    def _write(self, how: str, documents: Sequence[dict[str, Any]]) -> None:
        line = f"cd /vagrant && /opt/nfagent/bin/python -c {shlex.quote(_CLIENT + how + _VERSION)}"
        newest = self.run(WORKER, line, stdin=json.dumps(documents)).strip()
        self._wait(lambda: self._has_seen(newest), f"the agent doesn't enforce the policies: {newest}")

    def state(self, vm: str) -> Any:  # noqa: ANN401 - as json.loads
        """Return the state of a VM's agent; by its socket, since the command takes seconds under emulation."""
        return self.json(vm, f"python3 -c {shlex.quote(_STATE)}")["agent"]

    def _has_seen(self, newest: str) -> bool:
        status = self.state(WORKER)
        count, version = map(int, newest.split())
        there = status["apiserver"]["resources"]["NetworkPolicy"]
        return bool(
            there["synced"]
            and there["objects"] == count
            and int(there["version"] or 0) >= version
            and status["reconcile"]["in_sync"]
            and not status["revoke"]["suspects"]
        )

    def wait_until_in_sync(self, vm: str) -> None:
        """Wait until a VM's agent runs and has the kernel in sync. Raises HostError."""

        def holds() -> bool:
            try:
                return bool(self.state(vm)["reconcile"]["in_sync"])
            except (HostError, ValueError):
                return False  # it starts

        self._wait(holds, f"the agent of {vm} isn't in sync")

    @staticmethod
    def _wait(holds: Callable[[], bool], otherwise: str) -> None:
        end = time.monotonic() + PATIENCE
        while not holds():
            if time.monotonic() > end:
                raise HostError(otherwise)
            time.sleep(_POLL_SECONDS)

    def address(self, pod: str) -> str:
        """Return the IPv4 address of a Pod, named as its network namespace, such as shop.db-1."""
        found = self.run(vm_of(pod), f"ip -n {pod} -4 -o address show dev eth0")
        match = re.search(r"inet (\S+)/", found)
        assert match is not None, found
        return match[1]

    def reaches(self, source: str, address: str, port: int = 80) -> bool:
        """Return whether a packet of a Pod, or of the VM `cp`, reaches a Pod's address: a closed port answers too."""
        probe = (
            "import socket,sys\ns=socket.socket(socket.AF_INET6 if ':' in sys.argv[1] else socket.AF_INET)\n"
            "s.settimeout(5)\n"
            "try: s.connect((sys.argv[1], int(sys.argv[2])))\nexcept ConnectionRefusedError: print('yes')\n"
            "except OSError: print('no')\nelse: print('yes')\n"
        )
        line = f"{_inside(source)}python3 -c {shlex.quote(probe)} {address} {port}"
        return self.run(vm_of(source), line).strip() == "yes"

    def received(self, pod: str) -> int:
        """Return how many UDP packets a Pod got since it was attached, whether or not anything listens."""
        line = f"ip netns exec {pod} cat /proc/net/snmp"
        names, values = (row.split()[1:] for row in self.run(vm_of(pod), line).splitlines() if row.startswith("Udp:"))
        counters = dict(zip(names, map(int, values), strict=True))
        return counters["InDatagrams"] + counters["NoPorts"] + counters["InErrors"]

    def wait_until_received(self, pod: str, packets: int) -> None:
        """Wait until a Pod got so many UDP packets since it was attached. Raises HostError."""
        self._wait(lambda: self.received(pod) >= packets, f"{pod} got fewer than {packets} packets")

    def send(self, source: str, address: str, port: int = 7000, pause: float = 0.02) -> subprocess.Popen[str]:
        """Start to send UDP packets from a Pod, or from the VM `cp`; `stop` ends it."""
        line = f"{_inside(source)}python3 -c {shlex.quote(_SENDER)} {address} {port} {pause} {source}"
        return self._start(vm_of(source), line)

    def echo(self, pod: str, port: int = 7000) -> subprocess.Popen[str]:
        """Start to answer UDP packets in a Pod; `stop` ends it."""
        return self._start_server(pod, _ECHO, port)

    def receive(self, pod: str, port: int = 7000) -> subprocess.Popen[str]:
        """Start to take UDP packets of `send` in a Pod; `stop_receiving` ends it."""
        return self._start_server(pod, _RECEIVER, port)

    def stop(self, process: subprocess.Popen[str]) -> int:
        """End what `send` or `echo` started; return how many packets a sender sent."""
        return int(self._ended(process) or 0)

    def stop_receiving(self, process: subprocess.Popen[str]) -> dict[str, list[int]]:
        """End what `receive` started; return the numbers of each sender's packets, as they came."""
        found: dict[str, list[int]] = json.loads(self._ended(process))
        return found

    def _ended(self, process: subprocess.Popen[str]) -> str:
        self._running.remove(process)
        return process.communicate(timeout=PATIENCE)[0]

    def stop_all(self) -> None:
        """End what a failed test left."""
        for process in list(self._running):
            self._ended(process)

    def _start_server(self, pod: str, program: str, port: int) -> subprocess.Popen[str]:
        server = self._start(vm_of(pod), f"ip netns exec {pod} python3 -c {shlex.quote(program)} {port}")
        assert server.stdout is not None
        assert server.stdout.readline().strip() == "ready"
        return server

    def _start(self, vm: str, line: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(self.command(vm, line), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._running.append(process)
        return process


def vm_of(place: str) -> str:
    """Return the VM of a Pod, named as its network namespace: shop.db-1 is on worker-1; and `cp` of `cp` itself."""
    return place if "." not in place else f"worker-{place.split('-')[1]}"


def _inside(place: str) -> str:
    return f"ip netns exec {place} " if "." in place else ""


def policy(name: str, namespace: str, spec: dict[str, Any]) -> dict[str, Any]:
    """Return a NetworkPolicy."""
    meta = {"name": name, "namespace": namespace}
    return {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": meta, "spec": spec}


_CLIENT = "import json,sys\nfrom nfagent.lab.vagrant.node import admin_client\nclient = admin_client()\n"
_PUT = "client.put_all(json.load(sys.stdin))\n"
_DELETE = "[client.delete(each) for each in json.load(sys.stdin)]\n"
_VERSION = (
    "found = client.list('networking.k8s.io/v1', 'NetworkPolicy')\n"
    "print(len(found), max([int(each['metadata']['resourceVersion']) for each in found], default=0))\n"
)
_STATE = """
import socket, sys
with socket.socket(socket.AF_UNIX) as agent:
    agent.connect("/run/nfagent/agent.sock")
    agent.sendall(b"GET /v1/dump/state HTTP/1.0\\r\\nHost: agent\\r\\n\\r\\n")
    reply = b"".join(iter(lambda: agent.recv(65536), b""))
sys.stdout.buffer.write(reply.partition(b"\\r\\n\\r\\n")[2])
"""


DB_ONLY_FROM_WEB = policy(
    "db",
    "shop",
    {
        "podSelector": {"matchLabels": {"app": "db"}},
        "ingress": [{"from": [{"podSelector": {"matchLabels": {"app": "web"}}}]}],
    },
)
"""shop/web-1 may send to shop/db-1; no other Pod, the VM `cp` included."""
