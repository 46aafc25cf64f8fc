"""An agent without descriptors or memory for a while: it goes on, reports the cause, and still stops."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from nfagent.introspection.agent_client import get_json
from tests.kernel.test_cli import DEADLINE, AgentProcess, AgentSite, nft, site
from tests.support.packet_labs import wait_until
from tests.support.tmpfs_mounts import in_own_mounts, stalled

__all__ = ["site"]

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: network namespaces, mounts and nf_tables"),
]


@contextmanager
def without_descriptors(agent: AgentProcess) -> Iterator[None]:
    """Limit an agent to its open descriptors."""
    limits = resource.prlimit(agent.process.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(agent.process.pid, resource.RLIMIT_NOFILE, (0, limits[1]))
    try:
        yield
    finally:
        resource.prlimit(agent.process.pid, resource.RLIMIT_NOFILE, limits)


def await_said(agent: AgentProcess, words: str) -> None:
    """Wait until the agent says something."""
    assert agent.process.stderr is not None
    while words not in (line := agent.process.stderr.readline()):
        assert line, f"it ended with {agent.process.wait()}"


def rules() -> list[str]:
    """List the table, but for what comes and goes in its sets."""
    return [line for line in nft("-s", "list", "table", "inet", "nfagent").splitlines() if "elements" not in line]


def isolated(site: AgentSite) -> object:
    """List the policies in force, and the chains of the Pods that they isolate."""
    policies = [policy["name"] for policy in site.ask("dump", "policies")["policies"]]
    return policies, sorted(line for line in rules() if line.startswith("\tchain egress/"))


def places(site: AgentSite) -> list[str]:
    return [problem["place"] for problem in get_json(site.socket, "/v1/dump/state", {})["problems"]]


def test_a_start_asks_for_as_many_descriptors_as_there_may_be(site: AgentSite) -> None:
    own = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, own[1]))
    try:
        with site.agent() as agent:
            assert resource.prlimit(agent.process.pid, resource.RLIMIT_NOFILE) == (own[1], own[1])
            agent.stop()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, own)


def test_a_reload_without_descriptors_keeps_the_rules_and_foreign_ones_are_removed_later(
    site: AgentSite,
) -> None:
    with site.agent() as agent:
        site.await_sync()
        before = rules()
        with without_descriptors(agent):
            nft('insert rule inet nfagent forward-ingress counter accept comment "foreign"')
            agent.process.send_signal(signal.SIGHUP)
            await_said(agent, "Too many open files")
            assert [line for line in rules() if "foreign" not in line] == before
        wait_until(lambda: rules() == before, DEADLINE)
        assert rules() == before
        agent.process.send_signal(signal.SIGHUP)
        agent.await_state("READY=1")
        wait_until(lambda: places(site) == [], DEADLINE)
        assert places(site) == []
        said = agent.stop()
    assert "Traceback" not in said


def test_an_agent_with_a_manifest_that_leads_to_the_kernel_s_log_starts_and_ends(site: AgentSite) -> None:
    (site.manifests / "z.yaml").symlink_to("/proc/kmsg")
    with site.agent() as agent:
        assert places(site) == ["z.yaml"]
        began = time.monotonic()
        said = agent.stop()
    assert time.monotonic() - began < DEADLINE / 2
    assert "z.yaml: is in a file system of the kernel's own" in said


def test_an_agent_whose_manifests_never_answer_starts_and_ends_with_what_it_had(site: AgentSite) -> None:
    team = site.manifests / "team"
    team.mkdir()
    (team / "cluster.yaml").write_text((site.manifests / "cluster.yaml").read_text())
    (site.manifests / "cluster.yaml").unlink()

    def body() -> None:
        with site.agent() as agent:
            site.await_sync()
            before = isolated(site)
            agent.stop()
        with stalled(team), site.agent() as agent:
            wait_until(lambda: "team" in places(site), DEADLINE)
            assert "team" in places(site)
            site.await_sync()
            assert isolated(site) == before
            began = time.monotonic()
            agent.stop()
            assert time.monotonic() - began < DEADLINE / 2

    in_own_mounts(body)


def test_manifests_that_are_mounted_over_change_no_rule(site: AgentSite) -> None:
    def body() -> None:
        with site.agent() as agent:
            site.await_sync()
            before = rules()
            subprocess.run(
                ["nsenter", "--mount", "--target", str(agent.process.pid), "mount", "-t", "tmpfs", "x", site.manifests],
                check=True,
            )
            agent.process.send_signal(signal.SIGHUP)
            agent.await_state("READY=1")
            assert places(site) == [str(site.manifests)]
            assert rules() == before
            held = isolated(site)
            agent.stop()
        with site.agent() as agent:
            site.await_sync()
            assert places(site) == [str(site.manifests)]
            assert isolated(site) == held
            agent.stop()

    in_own_mounts(body)


# Descriptors run out again and again, at any moment, while the table is listed: each listing opens the library anew.
PROGRAM = """
import os, resource, threading
from nfagent.kernel.nft_client import NftClient
from nfagent.errors import KernelError

resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))
kernel, stop = NftClient(), threading.Event()

def take_all():
    while not stop.is_set():
        held = []
        for _ in range(300):
            try:
                held.append(os.dup(0))
            except OSError:
                pass
        for number in held:
            os.close(number)

taking = threading.Thread(target=take_all)
taking.start()
listed = tries = 0
while tries < 400 or not listed:
    tries += 1
    try:
        kernel.read_now()
        listed += 1
    except KernelError as error:
        assert "Too many open files" in str(error), error
stop.set()
taking.join()
kernel.read_now()
print("listed")
"""


@pytest.mark.usefixtures("site")
def test_a_library_that_gets_no_descriptor_is_an_error_and_not_the_end_of_the_process() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
        timeout=DEADLINE,
    )
    assert (done.returncode, done.stdout) == (0, "listed\n"), done.stderr
