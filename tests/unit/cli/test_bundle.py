"""nfagent bundle: what is in it with and without an agent, no secret of any source, whole or not at all."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import tarfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from backports import zstd

from nfagent.cli.bundle_archive import MOST_BYTES, BundleArchive
from nfagent.cli.bundle_contents import size_text
from nfagent.cli.bundle_sources import Remarks, UnreadError, sources
from nfagent.config import load_settings
from nfagent.introspection.http_stream import view_route
from nfagent.introspection.status_answer import status_parts
from nfagent.introspection.status_view import StatusView
from nfagent.loaded_settings import ConfigView
from nfagent.system.interrupts import interrupting
from nfagent.time_slices import TimeSlices
from tests.support.packet_labs import wait_until
from tests.support.two_node_cluster import TwoNodeCluster, pod, policy
from tests.unit.cli.agents import introspection, running
from tests.unit.cli.called import Call, unread_pipe
from tests.unit.cli.test_logs import record, write
from tests.unit.cli.test_status import PODS, readings

pytestmark = pytest.mark.usefixtures("interruptible")

WHOLE = pytest.mark.kernel
"""A whole bundle asks the real kernel, by a dozen commands: seconds of CPU time."""
ORDER = [
    *("versions.txt", "status.json", "config.json", "config-running.json", "check.json", "state.json", "policies.json"),
    *("ruleset.nft", "kernel.nft", "diff.json", "syncs.json", "metrics.txt", "logs.jsonl", "journal.txt"),
    "MANIFEST.json",
]
PLANTED = {name: f"planted-{name}-secret" for name in ("token", "variable", "proxy", "file", "key", "applied", "mail")}
KUBECONFIG = f"""
users:
- name: a
  user: {{token: {PLANTED["token"]}}}
- name: b
  user: {{exec: {{command: x, env: [{{name: ANY, value: {PLANTED["variable"]}}}]}}}}
"""
JOURNAL = f"""2026 nfagent[1]: exec plugin x: ANY={PLANTED["variable"]}, token {PLANTED["token"]} was refused
2026 nfagent[1]: proxy http://me:{PLANTED["proxy"]}@proxy:3128: refused
2026 nfagent[1]: {PLANTED["file"]} of the token file
-----BEGIN PRIVATE KEY-----
{PLANTED["key"]}
-----END PRIVATE KEY-----
2026 nfagent[1]: kubectl.kubernetes.io/last-applied-configuration: {{"a": "{PLANTED["applied"]}"}}
2026 nfagent[1]: the end
"""


def members(path: Path) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(zstd.decompress(path.read_bytes()))) as archive:
        found = {}
        for member in archive.getmembers():
            content = archive.extractfile(member)
            assert content is not None
            found[member.name] = content.read()
        return found


def manifest(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(members(path)["MANIFEST.json"])
    return found


@pytest.fixture
def journalctl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Play journalctl by a script of the test."""
    program = tmp_path / "bin" / "journalctl"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\necho "$@" >{tmp_path}/asked\ncat {tmp_path}/journal\n')
    program.chmod(0o755)
    (tmp_path / "journal").write_text(JOURNAL)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    return program


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "log" / "policy_action.log"


@WHOLE
def test_no_secret_of_any_source_is_in_it(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, journalctl: Path, log: Path
) -> None:
    assert journalctl.exists()
    kubeconfig, token_file = tmp_path / "kubeconfig", tmp_path / "token"
    kubeconfig.write_text(KUBECONFIG)
    token_file.write_text(PLANTED["file"])
    monkeypatch.setenv("NFAGENT_KUBECONFIG", str(kubeconfig))
    monkeypatch.setenv("NFAGENT_TOKEN_FILE", str(token_file))
    monkeypatch.setenv("HTTPS_PROXY", f"http://me:{PLANTED['proxy']}@proxy:3128")
    monkeypatch.setenv("MAIL_PASSWORD", PLANTED["mail"])
    # Each in a label, where states and policies show it, in records, in metrics and in the status.
    labels = dict(PLANTED)
    leaky = pod("shop/leaky", "a", 30, (), **labels)
    state = TwoNodeCluster(*PODS, leaky, policy("shop/all")).views["a"]
    said = " ".join(PLANTED.values())
    write(log, record(1), record(2, source=record(1).src.__class__(instance=said)))

    async def status() -> StatusView:
        return status_parts(state, readings(problems=[said, f"https://me:{PLANTED['key']}@host"]))

    async def metrics(_: web.Request) -> web.Response:
        return web.Response(text=f'nfagent_x{{text="{said}"}} 1\ntoken={PLANTED["key"]}\n')

    routes = [view_route("/v1/status", status, TimeSlices()), web.get("/metrics", metrics)]
    path = tmp_path / "made.tar.zst"
    known = {name: value for name, value in PLANTED.items() if name not in {"key", "applied"}}
    with running(introspection(state), routes=routes):
        answer = call("bundle", path)
    found = members(path)
    assert "state.json" in found
    assert "logs.jsonl" in found
    leaked = {(name, value) for name, content in found.items() for value in known.values() if value.encode() in content}
    assert leaked == set()
    journal = found["journal.txt"].decode()
    assert [value for value in PLANTED.values() if value in journal] == []
    assert "the end" in journal
    assert f"token={PLANTED['key']}" not in found["metrics.txt"].decode()
    assert f":{PLANTED['key']}@" not in found["status.json"].decode()
    assert "secrets removed" in answer.out
    assert manifest(path)["removed_secrets"] > len(PLANTED)


