"""The ip-masq-agent file of this machine, where a folder of manifests answers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.unit.cli.called import Call


@pytest.fixture
def listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the ip-masq-agent file of a machine that is node-a, with one list."""
    file = tmp_path / "ip-masq-agent"
    file.write_text("nonMasqueradeCIDRs: [198.51.100.0/24]")
    monkeypatch.setenv("NFAGENT_MASQUERADE_CONFIG_FILE", str(file))
    monkeypatch.setenv("NFAGENT_NODE", "node-a")
    return file


SNAT = """
apiVersion: networking.gke.io/v1
kind: EgressNATPolicy
metadata: {name: hide}
spec: {action: SNAT, destinations: [{cidr: 198.51.100.0/24}]}
"""
ASKED = ("explain", "shop/web", "198.51.100.1:443")


def test_this_node_s_ip_masq_agent_file_counts_where_a_folder_answers(
    call: Call, manifests: Path, listed: Path
) -> None:
    origin = f"file {listed}"
    for named in ((), ("--node", "node-a")):
        assert (
            json.loads(call("dump", "--manifests", manifests, *named, "-o", "json").out)["masquerade"]["base"] == origin
        )
        assert origin in call(*ASKED, "--manifests", manifests, *named).out
        assert "198.51.100.0/24" in call("render", "--manifests", manifests, *named, "-o", "nft").out


def test_try_compares_with_this_node_s_ip_masq_agent_file(
    call: Call, manifests: Path, listed: Path, tmp_path: Path
) -> None:
    policy = tmp_path / "snat.yaml"
    policy.write_text(SNAT)
    asked = ("try", "-f", policy, "--manifests", manifests, "-o", "json")
    assert json.loads(call(*asked).out)["egress"]["changes"][0]["destinations"] == ["198.51.100.0/24"]
    listed.unlink()
    assert json.loads(call(*asked).out)["egress"]["changes"] == []


def test_another_node_s_ip_masq_agent_file_is_not_this_machine_s(
    call: Call, manifests: Path, listed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NFAGENT_NODE", "node-b")
    assert listed.exists()
    said = call("dump", "--manifests", manifests, "--node", "node-a", "-o", "json")
    assert json.loads(said.out)["masquerade"]["base"] == ""
    assert "198.51.100.0/24" not in call("render", "--manifests", manifests, "--node", "node-a", "-o", "nft").out


def test_what_cannot_be_read_of_the_ip_masq_agent_file_is_a_warning_of_the_command(
    call: Call, manifests: Path, listed: Path
) -> None:
    listed.write_text("nonMasqueradeCIDRs: [198.51.100.1/24]\nmasqLinkLocal: true")
    said = call("render", "--manifests", manifests, "-o", "nft")
    assert said.code == 1
    assert f"file {listed}: nonMasqueradeCIDRs[0]" in said.err
    listed.write_bytes(b"\xff")
    assert "is not UTF-8" in call("render", "--manifests", manifests).err
    listed.unlink()
    assert call("render", "--manifests", manifests).err == ""
