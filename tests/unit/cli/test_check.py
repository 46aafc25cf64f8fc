"""nfagent check on machines that lack something, as far as root isn't needed."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from nfagent.cli import check_host
from nfagent.cli.check import check_lines
from nfagent.cli.check_result import Check
from nfagent.errors import HostError
from nfagent.kernel.nat_ports import ADVICE, NatPorts
from nfagent.kube.credentials import CredentialPaths, find_client_config
from nfagent.netlink.conntrack_ports import PortUse
from nfagent.netlink.conntrack_stats import ConntrackStatistics
from tests.support.disk_images import fill, hung, tmpfs
from tests.unit.cli.called import Call


@pytest.fixture
def _no_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide libnftables' Python package from processes that the test starts."""
    (tmp_path / "nftables.py").write_text("raise ImportError('hidden')\n")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")


@pytest.fixture
def _nothing_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide this machine's own credentials, in the environment and in files."""
    for name in ("KUBECONFIG", "KUBERNETES_SERVICE_HOST"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(
        find_client_config,
        "__kwdefaults__",
        {"environment": os.environ, "places": CredentialPaths(Path("/nowhere"), ())},
    )


def kubeconfig(path: Path, server: str) -> Path:
    document = {
        "current-context": "prod",
        "contexts": [{"name": "prod", "context": {"cluster": "c", "user": "u"}}],
        "clusters": [{"name": "c", "cluster": {"server": server}}],
        "users": [{"name": "u", "user": {"token": "t"}}],
    }
    path.write_text(json.dumps(document))
    return path


def process(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "nfagent", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=50)


def by_name(text: str) -> dict[str, Any]:
    return {item["name"]: item for item in json.loads(text)["checks"]}


@pytest.mark.usefixtures("_no_library")
def test_without_the_library_check_names_the_packages_to_install() -> None:
    done = process("check", "-o", "json")
    assert done.returncode == 2
    assert json.loads(done.stdout)["able"] is False
    assert by_name(done.stdout)["libnftables"] == {
        "name": "libnftables",
        "result": "FAIL",
        "found": "python3-nftables is missing",
        "fix": "apt-get install python3-nftables nftables",
    }


@pytest.mark.usefixtures("_no_library")
def test_without_the_library_run_names_the_packages_to_install(manifests: Path) -> None:
    done = process("run", "--manifests", manifests)
    assert done.returncode == 2
    first, last = done.stderr.splitlines()
    assert " info nfagent " in first
    assert last == "error: python3-nftables is missing; apt-get install python3-nftables nftables"


@pytest.mark.usefixtures("_no_library")
def test_with_a_log_in_json_the_error_that_ends_it_is_json_too(manifests: Path) -> None:
    done = process("run", "--manifests", manifests, "--log-format", "json")
    assert done.returncode == 2
    *_, last = map(json.loads, done.stderr.splitlines())
    said = "python3-nftables is missing; apt-get install python3-nftables nftables"
    assert (last["level"], last["message"]) == ("error", said)


@pytest.mark.usefixtures("_no_library")
def test_render_works_without_the_library(manifests: Path) -> None:
    assert process("render", "--manifests", manifests, "--node", "node-a").returncode == 0


def test_invalid_settings_fail_and_the_other_checks_run(call: Call, tmp_path: Path) -> None:
    (tmp_path / "bad.toml").write_text("[logging]\ngroup = 'many'\n")
    said = call("check", "--config", tmp_path / "bad.toml", "-o", "json")
    assert said.code == 2
    found = by_name(said.out)
    assert found["settings"]["result"] == "FAIL"
    assert found["settings"]["found"].endswith("; all checks below go by the defaults")
    assert "logging.group" in found["settings"]["found"]
    assert len(found) > 5


@pytest.mark.parametrize(("folder", "result"), [("manifests", "ok"), ("nowhere", "FAIL")], ids=["there", "missing"])
def test_the_manifests_folder_is_checked(
    call: Call, manifests: Path, monkeypatch: pytest.MonkeyPatch, folder: str, result: str
) -> None:
    monkeypatch.setenv("NFAGENT_MANIFESTS", str(manifests.parent / folder))
    found = by_name(call("check", "-o", "json").out)["objects"]
    assert found["result"] == result
    assert found["found"].endswith(f"folder {manifests.parent / folder}")


def test_without_a_folder_the_objects_come_from_the_api_server_of_the_kubeconfig(call: Call, tmp_path: Path) -> None:
    file = kubeconfig(tmp_path / "config", "https://api.invalid:6443")
    found = by_name(call("check", "--kubeconfig", file, "-o", "json").out)["objects"]
    assert found["result"] == "ok"
    assert found["found"].startswith(f"API server https://api.invalid:6443, with kubeconfig {file}, context prod; ")


def test_a_missing_kubeconfig_fails_even_if_the_settings_name_a_folder(
    call: Call, tmp_path: Path, manifests: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NFAGENT_MANIFESTS", str(manifests))
    found = by_name(call("check", "--kubeconfig", tmp_path / "none", "-o", "json").out)["objects"]
    assert (found["result"], found["fix"]) == ("FAIL", "name an existing one with --kubeconfig")


@pytest.mark.usefixtures("_nothing_found")
def test_text_shows_the_fix_below_a_line_and_ends_with_the_result(call: Call) -> None:
    header, *lines = call("check").out.splitlines()
    number = next(number for number, line in enumerate(lines) if line.startswith("objects"))
    assert lines[number + 1].startswith(" " * header.index("FOUND") + "fix: name a kubeconfig with ")
    assert lines[-1].startswith("this node can")


@pytest.mark.usefixtures("_nothing_found")
def test_without_credentials_the_cluster_check_lists_the_searched_places_and_ends(call: Call) -> None:
    said = call("check", "--cluster", "-o", "json")
    assert said.code == 2
    *_, last = json.loads(said.out)["checks"]
    assert (last["name"], last["result"]) == ("credentials", "FAIL")
    assert "looked for the setting kubeconfig (empty)" in last["found"]


def test_an_unreachable_api_server_fails_with_the_reason(call: Call, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and never listened at
        server = f"https://127.0.0.1:{taken.getsockname()[1]}"
        said = call("check", "--cluster", "--kubeconfig", kubeconfig(tmp_path / "config", server), "-o", "json")
    assert said.code == 2
    *_, credentials, last = json.loads(said.out)["checks"]
    assert (credentials["name"], credentials["result"]) == ("credentials", "ok")
    assert last == {
        "name": "API server",
        "result": "FAIL",
        "found": f"{server}: can't be reached: Connection refused",
        "fix": "check that it runs, and its address",
    }


@pytest.mark.parametrize("lines", [1, 3])
def test_a_fix_shared_by_several_lines_is_shown_once_below_them(lines: int) -> None:
    shown = check_lines([Check("denied", "warn", f"thing {number}", "first\nsecond") for number in range(lines)])
    assert [line.split()[-1] for line in shown[1:]] == [*map(str, range(lines)), "first", "second"]
    assert shown[-1].index("second") == shown[-2].index("first")


def test_the_hint_of_an_error_is_the_fix_of_its_check(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise HostError("no such thing; the kernel says: no. Not `here`", hint="modprobe thing")

    monkeypatch.setattr(check_host, "NftClient", refuse)
    monkeypatch.setattr(check_host, "ConntrackClient", refuse)
    monkeypatch.setattr(check_host, "read_nat_ports", refuse)
    monkeypatch.setattr(check_host, "NflogSource", refuse)
    monkeypatch.setattr(check_host, "_has_net_admin", lambda: True)
    found = by_name(call("check", "-o", "json").out)
    reason = "no such thing; the kernel says: no. Not `here`"
    names = ("libnftables", "live connections", "NAT ports", "NFLOG")
    lines = {name: (found[name]["found"], found[name]["fix"]) for name in names}
    assert lines == {
        "libnftables": (reason, "modprobe thing"),
        "live connections": (
            f"{reason}: connections that a policy newly denies are not deleted; their Pods stay under re-check",
            "modprobe thing",
        ),
        "NAT ports": (f"unknown: {reason}", "modprobe thing"),
        "NFLOG": (f"no verdict log is written: {reason}", "modprobe thing"),
    }


@pytest.mark.parametrize(("used", "result"), [(51_609, "ok"), (51_610, "warn")], ids=["less than 80 %", "80 %"])
def test_ports_of_translated_connections_are_a_warning_from_80_percent_on(
    call: Call, monkeypatch: pytest.MonkeyPatch, used: int, result: str
) -> None:
    busiest = PortUse(17, "192.0.2.1", "198.51.100.53", 53, used)
    ports = NatPorts(64_512, busiest, ConntrackStatistics(1234, 1234))
    monkeypatch.setattr(check_host, "read_nat_ports", lambda *_: ports)
    monkeypatch.setattr(check_host, "_has_net_admin", lambda: True)
    found = by_name(call("check", "-o", "json").out)["NAT ports"]
    assert found == {
        "name": "NAT ports",
        "result": result,
        "found": (
            f"{used:,} of 64,512 in use ({used * 100 // 64_512} %) from 192.0.2.1 to 198.51.100.53 UDP port 53, "
            "the busiest destination; 1,234 connections not entered into conntrack since its start"
        ),
        "fix": ADVICE if result == "warn" else "",
    }


def test_without_masquerade_no_ports_are_needed(call: Call, tmp_path: Path) -> None:
    settings = tmp_path / "nfagent.toml"
    settings.write_text("[masquerade]\nenabled = false\n")
    found = by_name(call("check", "--config", str(settings), "-o", "json").out)["NAT ports"]
    assert (found["result"], found["found"]) == ("ok", "not needed: masquerade is off")


def test_without_the_cluster_flag_no_http_library_is_loaded() -> None:
    program = (
        "import sys\n"
        "from nfagent.cli import main\n"
        "try:\n    main(['check', '-o', 'json', '--kubeconfig', '/nowhere'])\n"
        "except SystemExit:\n    sys.exit('aiohttp' in sys.modules or 'kubernetes' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False, timeout=50)
    assert done.returncode == 0
    assert by_name(done.stdout.decode())["objects"]["result"] == "FAIL"


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: mounts, and devices in place of the log")
class TestLogFolder:
    """Whether records can be written."""

    def found(self, call: Call) -> dict[str, str]:
        said = call("check", "-o", "json")
        return {item["name"]: f"{item['result']}: {item['found']}" for item in json.loads(said.out)["checks"]}

    def test_a_disk_that_does_not_answer_is_reported(self, call: Call, tmp_path: Path) -> None:
        with hung(tmp_path / "log"), hung(tmp_path / "state"):
            found = self.found(call)
        assert found["log folder"] == f"warn: {tmp_path / 'log'}: the disk doesn't answer"
        assert found["state folder"] == f"warn: {tmp_path / 'state'}: the disk doesn't answer"

    def test_a_full_disk_is_reported(self, call: Call, tmp_path: Path) -> None:
        with tmpfs(tmp_path / "log", 64) as folder:
            fill(folder)
            found = self.found(call)
        assert found["log folder"].startswith("warn: no verdict log is written: [Errno 28] No space left on device")

    def test_a_folder_that_no_sink_uses_is_not_checked(
        self, call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("NFAGENT_LOGGING_SINKS", "journald")
        with tmpfs(tmp_path / "log", 64) as folder:
            fill(folder)
            assert self.found(call)["log folder"] == "ok: not used: logging.sinks has no file"

    def test_a_missing_folder_is_ok(self, call: Call, tmp_path: Path) -> None:
        assert self.found(call)["log folder"] == f"ok: {tmp_path / 'log'} (created when needed)"


@pytest.mark.parametrize(
    ("text", "result", "found"),
    [
        pytest.param(None, "ok", "there is no {}", id="no file"),
        pytest.param(b"nonMasqueradeCIDRs: [9.0.0.0/8]", "ok", "{}: nonMasqueradeCIDRs has 1 CIDR;", id="a list"),
        pytest.param(
            b"masqueradeCIDRs: [9.0.0.0/8, 7.0.0.0/8]", "ok", "{}: masqueradeCIDRs has 2", id="the inverse list"
        ),
        pytest.param(b"masqLinkLocal: true", "ok", "{}: no list; a ConfigMap has precedence", id="a switch"),
        pytest.param(
            b"nonMasqueradeCIDRs: [9.0.0.1/8]", "warn", "{}: nonMasqueradeCIDRs[0] '9.0.0.1/8':", id="a bad list"
        ),
        pytest.param(b"\xff", "warn", "{}: is not UTF-8", id="bytes"),
    ],
)
def test_check_says_what_the_ip_masq_agent_file_has(
    call: Call, tmp_path: Path, *, text: bytes | None, result: str, found: str
) -> None:
    file = tmp_path / "ip-masq-agent"
    if text is not None:
        file.write_bytes(text)
    settings = tmp_path / "nfagent.toml"
    settings.write_text(f'[masquerade]\nconfig_file = "{file}"\n')
    said = by_name(call("check", "--config", str(settings), "-o", "json").out)["ip-masq file"]
    assert said["result"] == result
    assert said["found"].startswith(found.format(file))


def test_of_an_agent_that_does_not_answer_nothing_is_ok(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What only the agent knows is neither ok nor as if there were no agent."""
    monkeypatch.setenv("NFAGENT_RUNTIME_DIR", str(tmp_path))
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(tmp_path / "agent.sock"))
        silent.listen()
        ending = threading.Thread(target=_end_connections, args=(silent,))
        ending.start()
        try:
            found = by_name(process("check", "-o", "json").stdout)
        finally:
            silent.shutdown(socket.SHUT_RDWR)
            ending.join(30)
    row = found["Pod interfaces"]
    assert row["result"] == "warn"
    assert "not known: the agent at" in row["found"]


def _end_connections(listening: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while True:
            listening.accept()[0].close()
