"""The image of `make image`, run as the DaemonSet of deploy/daemonset has it, on the nodes of a lab: `make image-test`.

Node n1's agent follows a real API server by its service account, n2's a folder of manifests.
"""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from nfagent import __version__
from nfagent.errors import HostError
from nfagent.lab.apiserver.control_plane import ControlPlane
from nfagent.lab.apiserver.kube_client import LabApiClient
from nfagent.lab.machine.binaries import ControlPlaneBinaries, find
from nfagent.lab.probes.listeners import Listeners, pod_endpoints
from nfagent.lab.probes.probe import Probe, run_probes
from nfagent.lab.topology.netns import RUN
from nfagent.lab.topology.netns_topology import NetnsTopology
from nfagent.lab.topology.plan import grid
from tests.support.apiserver_labs import API_HOST, account_token, shipped_definitions
from tests.support.deployed_objects import DEPLOY, kustomized, one
from tests.support.packet_labs import (
    Document,
    as_text,
    holds_within,
    logging_document,
    namespace_document,
    node_document,
    pod_document,
    policy_document,
    wait_until,
)
from tests.support.pod_container import (
    ACCOUNT_FOLDER,
    BUILD,
    IMAGE,
    LIMITS,
    Additions,
    DeployedPod,
    PodContainer,
    podman,
)

pytestmark = pytest.mark.kernel

NODES, PODS, _OUTSIDE = grid()
NET_ADMIN = 1 << 12
DENY_A = policy_document("x", "deny", podSelector={"matchLabels": {"pod": "a"}}, policyTypes=["Ingress"])
DOCUMENTS = [*map(node_document, NODES), *(namespace_document(name) for name in "xyz"), *map(pod_document, PODS)]


@pytest.fixture(scope="module", autouse=True)
def _image() -> None:
    if not (BUILD / "storage").is_dir() or podman("image", "exists", IMAGE).returncode != 0:
        pytest.skip(f"{IMAGE} isn't built: make image")


@pytest.fixture(scope="module")
def binaries() -> ControlPlaneBinaries:
    try:
        return find()
    except HostError as lack:
        pytest.skip(str(lack))


@pytest.fixture(scope="module")
def deployed() -> DeployedPod:
    """Return the Pod of deploy/daemonset."""
    objects = kustomized(DEPLOY / "daemonset")
    config = one(objects, "ConfigMap")
    template: Document = one(objects, "DaemonSet")["spec"]["template"]
    return DeployedPod(template, {config["metadata"]["name"]: config["data"]})


class ImageLab:
    """Two nodes, whose agents are containers."""

    def __init__(self, topology: NetnsTopology, servers: Listeners) -> None:
        self.topology, self.servers = topology, servers

    def reaches(self, source: str, destination: str) -> bool:
        """Whether a Pod reaches another by TCP."""
        (address, *_) = self.topology.pods[_key(destination)].addresses
        probe = Probe(self.topology.pod_namespace(*_key(source)), address, "tcp", 80)
        return run_probes(self.servers, [probe], 0.5)[probe].reached

    def gains(self, source: str, destination: str) -> bool:
        """Wait until a Pod reaches another; return whether it does."""
        return holds_within(lambda: self.reaches(source, destination), 20.0)

    def loses(self, source: str, destination: str) -> bool:
        """Wait until a Pod no longer reaches another; return whether that is so."""
        return holds_within(lambda: not self.reaches(source, destination), 20.0)

    def nft(self, node: str, *arguments: str) -> str:
        """Run the machine's nft on a node."""
        command = self.topology.command(self.topology.node_namespace(node), ["nft", *arguments])
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout


def _key(path: str) -> tuple[str, str]:
    namespace, name = path.split("/")
    return namespace, name


@pytest.fixture(scope="module")
def lab() -> Iterator[ImageLab]:
    with NetnsTopology(NODES, PODS, [API_HOST], tag="t") as topology, Listeners() as servers:
        servers.listen(pod_endpoints(topology, [("tcp", 80)]))
        yield ImageLab(topology, servers)


