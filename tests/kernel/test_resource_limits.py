"""An agent at a limit of memory, threads or inotify, with a full state folder, a clock that jumps: what holds then."""

from __future__ import annotations

import contextlib
import os
import signal
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from nfagent.system.threads import POOL_THREADS
from tests.kernel.test_cli import CLUSTER, AgentSite, nft, site
from tests.kernel.test_exhausted_resources import places, rules
from tests.kernel.test_log_sinks import drop_packets, logged, ports
from tests.kernel.test_stalled_files import await_state, enforce, state
from tests.support.cgroups import memory_cgroup, thread_cgroup
from tests.support.disk_images import fill, remount, tmpfs
from tests.support.metrics_page import scraped
from tests.support.packet_labs import wait_until

__all__ = ["site"]

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: network namespaces, cgroups and nf_tables"),
]

POD = """---
apiVersion: v1
kind: Pod
metadata: {{namespace: shop, name: far{number}, labels: {{number: "{number}"}}}}
spec: {{nodeName: node-b}}
status: {{phase: Running, podIPs: [{{ip: 10.{high}.{middle}.{low}}}]}}
"""


def many_pods(count: int) -> str:
    """Return a manifest of so many Pods on another node."""
    return "".join(
        POD.format(number=number, high=64 + (number >> 16), middle=(number >> 8) & 255, low=number & 255)
        for number in range(count)
    )


def test_an_agent_that_is_killed_at_its_memory_limit_leaves_the_rules_and_starts_when_there_is_room(
    site: AgentSite,
) -> None:
    def start_within_limit() -> int:
        command = [*cgroup.join, sys.executable, "-m", "nfagent", *site.running]
        done = subprocess.run(command, env=site.environment, capture_output=True, check=False, timeout=120)
        return done.returncode

    with memory_cgroup() as cgroup:
        with site.agent() as agent:
            before = rules()
            cgroup.limit(8 << 20)
            cgroup.move(agent.process.pid)
            (site.manifests / "many.yaml").write_text(many_pods(20_000))
            assert agent.process.wait(120) == -signal.SIGKILL
        assert rules() == before
        cgroup.limit(24 << 20)
        assert start_within_limit() == -signal.SIGKILL
        assert rules() == before
        cgroup.limit(2048 << 20)
        with site.agent() as agent:
            cgroup.move(agent.process.pid)
            assert site.ask("dump", "state")["counts"]["pods"] == 20_002
            enforce(site, 5433)
            agent.stop()


def test_an_agent_that_can_start_no_thread_more_repairs_its_table_and_says_what_waits(site: AgentSite) -> None:
    with thread_cgroup() as cgroup, site.agent() as agent:
        cgroup.move(agent.process.pid)
        cgroup.limit(1)
        before = rules()
        (site.manifests / "cluster.yaml").write_text(CLUSTER.replace("5432", "5433"))
        agent.process.send_signal(signal.SIGHUP)
        wait_until(lambda: str(site.manifests) in places(site))
        nft("flush table inet nfagent")
        wait_until(lambda: rules() == before)
        drop_packets(site, 1000, 1)
        wait_until(lambda: len(logged(site)) == 1, 60)
        cgroup.limit(1000)
        wait_until(lambda: "5433" in nft("list", "table", "inet", "nfagent"), 60)
        wait_until(lambda: places(site) == [])
        cgroup.limit(1)
        said = agent.stop()
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("threads", "code"),
    [
        pytest.param(1, 2, id="none: it ends"),
        pytest.param(3, 2, id="fewer than it always needs: it ends"),
        pytest.param(POOL_THREADS + 4, 0, id="fewer than reading the cluster needs: it waits"),
    ],
)
def test_an_agent_that_cannot_start_its_threads_says_so_and_leaves_the_rules(
    site: AgentSite, threads: int, code: int
) -> None:
    with site.agent() as agent:
        before = rules()
        agent.stop()
    command = [sys.executable, "-m", "nfagent", *site.running]
    with contextlib.ExitStack() as stack:
        cgroup = stack.enter_context(thread_cgroup())
        cgroup.limit(threads)  # before it starts; the process itself may join all the same
        starting = stack.enter_context(
            subprocess.Popen([*cgroup.join, *command], env=site.environment, stderr=subprocess.PIPE, text=True)
        )
        said = ""
        while "cannot start a thread" not in said:
            assert starting.stderr is not None
            said = starting.stderr.readline()
            assert said, starting.wait()
        assert rules() == before
        if code == 0:
            starting.terminate()
        _, rest = starting.communicate(timeout=60)
    assert "Traceback" not in rest
    assert starting.returncode == code


