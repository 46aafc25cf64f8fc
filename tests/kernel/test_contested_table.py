"""Other programs that keep changing the table: named, limited, reported; the rules hold again when they stop."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from nfagent.controllers.drift_backoff import MAX_SPACING
from nfagent.introspection.agent_client import SLOW_SECONDS, get_json
from tests.kernel.test_cli import AgentSite, nft, site
from tests.support.packet_labs import wait_until

__all__ = ["site"]

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: network namespaces, nf_tables and NFLOG"),
]

PATIENCE = 120.0
"""A repair reads the table anew at each commit of another program: beside busy processes it may take seconds."""
FLUSH = "flush ruleset"
RELOAD = "flush ruleset; table inet filter { chain input { type filter hook input priority 0; policy accept; }; }"
DELETE = "delete table inet nfagent"
FOREIGN_ACCEPT = 'insert rule inet nfagent forward-egress counter accept comment "foreign"'

REPEATED = """
import signal, subprocess, sys
ended = []
signal.signal(signal.SIGTERM, lambda *_: ended.append(True))
while not ended:
    subprocess.run(["nft", *sys.argv[1:]], stderr=subprocess.DEVNULL)
"""
COMMITS = """
import signal
from nfagent.errors import KernelError
from nfagent.kernel.nft_socket import NftSocket
from nfagent.nftables.objects import Chain
from nfagent.nftables.transaction import AddChain, AddTable, Delete
opened, ended = NftSocket(), []
signal.signal(signal.SIGTERM, lambda *_: ended.append(True))
while not ended:
    try:
        opened.commit((AddChain("foreign", Chain(())),))
        opened.commit((Delete("chain", "foreign"),))
    except KernelError:
        pass