@WHOLE
def test_the_members_are_in_one_order_and_the_manifest_lists_them(
    call: Call, tmp_path: Path, journalctl: Path, log: Path
) -> None:
    assert journalctl.exists()
    write(log, *map(record, range(5)))
    path = tmp_path / "made.tar.zst"
    state = TwoNodeCluster(*PODS).views["a"]
    with running(introspection(state)):
        answer = call("bundle", path, "-o", "json", "--since", "1h")
    listing, held = json.loads(answer.out), manifest(path)
    names = [*(entry["name"] for entry in held["files"]), "MANIFEST.json"]
    assert names == [name for name in ORDER if name in members(path)]
    assert list(members(path)) == names
    assert {name: len(content) for name, content in members(path).items() if name != "MANIFEST.json"} == {
        entry["name"]: entry["bytes"] for entry in held["files"]
    }
    assert {entry["name"] for entry in held["not_read"]} == set(ORDER) - set(names)
    assert listing == {"file": str(path), "bytes": path.stat().st_size} | {
        key: held[key] for key in ("files", "not_read", "removed_secrets")
    }
    assert members(path)["logs.jsonl"].count(b"\n") == 5
    assert (tmp_path / "asked").read_text().split()[:2] == ["--unit=nfagent.service", "--unit=nfagent-early.service"]
    assert "--since=@" in (tmp_path / "asked").read_text()
    # The agent of this test has no such answers, as one of an earlier version.
    reasons = {entry["name"]: entry["reason"] for entry in held["not_read"]}
    assert "the running agent is older than this command" in reasons["status.json"]
    assert answer.code == 1
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@WHOLE
def test_without_an_agent_it_has_what_can_be_read(
    call: Call, tmp_path: Path, manifests: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NFAGENT_MANIFESTS", str(manifests))
    monkeypatch.setenv("NFAGENT_NODE", "node-a")
    monkeypatch.setenv("COLUMNS", "40")
    path = tmp_path / "made.tar.zst"
    answer = call("bundle", path, "--no-logs")
    assert answer.code == 1
    found = members(path)
    assert {"versions.txt", "config.json", "check.json", "state.json", "ruleset.nft"} <= set(found)
    assert b"table inet nfagent" in found["ruleset.nft"]
    assert not {"logs.jsonl", "journal.txt"} & set(found)
    assert "agent     none runs" in found["versions.txt"].decode()
    reasons = {entry["name"]: entry["reason"] for entry in manifest(path)["not_read"]}
    assert "no agent listens at" in reasons["status.json"]
    assert "logs.jsonl" not in reasons
    assert max(map(len, answer.out.splitlines())) <= 40 + len(str(path))
    assert "status.json                -" in answer.out


def test_its_name_has_the_node_that_the_agent_has_not_the_host_name(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`nfagent run --node` is no setting that the command could read."""
    monkeypatch.chdir(tmp_path)
    view = ConfigView(version="1", node="edge-7", settings=())

    async def config() -> ConfigView:
        return view

    routes = [view_route("/v1/config", config, TimeSlices())]
    with running(introspection(TwoNodeCluster().views["a"]), routes=routes):
        call("bundle", "--no-logs")
    [path] = tmp_path.glob("*.tar.zst")
    assert path.name.startswith("nfagent-edge-7-")
    assert manifest(path)["node"] == "edge-7"
    assert "node      edge-7" in members(path)["versions.txt"].decode()


def start(tmp_path: Path, *arguments: str, program: str = "", stdout: int = subprocess.PIPE) -> subprocess.Popen[str]:
    command = f"{program}exec {sys.executable} -m nfagent bundle {' '.join(arguments)}"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    return subprocess.Popen(
        ["/bin/sh", "-c", command],
        cwd=tmp_path,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
    )


def is_running(process: int) -> bool:
    """Return whether a process runs: one that has ended stays in /proc until its parent, or init, has read its code."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(") ", 1)[1][0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=lambda number: number.name)
def test_an_interrupted_one_leaves_nothing(tmp_path: Path, journalctl: Path, number: signal.Signals) -> None:
    waiting = tmp_path / "waiting"
    nft = journalctl.with_name("nft")
    nft.write_text(f"#!/bin/sh\necho begun\necho $$ >{waiting}.new\nmv {waiting}.new {waiting}\nexec sleep 600\n")
    nft.chmod(0o755)
    folder = tmp_path / "into"
    folder.mkdir()
    with start(tmp_path, "into/made.tar.zst") as started:
        try:
            wait_until(lambda: waiting.exists() or started.poll() is not None, 120)
            assert started.poll() is None
            started.send_signal(number)
            assert started.wait(30) == (-number if number == signal.SIGKILL else 130)
            assert list(folder.iterdir()) == []
            child = int(waiting.read_text())
            if number == signal.SIGKILL:
                os.kill(child, signal.SIGKILL)  # nothing can end the children of a process that is killed
            else:
                wait_until(lambda: not is_running(child), 30)
        finally:
            started.kill()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda number: number.name)
