"""Commits that the kernel refuses while an agent runs: logged once, retried, and resolved when the cause is gone."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import select
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from nfagent.errors import KernelError
from nfagent.introspection.agent_client import get_json
from nfagent.kernel.nft_client import NftClient
from nfagent.kernel.table_queries import table_flags
from nfagent.netlink.nft_messages import NFPROTO_BRIDGE
from nfagent.nftables.objects import ABSENT
from tests.kernel.test_cli import DEADLINE, AgentSite, site
from tests.kernel.test_reconciler import DB, SCENE, SECOND_DB, RunningReconciler, listed, nft, running
from tests.support.metrics_page import scraped
from tests.support.own_namespace import own_namespace
from tests.support.owned_table import DORMANT, PERSIST, owned_table
from tests.support.packet_labs import wait_until
from tests.support.two_node_cluster import decoded

__all__ = ["site"]

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: network namespaces and nf_tables"),
]

DENIED = "nf_tables needs root (CAP_NET_ADMIN)"
OWNED = "table inet nfagent belongs to another process (flags owner)"


@pytest.fixture
def _namespace() -> Iterator[None]:
    """Enter a new network namespace with this thread."""
    with own_namespace("faults"):
        yield


async def refused(stage: RunningReconciler, said: str) -> None:
    """Wait until the kernel has refused three times in a row."""
    async with asyncio.timeout(DEADLINE):
        while stage.reconciler.status.failures < 3:  # noqa: ASYNC110 - the status tells by counting
            await asyncio.sleep(0.01)
    assert said in stage.reconciler.status.last_error


@pytest.mark.usefixtures("_namespace")
def test_a_process_that_loses_its_capability_tries_until_it_has_it_again(caplog: pytest.LogCaptureFixture) -> None:
    async def body() -> None:
        async with running(*SCENE) as stage:
            os.seteuid(65534)
            try:
                stage.happens(decoded(SECOND_DB))
                await refused(stage, DENIED)
            finally:
                os.seteuid(0)
            await stage.settles(decoded(DB).ref)
            assert listed() == stage.desired.ruleset()

    with caplog.at_level("ERROR"):
        asyncio.run(body())
    assert [DENIED in message for message in caplog.messages] == [True], "said once"


@pytest.mark.usefixtures("_namespace")
def test_a_table_that_another_process_owns_at_the_start_is_tried_until_it_is_free() -> None:
    async def body() -> None:
        stage = RunningReconciler()
        task = asyncio.create_task(stage.reconciler.run())
        try:
            with owned_table("nfagent"):
                stage.happens(*map(decoded, SCENE))
                await refused(stage, OWNED)
                assert not task.done()
            await stage.settles(decoded(SECOND_DB))
            assert listed() == stage.desired.ruleset()
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            stage.kernel.close()

    asyncio.run(body())


def test_an_agent_whose_table_gets_another_owner_reports_it_and_recovers_when_it_is_free(site: AgentSite) -> None:
    def reconcile() -> dict[str, object]:
        found: dict[str, object] = get_json(site.socket, "/v1/dump/state", {})["agent"]["reconcile"]
        return found

    with site.agent() as agent:
        with owned_table("nfagent", replaces=True):
            wait_until(lambda: OWNED in str(reconcile()["last_error"]), 30)
            for view in ("kernel", "diff"):
                asked = site.nfagent("dump", view)
                assert (asked.returncode, asked.stdout) == (2, "")
                assert OWNED in asked.stderr
            tables = json.loads(site.nfagent("check", "-o", "json").stdout)["checks"]
            found = next(check for check in tables if check["name"] == "nf_tables")
            assert found["result"] == "FAIL", found
            assert OWNED in found["found"]
            assert found["fix"] == "end that process: `nft list table inet nfagent` names it"
        wait_until(lambda: bool(reconcile()["in_sync"]), 60)
        assert site.said("dump", "diff").startswith("equal")
        said = agent.stop()
    assert said.count(OWNED) == 1
    assert "resolved: table inet nfagent is reconciled again" in said


@pytest.mark.usefixtures("_namespace")
def test_a_table_that_was_put_to_sleep_is_woken_and_every_connection_looked_at_again() -> None:
    async def body() -> None:
        async with running(*SCENE) as stage:
            stage.desired.clear_recheck(stage.desired.recheck_addresses)
            await stage.settles()
            nft("add", "table", "inet", "nfagent", "{ flags dormant; }")
            stage.reconciler.invalidate()
            await stage.settles()
            assert stage.reconciler.status.drifts == 1
            assert stage.desired.recheck_addresses
            assert listed() == stage.desired.ruleset()

    asyncio.run(body())


@pytest.mark.parametrize("flags", [PERSIST, PERSIST | DORMANT], ids=["awake", "asleep"])
@pytest.mark.parametrize("start", [False, True], ids=["while an agent runs", "before it starts"])
def test_a_table_that_outlives_its_owner_is_made_anew(site: AgentSite, flags: int, *, start: bool) -> None:
    """The kernel takes a flag `persist` from no table: one in the place of ours would hold nothing for good."""

    def taken() -> None:
        with owned_table("nfagent", replaces=not start, flags=flags):
            pass

    if start:
        taken()
        for view in ("kernel", "diff"):
            assert site.nfagent("dump", view, *site.from_files).returncode in {1, 2}
    with site.agent(), node_port() as arrived:
        if not start:
            taken()
            wait_until(lambda: not table_flags(), 30)
        site.await_sync()
        assert site.said("dump", "diff").startswith("equal")
        assert table_flags() == 0
        site.drop_a_packet()
        assert not arrived()


def test_a_table_that_was_put_to_sleep_stops_packets_again_at_once(site: AgentSite) -> None:
    with site.agent(), node_port() as arrived:
        nft("add", "table", "inet", "nfagent", "{ flags dormant; }")
        assert site.await_drift()["drift_by"].startswith("nft ")
        assert table_flags() == 0
        site.drop_a_packet()
        assert not arrived()
        nft("delete", "table", "inet", "nfagent")
        site.await_sync()
    nft("add", "table", "inet", "nfagent", "{ flags dormant; }")
    with node_port() as arrived:
        site.drop_a_packet()
        assert arrived(), "nothing stops this packet but the rules"


@contextmanager
def node_port() -> Iterator[Callable[[], bool]]:
    """Listen where the Pod's packets go to; give what tells whether any has come."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as opened:
        opened.bind(("10.0.0.254", 9))
        # A packet on a veth has arrived, or was dropped, by the time that its sender has ended.
        opened.setblocking(False)  # noqa: FBT003 - the method's only parameter

        def arrived() -> bool:
            return bool(select.select([opened], [], [], 0)[0])

        yield arrived


