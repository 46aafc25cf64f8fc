"""What the eBPF agent refuses at its start, before anything is loaded."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from nfagent.lab.ebpf.agent import main


@pytest.mark.parametrize(
    ("options", "environment", "message"),
    [
        pytest.param((), {}, "give one of --manifests and --kubeconfig", id="no source"),
        pytest.param(
            ("--manifests", "."), {"NFAGENT_POLICY_OWN_NODE": "allowed"}, "policy.own_node = 'allowed'", id="own_node"
        ),
        pytest.param(
            ("--manifests", "."),
            {"NFAGENT_MASQUERADE_TO_PORTS": "40000-40999"},
            "masquerade.to_ports",
            id="ports of masquerade",
        ),
        pytest.param(("--manifests", "nowhere"), {}, "'nowhere' does not exist", id="a folder that doesn't exist"),
    ],
)
def test_it_ends_with_2_and_says_why(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: tuple[str, ...],
    environment: dict[str, str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner(env=environment).invoke(main, ["--node", "n1", *options])
    assert (done.exit_code, message in done.stderr) == (2, True), done.stderr
