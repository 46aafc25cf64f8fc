"""Metrics of a real agent, as a scraper sees them: on its socket and over TCP, ready or not."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from nfagent import __version__
from nfagent.agent import Agent
from nfagent.config import load_settings
from nfagent.metrics.families import FAMILIES, PARTS
from tests.kernel.test_cli import CLUSTER
from tests.support.agent_in_process import isolate, run_alone, write_manifests
from tests.support.own_namespace import own_namespace

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: network namespaces, nf_tables and NFLOG"),
]

DEADLINE = 60.0
TCP = "http://127.0.0.1:9464"
PROBLEM = 'nfagent_problem{{part="{}"}}'
BROKEN = """
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: broken, namespace: shop}
spec: {podSelector: {matchLabels: {app: 7}}, ingress: [{ports: [{port: 99999}]}]}
"""
UNREACHABLE = """
apiVersion: v1
kind: Config
current-context: here
contexts: [{name: here, context: {cluster: here, user: me}}]
clusters: [{name: here, cluster: {server: "http://127.0.0.1:1"}}]
users: [{name: me, user: {token: none}}]
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    isolate(monkeypatch, tmp_path)
    with own_namespace("metrics"):
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        yield tmp_path


class Scraper:
    """Asks the agent over its socket, and over TCP."""

    def __init__(self, path: Path) -> None:
        self._path = path

    async def get(self, url: str) -> tuple[int, str]:
        """Return status and body; a URL without a host is asked over the socket."""
        over_socket = url.startswith("/")
        connector = aiohttp.UnixConnector(str(self._path)) if over_socket else aiohttp.TCPConnector()
        session = aiohttp.ClientSession(connector=connector)
        async with session, session.get(f"http://agent{url}" if over_socket else url) as response:
            return response.status, await response.text()

    async def until(self, url: str, is_wanted: Callable[[int, str], bool]) -> str:
        """Ask until an answer is wanted, and return its body."""
        async with asyncio.timeout(DEADLINE):
            while True:
                try:
                    status, body = await self.get(url)
                except aiohttp.ClientConnectionError:
                    status, body = 0, ""
                if is_wanted(status, body):
                    return body
                await asyncio.sleep(0.05)


@asynccontextmanager
async def agent(folder: Path, **flags: str) -> AsyncIterator[Scraper]:
    """Run an agent; end it by SIGTERM."""
    running = asyncio.create_task(Agent(load_settings(flags={"node": "node-a", **flags})).run())
    try:
        yield Scraper(folder / "run" / "agent.sock")
    finally:
        os.kill(os.getpid(), signal.SIGTERM)
        await running


def is_ok(status: int, _: str) -> bool:
    return status == 200


def families(page: str) -> dict[str, Metric]:
    """Return a page's families, by their names as scraped."""
    found = {}
    for metric in text_string_to_metric_families(page):
        found[metric.name + ("_total" if metric.type == "counter" else "")] = metric
    return found


def value(page: str, sample: str) -> float:
    """Return the value of a line that begins so."""
    return float(next(line for line in page.splitlines() if line.startswith(f"{sample} ")).rpartition(" ")[2])


def test_the_page_has_exactly_the_families_of_the_table_with_their_types_and_labels(folder: Path) -> None:
    write_manifests(folder, CLUSTER)

    async def body() -> None:
        async with agent(folder) as scraper:
            await scraper.until("/readyz", is_ok)
            _, page = await scraper.get("/metrics")
        found = families(page)
        kinds = {name: "untyped" if metric.type == "unknown" else metric.type for name, metric in found.items()}
        assert kinds == {family.name: family.type for family in FAMILIES}
        for family in FAMILIES:
            labels = [frozenset(sample.labels) - {"le"} for sample in found[family.name].samples]
            assert set(labels) <= {frozenset(family.labels)}, family.name
            if set(family.known) == set(family.labels) and family.name != "nfagent_nat_ports_used_ratio":
                assert labels, f"{family.name} has no series from the start"

    run_alone(body, DEADLINE)