@contextmanager
def no_more_files() -> Iterator[None]:
    """Limit this process to its open descriptors."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.usefixtures("_namespace")
def test_a_library_that_could_not_be_opened_once_is_opened_when_that_works_again() -> None:
    kernel = NftClient()
    try:
        with no_more_files():
            assert kernel.read_now() == ABSENT
            with pytest.raises(KernelError, match="Too many open files"):
                kernel.read_now()
            with pytest.raises(KernelError, match="Too many open files"):
                kernel.counters_now()
        assert kernel.read_now() == ABSENT
    finally:
        kernel.close()


def test_a_table_of_bridges_that_cannot_be_written_is_in_status_and_metrics_until_it_is(site: AgentSite) -> None:
    def problem() -> float:
        return scraped(site.socket)["nfagent_problem"][frozenset({("part", "bridge_frames")})]

    with site.agent() as agent:
        site.await_sync()
        assert problem() == 0
        with owned_table("nfagent", replaces=True, family=NFPROTO_BRIDGE):
            agent.await_told(lambda: "frames that no rule can match aren't dropped on bridges" in agent.told)
            wait_until(lambda: problem() == 1, DEADLINE)
        agent.await_told(lambda: "frames" not in agent.told)
        wait_until(lambda: problem() == 0, DEADLINE)
        agent.stop()
