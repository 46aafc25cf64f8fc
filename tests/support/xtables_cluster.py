"""Nodes of a lab with rules of iptables and ipset, computed here from a folder of manifests, and loaded whole."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self

import yaml

from nfagent.decode.registry import DECODERS
from nfagent.desired.node_interfaces import NodeInterfaces
from nfagent.desired.state import DesiredState
from nfagent.lab.topology.netns_topology import NetnsTopology
from nfagent.model.netaddr import FAMILIES
from nfagent.xtables.lowering import lower
from nfagent.xtables.objects import XtRuleset
from nfagent.xtables.options import LoweringOptions
from nfagent.xtables.text import restore_text, sets_text

RESTORE = {4: "iptables-legacy-restore", 6: "ip6tables-legacy-restore"}
OPTIONS = LoweringOptions(accounts=False)
_EMPTY = "".join(f"*{table}\nCOMMIT\n" for table in ("raw", "mangle", "nat"))
"""Without --noflush: the tables lose all chains."""


def load(run: Callable[[list[str], str], object], ruleset: XtRuleset) -> None:
    """Replace all sets and chains of a network namespace. run: runs a program there, with this input."""
    for family in FAMILIES:
        run([RESTORE[family]], _EMPTY)
    run(["ipset", "destroy"], "")
    run(["ipset", "restore"], sets_text(ruleset.sets))
    for family in FAMILIES:
        run([RESTORE[family], "--noflush"], restore_text(ruleset, family))


class XtablesCluster:
    """What a lab needs of its agents: it follows a folder of manifests."""

    def __init__(self, topology: NetnsTopology, manifests: Path, options: LoweringOptions = OPTIONS) -> None:
        self.manifests = manifests
        self.states: dict[str, DesiredState] = {}
        self._topology = topology
        self._options = options
        self._loaded: dict[str, XtRuleset] = {}

    def __enter__(self) -> Self:
        self.wait_until_enforced()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loaded.clear()

    def place(self, name: str, text: str) -> None:
        (self.manifests / name).write_text(text, encoding="utf-8")

    def write(self, name: str, text: str) -> None:
        self.place(name, text)
        self.wait_until_enforced()

    def delete(self, *names: str) -> None:
        for name in names:
            (self.manifests / name).unlink()
        self.wait_until_enforced()

    def wait_until_enforced(self) -> None:
        documents = [
            document
            for path in sorted(self.manifests.glob("*.yaml"))
            for document in yaml.safe_load_all(path.read_text(encoding="utf-8"))
            if document is not None
        ]
        for node in self._topology.nodes:
            desired = DesiredState(node)
            for document in documents:
                item = DECODERS[document["apiVersion"], document["kind"]](document)
                if item is not None:
                    desired.put(item)
            desired.follow_links(self._links(node))
            desired.clear_recheck(desired.recheck_addresses)  # the state of a node at rest
            self.states[node] = desired
            ruleset, _ = lower(desired.ruleset(), self._options)
            if ruleset != self._loaded.get(node):
                load(partial(self.run, node), ruleset)
                self._loaded[node] = ruleset

    def _links(self, node: str) -> NodeInterfaces:
        """Return the interfaces by which a node reaches its Pods, as the agent's link monitor finds them."""
        addresses = [address for pod in self._topology.pods.values() if pod.node == node for address in pod.addresses]
        asked = {address: json.loads(self.run(node, ["ip", "-j", "route", "get", address])) for address in addresses}
        links = frozenset(route["dev"] for found in asked.values() for route in found if "gateway" not in route)
        shown = json.loads(self.run(node, ["ip", "-j", "-d", "link", "show", "type", "bridge"]) or "[]")
        bridges = {link.get("ifname", "") for link in shown}
        return NodeInterfaces(links, bridged=bool(links & bridges))

    def run(self, node: str, words: list[str], text: str = "") -> str:
        """Run a program in a node's namespace, with this input, and return its output."""
        command = self._topology.command(self._topology.node_namespace(node), words)
        done = subprocess.run(command, input=text, capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 0, f"{' '.join(words)}: {done.stderr}"
        return done.stdout
