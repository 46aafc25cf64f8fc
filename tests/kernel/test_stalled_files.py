"""Stalled files and sockets of an agent delay neither policies nor a stop.

Disks are frozen as backups freeze them, and mounted from a server that never answers; a log without a reader is a
full pipe, a systemd that doesn't listen a full socket.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from nfagent.introspection.agent_client import NoAgentError, get_json
from tests.kernel.test_cli import CLUSTER, DEADLINE, AgentSite, site
from tests.support.disk_images import ext4, fill, hung, remount, tmpfs
from tests.support.packet_labs import wait_until

__all__ = ["site"]
FORCED = "threads did not end in time"
"""Said by an agent that ends itself, ten seconds after SIGTERM, as it couldn't stop in order."""

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: network namespaces, nf_tables and NFLOG"),
]


def enforce(site: AgentSite, port: int) -> None:
    """Change the policy, and wait until the kernel has the change."""
    (site.manifests / "cluster.yaml").write_text(CLUSTER.replace("5432", str(port)))
    end = time.monotonic() + DEADLINE
    while str(port) not in listed():
        assert time.monotonic() < end, "the change was never enforced"


def listed() -> str:
    done = subprocess.run(["nft", "list", "ruleset"], capture_output=True, text=True, check=True, timeout=DEADLINE)
    return done.stdout


def state(site: AgentSite) -> Any:  # noqa: ANN401 - JSON
    return get_json(site.socket, "/v1/dump/state", {})["agent"]


def answers(site: AgentSite) -> bool:
    """Return whether the agent listens: its socket exists a moment before."""
    try:
        state(site)
    except NoAgentError:
        return False
    return True


def await_state(site: AgentSite, wanted: Callable[[Any], object]) -> Any:  # noqa: ANN401 - JSON
    end = time.monotonic() + DEADLINE
    while not wanted(found := state(site)):
        assert time.monotonic() < end, f"that never came: {found}"
    return found


@pytest.mark.parametrize("folder", ["log", "state"])
def test_while_a_disk_is_frozen_a_policy_takes_effect_a_stop_ends_the_agent_and_another_starts(
    site: AgentSite, folder: str
) -> None:
    with ext4(site.folder / folder) as disk, ExitStack() as kept:
        agent = kept.enter_context(site.agent())
        kept.callback(disk.thaw)
        disk.freeze()
        site.drop_a_packet()
        waits = {"log": lambda found: found["verdict_log"]["queued_lines"], "state": lambda _: True}[folder]
        await_state(site, waits)
        enforce(site, 5433)
        agent.process.send_signal(signal.SIGTERM)
        said = line = ""
        while "stopped; the rules stay in force" not in line:
            assert agent.process.stderr is not None
            line = agent.process.stderr.readline()
            said += line
            assert line, said
            assert FORCED not in line
        if folder == "log":
            assert "the disk doesn't accept the verdict log; lines dropped at this stop: lost_lines=1" in said
        # The kernel keeps the thread that waits until the disk is thawed: what was the agent's is free before.
        with site.agent():
            enforce(site, 5434)
            disk.thaw()  # before the end of this agent is waited for, whose thread waits too


@pytest.mark.parametrize("folder", ["log", "state"])
def test_a_hung_disk_delays_neither_a_start_nor_a_policy_nor_a_stop(site: AgentSite, folder: str) -> None:
    with hung(site.folder / folder), site.agent() as agent:
        site.drop_a_packet()
        enforce(site, 5433)
        agent.process.send_signal(signal.SIGHUP)
        agent.await_state("READY=1")
        enforce(site, 5434)
        assert FORCED not in agent.stop()


def test_a_log_without_a_reader_delays_neither_a_start_nor_a_policy_nor_a_stop(site: AgentSite) -> None:
    reader, writer = os.pipe()
    try:
        fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
        os.write(writer, b"x" * 4096)
        command = [sys.executable, "-m", "nfagent", *site.running]
        with subprocess.Popen(command, env=site.environment, stderr=writer) as process:
            try:
                wait_until(lambda: "5432" in listed())
                enforce(site, 5433)
                process.send_signal(signal.SIGTERM)
                assert process.wait(DEADLINE) == 0
            finally:
                process.kill()
    finally:
        os.close(reader)
        os.close(writer)


def test_a_systemd_that_does_not_read_delays_neither_a_start_nor_a_policy_nor_a_stop(site: AgentSite) -> None:
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notified,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as others,
    ):
        path = str(site.folder / "notify")
        notified.bind(path)
        with suppress(BlockingIOError):
            while True:
                others.sendto(b"x", path)
        command = [sys.executable, "-m", "nfagent", *site.running]
        environment = site.environment | {"NOTIFY_SOCKET": path}
        with subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL) as process:
            try:
                wait_until(lambda: "5432" in listed())
                enforce(site, 5433)
                process.send_signal(signal.SIGTERM)
                assert process.wait(DEADLINE) == 0
            finally:
                process.kill()


