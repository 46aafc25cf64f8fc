"""nfagent check --cluster against kube-apiserver: as administrator, as unknown user, with the shipped RBAC."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from nfagent.cli.check_cluster import run_cluster_checks
from nfagent.cli.check_result import Check
from nfagent.config import Settings
from nfagent.kube.rbac import REQUIREMENTS
from nfagent.lab.apiserver.control_plane import ControlPlane
from nfagent.lab.apiserver.kube_client import LabApiClient
from nfagent.lab.topology.plan import NodePlan
from tests.support.apiserver_labs import account_token, shipped_definitions, tier_definitions
from tests.support.certificates import Authority
from tests.support.packet_labs import Document, node_document, wait_until

pytestmark = pytest.mark.apiserver

TOTAL = sum(len(need.verbs) for need in REQUIREMENTS)
NODE = NodePlan("n1", ("192.0.2.1", "2001:db8:ffff::1"), ("10.244.1.0/24",))


def pod(name: str, **spec: object) -> Document:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"namespace": "shop", "name": name},
        "spec": {"nodeName": NODE.name, **spec},
    }


def look(kubeconfig: Path, folder: Path, node: str = NODE.name) -> dict[str, Check]:
    found = run_cluster_checks(Settings(kubeconfig=str(kubeconfig), node=node, runtime_dir=str(folder / "run")))
    return {each.name: each for each in found}


def test_with_what_is_shipped_all_is_well_but_for_a_token_that_ends_in_an_hour(
    control_plane: ControlPlane, clean: LabApiClient, tmp_path: Path
) -> None:
    clean.put_all([*shipped_definitions(), *tier_definitions(), node_document(NODE)])
    clean.put_all([pod("web"), pod("host", hostNetwork=True)])
    kubeconfig = control_plane.kubeconfig("shipped", token=account_token(control_plane, clean))
    # The authorizer learns of some roles a little later than of others.
    wait_until(lambda: look(kubeconfig, tmp_path)["permissions"].result == "ok")
    found = look(kubeconfig, tmp_path)
    assert {name: each.result for name, each in found.items() if each.result != "ok"} == {"credentials": "warn"}
    assert "token ends" in found["credentials"].found
    assert found["API server"].found == f"{control_plane.url}: ready"
    assert found["identity"].found.startswith("ServiceAccount nfagent/nfagent (")
    assert found["permissions"].found == f"all {TOTAL} are granted to ServiceAccount nfagent/nfagent"
    assert found["Pods"].found.startswith("2 Pods of Node n1, 1 with the node's own network; no agent runs here")


def test_an_administrator_may_everything_and_hears_which_kinds_and_which_node_are_missing(
    control_plane: ControlPlane, clean: LabApiClient, tmp_path: Path
) -> None:
    clean.put(node_document(NODE))
    found = look(control_plane.kubeconfig(), tmp_path, "elsewhere")
    assert found["permissions"].result == "ok"
    assert (found["own kinds"].result, found["own kinds"].fix) == ("warn", "kubectl apply -k deploy/crds")
    assert found["tier kinds"].result == found["Service ranges"].result == "ok"
    assert (found["node"].result, found["node"].found) == ("FAIL", "no Node elsewhere; there is n1")


def test_who_has_no_rights_is_told_of_none_and_the_command_says_that_the_node_is_not_able(
    control_plane: ControlPlane, tmp_path: Path
) -> None:
    kubeconfig = control_plane.kubeconfig("nobody")  # codespell:ignore nobody
    command = [sys.executable, "-m", "nfagent", "check", "--cluster", "--node", "n1", "--kubeconfig", str(kubeconfig)]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=50, env={"NFAGENT_RUNTIME_DIR": str(tmp_path)}
    )
    assert done.returncode == 2, done.stderr
    lines = done.stdout.splitlines()
    number = next(number for number, line in enumerate(lines) if line.startswith("permissions"))
    denied = f"FAIL    none of {TOTAL} is granted to User nobody: nothing is enforced"  # codespell:ignore nobody
    assert denied in lines[number]
    assert "--clusterrole=nfagent --user=nobody" in lines[number + 2]  # codespell:ignore nobody
    assert lines[-1] == "this node can't run nfagent yet"
    assert done.stderr == ""


def changed(kubeconfig: Path, path: Path, *, ca_file: str = "", token: str = "") -> Path:
    document = yaml.safe_load(kubeconfig.read_text("utf-8"))
    if ca_file:
        document["clusters"][0]["cluster"]["certificate-authority"] = ca_file
    if token:
        document["users"][0]["user"]["token"] = token
    path.write_text(yaml.safe_dump(document), encoding="utf-8")
    return path


def test_a_token_that_is_not_known_is_refused_by_name(control_plane: ControlPlane, tmp_path: Path) -> None:
    wrong = changed(control_plane.kubeconfig(), tmp_path / "config", token="wrong")  # noqa: S106 - wrong on purpose
    found = look(wrong, tmp_path)
    assert [*found] == ["credentials", "API server", "identity"]
    assert found["identity"].result == "FAIL"


def test_a_ca_that_did_not_sign_the_servers_certificate_is_named(control_plane: ControlPlane, tmp_path: Path) -> None:
    other = Authority(tmp_path).file
    found = look(changed(control_plane.kubeconfig(), tmp_path / "config", ca_file=str(other)), tmp_path)
    assert [*found] == ["credentials", "API server"]
    assert f"its certificate isn't trusted by {other}" in found["API server"].found
    assert found["API server"].fix.startswith("set the CA that signed it")
