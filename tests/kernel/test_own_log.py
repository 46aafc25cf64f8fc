"""What the log of a real agent says of policies and reloads; its settings, and names for completion, at its socket."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from nfagent.agent import Agent
from nfagent.introspection.agent_client import get_json
from nfagent.loaded_settings import load_with_origins
from nfagent.settings_parts import SettingsParts
from tests.kernel.test_cli import CLUSTER
from tests.support.agent_in_process import isolate, run_alone, write_manifests
from tests.support.own_namespace import own_namespace

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: network namespaces, nf_tables and NFLOG"),
]

DEADLINE = 60.0
POLICY = """
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: shop, name: all}
spec: {podSelector: {}}
"""


class Lines(logging.Handler):
    """The lines of the log; `until` waits for one."""

    def __init__(self) -> None:
        super().__init__()
        self.said: list[str] = []
        self._came = asyncio.Event()

    def emit(self, record: logging.LogRecord) -> None:
        self.said.append(f"{record.levelname} {record.getMessage()}")
        self._came.set()

    async def until(self, words: str) -> str:
        while True:
            for line in self.said:
                if words in line:
                    return line
            self._came.clear()
            await self._came.wait()


class Site:
    """An agent with a settings file and a folder of manifests, and its log."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "nfagent.toml"
        self.file.write_text("")
        self.manifests = folder / "manifests"
        self.socket = folder / "run" / "agent.sock"
        parts = SettingsParts(partial(load_with_origins, self.file, flags={"node": "node-a"}))
        self.agent = Agent(parts.current, parts)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    isolate(monkeypatch, tmp_path)
    write_manifests(tmp_path, CLUSTER)
    with own_namespace("log"):
        yield Site(tmp_path)


@pytest.fixture
def lines() -> Iterator[Lines]:
    handler, log = Lines(), logging.getLogger("nfagent")
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    yield handler
    log.removeHandler(handler)
    log.setLevel(logging.NOTSET)


def test_the_log_tells_of_policies_and_of_what_a_reload_changed(site: Site, lines: Lines) -> None:
    async def body() -> None:
        running = asyncio.create_task(site.agent.run())
        await lines.until("in sync")
        (site.manifests / "policy.yaml").write_text(POLICY)
        added = await lines.until("NetworkPolicy shop/all added")
        assert added.startswith("INFO NetworkPolicy shop/all added: isolates ")
        assert " of this node for ingress" in added

        site.file.write_text("allow_unknown_node = true\n[reconcile]\nretry_max_seconds = 7\n[logging]\ngroup = 7\n")
        (site.manifests / "policy.yaml").unlink()
        cluster = site.manifests / "cluster.yaml"
        written = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy"
        cluster.write_text(cluster.read_text().replace(written, "apiVersion: v1\nkind: Secret"))
        os.kill(os.getpid(), signal.SIGHUP)
        await lines.until("NetworkPolicy shop/all deleted: it isolated ")
        await lines.until("WARNING no policy is left")
        await lines.until("needs a restart")  # the last line about settings, which are read beside the manifests
        said = [line for line in lines.said if "reload: " in line and " object" not in line]
        assert said == [
            f"INFO reload: allow_unknown_node = true ({site.file}), was false",
            f"INFO reload: reconcile.retry_max_seconds = 7 ({site.file}), was 30",
            f"WARNING reload: logging.group = 7 ({site.file}) needs a restart; until then it is 100",
        ]
        assert site.agent._reconciler.retry_max == 7  # noqa: SLF001 - what the setting changes
        assert not site.agent._reconcile.guard.must_check  # noqa: SLF001
        os.kill(os.getpid(), signal.SIGTERM)
        await running

    run_alone(body, DEADLINE)
    assert lines.said[-1] == "INFO stopped; the rules stay in force until `nfagent cleanup`"


def test_the_agent_answers_with_its_settings_and_with_names(site: Site, lines: Lines) -> None:
    async def body() -> None:
        running = asyncio.create_task(site.agent.run())
        await lines.until("in sync")
        config = await asyncio.to_thread(get_json, site.socket, "/v1/config", {})
        found = {entry["key"]: entry for entry in config["settings"]}
        assert found["node"]["origin"] == {"kind": "flag", "where": "--node"}
        assert found["runtime_dir"]["origin"] == {"kind": "environment", "where": "NFAGENT_RUNTIME_DIR"}
        names = await asyncio.to_thread(get_json, site.socket, "/v1/names", {"kind": "pods", "prefix": "shop/"})
        assert "shop/web" in names["names"]
        os.kill(os.getpid(), signal.SIGTERM)
        await running

    run_alone(body, DEADLINE)