def test_a_change_whose_inotify_event_was_lost_takes_effect(site: AgentSite) -> None:
    most = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    if most > 100_000:
        pytest.skip(f"fs.inotify.max_queued_events is {most}: too many for a test")
    with site.agent() as agent:
        agent.process.send_signal(signal.SIGSTOP)
        try:
            for number in range(most // 2 + 100):  # two events or more each, and none like the one before
                place = site.manifests / f"x{number % 2}"
                place.touch()
                place.unlink()
            (site.manifests / "cluster.yaml").write_text(CLUSTER.replace("5432", "5433"))
        finally:
            agent.process.send_signal(signal.SIGCONT)
        wait_until(lambda: "5433" in nft("list", "table", "inet", "nfagent"))
        site.await_sync()
        enforce(site, 5434)
        agent.stop()


def problems_of(site: AgentSite) -> set[str]:
    """Return the parts that metrics report a problem of."""
    found = scraped(site.socket)["nfagent_problem"]
    return {dict(labels)["part"] for labels, value in found.items() if value}


@contextmanager
def full(folder: Path) -> Iterator[Callable[[], object]]:
    """Mount a disk that is full; yield what makes room."""
    with tmpfs(folder, 64):
        folder.chmod(0o700)
        yield fill(folder).unlink


@contextmanager
def read_only(folder: Path) -> Iterator[Callable[[], object]]:
    """Mount a disk that can't be written; yield what makes it writable."""
    with tmpfs(folder, 64):
        folder.chmod(0o700)
        remount(folder, "ro")
        yield lambda: remount(folder, "rw")


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        pytest.param(full, "No space left on device", id="full"),
        pytest.param(read_only, "Read-only file system", id="read-only"),
    ],
)
def test_a_state_folder_that_cannot_be_written_is_reported_and_delays_no_policy(
    site: AgentSite, broken: Callable[[Path], AbstractContextManager[Callable[[], object]]], words: str
) -> None:
    with broken(site.folder / "state") as repair, site.agent() as agent:
        enforce(site, 5433)
        assert words in await_state(site, lambda found: found["last_good"]["problem"])["last_good"]["problem"]
        if "last good objects" not in agent.told:  # READY may have said it
            agent.await_told(lambda: "last good objects" in agent.told)
        unkept = {"last_good_objects", "saved_ruleset", "packet_counters"}
        wait_until(lambda: problems_of(site) == unkept)
        repair()
        enforce(site, 5434)
        await_state(site, lambda found: not found["last_good"]["problem"])
        assert words in agent.stop()


# The clock of the machine belongs to other programs: the process gets one of its own, which the test sets.
CLOCK = """
import mmap, struct, sys, time
with open(sys.argv.pop(1), "r+b") as opened:
    shared = mmap.mmap(opened.fileno(), 8)
real = time.time_ns
time.time_ns = lambda: real() + struct.unpack("<q", shared[:8])[0]
time.time = lambda: time.time_ns() / 1e9
from nfagent.cli import main
main()
"""


@contextmanager
def agent_with_a_clock(site: AgentSite) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """Run an agent whose clock is off by the nanoseconds in a file."""
    clock = site.folder / "clock"
    clock.write_bytes(bytes(8))
    command = [sys.executable, "-c", CLOCK, str(clock), *site.running]
    with subprocess.Popen(command, env=site.environment, stderr=subprocess.PIPE, text=True) as process:
        try:
            wait_until(lambda: "5432" in nft("list", "ruleset"), 60)
            yield process, clock
        finally:
            process.kill()


@pytest.mark.parametrize("hours", [24, -1], ids=["forward by a day, as after a suspend", "back by an hour"])
def test_a_clock_that_jumps(hours: int, site: AgentSite) -> None:
    """Packets keep the kernel's time, which stays right; what is judged by the agent's clock is the age of objects."""
    with agent_with_a_clock(site) as (process, clock):
        drop_packets(site, 1000, 1)
        wait_until(lambda: len(logged(site)) == 1, 60)
        before = state(site)["reconcile"]["transactions"]
        clock.write_bytes(struct.pack("<q", hours * 3600 * 10**9))
        for number, port in enumerate((5433, 5434), start=1):
            drop_packets(site, 1000 + number, 1)
            enforce(site, port)
        wait_until(lambda: len(logged(site)) == 3, 60)
        assert ports(logged(site)) == [1000, 1001, 1002]
        site.await_sync()
        found = state(site)
        assert found["reconcile"]["transactions"] - before <= 10, "nothing is repeated"
        assert not any(found["verdict_log"]["unattributed"].values())
        process.terminate()
        _, said = process.communicate(timeout=60)
        assert process.returncode == 0
        assert "Traceback" not in said