@pytest.fixture(scope="module")
def plane(
    lab: ImageLab, binaries: ControlPlaneBinaries, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ControlPlane]:
    with ControlPlane(
        tmp_path_factory.mktemp("plane"),
        address=API_HOST.addresses[0],
        netns=lab.topology.outside_namespace(API_HOST.name),
        binaries=binaries,
    ) as running:
        yield running


@pytest.fixture(scope="module")
def client(plane: ControlPlane) -> Iterator[LabApiClient]:
    with plane.client() as opened:
        opened.put_all([*shipped_definitions(), *DOCUMENTS])
        opened.put(logging_document(allow=False, deny=True))
        yield opened


@pytest.fixture(scope="module")
def account(plane: ControlPlane, client: LabApiClient, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return what kubelet mounts: the service account's token, and the CA."""
    folder = tmp_path_factory.mktemp("account")
    (folder / "token").write_text(account_token(plane, client))
    (folder / "ca.crt").write_bytes(plane.ca_file.read_bytes())
    return folder


@pytest.fixture(scope="module")
def agent(
    lab: ImageLab, plane: ControlPlane, account: Path, deployed: DeployedPod, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[PodContainer]:
    """Return the agent of node n1, ready."""
    server = {"KUBERNETES_SERVICE_HOST": plane.address, "KUBERNETES_SERVICE_PORT": str(plane.port)}
    folder, netns = tmp_path_factory.mktemp("n1"), lab.topology.node_namespace("n1")
    additions = Additions(server, {account: ACCOUNT_FOLDER})
    with PodContainer(deployed, folder, "n1", netns, additions=additions) as running:
        assert _is_ready(running), running.log_text
        yield running


@contextlib.contextmanager
def with_manifests(
    lab: ImageLab, deployed: DeployedPod, folder: Path, capabilities: Sequence[str] = ()
) -> Iterator[PodContainer]:
    """Run the agent of node n2 with the folder `manifests` in a folder, ready."""
    manifests = folder / "manifests"
    manifests.mkdir()
    (manifests / "cluster.yaml").write_text(as_text(DOCUMENTS), encoding="utf-8")
    additions = Additions({"NFAGENT_MANIFESTS": "/manifests"}, {manifests: "/manifests"}, capabilities)
    with PodContainer(deployed, folder, "n2", lab.topology.node_namespace("n2"), additions=additions) as agent:
        assert _is_ready(agent), agent.log_text
        yield agent


def _is_ready(agent: PodContainer) -> bool:
    wait_until(lambda: agent.probe("readinessProbe") == 200, 30.0)
    return agent.probe("readinessProbe") == 200


@pytest.fixture
def denied(client: LabApiClient) -> Iterator[None]:
    """Put a policy that denies all traffic to x/a."""
    client.put(DENY_A)
    yield
    client.delete(DENY_A)


@pytest.mark.parametrize("probe", ["startupProbe", "livenessProbe", "readinessProbe"])
def test_a_probe_of_the_daemonset_is_answered_on_the_node(agent: PodContainer, probe: str) -> None:
    assert agent.probe(probe) == 200


def test_a_policy_of_the_api_server_is_enforced_on_packets_and_ends_with_it(
    lab: ImageLab, agent: PodContainer, client: LabApiClient
) -> None:
    assert lab.reaches("y/a", "x/a"), agent.log_text
    client.put(DENY_A)
    try:
        assert lab.loses("y/a", "x/a"), agent.log_text
        assert lab.reaches("y/a", "x/b")
    finally:
        client.delete(DENY_A)
    assert lab.gains("y/a", "x/a"), agent.log_text


@pytest.mark.usefixtures("denied")
def test_denied_connections_are_in_the_verdict_log_of_the_node(lab: ImageLab, agent: PodContainer) -> None:
    assert lab.loses("y/a", "x/a")
    log = agent.host_folder("/var/log/network") / "policy_action.log"

    def records() -> list[Document]:
        return [json.loads(line) for line in log.read_text("utf-8").splitlines()] if log.exists() else []

    wait_until(lambda: any(found["disposition"] == "deny" for found in records()), 15.0)
    assert {(found["src"]["pod_name"], found["dest"]["pod_name"]) for found in records()} == {("a", "a")}
    shown = agent.execute("nfagent", "logs", "--verdict", "deny")
    assert "x/a" in shown.stdout, shown.stderr


def test_it_has_one_capability_no_way_to_more_and_a_filter_of_system_calls(agent: PodContainer) -> None:
    status = dict(re.findall(r"^(\w+):\t(\w+)$", agent.execute("cat", "/proc/1/status").stdout, re.MULTILINE))
    assert {name: int(status[name], 16) for name in ("CapPrm", "CapEff", "CapBnd")} == dict.fromkeys(
        ("CapPrm", "CapEff", "CapBnd"), NET_ADMIN
    )
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")


def test_its_file_system_is_read_only_but_for_the_node_s_folders(agent: PodContainer) -> None:
    for folder in ("/", "/etc/nfagent", "/opt/nfagent"):
        refused = agent.execute("touch", f"{folder}/written")
        assert "Read-only file system" in refused.stderr, folder
    for folder in ("/run/nfagent", "/var/lib/nfagent", "/var/log/network"):
        assert agent.execute("sh", "-c", f"touch {folder}/written && rm {folder}/written").returncode == 0, folder


def test_check_finds_nothing_that_is_missing(agent: PodContainer) -> None:
    done = agent.execute("nfagent", "check", "--cluster", "-o", "json")
    failed = [found for found in json.loads(done.stdout)["checks"] if found["result"] == "FAIL"]
    assert (done.returncode, failed) == (0, []), done.stderr


def test_a_second_agent_of_the_node_names_the_first_and_ends(agent: PodContainer) -> None:
    done = agent.run_to_end(*agent.container["args"])
    assert done.returncode != 0
    assert "another agent holds table inet nfagent" in done.stderr
    assert "delete the Pod" in done.stderr
    assert agent.probe("livenessProbe") == 200


@pytest.mark.usefixtures("denied")
def test_a_pod_that_is_stopped_leaves_the_rules_and_the_next_one_takes_them_over(
    lab: ImageLab, agent: PodContainer
) -> None:
    assert lab.loses("y/a", "x/a")
    before = lab.nft("n1", "--handle", "list", "table", "inet", "nfagent")
    try:
        assert agent.stop() == 0, agent.log_text
        assert (lab.reaches("y/a", "x/a"), lab.reaches("y/a", "x/b")) == (False, True)
    finally:
        agent.remove()
        agent.start()
    assert _is_ready(agent), agent.log_text
    assert not lab.reaches("y/a", "x/a")
    assert _structure(lab.nft("n1", "--handle", "list", "table", "inet", "nfagent")) == _structure(before)


def _structure(listing: str) -> list[str]:
    """Return a listing's chains and rules with their handles, which a table written anew wouldn't have again."""
    return sorted(
        re.findall(r"^\t\t?[^\t].*# handle \d+$", re.sub(r"packets \d+ bytes \d+", "", listing), re.MULTILINE)
    )


def test_a_folder_of_manifests_that_is_mounted_read_only_is_followed(
    lab: ImageLab, deployed: DeployedPod, tmp_path: Path
) -> None:
    there = next(pod for pod in PODS if pod.node == "n2")
    target = f"{there.namespace}/{there.name}"
    source = next(f"{pod.namespace}/{pod.name}" for pod in PODS if pod.node == "n1")
    selected = {"matchLabels": {"pod": there.name}}
    deny = policy_document(there.namespace, "deny", podSelector=selected, policyTypes=["Ingress"])
    with with_manifests(lab, deployed, tmp_path) as agent:
        assert lab.reaches(source, target)
        (tmp_path / "manifests" / "policy.yaml").write_text(as_text([deny]), encoding="utf-8")
        assert lab.loses(source, target), agent.log_text


def test_an_api_server_that_can_not_be_reached_restarts_nothing(
    lab: ImageLab, deployed: DeployedPod, account: Path, tmp_path: Path
) -> None:
    nowhere = {"KUBERNETES_SERVICE_HOST": API_HOST.addresses[0], "KUBERNETES_SERVICE_PORT": "9"}
    additions = Additions(nowhere, {account: ACCOUNT_FOLDER})
    with PodContainer(deployed, tmp_path, "n2", lab.topology.node_namespace("n2"), additions=additions) as agent:
        wait_until(lambda: "192.0.2.250" in agent.log_text, 30.0)
        probes = [agent.probe(name) for name in ("startupProbe", "livenessProbe", "readinessProbe")]
        assert probes == [200, 200, 503], agent.log_text
        assert agent.stop() == 0


def test_cleanup_by_the_image_removes_the_rules_that_a_deleted_daemonset_left(
    lab: ImageLab, deployed: DeployedPod, tmp_path: Path
) -> None:
    with with_manifests(lab, deployed, tmp_path) as agent:
        agent.remove()
        assert "table inet nfagent" in lab.nft("n2", "list", "tables")
        done = agent.run_to_end("cleanup")
        assert done.returncode == 0, done.stderr
        assert "nfagent" not in lab.nft("n2", "list", "tables")


@pytest.mark.parametrize(
    ("capabilities", "result"),
    [
        pytest.param((), "warn", id="which NET_ADMIN alone can't read: unknown, and said so"),
        pytest.param(("NET_RAW",), "ok", id="which NET_RAW too can read"),
    ],
)
def test_rules_of_iptables_legacy(
    lab: ImageLab, deployed: DeployedPod, tmp_path: Path, *, capabilities: tuple[str, ...], result: str
) -> None:
    netns = lab.topology.node_namespace("n2")
    listed = podman(
        *("run", "--rm", "--cgroups", "disabled", "--network", f"ns:{RUN / netns}", *LIMITS),
        *("--cap-add", "NET_ADMIN,NET_RAW", "--entrypoint", "iptables-legacy", IMAGE, "-t", "nat", "-L"),
    )
    if listed.returncode != 0:
        pytest.skip(f"no table of iptables-legacy can be made here: {listed.stderr}")
    with with_manifests(lab, deployed, tmp_path, capabilities) as agent:
        checks = json.loads(agent.execute("nfagent", "check", "-o", "json").stdout)["checks"]
        assert {found["result"] for found in checks if found["name"] == "others' NAT"} == {result}


def test_the_image_says_what_it_is() -> None:
    (found,) = json.loads(podman("image", "inspect", IMAGE).stdout)
    labels = found["Config"]["Labels"]
    assert labels["org.opencontainers.image.title"] == "nfagent"
    assert labels["org.opencontainers.image.version"] == __version__
    assert re.fullmatch(r"[0-9a-f]{40}(-modified)?", labels["org.opencontainers.image.revision"])
    assert found["Config"]["Entrypoint"] == ["/opt/nfagent/bin/nfagent"]


def test_the_image_has_nothing_to_build_or_install_with() -> None:
    names = ("pip", "pip3", "gcc", "cc", "make", "git", "curl", "wget")
    program = f"for name in {' '.join(names)}; do command -v $name; done; ls /var/lib/apt/lists /opt/nfagent/bin"
    options = ("--rm", "--cgroups", "disabled", "--network", "none", *LIMITS, "--entrypoint", "sh")
    done = podman("run", *options, IMAGE, "-c", program)
    found = {line.rpartition("/")[2] for line in done.stdout.split()}
    assert ("nfagent" in found, found & set(names)) == (True, set()), done.stderr
