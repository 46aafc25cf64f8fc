"""The service of a machine that systemd-nspawn boots: the shipped unit, started from this checkout's environment."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

from tests.support.nspawn_machine import CHECKOUT, DEADLINE, NspawnMachine

UNIT = CHECKOUT / "systemd" / "nfagent.service"
COMMAND = Path(sys.executable).with_name("nfagent")
SETTINGS = 'node = "node-a"\nmanifests = "/etc/manifests"\n'
PODS = {"web": "10.0.0.1", "db": "10.0.0.2", "api": "10.0.0.3"}
_FOLDER = "/etc/systemd/system/nfagent.service"
_POD = """
---
apiVersion: v1
kind: Pod
metadata: {{namespace: shop, name: {name}, labels: {{app: {name}}}}}
spec: {{nodeName: node-a}}
status: {{phase: Running, podIPs: [{{ip: {address}}}]}}
"""
MANIFESTS = """
apiVersion: v1
kind: Node
metadata: {name: node-a}
spec: {podCIDRs: [10.0.0.0/24]}
status:
  addresses: [{type: InternalIP, address: 10.0.0.254}]
  conditions: [{type: Ready, status: "True"}]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: shop, name: db}
spec:
  podSelector: {matchLabels: {app: db}}
  ingress: [{from: [{podSelector: {matchLabels: {app: api}}}]}]
---
apiVersion: networking.gke.io/v1alpha1
kind: NetworkLogging
metadata: {name: default}
spec: {cluster: {allow: {log: true}, deny: {log: true}}}
""" + "".join(_POD.format(name=name, address=address) for name, address in PODS.items())
"""Only shop/api may send to shop/db."""

_CONNECT = """
import socket, sys
with socket.socket() as opened:
    opened.settimeout(1)
    try:
        opened.connect((sys.argv[1], 9))
    except ConnectionRefusedError:
        print("refused")
    except OSError:
        print("nothing")
"""


class NspawnService:
    """The service nfagent of a machine."""

    def __init__(self, machine: NspawnMachine) -> None:
        """Write the unit."""
        self._machine = machine
        self._changed = True
        text = UNIT.read_text("utf-8").replace("/opt/nfagent/bin/nfagent", str(COMMAND))
        machine.write(_FOLDER, text)

    def ensure(self) -> None:
        """Start it with its own settings and without lines of a drop-in, unless it runs so."""
        if self._changed or self.shown("ActiveState") != "active":
            self._machine.run("systemctl reset-failed nfagent; true")
            self.restart()

    def restart(self, settings: str = SETTINGS, drop_in: str = "", codes: tuple[int, ...] = (0,)) -> None:
        """Write settings, and lines of a drop-in for [Service]; restart, and return when the agent is ready."""
        self._changed = (settings, drop_in) != (SETTINGS, "")
        self._machine.write("/etc/nfagent/nfagent.toml", settings)
        self._machine.write(f"{_FOLDER}.d/override.conf", f"[Service]\n{drop_in}\n")
        self._machine.run("systemctl daemon-reload && systemctl restart nfagent", codes=codes)

    def shown(self, name: str) -> str:
        """Return a property, as systemd has it."""
        return self._machine.run(f"systemctl show --value --property {name} nfagent").strip()

    @property
    def pid(self) -> int:
        """The id of its main process, in the machine."""
        return int(self.shown("MainPID"))

    def wait_for_another(self, pid: int) -> None:
        """Wait until it is active with another main process."""
        shown = "systemctl show --value --property MainPID nfagent"
        self._machine.wait_until(f"systemctl is-active nfagent && ! {shown} | grep -qxE '0|{pid}'")

    def state(self) -> Any:  # noqa: ANN401 - JSON
        """Return what the agent says of itself."""
        return self._machine.json(f"{COMMAND} dump state -o json")["agent"]

    def log(self) -> str:
        """Return the messages of the unit."""
        return self._machine.run("journalctl --sync; journalctl --quiet --output=cat --unit=nfagent")

    def reaches(self, source: str, destination: str) -> bool:
        """Return whether a Pod's packets reach another one, whose port is closed."""
        line = f"ip netns exec {source} python3 - {PODS[destination]}"
        return self._machine.run(line, stdin=_CONNECT).strip() == "refused"

    def wait_until_it_reaches(self, source: str, destination: str) -> None:
        """Wait until a Pod's packets reach another one."""
        end = time.monotonic() + DEADLINE
        while not self.reaches(source, destination):
            assert time.monotonic() < end, f"{source} never reaches {destination}: {self.log()[-3000:]}"

    @property
    def enforces(self) -> bool:
        """Whether the allowed Pod reaches shop/db, and the other one doesn't."""
        return self.reaches("api", "db") and not self.reaches("web", "db")
