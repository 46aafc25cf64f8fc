"""Credential plugins under the hardened unit, against a real API server: they run with what the service may do."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator

import pytest
import yaml

from nfagent.errors import HostError
from nfagent.lab.apiserver.control_plane import ControlPlane
from nfagent.lab.apiserver.kube_client import LabApiClient
from tests.support.nspawn_machine import NspawnMachine
from tests.support.nspawn_service import MANIFESTS, NspawnService

pytestmark = [pytest.mark.kernel, pytest.mark.apiserver]

SETTINGS = 'node = "node-a"\nkubeconfig = "/etc/nfagent/kubeconfig"\n'
SERVER = "10.0.2.1"
PLUGIN = """#!/bin/sh
# Prints the token of a file that root alone may read; keeps what it is started with where that can be written.
set -e
grep -E '^(CapEff|NoNewPrivs|Seccomp):' /proc/self/status >"${CACHE:-/tmp}/seen"
[ "${1:-}" != cached ] || cp "${CACHE:-/tmp}/seen" "$HOME/.plugin-cache"
printf '{"apiVersion":"client.authentication.k8s.io/v1","kind":"ExecCredential","status":{"token":"%s"}}' \\
    "$(cat /etc/nfagent/token)"
"""
KINDS = {"NetworkPolicy": "networking.k8s.io/v1", "Node": "v1", "Pod": "v1"}


@pytest.fixture(scope="module")
def plane(machine: NspawnMachine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """Run an API server in the machine's network, with the objects of the manifests, and write the plugin."""
    subprocess.run(["ip", "netns", "attach", machine.name, str(machine.leader)], check=True)
    try:
        machine.run(f"ip addr add {SERVER}/32 dev lo")
        try:
            made = ControlPlane(tmp_path_factory.mktemp("plane"), address=SERVER, netns=machine.name)
        except HostError as error:
            pytest.skip(str(error))
        with made:
            with made.client() as client:
                put_objects(client)
            machine.write("/usr/local/bin/credential-plugin", PLUGIN, "755")
            machine.write("/etc/nfagent/token", made.token_for("admin"), "600")
            machine.write("/etc/nfagent/ca.crt", made.ca_file.read_text("utf-8"))
            yield made
    finally:
        subprocess.run(["ip", "netns", "del", machine.name], check=True)


def put_objects(client: LabApiClient) -> None:
    documents = [found for found in yaml.safe_load_all(MANIFESTS) if found["kind"] in KINDS]
    client.put({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}})
    for document in documents:
        if document["kind"] == "Pod":
            document["spec"]["containers"] = [{"name": "app", "image": "none"}]
        client.put(document)


def kubeconfig(plane: ControlPlane, *arguments: str) -> str:
    plugin = {
        "apiVersion": "client.authentication.k8s.io/v1",
        "command": "/usr/local/bin/credential-plugin",
        "args": list(arguments),
        "interactiveMode": "Never",
    }
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "c", "cluster": {"server": plane.url, "certificate-authority": "/etc/nfagent/ca.crt"}}],
        "users": [{"name": "u", "user": {"exec": plugin}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "c",
    }
    return json.dumps(document)


def test_a_plugin_gets_a_token_that_root_alone_can_read_and_has_no_more_rights_than_the_agent(
    machine: NspawnMachine, service: NspawnService, plane: ControlPlane
) -> None:
    machine.write("/etc/nfagent/kubeconfig", kubeconfig(plane), "600")
    service.restart(SETTINGS, "CacheDirectory=nfagent-plugin\nEnvironment=CACHE=/var/cache/nfagent-plugin")
    assert service.enforces
    seen = machine.run("cat /var/cache/nfagent-plugin/seen").split()
    assert seen == ["CapEff:", "0000000000001000", "NoNewPrivs:", "1", "Seccomp:", "2"]


def test_a_plugin_that_keeps_files_in_its_home_fails_with_its_reason_and_works_with_a_home_of_its_own(
    machine: NspawnMachine, service: NspawnService, plane: ControlPlane
) -> None:
    machine.write("/etc/nfagent/kubeconfig", kubeconfig(plane, "cached"), "600")
    machine.run(f"printf '{SETTINGS}' >/etc/nfagent/nfagent.toml; systemctl restart --no-block nfagent")
    machine.wait_until(
        "journalctl --quiet --output=cat --unit=nfagent | grep -q '/root/.plugin-cache.*Read-only file system'"
    )
    service.restart(SETTINGS, "CacheDirectory=nfagent-plugin\nEnvironment=HOME=/var/cache/nfagent-plugin")
    assert service.enforces
    assert machine.run("cat /var/cache/nfagent-plugin/.plugin-cache")
