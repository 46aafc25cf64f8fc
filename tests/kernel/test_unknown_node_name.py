"""An agent with an unknown node name and a table that isolates Pods, with a real table and packets."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from pyroute2 import netns

from nfagent.introspection.agent_client import get_json
from nfagent.manifests.index import digest
from tests.support.packet_labs import wait_until

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: network namespaces, nf_tables and NFLOG"),
]

FAULT = Path(__file__).parents[1] / "faults" / "ipvs-and-unknown-node-name" / "objs.json"
DEADLINE = 60.0
SERVER, PORT = "10.64.1.30", 8080
CALL = f"import socket; socket.create_connection(('{SERVER}', {PORT}), timeout=0.5)"
LISTEN = f"import socket, time; s = socket.create_server(('{SERVER}', {PORT})); print(flush=True); time.sleep(600)"


class SystemdMessages:
    """The agent's notifications to systemd; `ready` is the first with READY=1."""

    def __init__(self, listening: socket.socket) -> None:
        self._listening = listening
        self.ready = self.until("READY=1")

    def until(self, text: str) -> str:
        """Wait for a state that has this text; give it."""
        while text not in (state := self._listening.recv(4096).decode()):
            pass
        return state


class IsolatingNode:
    """A node with Pod bug-b/srv, which a policy isolates, and bug-a/oth, which connects to it."""

    def __init__(self, folder: Path, caller: str) -> None:
        self.manifests = folder / "manifests"
        self.manifests.mkdir()
        self.objects: list[dict[str, Any]] = json.loads(FAULT.read_text())["items"]
        self.write()
        self._folder, self._caller = folder, caller
        self._environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith("NFAGENT_")},
            "NFAGENT_RUNTIME_DIR": str(folder / "run"),
            "NFAGENT_LOG_DIR": str(folder / "log"),
            "NFAGENT_STATE_DIR": str(folder / "state"),
        }
        self.log = folder / "log.txt"

    def write(self) -> None:
        """Publish the objects, at once."""
        text = json.dumps({"apiVersion": "v1", "kind": "List", "items": self.objects})
        fresh = self.manifests / ".objs.json"
        fresh.write_text(text)
        fresh.rename(self.manifests / "objs.json")
        self._files = {"objs.json": digest(text)}

    def drop(self, *wanted: tuple[str, str]) -> None:
        """Delete objects, by kind and name; a name of '' means all of the kind."""
        self.objects = [
            found
            for found in self.objects
            if not {(found["kind"], found["metadata"]["name"]), (found["kind"], "")} & set(wanted)
        ]
        self.write()

    def rename(self, name: str) -> None:
        """Add node n2 with its Pods, under another name."""
        for found in self.objects:
            if found["kind"] == "Node" and found["metadata"]["name"] == "n2":
                found["metadata"]["name"] = name
            if found["kind"] == "Pod" and found["spec"]["nodeName"] == "n2":
                found["spec"]["nodeName"] = name
        self.write()

    @contextmanager
    def agent(self, name: str, *flags: str) -> Iterator[SystemdMessages]:
        """Run an agent of this name, from its READY to its end by SIGTERM."""
        address = self._folder / f"notify-{uuid4().hex[:6]}"
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening, self.log.open("w") as log:
            listening.bind(str(address))
            listening.settimeout(DEADLINE)
            command = [sys.executable, "-m", "nfagent", "run", "--manifests", str(self.manifests), "--node", name]
            environment = self._environment | {"NOTIFY_SOCKET": str(address)}
            with subprocess.Popen([*command, *flags], env=environment, stderr=log) as process:
                try:
                    yield SystemdMessages(listening)
                    process.send_signal(signal.SIGTERM)
                    assert process.wait(DEADLINE) == 0
                finally:
                    process.kill()

    def state(self) -> Any:  # noqa: ANN401 - JSON
        return get_json(self._folder / "run" / "agent.sock", "/v1/dump/state", {})

    def shown(self) -> str:
        """Return what `nfagent dump state` prints."""
        command = [sys.executable, "-m", "nfagent", "dump", "state"]
        return subprocess.run(
            command, env=self._environment, capture_output=True, text=True, check=True, timeout=DEADLINE
        ).stdout

    def until(self, condition: Callable[[dict[str, Any]], bool]) -> None:
        """Wait until the agent has read the objects as they were published last, and it stands so with the kernel."""

        def stands() -> bool:
            found = self.state()["agent"]
            return found["files"] == self._files and condition(found["reconcile"])

        wait_until(stands)

    def reached(self) -> bool:
        """Return whether bug-a/oth gets a connection to bug-b/srv."""
        call = ["ip", "netns", "exec", self._caller, sys.executable, "-c", CALL]
        return subprocess.run(call, check=False, capture_output=True, timeout=DEADLINE).returncode == 0


def in_sync(reconcile: dict[str, Any]) -> bool:
    return bool(reconcile["in_sync"])


def held(reconcile: dict[str, Any]) -> bool:
    return bool(reconcile["held"])


