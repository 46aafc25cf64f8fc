"""The Helm chart: it renders the objects of the kustomizations, refuses wrong values, and has no copy of its own."""

from __future__ import annotations

import copy
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml

from nfagent import __version__
from nfagent.config import load_settings
from tests.support.chart_schema import SCHEMA, text
from tests.support.deployed_objects import CHART, DEPLOY, helm, kustomized, one, templated
from tests.support.packet_labs import Document

PUBLISHED = ("--set", "settings.metrics.listen=0.0.0.0:9464", "--set", "metrics.service.enabled=true")


def without_names_of_versions(documents: list[Document]) -> dict[tuple[str, str, str], Document]:
    """Return the objects by kind, namespace and name, without what differs by the way of a roll-out.

    kustomize puts a hash into the ConfigMap's name, Helm puts one into an annotation; TOML is compared as values.
    """
    found = copy.deepcopy(documents)
    for document in found:
        if document["kind"] == "ConfigMap":
            document["metadata"]["name"] = re.sub("-[a-z0-9]{10}$", "", document["metadata"]["name"])
            document["data"] = {name: tomllib.loads(content) for name, content in document["data"].items()}
        if document["kind"] == "DaemonSet":
            template = document["spec"]["template"]
            template["metadata"]["annotations"].pop("checksum/settings", None)
            for volume in template["spec"]["volumes"]:
                if "configMap" in volume:
                    volume["configMap"]["name"] = re.sub("-[a-z0-9]{10}$", "", volume["configMap"]["name"])
    return {(each["kind"], each["metadata"].get("namespace", ""), each["metadata"]["name"]): each for each in found}


