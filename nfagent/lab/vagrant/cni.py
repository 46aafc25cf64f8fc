"""Attaches network namespaces by a CNI plugin, as a container runtime does.

    network = Network.read()                        # /etc/cni/net.d, the first file by name
    addresses = network.add("shop-web", "shop.web")

Plugins are programs in /opt/cni/bin that read the network's configuration from standard input and answer in JSON
(https://www.cni.dev/docs/spec). A list of plugins is run in its order, each with the result of the one before.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from pathlib import Path
from typing import Any, Self

import msgspec

from nfagent.errors import HostError

CONFIGURATION = Path("/etc/cni/net.d")
PLUGINS = Path("/opt/cni/bin")
INTERFACE = "eth0"
_SECONDS = 60.0


class Network(msgspec.Struct, frozen=True):
    """A network: its configuration, and the folder of the plugins."""

    name: str
    version: str
    plugins: tuple[dict[str, Any], ...]
    folder: Path = PLUGINS

    @classmethod
    def read(cls, folder: Path = CONFIGURATION, plugins: Path = PLUGINS) -> Self:
        """Read the first configuration of a folder, as container runtimes do. Raises HostError."""
        path = next((each for each in sorted(folder.glob("*.conflist"))), None)
        if path is None:
            raise HostError(f"no CNI configuration: {folder} has no file *.conflist")
        try:
            found = json.loads(path.read_text("utf-8"))
            return cls(found["name"], found["cniVersion"], tuple(found["plugins"]), plugins)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise HostError(f"{path}: no CNI configuration list: {error}") from error

    def add(self, container: str, netns: str) -> tuple[str, ...]:
        """Attach a network namespace; return its addresses, without prefix lengths. Raises HostError."""
        result: dict[str, Any] = {}
        for plugin in self.plugins:
            result = self._run("ADD", plugin, container, netns, result)
        return tuple(each["address"].partition("/")[0] for each in result.get("ips", ()))

    def delete(self, container: str, netns: str) -> None:
        """Detach a network namespace. Raises HostError."""
        for plugin in reversed(self.plugins):
            self._run("DEL", plugin, container, netns, {})

    def _run(
        self, command: str, plugin: dict[str, Any], container: str, netns: str, before: dict[str, Any]
    ) -> dict[str, Any]:
        configuration = {**plugin, "name": self.name, "cniVersion": self.version}
        if before:
            configuration["prevResult"] = before
        program = self.folder / plugin["type"]
        environment = {
            "CNI_COMMAND": command,
            "CNI_CONTAINERID": container,
            "CNI_NETNS": f"/run/netns/{netns}",
            "CNI_IFNAME": INTERFACE,
            "CNI_PATH": str(self.folder),
            "PATH": os.environ.get("PATH", os.defpath),
        }
        try:
            done = subprocess.run(
                [str(program)],
                input=json.dumps(configuration),
                env=environment,
                capture_output=True,
                text=True,
                check=False,
                timeout=_SECONDS,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise HostError(f"CNI {command} of {netns}: {program}: {error}") from error
        if done.returncode:
            words = done.stdout.strip() or done.stderr.strip()
            # A plugin's error is JSON: code, msg, details.
            with contextlib.suppress(ValueError, KeyError, TypeError):
                words = json.loads(words)["msg"]
            raise HostError(f"CNI {command} of {netns}: {program}: {words}")
        answer: dict[str, Any] = json.loads(done.stdout) if done.stdout.strip() else {}
        return answer
