"""Fixtures to call commands, isolated from this machine's settings."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import nfagent.config
from nfagent.cli import main
from tests.unit.cli.called import Call, Said

CLUSTER = """
apiVersion: v1
kind: Node
metadata: {name: node-a}
spec: {podCIDRs: [10.0.0.0/24]}
status: {addresses: [{type: InternalIP, address: 192.0.2.1}]}
---
apiVersion: v1
kind: Pod
metadata: {namespace: shop, name: web, labels: {app: web}}
spec: {nodeName: node-a}
status: {phase: Running, podIPs: [{ip: 10.0.0.1}]}
---
apiVersion: v1
kind: Pod
metadata: {namespace: shop, name: db, labels: {app: db}}
spec:
  nodeName: node-a
  containers: [{name: db, ports: [{name: postgres, containerPort: 5432}]}]
status: {phase: Running, podIPs: [{ip: 10.0.0.2}, {ip: "2001:db8::2"}]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: shop, name: db}
spec:
  podSelector: {matchLabels: {app: db}}
  ingress:
  - from: [{podSelector: {matchLabels: {app: web}}}]
    ports: [{port: postgres}]
"""
BROKEN_POLICY = """
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: shop, name: broken}
spec:
  podSelector: {}
  ingress:
  - from: [{ipBlock: {cidr: 10.0.0.0/33}}]
"""


@pytest.fixture(autouse=True)
def _own_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith("NFAGENT_")]:
        monkeypatch.delenv(name)
    monkeypatch.delenv("COLUMNS", raising=False)
    monkeypatch.setenv("NFAGENT_RUNTIME_DIR", str(tmp_path / "run"))
    monkeypatch.setenv("NFAGENT_LOG_DIR", str(tmp_path / "log"))
    monkeypatch.setenv("NFAGENT_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setattr(nfagent.config, "DEFAULT_FILE", tmp_path / "nfagent.toml")


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Call:
    """Call a command line, in this process."""

    def called(*arguments: str | Path) -> Said:
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        written = capsys.readouterr()
        code = ended.value.code
        assert isinstance(code, int)
        return Said(code, written.out, written.err)

    return called


@pytest.fixture
def manifests(tmp_path: Path) -> Path:
    """Write a folder with a node, two Pods, and a policy on one of them."""
    folder = tmp_path / "manifests"
    folder.mkdir()
    (folder / "cluster.yaml").write_text(CLUSTER)
    return folder


@pytest.fixture
def broken(manifests: Path) -> Path:
    """Add to the folder a policy that can't be compiled and a file that doesn't parse."""
    (manifests / "policy.yaml").write_text(BROKEN_POLICY)
    (manifests / "typo.yaml").write_text("kind: Pod\nmetadata: {name: [}\n")
    return manifests