def refusal(*options: str) -> str:
    """Return what Helm says of values that it refuses."""
    command = [helm(), "template", "nfagent", str(CHART), "--namespace", "nfagent", *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode != 0, done.stdout
    return done.stderr


def test_it_renders_the_objects_of_the_kustomizations() -> None:
    wanted = [*kustomized(DEPLOY), *kustomized(DEPLOY / "daemonset")]
    rendered = templated("--include-crds", "--set", "namespace.create=true")
    assert without_names_of_versions(rendered) == without_names_of_versions(wanted)


def test_helm_lint_finds_nothing() -> None:
    done = subprocess.run(
        [helm(), "lint", "--strict", "--namespace", "nfagent", str(CHART)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout


def test_crds_and_permissions_are_links_to_those_of_deploy() -> None:
    linked = {path.name: path.resolve() for path in (*(CHART / "crds").iterdir(), *(CHART / "files").iterdir())}
    shipped = [path for path in (DEPLOY / "crds").glob("*.yaml") if path.name != "kustomization.yaml"]
    assert linked == {path.name: path for path in (*shipped, DEPLOY / "rbac.yaml")}


def test_versions_are_those_of_nfagent() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text("utf-8"))
    assert (chart["version"], chart["appVersion"]) == (__version__, __version__)
    kustomization = yaml.safe_load((DEPLOY / "daemonset" / "kustomization.yaml").read_text("utf-8"))
    assert [image["newTag"] for image in kustomization["images"]] == [__version__]


def test_the_schema_of_values_has_every_setting() -> None:
    assert SCHEMA.read_text("utf-8") == text(), "write it anew: python -m tests.support.chart_schema"


def test_settings_become_a_file_that_nfagent_reads(tmp_path: Path) -> None:
    values = {"settings": {"logging": {"file_max_bytes": 20_000_000}, "masquerade": {"to_ports": ["1024-29999"]}}}
    values["settings"]["reconcile"] = {"retry_max_seconds": 1.5, "resync_seconds": 60}
    (tmp_path / "values.yaml").write_text(yaml.safe_dump(values))
    written = one(templated("--values", str(tmp_path / "values.yaml")), "ConfigMap")["data"]["nfagent.toml"]
    (tmp_path / "nfagent.toml").write_text(written)
    settings = load_settings(tmp_path / "nfagent.toml", {})
    assert (settings.logging.file_max_bytes, settings.masquerade.to_ports) == (20_000_000, ("1024-29999",))
    assert (settings.reconcile.retry_max_seconds, settings.reconcile.resync_seconds) == (1.5, 60)
    assert settings.metrics.listen == "127.0.0.1:9464"


@pytest.mark.parametrize(
    ("listen", "host"),
    [
        pytest.param("127.0.0.1:9464", "127.0.0.1", id="loopback: there"),
        pytest.param("0.0.0.0:9464", "127.0.0.1", id="every IPv4 address: at loopback"),
        pytest.param("[::]:9464", "::1", id="every address: at IPv6's loopback"),
        pytest.param("192.0.2.11:9464", "192.0.2.11", id="an address of the node: there"),
    ],
)
def test_probes_ask_where_the_agent_listens(listen: str, host: str) -> None:
    daemonset = one(templated("--set-string", f"settings.metrics.listen={listen}"), "DaemonSet")
    (container,) = daemonset["spec"]["template"]["spec"]["containers"]
    asked = [container[name]["httpGet"] for name in ("startupProbe", "livenessProbe", "readinessProbe")]
    assert {(each["host"], each["port"]) for each in asked} == {(host, 9464)}


def test_the_folders_of_the_settings_are_those_of_the_node() -> None:
    daemonset = one(templated("--set", "settings.log_dir=/srv/log,settings.state_dir=/srv/state"), "DaemonSet")
    (container,) = daemonset["spec"]["template"]["spec"]["containers"]
    mounted = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    of_the_node = {
        volume["name"]: volume["hostPath"]["path"]
        for volume in daemonset["spec"]["template"]["spec"]["volumes"]
        if "hostPath" in volume
    }
    wanted = {"run": "/run/nfagent", "log": "/srv/log", "state": "/srv/state"}
    assert (of_the_node, mounted) == (wanted, wanted | {"settings": "/etc/nfagent"})


def test_a_service_and_a_monitor_are_made_where_they_are_asked_for() -> None:
    rendered = templated(*PUBLISHED, "--set", "metrics.serviceMonitor.enabled=true")
    service, monitor = one(rendered, "Service"), one(rendered, "ServiceMonitor")
    labels = one(rendered, "DaemonSet")["spec"]["template"]["metadata"]["labels"]
    assert service["spec"]["selector"].items() <= labels.items()
    assert monitor["spec"]["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    assert [end["port"] for end in monitor["spec"]["endpoints"]] == [port["name"] for port in service["spec"]["ports"]]


def test_an_api_server_by_its_address_is_in_the_environment() -> None:
    daemonset = one(templated("--set", "apiServer.host=192.0.2.250"), "DaemonSet")
    (container,) = daemonset["spec"]["template"]["spec"]["containers"]
    found = {variable["name"]: variable.get("value") for variable in container["env"]}
    assert (found["KUBERNETES_SERVICE_HOST"], found["KUBERNETES_SERVICE_PORT"]) == ("192.0.2.250", "6443")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        pytest.param(("--set", "settings.nonsense=1"), "nonsense", id="an unknown setting"),
        pytest.param(("--set", "settings.metrics.listen="), "listen", id="no address for the probes"),
        pytest.param(("--set", "settings.log_level=3"), "log_level", id="a setting of another type"),
        pytest.param(("--set", "settings.log_level=verbose"), "log_level", id="a level of the log that there isn't"),
        pytest.param(("--set", "settings.logging.sinks={syslog}"), "sinks", id="a sink that there isn't"),
        pytest.param(("--set", "settings.logging.group=70000"), "group", id="a number that the agent refuses"),
        pytest.param(("--set", "settings.runtime_dir=/srv/run"), "runtime_dir", id="another folder for the lock"),
        pytest.param(("--set", "settings.log_dir=log"), "log_dir", id="a folder that isn't absolute"),
        pytest.param(("--set-string", "settings.metrics.listen=127.0.0.1:99999"), "listen", id="a port beyond 65535"),
        pytest.param(("--set-string", "settings.metrics.listen=127.0.0.1:0"), "listen", id="a port that isn't known"),
        pytest.param(("--set-string", "settings.metrics.listen=999.0.0.1:9464"), "listen", id="no IPv4 address"),
        pytest.param(("--set", "maxUnavailable=0"), "maxUnavailable", id="a roll-out that never begins"),
        pytest.param(("--set", "maxUnavailable=some"), "maxUnavailable", id="no number of nodes"),
        pytest.param(
            ("--set", "extraEnv[0].name=NFAGENT_NODE", "--set", "extraEnv[0].value=node-a"),
            "extraEnv",
            id="one name for all nodes",
        ),
        pytest.param(
            ("--set", "extraEnv[0].name=NFAGENT_METRICS_LISTEN", "--set", "extraEnv[0].value="),
            "extraEnv",
            id="an address that the probes don't know",
        ),
        pytest.param(("--set", "podLabels.tier=5"), "podLabels", id="a label that is no text"),
        pytest.param(
            ("--set", r"podLabels.app\.kubernetes\.io/name=other"), "podLabels", id="the label of the selector"
        ),
        pytest.param(
            ("--set", "podAnnotations.checksum/settings=a"), "podAnnotations", id="an annotation of the chart's own"
        ),
        pytest.param(("--set", "imagee.tag=1"), "imagee", id="an unknown value"),
        pytest.param(("--set", "capabilities={SYS_ADMIN}"), "capabilities", id="another capability"),
        pytest.param(("--namespace", "other"), "--namespace nfagent", id="another namespace, where the Lease isn't"),
        pytest.param(("--set", "metrics.service.enabled=true"), "0.0.0.0:9464", id="a Service for loopback"),
        pytest.param(
            (*PUBLISHED[:2], "--set", "metrics.serviceMonitor.enabled=true"),
            "needs metrics.service.enabled",
            id="a ServiceMonitor without its Service",
        ),
    ],
)
def test_it_refuses(options: tuple[str, ...], said: str) -> None:
    assert said in refusal(*options)