def test_an_interrupt_while_a_program_is_being_started_ends_it_too(
    journalctl: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    journalctl.write_text("#!/bin/sh\nexec sleep 600\n")
    begun: list[int] = []

    class Interrupted(subprocess.Popen[bytes]):
        def __init__(self, *arguments: Any, **options: Any) -> None:  # noqa: ANN401 - as its base
            super().__init__(*arguments, **options)
            begun.append(self.pid)
            signal.raise_signal(number)

    monkeypatch.setattr(subprocess, "Popen", Interrupted)
    journal = next(found for found in sources(load_settings(), None, 0, "", logs=True) if found.name == "journal.txt")
    try:
        with interrupting(), pytest.raises(KeyboardInterrupt):
            next(journal.read(Remarks()))
        assert [is_running(child) for child in begun] == [False]
    finally:
        for child in begun:
            with suppress(ProcessLookupError):
                os.killpg(child, signal.SIGKILL)


@WHOLE
def test_a_full_disk_is_named_and_leaves_nothing(tmp_path: Path) -> None:
    with start(tmp_path, "made.tar.zst", "--no-logs", program="ulimit -f 1; ") as started:
        _, err = started.communicate(timeout=120)
    assert started.returncode == 2
    assert "made.tar.zst can't be written: File too large; name a FILE in a folder with room for it" in err
    assert not (tmp_path / "made.tar.zst").exists()


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("/proc/made.tar.zst", "can't be written"),
        ("/nowhere/made.tar.zst", "can't be written: No such file or directory"),
        ("there", "exists; name another file, or remove it"),
    ],
)
def test_a_file_that_cannot_be_made_is_named_before_anything_is_read(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there").write_text("kept")
    answer = call("bundle", path)
    assert (answer.code, answer.out) == (2, "")
    assert words in answer.err
    assert (tmp_path / "there").read_text() == "kept"


@WHOLE
def test_to_stdout_the_list_is_on_stderr(tmp_path: Path) -> None:
    into = tmp_path / "made"
    with start(tmp_path, "-", "--no-logs", f"> {into}") as started:
        out, err = started.communicate(timeout=120)
    assert out == ""
    assert "versions.txt" in members(into)
    if shutil.which("zstd") is not None:
        listed = subprocess.run(f"zstd -dc <{into} | tar t", shell=True, capture_output=True, text=True, check=True)  # noqa: S602
        assert listed.stdout.splitlines()[-1] == "MANIFEST.json"
    assert "MANIFEST.json" in err
    assert "written to stdout" in err


def test_stdout_does_not_take_both(call: Call) -> None:
    answer = call("bundle", "-", "-o", "json")
    assert answer.code == 2
    assert "stdout takes the archive or its list" in answer.err


def test_a_closed_pipe_ends_it_quietly_and_leaves_nothing(tmp_path: Path) -> None:
    with unread_pipe() as stdout, start(tmp_path, "made.tar.zst", "--no-logs", stdout=stdout) as started:
        _, err = started.communicate(timeout=120)
    assert (started.returncode, err) == (130, "")
    assert not (tmp_path / "made.tar.zst").exists()


def test_a_member_is_cut_at_the_limit() -> None:
    held, line = io.BytesIO(), b"x" * 999_999 + b"\n"
    archive = BundleArchive(held, 1_700_000_000)
    assert archive.add("large", (line for _ in range(100))) == (MOST_BYTES // len(line) * len(line), True)
    assert archive.add("small", [b"a", b"b"]) == (2, False)
    archive.close()
    with tarfile.open(fileobj=io.BytesIO(zstd.decompress(held.getvalue()))) as found:
        assert [(member.name, member.size, member.mtime) for member in found] == [
            ("large", 67_000_000, 1_700_000_000),
            ("small", 2, 1_700_000_000),
        ]


@pytest.mark.parametrize(("size", "text"), [(0, "0 B"), (999, "999 B"), (1234, "1.2 kB"), (56_000_000, "56 MB")])
def test_sizes_are_said_in_words(size: int, text: str) -> None:
    assert size_text(size) == text


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("exit 0", "the journal has no lines of nfagent.service"),
        ("echo 'Failed to open system journal' >&2; exit 1", "Failed to open system journal"),
    ],
)
def test_a_journal_without_lines_says_why(journalctl: Path, script: str, reason: str) -> None:
    journalctl.write_text(f"#!/bin/sh\n{script}\n")
    journal = next(found for found in sources(load_settings(), None, 0, "", logs=True) if found.name == "journal.txt")
    with pytest.raises(UnreadError, match=reason):
        next(journal.read(Remarks()))
