"""The commands with a running agent and a real kernel, in a network namespace with one Pod."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import yaml
from pyroute2 import netns

from nfagent.introspection.agent_client import get_json
from nfagent.kernel.nflog import NflogSource
from tests.support.forked_command import run_command, start_server
from tests.support.packet_labs import wait_until

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: network namespaces, nf_tables and NFLOG"),
]

DEADLINE = 60.0
_POLL_SECONDS = 0.1
ASLEEP = "table inet nfagent has flags; a dormant one does nothing"
WAKING = "a start of nfagent takes them away, and so does `nft add table inet nfagent`"
VIEWS = ("state", "policies", "ruleset", "kernel", "diff", "counters")
CLUSTER = """
apiVersion: v1
kind: Node
metadata: {name: node-a}
spec: {podCIDRs: [10.0.0.0/24]}
status: {addresses: [{type: InternalIP, address: 10.0.0.254}]}
---
apiVersion: v1
kind: Pod
metadata: {namespace: shop, name: web, labels: {app: web}}
spec: {nodeName: node-a}
status: {phase: Running, podIPs: [{ip: 10.0.0.1}]}
---
apiVersion: v1
kind: Pod
metadata: {namespace: shop, name: db, labels: {app: db}}
spec: {nodeName: node-b}
status: {phase: Running, podIPs: [{ip: 10.0.1.2}]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: shop, name: web}
spec:
  podSelector: {matchLabels: {app: web}}
  policyTypes: [Egress]
  egress:
  - to: [{podSelector: {matchLabels: {app: db}}}]
    ports: [{port: 5432}]
