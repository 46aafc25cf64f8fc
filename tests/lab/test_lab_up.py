"""A lab stays up after its command, and is removed whole: after kill -9, half built, beside another one."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from nfagent.lab.cluster import running_labs
from nfagent.lab.topology import netns
from tests.support.packet_labs import wait_until

pytestmark = [pytest.mark.kernel, pytest.mark.usefixtures("interruptible", "nothing_stays")]

NAME, OTHER, DAMAGED = f"t{os.getpid()}", f"t{os.getpid()}b", f"t{os.getpid()}c"
NFAGENT = [sys.executable, "-m", "nfagent"]
SMALL = ["--nodes", "1", "--pods", "2"]
DENY_ALL = """\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: shop, name: deny}
spec: {podSelector: {}, policyTypes: [Ingress]}
"""


def nfagent(*arguments: str, before: Sequence[str] = (), **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*before, *NFAGENT, *arguments],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, **more},
        timeout=120,
    )


def left(name: str) -> list[object]:
    files = [path for path in (running_labs.folder_of(name), running_labs.state_file(name)) if path.exists()]
    return [*netns.named(running_labs.prefix(name)), *running_labs.processes_of(name), *files]


@pytest.fixture
def nothing_stays() -> Iterator[None]:
    yield
    for name in (NAME, OTHER):
        running_labs.remove(name)


@pytest.fixture
def lab(nothing_stays: None) -> running_labs.LabState:  # noqa: ARG001 - removes it
    done = nfagent("lab", "up", "--name", NAME, *SMALL)
    assert done.returncode == 0, done.stderr
    state = running_labs.read_state(NAME)
    assert state is not None
    return state


def is_reached(name: str, source: str, address: str, seconds: float = 30.0) -> bool:
    call = f"import urllib.request; urllib.request.urlopen('http://{address}', timeout={seconds}).read()"
    return nfagent("lab", "exec", "--name", name, source, sys.executable, "-c", call).returncode == 0


def explained(name: str) -> subprocess.CompletedProcess[str]:
    return nfagent("lab", "exec", "--name", name, "n1", *NFAGENT, "explain", "shop/web-1", "shop/db-1:80/tcp")


def deny(state: running_labs.LabState) -> None:
    """Write the policy by rename, as one change, and return when the agent has read it and packets meet it."""
    hidden = Path(state.manifests, ".deny.yaml")
    hidden.write_text(DENY_ALL, encoding="utf-8")
    hidden.rename(Path(state.manifests, "deny.yaml"))
    # A packet without an answer in time may be that of a busy machine.
    wait_until(lambda: explained(state.name).returncode == 1)
    wait_until(lambda: not is_reached(state.name, "shop/web-1", address_of(state, "shop/db-1"), 0.5))


def address_of(state: running_labs.LabState, name: str) -> str:
    return next(member.addresses[0] for member in state.members if member.name == name)


@pytest.mark.usefixtures("nothing_stays")
def test_a_lab_on_iptables_says_so_and_its_commands_look_there() -> None:
    done = nfagent("lab", "up", "--name", NAME, *SMALL, NFAGENT_LAB_BACKEND="iptables")
    assert done.returncode == 0, done.stderr
    assert "nft list" not in done.stdout
    checked = nfagent("lab", "exec", "--name", NAME, "n1", *NFAGENT, "check", "-o", "json").stdout
    assert "nfagent's rules are there" in checked
    assert "table inet nfagent" not in checked


def test_a_lab_answers_after_its_command_has_ended_and_down_removes_all_of_it(lab: running_labs.LabState) -> None:
    named = {node.netns for node in lab.nodes} | {member.netns for member in lab.members}
    assert named < set(netns.named(running_labs.prefix(NAME)))
    address = address_of(lab, "shop/db-1")
    assert is_reached(NAME, "shop/web-1", address)
    deny(lab)
    said = explained(NAME)
    assert (said.returncode, "DENIED" in said.stdout) == (1, True), said.stderr
    traced = nfagent("lab", "exec", "--name", NAME, "n1", *NFAGENT, "dump", "syncs", "-o", "json")
    [*_, last] = json.loads(traced.stdout)["syncs"]
    # `begun` may be before `decoded`: the change may have come while a round was prepared.
    steps = [last[step] for step in ("received", "decoded", "computed", "committed")]
    assert (steps == sorted(steps), last["begun"] <= last["computed"], last["events"]) == (True, True, 1)
    shown = nfagent("lab", "exec", "--name", NAME, "n1", *NFAGENT, "dump", "syncs").stdout.splitlines()
    assert (shown[0].split()[:2], len(shown)) == (["COMMITTED", "AT"], len(json.loads(traced.stdout)["syncs"]) + 1)
    listed = json.loads(nfagent("lab", "list", "-o", "json").stdout)
    shown_of_it = {"state": "up", "up": True, "nodes": 1, "pods": 2, "source": "manifests"}
    assert {"name": NAME, **shown_of_it} in listed
    before = left(NAME)
    again = nfagent("lab", "up", "--name", NAME)
    assert (again.returncode, left(NAME)) == (2, before)
    assert f"lab '{NAME}' is up: remove it by `nfagent lab down {NAME}`" in again.stderr
    down = nfagent("lab", "down", NAME)
    assert (down.returncode, left(NAME)) == (0, [])
    assert "2 processes" in down.stdout


def test_a_lab_whose_agents_were_killed_is_removed(lab: running_labs.LabState) -> None:
    for pid in running_labs.processes_of(NAME):
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not running_labs.processes_of(NAME))
    assert len(left(NAME)) > len(lab.nodes)
    [listed] = [row for row in json.loads(nfagent("lab", "list", "-o", "json").stdout) if row["name"] == NAME]
    assert (listed["state"], listed["up"]) == ("no agent runs on n1", False)
    assert (nfagent("lab", "down", NAME).returncode, left(NAME)) == (0, [])


def test_two_labs_stand_side_by_side(lab: running_labs.LabState) -> None:
    assert nfagent("lab", "up", "--name", OTHER, *SMALL).returncode == 0
    address = address_of(lab, "shop/db-1")
    deny(lab)
    assert is_reached(OTHER, "shop/web-1", address)
    assert nfagent("lab", "down", NAME).returncode == 0
    assert is_reached(OTHER, "shop/web-1", address)
    assert (nfagent("lab", "down", OTHER).returncode, left(OTHER)) == (0, [])


HELD = """\
import signal, sys
if "nfagent.lab.cluster.pod_servers" in sys.orig_argv:
    signal.pause()