def test_values_are_those_of_the_cluster_the_commits_and_what_can_not_be_read(folder: Path) -> None:
    write_manifests(folder, CLUSTER)
    (folder / "manifests" / "broken.yaml").write_text(BROKEN)

    async def body() -> None:
        async with agent(folder) as scraper:
            await scraper.until("/readyz", is_ok)
            page = await scraper.until("/metrics", lambda _, found: "nfagent_in_sync 1.0" in found)
            assert value(page, f'nfagent_build_info{{version="{__version__}"}}') == 1
            assert value(page, "nfagent_ready") == 1
            assert value(page, 'nfagent_policies_failing_closed{kind="NetworkPolicy"}') == 1
            assert value(page, 'nfagent_objects_invalid{kind="NetworkPolicy"}') == 1
            assert value(page, 'nfagent_kind_synced{kind="Pod"}') == 1
            assert value(page, 'nfagent_ruleset_objects{type="chain"}') > 0
            commits = value(page, 'nfagent_transactions_total{outcome="committed"}')
            totals = value(page, 'nfagent_sync_duration_seconds_count{stage="total"}')
            assert 1 <= totals <= commits
            assert value(page, 'nfagent_sync_duration_seconds_count{stage="compare"}') == 1
            (folder / "manifests" / "broken.yaml").unlink()
            await scraper.until(
                "/metrics",
                lambda _, found: (
                    'nfagent_policies_failing_closed{kind="NetworkPolicy"} 0.0' in found
                    and 'nfagent_objects_invalid{kind="NetworkPolicy"} 0.0' in found
                    and value(found, 'nfagent_sync_duration_seconds_count{stage="total"}') > totals
                ),
            )

    run_alone(body, DEADLINE)


def test_another_programs_change_counts_as_a_drift_repair(folder: Path) -> None:
    write_manifests(folder, CLUSTER)

    async def body() -> None:
        async with agent(folder) as scraper:
            page = await scraper.until("/metrics", lambda _, found: "nfagent_in_sync 1.0" in found)
            assert value(page, "nfagent_drift_repairs_total") == 0
            while value(page, "nfagent_drift_repairs_total") == 0:
                # Again, as a change that meets one of the agent's own is repaired, and isn't counted.
                flush = await asyncio.create_subprocess_exec("nft", "flush", "table", "inet", "nfagent")
                assert await flush.wait() == 0
                page = await scraper.until("/metrics", is_ok)

    run_alone(body, DEADLINE)