---
apiVersion: networking.gke.io/v1alpha1
kind: NetworkLogging
metadata: {name: default}
spec: {cluster: {allow: {log: true}, deny: {log: true}}}
"""
WITHOUT_ROOT = ("--reuid", "65534", "--regid", "65534", "--clear-groups")
# A checkout may lie where only root can read: this much of root is kept, so that what is missing is what is tested.
READING = ("--inh-caps", "+dac_read_search", "--ambient-caps", "+dac_read_search")


class AgentSite:
    """A node: a network namespace, folders of its own, and an agent where it was started."""

    def __init__(self, folder: Path, pod: str) -> None:
        self.folder = folder
        self.manifests = folder / "manifests"
        self.manifests.mkdir()
        (self.manifests / "cluster.yaml").write_text(CLUSTER)
        self.environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith("NFAGENT_")},
            "NFAGENT_RUNTIME_DIR": str(folder / "run"),
            "NFAGENT_LOG_DIR": str(folder / "log"),
            "NFAGENT_STATE_DIR": str(folder / "state"),
            "NFAGENT_RECONCILE_RESYNC_SECONDS": "3600",
        }
        self.node = "node-a"
        self._pod = pod

    @property
    def socket(self) -> Path:
        return self.folder / "run" / "agent.sock"

    @property
    def running(self) -> list[str]:
        return ["run", "--manifests", str(self.manifests), "--node", self.node]

    @property
    def from_files(self) -> list[str]:
        return ["--manifests", str(self.manifests), "--node", "node-a"]

    def nfagent(self, *arguments: str, before: Sequence[str] = ()) -> subprocess.CompletedProcess[str]:
        """Run a command of nfagent."""
        if not before:
            return run_command(arguments, self.environment, DEADLINE)
        return subprocess.run(
            [*before, sys.executable, "-m", "nfagent", *arguments],
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=DEADLINE,
        )

    def said(self, *arguments: str, code: int = 0) -> str:
        """Run a command that ends with this code; give what it answers."""
        done = self.nfagent(*arguments)
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout

    def ask(self, *arguments: str, code: int = 0) -> Any:  # noqa: ANN401 - JSON
        """Run a command that answers in JSON."""
        return json.loads(self.said(*arguments, "-o", "json", code=code))

    @contextlib.contextmanager
    def agent(self, checkout: str = "") -> Iterator[AgentProcess]:
        """Start an agent, of another checkout if one is named; return it when it is ready; end it."""
        python = f"{checkout}/.venv/bin/python" if checkout else sys.executable
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notified:
            path = self.folder / f"notify-{uuid4().hex[:6]}"
            notified.bind(str(path))
            notified.settimeout(_POLL_SECONDS)
            with subprocess.Popen(
                [python, "-m", "nfagent", *self.running],
                cwd=checkout or None,
                env=self.environment | {"NOTIFY_SOCKET": str(path)},
                stderr=subprocess.PIPE,
                text=True,
            ) as process:
                agent = AgentProcess(process, notified)
                try:
                    agent.await_state("READY=1")
                    yield agent
                finally:
                    process.kill()

    def await_sync(self) -> None:
        """Wait until the agent has put everything that it wants into the kernel."""
        end = time.monotonic() + DEADLINE
        while not get_json(self.socket, "/v1/dump/state", {})["agent"]["reconcile"]["in_sync"]:
            assert time.monotonic() < end, "the agent never got in sync"

    def await_judged(self) -> None:
        """Wait until the connections of before the start were judged: until then their addresses are in the table."""
        end = time.monotonic() + DEADLINE
        while True:
            state = get_json(self.socket, "/v1/dump/state", {})["agent"]
            if state["reconcile"]["in_sync"] and not state["revoke"]["suspects"]:
                return
            assert time.monotonic() < end, f"connections are judged for ever: {state['revoke']}"

    def await_drift(self) -> Any:  # noqa: ANN401 - JSON
        """Wait until the agent has put right what others did; give how it stands with the kernel then."""
        end = time.monotonic() + DEADLINE
        while True:
            state = get_json(self.socket, "/v1/dump/state", {})["agent"]["reconcile"]
            if state["drifts"] and state["in_sync"]:
                return state
            assert time.monotonic() < end, f"the agent has not put it right: {state}"

    @property
    def in_pod(self) -> list[str]:
        """The command line before one that runs in the Pod."""
        return ["ip", "netns", "exec", self._pod]

    def drop_a_packet(self) -> None:
        """Send a datagram from the Pod to its node, which its policy denies."""
        program = "import socket; socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('10.0.0.254', 9))"
        subprocess.run([*self.in_pod, sys.executable, "-c", program], check=True, timeout=DEADLINE)

    def connect_outside(self) -> None:
        """Route what the Pod sends to 198.51.100.0/24 out of an interface with the address 192.0.2.1."""
        Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
        # Connections without an answer stay for as long as a test takes on a busy machine.
        Path("/proc/sys/net/netfilter/nf_conntrack_udp_timeout").write_text("600")
        for command in (
            "link add out0 type veth peer name out1",
            "addr add 192.0.2.1/24 dev out0",
            "link set out0 up",
            "link set out1 up",
            "route add 198.51.100.0/24 dev out0",
            "neigh add 198.51.100.1 lladdr 02:00:00:00:00:01 dev out0",
            f"-n {self._pod} route add default via 10.0.0.254",
        ):
            subprocess.run(["ip", *command.split()], check=True)

    def send_outside(self, connections: int) -> None:
        """Send a datagram from so many ports of the Pod to 198.51.100.1 port 53."""
        program = (
            "import socket\n"
            f"opened = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range({connections})]\n"
            "for each in opened: each.sendto(b'x', ('198.51.100.1', 53))\n"
        )
        subprocess.run([*self.in_pod, sys.executable, "-c", program], check=True, timeout=DEADLINE)


class AgentProcess:
    """A running agent, and what it tells systemd."""

    def __init__(self, process: subprocess.Popen[str], notified: socket.socket) -> None:
        self.process = process
        self.told = ""
        self._notified = notified

    def await_state(self, state: str) -> None:
        self.await_told(lambda: state in self.told.splitlines())

    def await_told(self, wanted: Callable[[], bool]) -> None:
        """Wait until systemd was told what is wanted, beginning with the next message.

        A start takes a second of CPU, for which an agent has waited 38 s beside 25 other processes: such time isn't
        counted. One that has ended, or is late, is ended by SIGABRT: its log and where its threads are are the error.
        """
        began = time.monotonic()
        while self.process.poll() is None and time.monotonic() - began - self._seconds_in_queue() < DEADLINE:
            with contextlib.suppress(TimeoutError):
                self.told = self._notified.recv(4096).decode()
                if wanted():
                    return
        late = self.process.poll() is None
        self.process.send_signal(signal.SIGABRT)
        _, said = self.process.communicate(timeout=DEADLINE)
        raise AssertionError(f"{'late' if late else 'ended'}; last told: {self.told!r}; it said: {said}")

    def _seconds_in_queue(self) -> float:
        """Return how long its main thread was ready to run, and had no CPU, since it began."""
        try:
            queued = Path(f"/proc/{self.process.pid}/schedstat").read_text("ascii").split()[1]
        except OSError:  # a kernel without it, or the process has ended
            return 0.0
        return int(queued) / 1e9

    def stop(self) -> str:
        """End it as systemd does; give what it said."""
        self.process.send_signal(signal.SIGTERM)
        _, said = self.process.communicate(timeout=DEADLINE)
        assert self.process.returncode == 0, said
        return said


@pytest.fixture
def site(tmp_path: Path) -> Iterator[AgentSite]:
    """Enter a network namespace that a Pod is attached to by veth, with this thread and its processes."""
    start_server()
    node, pod = (f"nfagent-cli-{word}-{uuid4().hex[:8]}" for word in ("node", "pod"))
    made: list[str] = []
    try:
        for name in (node, pod):
            subprocess.run(["ip", "netns", "add", name], check=True)
            made.append(name)
        netns.pushns(node)
        try:
            for command in (
                "link set lo up",
                f"link add pod0 type veth peer name eth0 netns {pod}",
                "addr add 10.0.0.254/24 dev pod0",
                "link set pod0 up",
                f"-n {pod} addr add 10.0.0.1/24 dev eth0",
                f"-n {pod} link set eth0 up",
            ):
                subprocess.run(["ip", *command.split()], check=True)
            yield AgentSite(tmp_path, pod)
        finally:
            netns.popns()
    finally:
        for name in made:
            subprocess.run(["ip", "netns", "del", name], check=True)


def nft(*arguments: str) -> str:
    return subprocess.run(["nft", *arguments], capture_output=True, text=True, check=True, timeout=DEADLINE).stdout


def test_every_view_of_a_running_agent_as_text_json_and_yaml(site: AgentSite) -> None:
    with site.agent():
        site.await_judged()
        for view in VIEWS:
            assert site.said("dump", view).strip()
            content = site.ask("dump", view)
            assert yaml.safe_load(site.said("dump", view, "-o", "yaml")).keys() == content.keys()
        state = site.ask("dump")
        assert state["agent"]["reconcile"]["in_sync"]
        assert state["counts"]["local_pods"] == 1
        assert site.ask("dump", "kernel") == site.ask("dump", "ruleset")
        assert "10.0.1.2  # shop/db" in site.said("dump", "kernel")
        assert site.said("dump", "diff").startswith("equal")


def test_only_root_may_connect_to_the_socket(site: AgentSite) -> None:
    with site.agent():
        assert stat.S_IMODE(site.socket.stat().st_mode) == 0o600
        done = site.nfagent("dump", before=["setpriv", *WITHOUT_ROOT, *READING])
        assert done.returncode == 2
        assert "only root may ask the agent; use sudo" in done.stderr


def test_a_start_compares_the_table_once_and_own_commits_cause_no_other_comparison(site: AgentSite) -> None:
    with site.agent():
        (site.manifests / "cluster.yaml").write_text(CLUSTER.replace("5432", "5433"))
        end = time.monotonic() + DEADLINE
        while "5433" not in nft("list", "table", "inet", "nfagent"):
            assert time.monotonic() < end, "the change was never enforced"
        site.await_sync()
        status = site.ask("dump", "state")["agent"]["reconcile"]
        assert (status["comparisons"], status["drifts"]) == (1, 0)


def test_an_agent_that_waits_for_its_credentials_answers_and_outlives_a_reload(site: AgentSite) -> None:
    plugin, kubeconfig, asked = site.folder / "plugin", site.folder / "kubeconfig", site.folder / "asked"
    plugin.write_text(f"#!/bin/sh\necho $$ >{asked}.new\nmv {asked}.new {asked}\nexec sleep 1000\n")
    plugin.chmod(0o755)
    user = {"exec": {"command": str(plugin), "apiVersion": "client.authentication.k8s.io/v1"}}
    config = {
        "current-context": "c",
        "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u"}}],
        "clusters": [{"name": "k", "cluster": {"server": "https://192.0.2.1"}}],
        "users": [{"name": "u", "user": user}],
    }
    kubeconfig.write_text(json.dumps(config))
    command = [sys.executable, "-m", "nfagent", "run", "--kubeconfig", str(kubeconfig), "--node", "node-a"]
    with subprocess.Popen(command, env=site.environment, stderr=subprocess.PIPE, text=True) as process:
        try:
            wait_until(asked.exists, DEADLINE)
            for view in ("policies", "state", "counters"):
                done = site.nfagent("dump", view)
                assert done.returncode == 2
                assert "the agent hasn't read the whole cluster yet" in done.stderr
            process.send_signal(signal.SIGHUP)
            assert "hasn't read the whole cluster yet" in site.nfagent("explain", "shop/web", "shop/db:80").stderr
            process.terminate()
            assert process.wait(DEADLINE) == 0
            running = Path(f"/proc/{int(asked.read_text())}")
            wait_until(lambda: not running.exists())
            assert not running.exists(), "the plugin has ended too"
        finally:
            process.kill()


def test_an_agent_counts_what_it_has_in_words(site: AgentSite) -> None:
    with site.agent() as agent:
        said = agent.stop()
    assert "in sync: 1 Pod of node node-a, 1 policy; 1 Pod isolated\n" in said


def test_damage_is_put_right_as_soon_as_it_is_done_and_its_author_named(site: AgentSite) -> None:
    with site.agent() as agent:
        nft("delete", "element", "inet", "nfagent", "egress4", "{ 10.0.0.1 }")
        state = site.await_drift()
        assert site.said("dump", "diff").startswith("equal")
        assert re.fullmatch(r"nft \(process \d+\)", state["drift_by"])
        said = agent.stop()
    assert re.search(
        r"table inet nfagent changed by nft \(process \d+\); repairing it with 1 command$", said, re.MULTILINE
    )


def test_with_large_foreign_tables_the_state_shows_that_the_table_is_compared_every_minute(
    site: AgentSite,
) -> None:
    nft("add", "table", "inet", "foreign")
    chains = "".join(f"add chain inet foreign c{number}\n" for number in range(2001))
    subprocess.run(["nft", "-f", "-"], input=chains, text=True, check=True, timeout=DEADLINE)
    with site.agent():
        drift = site.ask("dump", "state")["agent"]["drift"]
        assert drift == {"listening": False, "others": 2001, "problem": "", "looks": 0.0}
        assert "changes by other programs are looked for every minute: their tables hold 2,001 objects" in site.said(
            "dump", "state"
        )


def test_a_damaged_table_is_reported_with_the_fix_and_a_start_repairs_it(site: AgentSite) -> None:
    with site.agent() as agent:
        agent.stop()
    nft("delete", "element", "inet", "nfagent", "egress4", "{ 10.0.0.1 }")
    nft("add", "rule", "inet", "nfagent", "stray-egress", "accept")
    text = site.said("dump", "diff", *site.from_files, code=1)
    assert "map egress4: lacks  10.0.0.1 : goto egress/shop/web" in text
    assert "chain stray-egress: has    accept" in text
    assert not site.ask("dump", "diff", *site.from_files, code=1)["equal"]
    with site.agent():
        site.await_sync()
        assert site.said("dump", "diff").startswith("equal")


def test_a_reload_reads_everything_again_and_changes_nothing_that_is_right(site: AgentSite) -> None:
    with site.agent() as agent:
        site.await_judged()
        before = site.ask("dump", "kernel")
        agent.process.send_signal(signal.SIGHUP)
        agent.await_state("RELOADING=1")
        agent.await_state("READY=1")
        site.await_judged()
        assert site.ask("dump", "kernel") == before
        assert site.ask("dump", "state")["agent"]["reconcile"]["drifts"] == 0


def test_the_nft_commands_of_dump_diff_repair_the_table(site: AgentSite) -> None:
    with site.agent() as agent:
        agent.stop()
    nft("delete", "element", "inet", "nfagent", "egress4", "{ 10.0.0.1 }")
    by_hand = site.folder / "by-hand.nft"
    by_hand.write_text(site.said("dump", "diff", *site.from_files, "-o", "nft", code=1))
    nft("-f", str(by_hand))
    assert site.said("dump", "diff", *site.from_files).startswith("equal")


def test_the_rules_of_a_stopped_agent_are_still_shown(site: AgentSite) -> None:
    with site.agent() as agent:
        site.await_judged()
        loaded = site.said("dump", "kernel", "-o", "nft")
        assert "the rules stay in force" in agent.stop()
    assert not site.socket.exists()
    assert site.said("dump", "kernel", "-o", "nft") == loaded
    assert "# shop/db" not in site.said("dump", "kernel")
    assert "10.0.1.2  # shop/db" in site.said("dump", "kernel", *site.from_files)
    assert site.said("dump", "diff", *site.from_files).startswith("equal")
    assert "shop/web" in site.said("dump", "counters", *site.from_files)
    assert site.nfagent("dump", "counters").returncode == 2


def test_rules_of_a_dormant_table_are_not_shown_as_enforced(site: AgentSite) -> None:
    with site.agent() as agent:
        agent.stop()
    nft("add", "table", "inet", "nfagent", "{ flags dormant; }")
    for more in ((), site.from_files, (*site.from_files, "--pod", "shop/web")):
        asked = site.nfagent("dump", "kernel", *more)
        assert asked.returncode == 2
        assert "chain egress/shop/web" in asked.stdout
        assert f"not known: whether these rules are in force: {ASLEEP} ({WAKING})" in asked.stderr
    found = results(site, 0)["nf_tables"]
    assert (found["result"], found["found"], found["fix"]) == ("warn", ASLEEP, WAKING)
    nft("add", "table", "inet", "nfagent")
    assert site.nfagent("dump", "kernel").returncode == 0
    nft("delete", "table", "inet", "nfagent")
    nft("add", "table", "inet", "nfagent", "{ flags dormant; }")
    # nft 1.0.6 may or may not list an empty table that has flags: it reads them from where it wrote nothing.
    said = site.nfagent("dump", "kernel").stderr
    assert ASLEEP in said
    assert WAKING in said


def test_a_folder_that_is_named_answers_instead_of_the_agent(site: AgentSite) -> None:
    other = site.folder / "other"
    other.mkdir()
    (other / "node.yaml").write_text("{apiVersion: v1, kind: Node, metadata: {name: node-a}}\n")
    with site.agent():
        assert len(site.ask("dump", "policies")["policies"]) == 1
        assert site.ask("dump", "policies", "--manifests", str(other), "--node", "node-a")["policies"] == []
        assert not site.ask("dump", "diff", "--manifests", str(other), "--node", "node-a", code=1)["equal"]


def test_a_second_agent_is_refused_with_the_process_id_of_the_first(site: AgentSite) -> None:
    with site.agent() as agent:
        done = site.nfagent(*site.running)
        assert done.returncode == 2
        assert f"process {agent.process.pid}" in done.stderr
        assert "stop it" in done.stderr
        assert site.said("dump", "diff").startswith("equal")


def test_a_denied_packet_is_logged_counted_and_explained(site: AgentSite) -> None:
    with site.agent():
        command = [sys.executable, "-m", "nfagent", "logs", "-f", "-o", "json", "--pod", "shop/web"]
        with subprocess.Popen(command, env=site.environment, stdout=subprocess.PIPE, text=True) as follower:
            try:
                assert follower.stdout is not None
                site.drop_a_packet()
                line = follower.stdout.readline()
            finally:
                follower.kill()
        record = json.loads(line)
        assert record["disposition"] == "deny"
        assert record["isolating_policies"] == [{"name": "web", "namespace": "shop", "kind": "NetworkPolicy"}]
        row = site.said("logs", "--verdict", "deny").splitlines()[1].split()
        assert row[1:3] == ["deny", "egress"]
        assert row[3:6] == ["shop/web", "->", "10.0.0.254:9/udp"]
        assert row[6:] == ["shop/web", "1"]
        assert "shop/web  egress     deny           1" in site.said("dump", "counters")
        text = site.said("explain", "--from-log", line, code=1)
        assert text.startswith("shop/web (10.0.0.1) -> node node-a (10.0.0.254):9/udp: DENIED\n")
        assert site.said("explain", "shop/web", "shop/db:5432").splitlines()[0].endswith("ALLOWED")
        assert site.nfagent("explain", "shop/wob", "shop/db").returncode == 2


def test_cleanup_is_refused_while_an_agent_runs(site: AgentSite) -> None:
    with site.agent() as agent:
        done = site.nfagent("cleanup")
        assert done.returncode == 2
        assert f"process {agent.process.pid} enforces this table; stop it first" in done.stderr
        assert site.said("dump", "diff").startswith("equal")


def test_cleanup_prints_what_it_removed_and_changes_no_other_table(site: AgentSite) -> None:
    nft("add table inet neighbour; add chain inet neighbour kept; add rule inet neighbour kept accept")
    neighbour = nft("list", "table", "inet", "neighbour")
    with site.agent() as agent:
        agent.process.kill()
        agent.process.wait(DEADLINE)
        kernel = site.ask("dump", "kernel")
        assert site.socket.exists(), "a killed agent leaves its socket behind"
        subprocess.run(["ip", "rule", "add", "fwmark", "1048576", "lookup", "77", "protocol", "78"], check=True)
        removed = site.ask("cleanup")
    assert removed["gateways"] == {"addresses": 0, "rules": 1}
    assert removed["table"]["chains"] == len(kernel["chains"])
    assert removed["table"]["rules"] == sum(len(chain["rules"]) for chain in kernel["chains"].values())
    assert removed["table"]["set_elements"] == sum(len(item["elements"]) for item in kernel["sets"].values())
    assert removed["socket"] == str(site.socket)
    assert not site.socket.exists()
    assert nft("list", "tables") == "table inet neighbour\n"
    assert nft("list", "table", "inet", "neighbour") == neighbour
    assert site.said("cleanup") == "nothing to remove: table inet nfagent does not exist\n"


def results(site: AgentSite, code: int, before: Sequence[str] = ()) -> dict[str, Any]:
    done = site.nfagent("check", "-o", "json", before=before)
    assert done.returncode == code, done.stdout + done.stderr
    return {item["name"]: item for item in json.loads(done.stdout)["checks"]}


def test_check_finds_an_able_node_able_and_warns_of_what_is_missing(site: AgentSite) -> None:
    # A new network namespace has the machine's setting.
    Path("/proc/sys/net/ipv4/ip_forward").write_text("0")
    found = results(site, 0)
    assert {found[name]["result"] for name in ("privileges", "libnftables", "nf_tables", "NFLOG", "agent")} == {"ok"}
    assert found["IPv4 forwarding"]["result"] == "warn"
    assert found["IPv4 forwarding"]["fix"] == "sysctl -w net.ipv4.ip_forward=1"
    Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
    assert results(site, 0)["IPv4 forwarding"]["result"] == "ok"


@pytest.mark.parametrize(("sysctl", "result"), [("0", "warn"), ("1", "ok")], ids=["not filtered", "filtered"])
def test_check_looks_whether_traffic_within_a_bridge(site: AgentSite, sysctl: str, result: str) -> None:
    switch = Path("/proc/sys/net/bridge/bridge-nf-call-iptables")
    if not switch.exists():
        pytest.skip("br_netfilter can't be loaded here")
    subprocess.run(["ip", "link", "add", "cni0", "type", "bridge"], check=True)
    switch.write_text(sysctl)
    assert results(site, 0)["br_netfilter"]["found"] == "not needed: no Pods share a bridge"
    subprocess.run(["ip", "link", "set", "pod0", "master", "cni0"], check=True)
    found = results(site, 0)["br_netfilter"]
    assert found["result"] == result
    assert "bridge cni0" in found["found"]
    fix = "sysctl -w net.bridge.bridge-nf-call-iptables=1"
    assert found["fix"] == (fix if result == "warn" else "")


def test_check_beside_our_own_agent_is_content(site: AgentSite) -> None:
    with site.agent() as agent:
        found = results(site, 0)
        assert found["agent"]["result"] == "ok"
        assert f"process {agent.process.pid}" in found["agent"]["found"]
        assert found["NFLOG"]["found"] == "group 100 is read by the agent"


@pytest.mark.parametrize(
    ("sent", "used", "result", "failed"), [(7, 7, "ok", 0), (15, 10, "warn", 5)], ids=["mostly free", "full"]
)
def test_check_and_the_state_say_how_full_the_ports_of_masquerade_are(
    site: AgentSite, sent: int, used: int, result: str, failed: int
) -> None:
    site.environment["NFAGENT_MASQUERADE_TO_PORTS"] = "2000-2009"
    (site.manifests / "cluster.yaml").write_text(CLUSTER.partition("---\napiVersion: networking.k8s.io")[0])
    site.connect_outside()
    with site.agent():
        site.send_outside(sent)
        check = results(site, 0)["NAT ports"]
        state = site.ask("dump")["agent"]["nat_ports"]
        said = site.said("dump")
    busiest = {"protocol": 17, "translated": "192.0.2.1", "destination": "198.51.100.1", "port": 53, "used": used}
    assert (state["available"], state["busiest"], state["problem"]) == (10, busiest, "")
    assert state["insert_failed"] == failed
    text = f"{used} of 10 in use ({used}0 %) from 192.0.2.1 to 198.51.100.1 UDP port 53, the busiest destination"
    assert check["result"] == result
    assert check["found"].startswith(text)
    assert bool(check["fix"]) == (result == "warn")
    assert f"{result}, {text}" in said


def test_check_warns_of_a_verdict_log_group_that_another_program_reads(site: AgentSite) -> None:
    async def while_it_is_taken() -> dict[str, Any]:
        source = NflogSource(100)
        source.open(lambda _packets: None)
        try:
            return await asyncio.to_thread(results, site, 0)
        finally:
            source.close()

    assert results(site, 0)["NFLOG"]["result"] == "ok"
    netlink = asyncio.run(while_it_is_taken())["NFLOG"]
    assert netlink["result"] == "warn"
    assert "NFLOG group 100 is already read by another process" in netlink["found"]
    assert "set another group" in netlink["fix"]


def test_check_fails_where_another_agent_enforces(site: AgentSite) -> None:
    with site.agent() as agent:
        site.environment["NFAGENT_RUNTIME_DIR"] = str(site.folder / "elsewhere")
        found = results(site, 2)
        assert found["agent"]["result"] == "FAIL"
        assert f"process {agent.process.pid}" in found["agent"]["found"]


@pytest.mark.parametrize(
    "taken", [["--bounding-set", "-net_admin"], [*WITHOUT_ROOT, *READING]], ids=["capability", "root"]
)
def test_without_privileges_check_and_run_name_the_missing_ones(site: AgentSite, taken: list[str]) -> None:
    before = ["setpriv", *taken]
    found = results(site, 2, before)
    assert found["privileges"]["result"] == "FAIL"
    assert found["privileges"]["fix"]
    for command in (site.running, ["dump", "kernel"], ["cleanup"]):
        done = site.nfagent(*command, before=before)
        assert done.returncode == 2, command
        assert "sudo" in done.stderr
        assert "Traceback" not in done.stderr


def test_render_needs_no_root(site: AgentSite) -> None:
    done = site.nfagent("render", *site.from_files, before=["setpriv", *WITHOUT_ROOT, *READING])
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("table inet nfagent {")


@pytest.mark.parametrize("form", ["text", "nft"])
def test_what_render_writes_can_be_loaded_and_is_what_the_agent_wants(site: AgentSite, form: str) -> None:
    rules = site.folder / "rules.nft"
    rules.write_text(site.said("render", *site.from_files, "-o", form))
    nft("-f", str(rules))
    assert site.said("dump", "diff", *site.from_files).startswith("equal")