@contextmanager
def full(folder: Path) -> Iterator[Callable[[], object]]:
    with tmpfs(folder, 64):
        yield fill(folder).unlink


@contextmanager
def read_only(folder: Path) -> Iterator[Callable[[], object]]:
    with tmpfs(folder, 64):
        remount(folder, "ro")
        yield lambda: remount(folder, "rw")


@contextmanager
def a_fifo(folder: Path) -> Iterator[Callable[[], object]]:
    folder.mkdir()
    os.mkfifo(folder / "policy_action.log")
    yield (folder / "policy_action.log").unlink


@contextmanager
def a_file(folder: Path) -> Iterator[Callable[[], object]]:
    folder.touch()
    yield folder.unlink


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        pytest.param(full, "No space left on device", id="full"),
        pytest.param(read_only, "Read-only file system", id="read-only"),
        pytest.param(a_fifo, "there is a FIFO in place of the log", id="a FIFO"),
        pytest.param(a_file, "Not a directory", id="a file where the folder should be"),
    ],
)
def test_an_unwritable_log_is_reported_everywhere_before_a_record_is_lost_and_recovers(
    site: AgentSite, broken: Callable[[Path], Any], words: str
) -> None:
    with broken(site.folder / "log") as repair, site.agent() as agent:
        found = await_state(site, lambda found: found["verdict_log"]["problem"])["verdict_log"]
        assert words in found["problem"]
        assert found["lost_lines"] == 0
        assert "FAIL, lines of the verdict log are lost: [Errno" in site.said("dump", "state")
        checks = {check["name"]: check for check in json.loads(site.said("check", "-o", "json"))["checks"]}
        assert checks["log folder"]["result"] == "warn"
        assert words in checks["log folder"]["found"]
        if words not in agent.told:  # READY may have said it
            agent.await_told(lambda: words in agent.told)
        site.drop_a_packet()
        await_state(site, lambda found: found["verdict_log"]["lost_lines"])
        repair()
        await_state(site, lambda found: not found["verdict_log"]["problem"])
        agent.await_told(lambda: agent.told == "STATUS=enforcing")
        said = agent.stop()
    assert words in said
    assert "verdict log is written again; lost_lines=" in said


def test_a_runtime_folder_that_is_removed_is_made_again(site: AgentSite) -> None:
    with site.agent() as agent:
        # Moved away first: while its files go, the agent might make new ones there.
        (site.folder / "run").rename(site.folder / "removed")
        shutil.rmtree(site.folder / "removed")
        wait_until(lambda: answers(site))
        site.await_sync()
        assert "the agent's socket was removed; created it again" in agent.stop()


@pytest.mark.parametrize("stalls", ["frozen", "hung"])
def test_a_runtime_folder_on_a_stalled_disk_delays_neither_a_policy_nor_a_stop(site: AgentSite, stalls: str) -> None:
    with ExitStack() as kept:
        disk = kept.enter_context(ext4(site.folder / "run")) if stalls == "frozen" else None
        agent = kept.enter_context(site.agent())
        if disk is None:
            kept.enter_context(hung(site.folder / "run"))
        else:
            site.socket.unlink()
            kept.callback(disk.thaw)
            disk.freeze()
        agent.await_told(lambda: "no answer from the disk for 5 s" in agent.told)
        enforce(site, 5433)
        if disk is None:
            agent.process.send_signal(signal.SIGTERM)
            agent.process.wait(DEADLINE)
        else:
            disk.thaw()
            agent.await_told(lambda: agent.told == "STATUS=enforcing")
            site.await_sync()


def test_idle_connections_leave_descriptors_for_the_kernel_and_the_manifests_and_end(site: AgentSite) -> None:
    with site.agent() as agent, ExitStack() as kept:
        before = descriptors(agent.process.pid)

        def are_many() -> bool:
            for _ in range(10):
                peer = kept.enter_context(socket.socket(socket.AF_UNIX))
                peer.settimeout(0)
                with suppress(BlockingIOError):  # no more fit into the kernel's queue
                    peer.connect(str(site.socket))
            return descriptors(agent.process.pid) >= before + 60

        wait_until(are_many)
        assert descriptors(agent.process.pid) <= before + 70
        enforce(site, 5433)
        site.await_sync()
        wait_until(lambda: descriptors(agent.process.pid) <= before + 4)


def descriptors(process: int) -> int:
    return sum(1 for _ in Path(f"/proc/{process}/fd").iterdir())


def test_unfinished_request_bodies_are_limited_in_total(site: AgentSite) -> None:
    with site.agent() as agent, ExitStack() as kept:
        head = b"POST /v1/try HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % (32 << 20)
        before = resident(agent.process.pid)
        for _ in range(20):
            peer = kept.enter_context(socket.socket(socket.AF_UNIX))
            peer.settimeout(DEADLINE)
            peer.connect(str(site.socket))
            peer.sendall(head + b"x" * (31 << 20))
        assert resident(agent.process.pid) - before < 256 << 20
        enforce(site, 5433)


def resident(process: int) -> int:
    lines = Path(f"/proc/{process}/status").read_text("utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))