def test_over_tcp_the_same_page_is_served_and_nothing_else(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_manifests(folder, CLUSTER)
    monkeypatch.setenv("NFAGENT_METRICS_LISTEN", "127.0.0.1:9464")

    async def body() -> None:
        async with agent(folder) as scraper:
            await scraper.until(f"{TCP}/readyz", is_ok)
            assert (await scraper.get(f"{TCP}/healthz")) == (200, "ok\n")
            page = (await scraper.get(f"{TCP}/metrics"))[1]
            assert families(page).keys() == {family.name for family in FAMILIES}
            for route in ("/v1/dump/state", "/v1/explain?source=a&destination=b", "/"):
                assert (await scraper.get(f"{TCP}{route}"))[0] == 404, route

    run_alone(body, DEADLINE)


def test_the_problem_of_a_part_is_in_metrics_status_and_dump_state(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_manifests(folder, CLUSTER)
    masquerading, taken = folder / "ip-masq-agent", socket.create_server(("127.0.0.1", 9464))
    masquerading.write_text("nonMasqueradeCIDRs: [x]")
    monkeypatch.setenv("NFAGENT_METRICS_LISTEN", "127.0.0.1:9464")
    monkeypatch.setenv("NFAGENT_MASQUERADE_CONFIG_FILE", str(masquerading))
    monkeypatch.setenv("NFAGENT_MASQUERADE_RESYNC_INTERVAL_SECONDS", "1")

    async def body() -> None:
        async with agent(folder) as scraper:
            await scraper.until("/readyz", is_ok)
            page = await scraper.until("/metrics", lambda _, found: value(found, PROBLEM.format("listeners")) == 1)
            found = {part for part in PARTS if value(page, PROBLEM.format(part))}
            assert found == {"listeners", "masquerade_file"}
            state = json.loads((await scraper.get("/v1/dump/state"))[1])["agent"]["problems"]
            assert state.keys() == found
            status = json.loads((await scraper.get("/v1/status"))[1])
            assert status["health"] == "degraded"
            assert state["listeners"] in status["problems"]
            assert f"masquerade configuration: {state['masquerade_file']}" in status["problems"]
            taken.close()
            masquerading.unlink()
            page = await scraper.until("/metrics", lambda _, found: not value(found, PROBLEM.format("listeners")))
            await scraper.until("/metrics", lambda _, found: not value(found, PROBLEM.format("masquerade_file")))
            assert json.loads((await scraper.get("/v1/status"))[1])["problems"] == []

    run_alone(body, DEADLINE)


def test_probes_and_status_say_that_a_round_of_the_reconciler_does_not_end(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_manifests(folder, CLUSTER)
    monkeypatch.setattr("nfagent.system.watchdog.ROUND_SECONDS", 0.2)
    monkeypatch.setattr("nfagent.system.watchdog_notifier._LOOK_SECONDS", 0.02)

    async def body() -> None:
        made, scraper = Agent(load_settings(flags={"node": "node-a"})), Scraper(folder / "run" / "agent.sock")
        running = asyncio.create_task(made.run())
        await scraper.until("/readyz", is_ok)
        await scraper.until("/healthz", is_ok)
        reconciler = made._reconciler  # noqa: SLF001

        def stalls(status: int, _: str) -> bool:
            # A batch of events that is never applied whole; a round that runs now, or a batch that ends, ignores it.
            reconciler.undivided.clear()
            reconciler.wake()
            return status == 503

        for probe in ("/healthz", "/readyz"):
            said = await scraper.until(probe, stalls)
            assert said.startswith("a round of the reconciler doesn't end"), probe
        words = "a round of the reconciler doesn't end"
        said = await scraper.until("/v1/status", lambda status, said: words in said or stalls(status, said))
        status = json.loads(said)
        assert status["health"] == "degraded"
        [problem] = status["problems"]
        assert words in problem
        reconciler.undivided.set()
        for probe in ("/healthz", "/readyz"):
            await scraper.until(probe, is_ok)
        os.kill(os.getpid(), signal.SIGTERM)
        await running

    run_alone(body, DEADLINE)


def test_each_part_of_the_table_is_one_of_an_agent_that_follows_an_api_server(folder: Path) -> None:
    kubeconfig = folder / "kubeconfig"
    kubeconfig.write_text(UNREACHABLE)

    async def body() -> None:
        made = Agent(load_settings(flags={"node": "node-a", "kubeconfig": str(kubeconfig)}))
        running = asyncio.create_task(made.run())
        await Scraper(folder / "run" / "agent.sock").until("/healthz", is_ok)
        assert made._part_problems.by_part().keys() == set(PARTS)  # noqa: SLF001
        os.kill(os.getpid(), signal.SIGTERM)
        await running

    run_alone(body, DEADLINE)


def test_before_the_cluster_is_read_the_agent_is_alive_and_not_ready(folder: Path) -> None:
    unreachable = folder / "kubeconfig"
    unreachable.write_text(UNREACHABLE)

    async def body() -> None:
        async with agent(folder, kubeconfig=str(unreachable)) as scraper:
            await scraper.until("/healthz", is_ok)
            status, reason = await scraper.get("/readyz")
            assert status == 503
            assert "hasn't read the whole cluster yet" in reason
            page = (await scraper.get("/metrics"))[1]
            assert value(page, "nfagent_ready") == 0
            assert value(page, 'nfagent_kind_synced{kind="Pod"}') == 0

    run_alone(body, DEADLINE)


def test_a_port_in_use_is_a_problem_of_metrics_alone_and_ends_by_itself(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    write_manifests(folder, CLUSTER)
    monkeypatch.setenv("NFAGENT_METRICS_LISTEN", "127.0.0.1:9464")
    monkeypatch.setattr("nfagent.introspection.tcp_listener._RETRY_SECONDS", 0.05)

    async def body() -> None:
        with socket.socket() as other:
            other.bind(("127.0.0.1", 9464))
            other.listen()
            async with agent(folder) as scraper:
                await scraper.until("/readyz", is_ok)
                await scraper.until("/metrics", lambda _, found: value(found, PROBLEM.format("listeners")) == 1)
                assert caplog.text.count("cannot serve metrics at 127.0.0.1:9464: Address already in use") == 1
                other.close()
                await scraper.until(f"{TCP}/readyz", is_ok)

    run_alone(body, DEADLINE)