"""


@pytest.fixture
def building(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Start to build a lab, and return when an agent of it runs. It is never complete: its servers stand still."""
    (tmp_path / "sitecustomize.py").write_text(HELD, encoding="ascii")
    with subprocess.Popen(
        [*NFAGENT, "lab", "up", "--name", NAME, "--nodes", "6"],
        env={**os.environ, "PYTHONPATH": f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        wait_until(lambda: bool(running_labs.processes_of(NAME)), seconds=60)
        yield process
        if process.poll() is None:
            process.kill()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=["Ctrl-C", "SIGTERM", "SIGHUP"])
def test_an_interrupted_build_leaves_nothing(building: subprocess.Popen[str], number: signal.Signals) -> None:
    building.send_signal(number)
    building.communicate(timeout=60)
    assert (building.returncode, left(NAME)) == (130, [])


def test_what_a_killed_build_leaves_is_named_and_removed(building: subprocess.Popen[str]) -> None:
    building.kill()
    building.communicate(timeout=60)
    again = nfagent("lab", "up", "--name", NAME)
    assert (again.returncode, "is half built" in again.stderr) == (2, True)
    assert {"name": NAME, "state": "half built", "up": False} in json.loads(nfagent("lab", "list", "-o", "json").stdout)
    assert (nfagent("lab", "down", NAME).returncode, left(NAME)) == (0, [])


def test_a_damaged_state_file_hides_no_other_lab(building: subprocess.Popen[str]) -> None:
    building.kill()
    building.communicate(timeout=60)
    damaged = running_labs.state_file(DAMAGED)
    damaged.write_text("{", encoding="utf-8")
    try:
        listed = nfagent("lab", "list")
    finally:
        removed = nfagent("lab", "down", DAMAGED)
    assert [line.split()[:2] for line in listed.stdout.splitlines() if DAMAGED in line] == [[DAMAGED, "damaged"]]
    assert any(line.split()[0] == NAME for line in listed.stdout.splitlines())
    assert (removed.returncode, damaged.exists()) == (0, False)
    assert (nfagent("lab", "down", NAME).returncode, left(NAME)) == (0, [])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        pytest.param(["up", "--name", "My-Lab"], "up to 20 lower-case letters and digits", id="a name of other signs"),
        pytest.param(["up", "--nodes", "0"], "--nodes 0: write a number from 1 to 50", id="no nodes"),
        pytest.param(["up", "--nodes", "51"], "--nodes 51: write a number from 1 to 50", id="too many nodes"),
        pytest.param(["up", "--pods", "201"], "--pods 201: write a number from 1 to 200", id="too many Pods"),
        pytest.param(["up", "--underlay", "gre"], "is not one of 'flat', 'vxlan'", id="an unknown underlay"),
        pytest.param(["down", "nosuchlab"], "there is no lab 'nosuchlab'", id="removing a lab that isn't there"),
        pytest.param(["down", ""], "'' is no name for a lab", id="removing a lab whose name is empty"),
        pytest.param(["up", "--driver", "vagrant", "--pods", "201"], "--pods 201: write", id="too many Pods for VMs"),
        pytest.param(["down", "lab", "--all"], "exclude each other", id="a name and --all"),
        pytest.param(["exec", "--name", "nosuchlab", "n1", "true"], "isn't up", id="a command in no lab"),
    ],
)
def test_bad_input_is_named_with_what_to_write_instead(arguments: list[str], said: str) -> None:
    done = nfagent("lab", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr


def test_a_machine_with_too_little_memory_is_told_so_and_nothing_is_built(tmp_path: Path) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal: 4096 kB\nMemAvailable: 2048 kB\n", encoding="ascii")
    mounted = ["unshare", "--mount", "sh", "-c", f'mount --bind {meminfo} /proc/meminfo && exec "$@"', "sh"]
    done = nfagent("lab", "up", "--name", NAME, before=mounted)
    assert (done.returncode, left(NAME)) == (2, [])
    assert "MiB of memory, and 2 MiB are available; give fewer --nodes" in done.stderr


def test_another_user_is_told_to_use_sudo() -> None:
    # With the capability to read any file: another user can't read a checkout in /root.
    reads = "+dac_read_search"
    other = ["setpriv", "--reuid", "65534", "--clear-groups", "--inh-caps", reads, "--ambient-caps", reads]
    done = nfagent("lab", "up", "--name", NAME, before=other)
    assert (done.returncode, left(NAME)) == (2, [])
    assert "run it as root, with sudo" in done.stderr


@pytest.mark.parametrize(
    ("command", "programs"),
    [
        (("up", "--name", NAME), ""),
        (("down", NAME), ""),
        (("demo",), ""),
        (("demo",), "ip nft"),
        (("latency", "--paths", "nftables", "--policies", "0", "--pods", "50"), "ip nft"),
    ],
    ids=["up without any", "down without any", "demo without any", "demo without setpriv", "latency without setpriv"],
)
def test_a_missing_program_is_named_with_its_package_before_anything_is_built(
    command: tuple[str, ...], programs: str, tmp_path: Path
) -> None:
    for name in programs.split():
        (tmp_path / name).symlink_to(shutil.which(name) or "")
    done = nfagent("lab", *command, PATH=str(tmp_path))
    assert (done.returncode, left(NAME), done.stdout) == (2, [], "")
    said = "setpriv missing; apt-get install util-linux" if programs else "apt-get install iproute2"
    assert said in done.stderr


def test_exec_finds_nfagent_where_path_does_not_have_it_and_names_a_missing_program(
    lab: running_labs.LabState, tmp_path: Path
) -> None:
    script = str(Path(sys.executable).with_name("nfagent"))
    system = "/usr/sbin:/usr/bin:/sbin:/bin"
    asked = subprocess.run(
        [script, "lab", "exec", "--name", lab.name, "n1", "nfagent", "dump", "syncs"],
        check=False,
        capture_output=True,
        text=True,
        env={"PATH": system},
    )
    assert asked.returncode == 0, asked.stderr
    done = nfagent("lab", "exec", "--name", lab.name, "n1", "true", PATH=str(tmp_path))
    assert (done.returncode, done.stderr) == (2, "error: ip missing; apt-get install iproute2\n")


@pytest.mark.parametrize("option", [("--underlay", "vxlan"), ("--source", "manifests")], ids=["underlay", "source"])
def test_options_that_virtual_machines_do_not_have_are_refused(option: tuple[str, str], tmp_path: Path) -> None:
    done = nfagent("lab", "up", "--driver", "vagrant", "--name", NAME, *option, PATH=str(tmp_path))
    assert (done.returncode, left(NAME)) == (2, [])
    assert f"{option[0]} is of the driver netns" in done.stderr