@pytest.fixture
def node(tmp_path: Path) -> Iterator[IsolatingNode]:
    """Enter the node's network namespace with this thread and its processes; the Pods are attached by veth."""
    here, server, caller = (f"nfagent-name-{word}-{uuid4().hex[:8]}" for word in ("node", "srv", "oth"))
    made: list[str] = []
    try:
        for name in (here, server, caller):
            subprocess.run(["ip", "netns", "add", name], check=True)
            made.append(name)
        netns.pushns(here)
        try:
            subprocess.run(["sysctl", "-qw", "net.ipv4.ip_forward=1"], check=True)
            for number, (pod, address) in enumerate(((server, SERVER), (caller, "10.64.1.40"))):
                for command in (
                    f"link add pod{number} type veth peer name eth0 netns {pod}",
                    f"addr add 10.64.{200 + number}.1/32 dev pod{number}",
                    f"link set pod{number} up",
                    f"route add {address} dev pod{number}",
                    f"-n {pod} addr add {address}/32 dev eth0",
                    f"-n {pod} link set eth0 up",
                    f"-n {pod} route add 10.64.{200 + number}.1 dev eth0",
                    f"-n {pod} route add default via 10.64.{200 + number}.1 dev eth0",
                ):
                    subprocess.run(["ip", *command.split()], check=True)
            listen = ["ip", "netns", "exec", server, sys.executable, "-c", LISTEN]
            with subprocess.Popen(listen, stdout=subprocess.PIPE) as listening:
                try:
                    assert listening.stdout is not None
                    listening.stdout.readline()
                    yield IsolatingNode(tmp_path, caller)
                finally:
                    listening.kill()
        finally:
            netns.popns()
    finally:
        for name in made:
            with suppress(subprocess.CalledProcessError):
                subprocess.run(["ip", "netns", "del", name], check=True)


def test_with_a_wrong_node_name_the_rules_stay_and_every_output_says_so(node: IsolatingNode) -> None:
    assert node.reached()
    with node.agent("n2"):
        assert not node.reached()
    with node.agent("n2.example") as told:
        assert not node.reached()
        node.until(held)
        assert not node.state()["agent"]["reconcile"]["in_sync"]
        assert "there is no Node n2.example (did you mean n2?)" in node.shown()
        node.drop(("NetworkPolicy", ""))
        node.until(held)
        assert not node.reached(), "no change of policies takes effect"
        node.rename("n2.example")
        told.until("STATUS=enforcing")
        node.until(in_sync)
        assert node.reached(), "the Node is there now, and so is the change"
    said = node.log.read_text()
    assert "table inet nfagent stays unchanged: there is no Node n2.example" in said
    assert "--allow-unknown-node" in said


def test_under_the_name_of_another_machines_node_the_rules_stay(node: IsolatingNode) -> None:
    for command in ("link set lo up", "addr add 192.0.2.2/32 dev lo"):
        subprocess.run(["ip", *command.split()], check=True)
    with node.agent("n2"):
        assert not node.reached()
    with node.agent("n1"):
        node.until(held)
        assert not node.reached()
        shown = " ".join(node.shown().split())
        assert "Node n1 is another machine (192.0.2.1, 2001:db8:ffff::1)" in shown
        assert "address 192.0.2.2 is Node n2's: name this node with --node n2" in shown
    with node.agent("n2"):
        node.until(in_sync)
        assert not node.reached()


def test_the_agent_is_ready_all_the_same_as_kubelet_makes_the_node_and_starts_after_it(node: IsolatingNode) -> None:
    with node.agent("n2"):
        pass
    with node.agent("n3") as told:
        assert "STATUS=nothing is changed: there is no Node n3" in told.ready
        node.rename("n3")
        assert told.until("STATUS=enforcing") == "STATUS=enforcing"
        node.drop(("Node", "n3"))
        told.until("STATUS=nothing is changed: there is no Node n3")


def test_a_node_that_is_deleted_while_the_agent_runs_keeps_its_rules(node: IsolatingNode) -> None:
    with node.agent("n2") as told:
        node.drop(("Node", "n2"), ("Pod", "srv"))
        told.until("STATUS=nothing is changed")
        assert not node.reached()


def test_with_allow_unknown_node_the_rules_are_removed(node: IsolatingNode) -> None:
    with node.agent("n2"):
        pass
    with node.agent("n3", "--allow-unknown-node"):
        node.until(in_sync)
        assert node.reached()


def test_an_empty_table_and_an_unknown_name_work_as_ever(node: IsolatingNode) -> None:
    node.drop(("Node", "n2"))
    with node.agent("n2"):
        node.until(in_sync)
        assert not node.reached()
        node.drop(("NetworkPolicy", ""))
        node.until(in_sync)
        assert node.reached()


def test_a_folder_without_nodes_goes_on_after_a_restart(node: IsolatingNode) -> None:
    node.drop(("Node", ""))
    for _ in range(2):
        with node.agent("n2"):
            node.until(in_sync)
            assert not node.reached()
    with node.agent("n2"):
        node.drop(("NetworkPolicy", ""))
        node.until(in_sync)
        assert node.reached()