"""


@contextmanager
def looping(program: str, *arguments: str) -> Iterator[None]:
    """Run a program in the node's network namespace until the block ends: when it has ended, it changes nothing more.

    It ends after its change: where it is killed, an nft that it has started goes on.
    """
    with subprocess.Popen([sys.executable, "-c", program, *arguments]) as process:
        try:
            yield
        finally:
            process.terminate()


def agent_state(site: AgentSite) -> Any:  # noqa: ANN401 - JSON
    return get_json(site.socket, "/v1/dump/state", {})["agent"]


def is_equal(site: AgentSite) -> bool:
    """Return whether the kernel has what the agent wants: it may not have heard of the last change yet."""
    return bool(get_json(site.socket, "/v1/dump/diff", {}, seconds=SLOW_SECONDS)["equal"])


def cpu_seconds(process: int) -> float:
    fields = Path(f"/proc/{process}/stat").read_text("utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(FLUSH, id="flushes the ruleset"),
        pytest.param(RELOAD, id="loads a ruleset of its own after a flush, as nftables.service does"),
        pytest.param(DELETE, id="deletes the table"),
        pytest.param(FOREIGN_ACCEPT, id="adds a rule that accepts everything"),
    ],
)
def test_a_program_in_a_loop_that(change: str, site: AgentSite) -> None:
    with site.agent() as agent:
        with looping(REPEATED, change):
            wait_until(lambda: agent_state(site)["drift"].get("contest", {}).get("spacing") == MAX_SPACING, PATIENCE)
            began, used = time.monotonic(), cpu_seconds(agent.process.pid)
            before = agent_state(site)["reconcile"]["drifts"]
            wait_until(lambda: agent_state(site)["reconcile"]["drifts"] >= before + 10, PATIENCE)
            drift = agent_state(site)["drift"]
            repairs = agent_state(site)["reconcile"]["drifts"] - before
            assert repairs <= 2 + (time.monotonic() - began) / MAX_SPACING
            assert cpu_seconds(agent.process.pid) - used < 0.5 * (time.monotonic() - began)
            assert drift["contest"]["program"].startswith("nft (process ")
            assert drift["contest"]["exposed_seconds"] > 0
            text = site.said("dump", "state")
            assert "FAIL, nft (process" in text
            assert "keeps changing nfagent's rules" in text
            agent.await_told(lambda: "keeps changing nfagent's rules" in agent.told)
        wait_until(lambda: is_equal(site), PATIENCE)
        assert site.said("dump", "diff").startswith("equal")
        said = agent.stop()
    assert said.count("from now on repairs are spaced") == 1
    assert said.count("repairing it with") <= 5


def test_a_program_that_deletes_the_table_of_bridges_in_a_loop(site: AgentSite) -> None:
    with site.agent() as agent:
        with looping(REPEATED, "delete table bridge nfagent"):
            wait_until(lambda: "contest" in agent_state(site)["drift"], PATIENCE)
            began, used = time.monotonic(), cpu_seconds(agent.process.pid)
            before = agent_state(site)["drift"]["contest"]["repairs"]
            wait_until(lambda: agent_state(site)["drift"]["contest"]["repairs"] >= before + 3, PATIENCE)
            contest = agent_state(site)["drift"]["contest"]
            assert cpu_seconds(agent.process.pid) - used < 0.5 * (time.monotonic() - began)
            assert contest["program"].startswith("nft (process ")
            agent.await_told(lambda: "nft keeps changing nfagent's rules" in agent.told)
        wait_until(lambda: "table bridge nfagent" in nft("list", "tables"), PATIENCE)
        assert agent_state(site)["reconcile"]["drifts"] == 0
        said = agent.stop()
    assert said.count("from now on repairs are spaced") == 1
    assert said.count("table bridge nfagent changed by nft (process ") <= 5


def test_a_flush_of_both_tables_is_one_repair_and_no_contest(site: AgentSite) -> None:
    with site.agent() as agent:
        for count in range(1, 4):
            nft(FLUSH)
            wait_until(lambda: agent_state(site)["reconcile"]["drifts"] == count, PATIENCE)  # noqa: B023 - called at once
            wait_until(lambda: "table bridge nfagent" in nft("list", "tables"), PATIENCE)
        assert "contest" not in agent_state(site)["drift"]
        agent.stop()


def test_a_foreign_accept_goes_while_another_program_commits_a_thousand_times_a_second(site: AgentSite) -> None:
    with site.agent() as agent, looping(COMMITS):
        wait_until(lambda: "contest" in agent_state(site)["drift"], PATIENCE)
        for _ in range(3):
            nft(FOREIGN_ACCEPT)
            wait_until(
                lambda: "foreign" not in nft("-s", "list", "chain", "inet", "nfagent", "forward-egress"), PATIENCE
            )
            assert "foreign" not in nft("-s", "list", "chain", "inet", "nfagent", "forward-egress")
        assert agent.process.poll() is None


def test_programs_that_change_their_own_tables_only_contest_nothing(site: AgentSite) -> None:
    rules = "*nat\n:KUBE-SERVICES - [0:0]\n-A KUBE-SERVICES -d 10.96.0.1/32 -j ACCEPT\nCOMMIT\n"
    with site.agent() as agent:
        before = agent_state(site)["reconcile"]["comparisons"]
        for _ in range(20):
            subprocess.run(["iptables-nft-restore", "--noflush"], input=rules, text=True, check=True)
            nft("add table ip kube-proxy; add chain ip kube-proxy services; delete table ip kube-proxy")
        nft("add counter inet nfagent foreign")
        wait_until(lambda: agent_state(site)["reconcile"]["drifts"] == 1, PATIENCE)
        status = agent_state(site)
        assert (status["reconcile"]["drifts"], status["reconcile"]["comparisons"] - before) == (1, 1)
        assert "contest" not in status["drift"]
        agent.stop()


def test_a_second_agent_on_the_node_ends_and_contests_nothing(site: AgentSite) -> None:
    with site.agent() as agent:
        done = site.nfagent(*site.running)
        assert done.returncode != 0
        assert "nfagent" in done.stderr
        assert agent_state(site)["reconcile"]["drifts"] == 0
        agent.stop()
