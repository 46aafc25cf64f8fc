"""promtool, and a Prometheus that scrapes an agent in the agent's own network namespace."""

from __future__ import annotations

import contextlib
import http.client
import json
import shutil
import urllib.parse
from collections.abc import Iterator, Mapping
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest
import yaml

from nfagent.lab.topology import netns
from nfagent.lab.topology.processes import Processes
from tests.support.packet_labs import wait_until

MONITORING = Path(__file__).parents[2] / "deploy" / "monitoring"
ALERTS = MONITORING / "alerts.yaml"
METRICS_PORT = 9464
"""The agent's port in deploy/monitoring/prometheus.yaml."""

_UNPACKED = Path(__file__).parents[2] / "build" / "prometheus" / "usr" / "bin"
_LISTEN = "127.0.0.1:9090"
_INTERVAL = "400ms"
"""Also how long a scrape may take: an agent answers in a tenth of it, and waits for the CPU of a busy machine."""

Labels = dict[str, str]


def prometheus_binary(name: str) -> str:
    """Return the path of `promtool` or `prometheus`: in PATH, else in build/; skip the test without it."""
    unpacked = _UNPACKED / name
    found = shutil.which(name) or (str(unpacked) if unpacked.exists() else None)
    if found is None:
        pytest.skip("Prometheus is missing; unpack Debian's package into build/ with: make prometheus")
    return found


def scrape_config(node: str, address: str) -> dict[str, Any]:
    """Return the shipped scrape configuration for one Node, whose kubelet has this address.

    Service discovery of Kubernetes, which Debian's Prometheus is built without, is replaced by what it would find.
    """
    config: dict[str, Any] = yaml.safe_load((MONITORING / "prometheus.yaml").read_text(encoding="utf-8"))
    (job,) = config["scrape_configs"]
    assert job.pop("kubernetes_sd_configs") == [{"role": "node"}]
    job["static_configs"] = [{"targets": [address], "labels": {"__meta_kubernetes_node_name": node}}]
    return config


class RunningPrometheus:
    """The HTTP API of a Prometheus in a network namespace."""

    def __init__(self, namespace: str) -> None:
        self._namespace = namespace

    def get(self, path: str, **query: str) -> str:
        """Return the body of a GET. Raises OSError where the answer isn't 200."""
        target = f"{path}?{urllib.parse.urlencode(query)}"

        def read() -> str:
            with contextlib.closing(http.client.HTTPConnection(_LISTEN, timeout=60)) as connection:
                connection.request("GET", target)
                response = connection.getresponse()
                body = response.read().decode()
            if response.status != HTTPStatus.OK:
                raise OSError(f"GET {target}: {response.status} {body}")
            return body

        return netns.inside(self._namespace, read)

    def query(self, expression: str) -> list[tuple[Labels, float]]:
        """Return the labels and values of an instant query, which must be a vector."""
        found = json.loads(self.get("/api/v1/query", query=expression))["data"]
        assert found["resultType"] == "vector", found
        return [(series["metric"], float(series["value"][1])) for series in found["result"]]

    def firing(self) -> list[tuple[str, Labels]]:
        """Return name and labels of the alerts that fire now, sorted by name."""
        alerts = json.loads(self.get("/api/v1/alerts"))["data"]["alerts"]
        firing = [alert["labels"] for alert in alerts if alert["state"] == "firing"]
        return sorted((labels["alertname"], labels) for labels in firing)

    def targets(self) -> Mapping[str, str]:
        """Return the health of each target, by the label `instance`: `up`, or why it couldn't be scraped."""
        active = json.loads(self.get("/api/v1/targets"))["data"]["activeTargets"]
        return {target["labels"]["instance"]: target["lastError"] or target["health"] for target in active}

    def ready(self) -> bool:
        """Return whether it answers queries."""
        try:
            self.get("/-/ready")
        except OSError:
            return False
        return True


@contextlib.contextmanager
def running_prometheus(folder: Path, namespace: str, node: str) -> Iterator[RunningPrometheus]:
    """Run a Prometheus that scrapes the agent at 127.0.0.1 of a namespace, with the shipped rules.

    It scrapes and evaluates every 400 ms, and alerts don't wait: their `for` is left out.
    """
    binary = prometheus_binary("prometheus")
    folder.mkdir()
    config = scrape_config(node, "127.0.0.1:10250")
    config["global"] = {"evaluation_interval": _INTERVAL}
    config["scrape_configs"][0]["scrape_interval"] = _INTERVAL
    config["scrape_configs"][0]["scrape_timeout"] = _INTERVAL
    (folder / "prometheus.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    rules = yaml.safe_load(ALERTS.read_text(encoding="utf-8"))
    for rule in (rule for group in rules["groups"] for rule in group["rules"]):
        rule.pop("for", None)
    (folder / "alerts.yaml").write_text(yaml.safe_dump(rules), encoding="utf-8")
    processes = Processes(folder, namespace)
    options = ("--config.file=prometheus.yaml", "--storage.tsdb.path=data", f"--web.listen-address={_LISTEN}")
    processes.start("prometheus", (binary, *options, "--log.level=warn"))
    try:
        prometheus = RunningPrometheus(namespace)
        wait_until(prometheus.ready, 30)
        assert prometheus.ready(), processes.log_text("prometheus")
        yield prometheus
    finally:
        processes.kill("prometheus")
